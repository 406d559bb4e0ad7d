"""Files of other code: every network of the reference comes in by its content alone, and goes out again."""

import os
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import spcnet
from spcnet import checkpoint
from spcnet.cli import main
from spcnet.convert import load_backbone, load_foreign, write_backbone
from spcnet.errors import CheckpointError, UsageError
from spcnet.labels import label_space
from spcnet.methods import build_model
from spcnet.models.backbones import backbone_info, build_backbone
from spcnet.weights.imagenet import CLASSIFIER_KEYS, load_imagenet
from tests import golden
from tests.support.backbones import classifier_state, published
from tests.support.reference import formula
from tests.support.weight_files import checkpoint as mindspore_file
from tests.support.weight_files import onnx_file, restore, torch_export_file

SNAPSHOT = {"optimizer": {"lr": 0.01}, "epoch": 3, "mean_iu": np.float64(0.4), "command": "train.py --arch x"}


def reference_tensors(stored: str) -> dict[str, Tensor]:
    """What the reference's own state dict of a golden network holds."""
    return {
        name: torch.zeros((), dtype=torch.long)
        if name.endswith("num_batches_tracked")
        else formula(name, shape).float()
        for name, shape in golden.network_shapes(stored).items()
    }


def small(method: str = "deeplabv3plus", **options: Any) -> dict[str, Tensor]:
    """RobustNet's state dict of a small network."""
    from spcnet.config import ModelConfig
    from spcnet.convert import reference_names

    network = build_model(method, backbone="resnet18", **options)
    names = reference_names(network, ModelConfig(backbone="resnet18"))
    return {names[key]: value for key, value in network.state_dict().items()}


def saved(path: Path, tensors: dict[str, Tensor], **more: Any) -> Path:
    torch.save({"state_dict": tensors, **more} if more else tensors, path)
    return path


@pytest.mark.parametrize("stored", golden.networks())
def test_every_network_of_the_reference_is_recognised_and_agrees(stored: str, tmp_path: Path) -> None:
    tensors = {f"module.{name}": value for name, value in reference_tensors(stored).items()}
    path = saved(tmp_path / "last.pth", tensors, **SNAPSHOT)
    parts = stored.split("_")
    # Neither the stride nor a norm without numbers of its own leaves a trace.
    options: dict[str, Any] = {"output_stride": int(re.search(r"_os(\d+)", stored)[1])}  # type: ignore[index]
    if stored == "mobilenetv2_os16_isw":
        options["method"] = "isw"
    network, card, report = load_foreign(path, **options)
    assert not report.missing
    assert not report.unexpected
    if stored.startswith("spc_"):
        assert (card.method, len(card.domains)) == ("spcnet", int(parts[-1][1:]))
    image = torch.from_numpy(np.random.default_rng(1000).standard_normal((1, 3, 65, 97)).astype(np.float32)).double()
    expected = load_file(golden.network_file(stored))["logits"].double()
    if stored.startswith("spc_"):
        expected = expected.view(1, 65, 97, 19).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = network.double()(image).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@golden.needs_more
def test_the_official_files_names_are_those_of_the_reference(tmp_path: Path) -> None:
    def tag(name: str) -> str:
        name = re.sub(r"^styleAdaIN(\d)", r"style_adain\1", name)
        one_dimensional = len(shapes[original]) == 1 and not name.endswith(("projection.0.bias", "projection.2.bias"))
        if one_dimensional:
            for ours, theirs in ((".weight", ".gamma"), (".bias", ".beta")):
                name = name.removesuffix(ours) + theirs if name.endswith(ours) else name
        return name.replace("running_mean", "moving_mean").replace("running_var", "moving_variance")

    shapes = golden.network_shapes("spc_r50_os16_M2")
    tensors = {}
    for original, value in reference_tensors("spc_r50_os16_M2").items():
        if not original.startswith("dsn.") and not original.endswith("num_batches_tracked"):
            tensors[tag(original)] = value
    listed = [line.split("\t")[0] for line in (golden.MORE / "mindspore_parameters.txt").read_text().splitlines()]
    assert sorted(tensors) == sorted(listed)
    path = tmp_path / "spcnet.ckpt"
    path.write_bytes(mindspore_file(**tensors))
    network, card, report = load_foreign(path)
    assert (report.format, len(report.matched)) == ("MindSpore checkpoint", 323)
    assert not report.missing
    same, *_ = load_foreign(saved(tmp_path / "x.pth", reference_tensors("spc_r50_os16_M2")))
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), same.state_dict().values(), strict=True)
    )
    assert card.space == "cityscapes19"


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path / "in.pth", small("spcnet", num_domains=2))
    own, back = tmp_path / "own.safetensors", tmp_path / "back.pth"
    assert main(["convert", str(source), str(own), "--domains=[gtav,synthia]", "--output_stride=16"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "PyTorch state dict: " in shown
    assert "spcnet on resnet18, output stride 16, 19 classes (cityscapes19), 2 source domains" in shown
    card = restore(own)[1]
    assert card.domains == ("gtav", "synthia")
    assert main(["convert", str(own), str(back), "--to=robustnet"]) == 0
    state = torch.load(back, weights_only=True)["state_dict"]
    before = torch.load(source, weights_only=True)
    assert state.keys() == {f"module.{name}" for name in before}
    assert all(torch.equal(state[f"module.{name}"], value) for name, value in before.items())


def test_any_of_the_files_can_be_loaded_directly(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", small())
    network = spcnet.load_model(path)
    assert not network.training
    flat = tmp_path / "flat.safetensors"
    save_file({name: value.clone() for name, value in small().items()}, flat)
    assert spcnet.load_model(flat)(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 19, 64, 64)


def test_what_is_left_out_is_told_and_what_is_missing_is_an_error(tmp_path: Path) -> None:
    tensors = small()
    tensors |= {"dsn.0.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}
    _, _, report = load_foreign(saved(tmp_path / "a.pth", tensors))
    assert set(report.left_out) == {"dsn.0.weight", "fc.weight"}
    assert "2 left out on purpose: dsn.0.weight, fc.weight" in report.lines()
    lacking = {name: value for name, value in tensors.items() if not name.startswith("bot_fine.")}
    path = saved(tmp_path / "b.pth", lacking)
    with pytest.raises(CheckpointError, match="lacks 5 tensors, bot_fine"):
        load_foreign(path)
    assert len(load_foreign(path, allow_missing=["bot_fine."])[2].missing) == 5
    with pytest.raises(CheckpointError, match="has 1 tensors that resnet18 has no place for, extra"):
        load_foreign(saved(tmp_path / "c.pth", small() | {"extra": torch.zeros(1)}))


class _Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": small(), "more": _Hostile()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        load_foreign(tmp_path / "x.pth")
    assert not (tmp_path / "executed").exists()


def test_files_that_make_no_network_are_refused(tmp_path: Path) -> None:
    def refused(tensors: dict[str, Tensor], said: str, **options: Any) -> None:
        with pytest.raises((CheckpointError, UsageError), match=said):
            load_foreign(saved(tmp_path / "x.pth", tensors), **options)

    refused({"fc.weight": torch.zeros(2, 2)}, "lacks a known backbone")
    refused({"layer0.0.weight": torch.zeros(64, 3, 7, 7)}, "lacks final2 or prototypes")
    broken = small()
    broken["final2.0.bias"][0] = torch.nan
    refused(broken, r"values in final2\.0\.bias that are not finite")
    refused(small(num_classes=5), "5 classes, for which there is no label space")
    refused(small(), "--space idd7 has 7 classes", space="idd7")
    refused(small("spcnet"), "--domains names 1 sources", domains=["one"])
    wide = small() | {"bot_fine.0.weight": torch.zeros(48, 65, 1, 1)}
    refused(wide, r"has bot_fine\.0\.weight of the shape \(48, 65, 1, 1\)")


def test_a_compressed_archive_is_not_unfolded(tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain.pth", small())
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in source.infolist():
            bomb.writestr(entry.filename, source.read(entry))
    with pytest.raises(CheckpointError, match="compressed archive"):
        load_foreign(tmp_path / "bomb.pth")


@pytest.mark.parametrize("arguments", [["--to=onnx"], ["--method=none"], ["--output_stride=7"], ["--wt_layer=[1]"]])
def test_wrong_options_are_answered_in_one_line(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved(tmp_path / "in.pth", small())
    assert main(["convert", str(source), str(tmp_path / "out.safetensors"), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_an_exported_network_is_called_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    content = {"onnx": onnx_file, "pt2": torch_export_file}[kind]()
    for name in (f"x.{kind}", "x", "x.PTH", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=rf"{name} is an exported network .*: give the run or the weights"):
            spcnet.load_model(tmp_path / name)
    assert main(["convert", str(tmp_path / "x"), str(tmp_path / "out.safetensors")]) == 2
    assert "is an exported network" in capsys.readouterr().err


def test_a_file_that_says_what_it_is_takes_no_other_word_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, out = tmp_path / "own.safetensors", tmp_path / "out.safetensors"
    assert main(["convert", str(saved(tmp_path / "in.pth", small())), str(own)]) == 0
    assert main(["convert", str(own), str(out), "--method=isw", "--domains=[gtav]"]) == 2
    assert "says itself what network it holds: leave out method, domains" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
    assert main(["convert", str(own), str(out)]) == 0


@pytest.mark.parametrize("name", ["x.safetensors", "x", "x.pth"])
def test_a_damaged_file_of_this_package_is_told_of_as_such(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes((100).to_bytes(8, "little") + b'{"__metadata__')
    assert checkpoint.is_own(path)
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .* it is truncated or no safetensors file"):
        spcnet.load_model(path)


# backbones ------------------------------------------------------------------------------------------------------------


def torchvision_state(name: str, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return classifier_state(name)


def timm_mobilenet() -> dict[str, Tensor]:
    """The same tensors in the same order by timm's names."""

    def leaves(norm: str) -> list[str]:
        return [f"{norm}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    names = ["conv_stem.weight", *leaves("bn1")]
    for stage, blocks in enumerate((1, 2, 3, 4, 3, 3, 1)):
        for block in range(blocks):
            layers = ("conv_dw", "bn1", "conv_pw", "bn2")
            if stage:
                layers = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")  # type: ignore[assignment]
            for layer in layers:
                prefix = f"blocks.{stage}.{block}.{layer}"
                names += leaves(prefix) if layer.startswith("bn") else [f"{prefix}.weight"]
    names += ["conv_head.weight", *leaves("bn2"), "classifier.weight", "classifier.bias"]
    return dict(zip(names, torchvision_state("mobilenet_v2").values(), strict=True))


def csail_resnet101() -> dict[str, Tensor]:
    stem = {"conv1.0.": "conv1.", "conv1.1.": "bn1.", "conv1.3.": "conv2.", "conv1.4.": "bn2.", "conv1.6.": "conv3."}
    found = {}
    for name, value in torchvision_state("resnet101").items():
        begin = next((ours for ours in stem if name.startswith(ours)), None)
        theirs = stem[begin] + name.removeprefix(begin) if begin else name
        found["bn3." + name.removeprefix("bn1.") if name.startswith("bn1.") else theirs] = value
    return found


@pytest.mark.parametrize(
    ("tensors", "said", "name"),
    [
        (lambda: torchvision_state("resnet18"), "torchvision's resnet18", "resnet18"),
        (lambda: torchvision_state("resnet50"), "torchvision's resnet50", "resnet50"),
        (lambda: torchvision_state("shufflenet_v2"), "torchvision's shufflenet_v2", "shufflenet_v2"),
        (lambda: torchvision_state("mobilenet_v2"), "torchvision's mobilenet_v2", "mobilenet_v2"),
        (timm_mobilenet, "timm's mobilenet_v2", "mobilenet_v2"),
        (csail_resnet101, "MIT CSAIL's resnet101", "resnet101"),
    ],
)
def test_a_backbone_becomes_a_file_to_start_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tensors: Any, said: str, name: str
) -> None:
    source, output = saved(tmp_path / "in.pth", tensors()), tmp_path / "out.safetensors"
    assert main(["convert", str(source), str(output)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{said}: " in shown
    assert "2 left out on purpose: " in shown
    assert "give it as --model.weights" in shown
    expected = {k: v for k, v in torchvision_state(name).items() if not k.startswith(CLASSIFIER_KEYS)}
    for path in (output, source):  # the file itself can be started from, too
        backbone = build_backbone(name, output_stride=32)
        load_imagenet(backbone, backbone_info(name), str(path))
        filled = published(backbone)
        assert all(torch.equal(filled[key], value) for key, value in expected.items())
    assert load_file(output).keys() == expected.keys()


def test_a_resnet101_with_torchvision_s_stem_keeps_the_rest(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, output = (
        saved(tmp_path / "in.pth", torchvision.models.resnet101().state_dict()),
        tmp_path / "out.safetensors",
    )
    with pytest.warns(UserWarning, match="another stem than that of resnet101 here"):
        backbone = load_backbone(source)
    assert backbone is not None
    assert "conv1.0.weight" in backbone.report.missing
    write_backbone(backbone, output)
    filled = build_backbone("resnet101", output_stride=32)
    with pytest.warns(UserWarning, match="another stem"):
        load_imagenet(filled, backbone_info("resnet101"), str(output))
    expected = load_file(output)["layer2.0.conv1.weight"]
    assert torch.equal(filled.layer2.state_dict()["0.conv1.weight"], expected)


def test_backbones_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = torchvision_state("resnet18")
    path = saved(tmp_path / "x.pth", whole)
    with pytest.raises(CheckpointError, match="is an ImageNet resnet18 without a segmentation head: give it as model"):
        spcnet.load_model(path)
    assert main(["convert", str(path), str(tmp_path / "out.pth"), "--to=robustnet"]) == 2
    assert "is an ImageNet resnet18 alone" in capsys.readouterr().err
    lacking = saved(tmp_path / "y.pth", {k: v for k, v in whole.items() if k != "layer3.0.conv2.weight"})
    with pytest.raises(CheckpointError, match="lacks 1 tensors"):
        load_backbone(lacking)
    both = timm_mobilenet() | {"features.0.0.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="timm's names and torchvision's for the same tensors"):
        load_backbone(saved(tmp_path / "z.pth", both))
    assert load_backbone(saved(tmp_path / "w.pth", {"a": torch.zeros(1)})) is None


# files that mean harm -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small file of each kind that is unpickled or parsed."""
    folder = tmp_path_factory.mktemp("sound")
    tensors = {"layer0.0.weight": torch.ones(4, 3, 3, 3), "final2.0.weight": torch.zeros(19, 4, 1, 1)}
    torch.save({"state_dict": tensors, "mean_iu": np.float64(0.5)}, folder / "zip.pth")
    torch.save(tensors, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(tensors, folder / "flat.safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused_in_one_line(sound: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(sound)))
    content = bytearray(sound[name])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        with pytest.raises((CheckpointError, UsageError)) as caught:  # whole, it holds two tensors and no network
            spcnet.load_model(path)
    assert "\n" not in str(caught.value)


def test_a_shape_that_claims_more_than_the_file_has_is_refused(tmp_path: Path) -> None:
    """A tensor of 400 GB that views four bytes."""
    tensors = small() | {"final2.0.weight": torch.zeros(1).as_strided((19, 2**33, 1, 1), (0, 0, 0, 0))}
    with pytest.raises(CheckpointError, match=r"'final2\.0\.weight' .* damaged or made to fill the memory"):
        load_foreign(saved(tmp_path / "x.pth", tensors))


@pytest.mark.parametrize("kind", ["sparse", "meta", "complex"])
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path: Path, kind: str) -> None:
    value = {
        "sparse": lambda: torch.sparse_coo_tensor(
            torch.zeros(4, 1, dtype=torch.long), torch.ones(1), (2**30, 2**30, 1, 1), check_invariants=True
        ),
        "meta": lambda: torch.zeros(19, 2**33, 1, 1, device="meta"),
        "complex": lambda: torch.zeros(19, 256, 1, 1, dtype=torch.complex64),
    }[kind]()
    with pytest.raises(CheckpointError):
        load_foreign(saved(tmp_path / "x.pth", small() | {"final2.0.weight": value}))


def test_an_archive_whose_entries_overlap_is_not_unfolded(tmp_path: Path) -> None:
    """A hundred names in the directory for the same stored bytes."""
    plain, path = saved(tmp_path / "plain.pth", small()), tmp_path / "bomb.pth"
    path.write_bytes(plain.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        archive.filelist += [largest] * 100
        archive._didModify = True
    with pytest.raises(CheckpointError, match="an archive of more than its own size"):
        load_foreign(path)


def test_a_file_of_an_earlier_version_is_loaded_with_the_defaults_of_what_it_does_not_know(tmp_path: Path) -> None:
    network = build_model("spcnet", backbone="shufflenet_v2", num_classes=19, num_domains=2)
    model = {"backbone": "shufflenet_v2", "output_stride": 16, "weights": "imagenet"}
    card = checkpoint.ModelCard(
        "spcnet", model, "cityscapes19", label_space("cityscapes19").classes, ("a", "b"), (64, 64)
    )
    checkpoint.write(tmp_path / "old.safetensors", network.state_dict(), card)
    found = spcnet.load_model(tmp_path / "old.safetensors")
    assert all(torch.equal(found.state_dict()[name], value) for name, value in network.state_dict().items())

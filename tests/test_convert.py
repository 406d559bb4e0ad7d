"""Files of other code: every network of the reference comes in by its content alone, and goes out again."""

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import spcnet
from spcnet import checkpoint
from spcnet.cli import main
from spcnet.convert import load_foreign
from spcnet.errors import CheckpointError, UsageError
from spcnet.methods import build_model, restore
from tests import golden
from tests.models.test_mindspore import checkpoint as mindspore_file
from tests.models.test_networks import NETWORKS, STORED, formula, reference_shapes

SNAPSHOT = {"optimizer": {"lr": 0.01}, "epoch": 3, "mean_iu": np.float64(0.4), "command": "train.py --arch x"}


def reference_tensors(stored: str) -> dict[str, Tensor]:
    """What the reference's own state dict of a golden network holds."""
    return {
        name: torch.zeros((), dtype=torch.long)
        if name.endswith("num_batches_tracked")
        else formula(name, shape).float()
        for name, shape in reference_shapes()[stored].items()
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


@golden.needs_golden
@pytest.mark.parametrize("stored", STORED)
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
    expected = load_file(NETWORKS / f"{stored}.safetensors")["logits"].double()
    if stored.startswith("spc_"):
        expected = expected.view(1, 65, 97, 19).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = network.double()(image).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@golden.needs_golden
def test_the_official_files_names_are_those_of_the_reference(tmp_path: Path) -> None:
    def tag(name: str) -> str:
        name = re.sub(r"^styleAdaIN(\d)", r"style_adain\1", name)
        one_dimensional = len(shapes[original]) == 1 and not name.endswith(("projection.0.bias", "projection.2.bias"))
        if one_dimensional:
            for ours, theirs in ((".weight", ".gamma"), (".bias", ".beta")):
                name = name.removesuffix(ours) + theirs if name.endswith(ours) else name
        return name.replace("running_mean", "moving_mean").replace("running_var", "moving_variance")

    shapes = reference_shapes()["spc_r50_os16_M2"]
    tensors = {}
    for original, value in reference_tensors("spc_r50_os16_M2").items():
        if not original.startswith("dsn.") and not original.endswith("num_batches_tracked"):
            tensors[tag(original)] = value
    listed = [line.split("\t")[0] for line in (golden.GOLDEN / "mindspore_parameters.txt").read_text().splitlines()]
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


def test_a_damaged_file_of_this_package_is_told_of_as_such(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"1234567890")
    assert checkpoint.is_own(path)
    with pytest.raises(CheckpointError, match="it is truncated or no safetensors file"):
        spcnet.load_model(path)

"""Runs with adapters: trained, stored with and without their base, opened, resumed, predicted, handed on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from spcnet import checkpoint
from spcnet.cli import main
from spcnet.convert import load_foreign
from spcnet.errors import CheckpointError, UsageError
from spcnet.export.hub import from_pretrained, save_pretrained
from spcnet.methods import build_model
from spcnet.models.adapters import has_updates
from spcnet.models.backbones import backbone_info
from spcnet.runs import OpenRun, load_model
from spcnet.synthesis.streets import generate
from spcnet.weights.base import BASE, load_base
from tests.support.tiny import train

LORA = ("kind=lora", "rank=2", "targets=branch2.0,branch2.3", "biases=true")  # the second one of groups
KINDS = {
    "frozen": ("kind=frozen",),
    "lora": LORA,
    "soma": (*LORA, "start=soma", "first_block=2"),
    "rein": ("kind=rein", "rank=4", "tokens=8"),
}
IMAGE = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))


def run(output: Path, base: Path, kind: str, *options: str, iterations: int = 2) -> int:
    """Train SPC-Net for two steps."""
    adapter = [f"--model.adapter.{option}" for option in KINDS[kind]]
    return train(output, f"--model.weights={base}", *adapter, *options, iterations=iterations)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a backbone, and a run of each kind on them whose checkpoints leave these out."""
    folder = tmp_path_factory.mktemp("adapted")
    torch.manual_seed(5)
    torch.save(torchvision.models.shufflenet_v2_x1_0().state_dict(), folder / "base.pth")
    for kind in KINDS:
        assert run(folder / kind, folder / "base.pth", kind, "--model.adapter.save_base=false") == 0
    return folder


def tensors(path: Path) -> dict[str, Tensor]:
    return checkpoint.read_all(path).tensors


def scores(path: Path) -> Tensor:
    with torch.no_grad():
        return load_model(path)(IMAGE).logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_without_its_base_holds_what_was_trained_and_names_the_rest(folder: Path, kind: str) -> None:
    whole = OpenRun(folder / kind).network
    names = tensors(folder / kind / "model.safetensors").keys()
    assert names == whole.state_dict().keys() - whole.base_tensors()
    trained = {name for name, value in whole.named_parameters() if value.requires_grad}
    assert trained <= names
    in_backbone = {name.rpartition(".")[2] for name in names if name.startswith("backbone.")}
    starts = {"start_a", "start_b"} if kind == "soma" else set()
    assert in_backbone == ({"lora_a", "lora_b"} | starts if kind in ("lora", "soma") else set())
    assert {"classifier.prototypes", "styles.0.base_mean"} <= names
    latest = tensors(folder / kind / "checkpoint.safetensors")
    assert {name for name in latest if not name.startswith("optimizer.")} == names
    base = OpenRun(folder / kind).card.base
    assert base is not None
    assert (base["weights"], len(base["sha256"])) == (str(folder / "base.pth"), 64)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "soma", "rein"])
def test_a_run_that_leaves_its_base_out_is_the_run_that_does_not(folder: Path, kind: str, tmp_path: Path) -> None:
    assert run(tmp_path / "whole", folder / "base.pth", kind) == 0
    whole, found = load_model(tmp_path / "whole").state_dict(), load_model(folder / kind).state_dict()
    assert whole.keys() == found.keys() == tensors(tmp_path / "whole" / "model.safetensors").keys()
    assert [name for name in whole if not torch.equal(whole[name], found[name])] == []
    assert OpenRun(tmp_path / "whole").card.base is None
    size = [(path / "model.safetensors").stat().st_size for path in (tmp_path / "whole", folder / kind)]
    assert size[0] - size[1] > 4 * 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["soma", "rein"])
def test_a_run_that_leaves_its_base_out_goes_on_to_the_bit(folder: Path, kind: str, tmp_path: Path) -> None:
    options = ("--model.adapter.save_base=false", "--training.checkpoint_every=2")
    assert run(tmp_path / "whole", folder / "base.pth", kind, *options, iterations=4) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / checkpoint.PREVIOUS_FILE).rename(tmp_path / "cut" / checkpoint.LATEST_FILE)
    (tmp_path / "cut" / "model.safetensors").unlink()
    assert (
        main(["train", "--config", str(tmp_path / "cut" / "config.yaml"), f"--output={tmp_path / 'cut'}", "--resume"])
        == 0
    )
    whole, found = (tensors(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == found.keys()
    assert [name for name in whole if not torch.equal(whole[name], found[name])] == []
    assert OpenRun(tmp_path / "cut").card.base == OpenRun(tmp_path / "whole").card.base


def test_whether_the_base_is_saved_stays_as_it_is(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "lora", tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    options = ["--resume", "--model.adapter.save_base=true", f"--output={tmp_path / 'run'}"]
    assert main(["train", "--config", str(tmp_path / "run" / "config.yaml"), *options]) == 1
    assert "was written with model.adapter.save_base False: a resumed run must keep it" in capsys.readouterr().err


def test_the_base_is_found_by_name_beside_the_file_or_where_the_variable_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = scores(folder / "soma")
    away = tmp_path / "away"
    save_pretrained(folder / "soma", away)  # names the file, not its folder
    base = checkpoint.read(away / "model.safetensors").card.base
    assert base is not None
    assert base["weights"] == "base.pth"
    with pytest.raises(CheckpointError) as refused:
        load_model(away)
    said = str(refused.value)
    assert f"{away}/model.safetensors holds only what was trained, and the weights base.pth" in said
    assert f"are not at base.pth, {away}/base.pth: set the environment variable {BASE}" in said
    monkeypatch.setenv(BASE, str(folder))
    torch.testing.assert_close(scores(away), wanted, rtol=0, atol=0)
    monkeypatch.setenv(BASE, str(folder / "base.pth"))
    torch.testing.assert_close(scores(away), wanted, rtol=0, atol=0)
    monkeypatch.delenv(BASE)
    shutil.copy(folder / "base.pth", away)
    torch.testing.assert_close(scores(away), wanted, rtol=0, atol=0)


def test_a_part_of_a_file_is_a_base(folder: Path, tmp_path: Path) -> None:
    good = torch.load(folder / "base.pth")
    other = {name: value + 1 for name, value in good.items()}
    torch.save({"teacher": good, "student": other}, tmp_path / "both.pth")
    named = f"{tmp_path / 'both.pth'}#teacher"
    assert run(tmp_path / "run", Path(named), "frozen", "--model.adapter.save_base=false") == 0
    base = OpenRun(tmp_path / "run").card.base
    assert base is not None
    assert (base["weights"], base["part"]) == (str(tmp_path / "both.pth"), "teacher")
    torch.testing.assert_close(scores(tmp_path / "run"), scores(folder / "frozen"), rtol=0, atol=0)


def test_other_weights_than_those_of_the_training_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = torch.load(folder / "base.pth")
    changed["stage3.0.branch1.1.running_var"][3] += 1e-6
    torch.save(changed, tmp_path / "base.pth")
    monkeypatch.setenv(BASE, str(tmp_path))
    with pytest.raises(
        CheckpointError, match=r"on the weights .*base\.pth of the hash \w{12}, and .* has the hash \w{12}: set"
    ):
        load_model(folder / "frozen")
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "base.pth")
    with pytest.raises(
        CheckpointError,
        match=r"holds only what was trained, and the weights .* cannot be used: .* no shufflenet_v2_x1_0 that fits",
    ):
        load_model(folder / "frozen")


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "pos_embed"])
def test_a_base_with_other_first_layers_is_refused_unless_the_file_is_an_earlier_one(name: str, tmp_path: Path) -> None:
    arch = "timm/test_vit"
    save_file(state := timm.create_model("test_vit").state_dict(), tmp_path / "base.safetensors")
    model = {"backbone": arch, "output_stride": None, "weights": str(tmp_path / "base.safetensors")}
    network = build_model("deeplabv3plus", **model, options={"adapter": {"kind": "frozen", "save_base": False}})
    assert network.base is not None
    info, plain = backbone_info(arch), network.backbone
    load_base(plain, info, network.base, "x")
    state[name] = state[name] + 1
    save_file(state, tmp_path / "base.safetensors")
    with pytest.raises(
        CheckpointError, match=r"of the hash \w{12} in its first layers, and .* has the hash \w{12}: set"
    ):
        load_base(plain, info, network.base, "x")
    load_base(plain, info, {key: value for key, value in network.base.items() if key != "first_sha256"}, "x")


def test_a_variable_that_names_nothing_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BASE, str(tmp_path / "nowhere"))
    with pytest.raises(
        CheckpointError, match=rf"the environment variable {BASE} is .*nowhere, where nothing is: set it"
    ):
        load_model(folder / "frozen")


def test_random_weights_are_no_base() -> None:
    with pytest.raises(UsageError, match=r"model\.adapter\.save_base is false and model\.weights null"):
        build_model("spcnet", backbone="shufflenet_v2", options={"adapter": {"kind": "frozen", "save_base": False}})


@pytest.mark.parametrize("kind", KINDS)
def test_adapted_networks_predict_and_are_evaluated(folder: Path, kind: str, tmp_path: Path) -> None:
    Image.fromarray(generate(3, style="night").image).save(tmp_path / "street.png")
    assert main(["predict", str(folder / kind), str(tmp_path / "street.png"), f"--output={tmp_path / 'out'}"]) == 0
    assert (
        main(
            [
                "predict",
                str(folder / kind),
                str(tmp_path / "street.png"),
                f"--output={tmp_path / 'plain'}",
                "--engine=torch",
            ]
        )
        == 0
    )
    maps = [np.asarray(Image.open(next((tmp_path / name).glob("*class*.png")))) for name in ("out", "plain")]
    assert (maps[0] == maps[1]).mean() > 0.999
    shutil.copytree(folder / kind, tmp_path / "run")
    assert main(["evaluate", str(tmp_path / "run"), "--accelerator=cpu"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_adapted_networks_are_exported(folder: Path, kind: str, tmp_path: Path) -> None:
    assert main(["export", str(folder / kind), f"--output={tmp_path / 'model.onnx'}", "--repeats=0"]) == 0
    assert b"lora" not in (tmp_path / "model.onnx").read_bytes()


def test_converted_and_merged_networks_hold_everything(folder: Path, tmp_path: Path) -> None:
    source = str(folder / "soma")
    wanted = scores(folder / "soma")
    assert main(["convert", source, str(tmp_path / "whole.safetensors")]) == 0
    assert main(["convert", source, str(tmp_path / "plain.safetensors"), "--merge"]) == 0
    save_pretrained(source, tmp_path / "pushed", merge=True)
    assert OpenRun(tmp_path / "whole.safetensors").card.base is None
    torch.testing.assert_close(scores(tmp_path / "whole.safetensors"), wanted, rtol=0, atol=0)
    plain = build_model("spcnet", backbone="shufflenet_v2", output_stride=32).state_dict().keys()
    for path in (tmp_path / "plain.safetensors", tmp_path / "pushed"):
        network = from_pretrained(path)
        assert not has_updates(network)
        assert network.state_dict().keys() == plain
        torch.testing.assert_close(network(IMAGE).logits, wanted, rtol=0, atol=1e-4)
        card = OpenRun(path).card
        assert (card.base, card.model["adapter"]) == (None, {})
    assert main(["convert", source, str(tmp_path / "robustnet.pth"), "--to=robustnet"]) == 0
    theirs, _, _ = load_foreign(tmp_path / "robustnet.pth", output_stride=32)
    torch.testing.assert_close(theirs(IMAGE).logits, wanted, rtol=0, atol=1e-4)


def test_what_has_no_updates_is_not_merged(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "x.safetensors")
    assert main(["convert", str(folder / "frozen"), out, "--merge"]) == 2
    assert "no updates to merge: leave out --merge" in capsys.readouterr().err
    assert main(["convert", str(folder / "rein"), out, "--merge"]) == 2
    assert "Rein's tokens depend on the image and cannot be merged" in capsys.readouterr().err
    assert main(["convert", str(folder / "base.pth"), out, "--merge"]) == 2
    assert "is of other code and has no updates to merge" in capsys.readouterr().err

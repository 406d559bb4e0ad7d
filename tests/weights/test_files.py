"""Wrapped weights: the network is found wherever a program put it, or the message says what there is."""

import argparse
import datetime
import decimal
import fractions
import itertools
import pickle
import re
import subprocess
import uuid
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import spcnet
from spcnet.cli import main
from spcnet.config import ModelConfig
from spcnet.convert import load_backbone, load_foreign, reference_names
from spcnet.errors import CheckpointError, SpcnetError
from spcnet.methods import build_model
from spcnet.models.backbones import backbone_info, build_backbone
from spcnet.weights.files import read_weights
from spcnet.weights.imagenet import load_imagenet
from tests.support.backbones import classifier_state, published

ARCH = "shufflenet_v2"


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    """Torchvision's names of a small classifier."""
    torch.manual_seed(5)
    return classifier_state(ARCH)


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    """RobustNet's names of a small network."""
    torch.manual_seed(6)
    network = build_model("deeplabv3plus", backbone=ARCH)
    names = reference_names(network, ModelConfig(backbone=ARCH))
    return {names[key]: value for key, value in network.state_dict().items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def changed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value + 1 for name, value in tensors.items()}


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def filled(path: Path | str, arch: str = ARCH) -> dict[str, Tensor]:
    """The backbone that `model.weights` makes of a file."""
    torch.manual_seed(7)
    backbone = build_backbone(arch, output_stride=32)
    load_imagenet(backbone, backbone_info(arch), str(path))
    return published(backbone)


def agrees(found: dict[str, Tensor], tensors: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, tensors[name]) for name, value in found.items() if "num_batches" not in name)


ADAM = {"state": {0: {"step": torch.ones(()), "exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    **{
        key: lambda d, key=key: {key: d, "optimizer": ADAM, "epoch": 3, "best": None}
        for key in (
            *("model", "teacher", "student", "ema", "model_ema", "net", "network", "state_dict", "model_state_dict"),
            *("state_dict_ema", "params", "anything"),
        )
    },
    "model.state_dict": lambda d: {"model": {"state_dict": d, "epoch": 3}},
    "three deep": lambda d: {"a": {"b": {"c": d}}},
    "list": lambda d: [d, 3],
    "arguments": lambda d: {"model": d, "args": argparse.Namespace(lr=0.1, data=Path("x"), size=(1, 2))},
    "numpy": lambda d: {"model": d, "miou": np.float64(0.4), "confusion": np.zeros((19, 19)), "epoch": np.int64(3)},
    "defaultdict": lambda d: {"model": d, "history": defaultdict(list, loss=[0.1])},
    "ema that is the same": lambda d: {"model": d, "ema": under("module.", {k: v.clone() for k, v in d.items()})},
    "extra": lambda d: {"model": d, "criterion": {"center": torch.ones(1, 60)}, "optimizer": ADAM},
}


@pytest.mark.parametrize("form", WRAPPED)
def test_weights_are_found_in_whatever_wraps_them(
    tmp_path: Path, plain: dict[str, Tensor], whole: dict[str, Tensor], form: str
) -> None:
    assert agrees(filled(saved(tmp_path / "b.pth", WRAPPED[form](plain))), plain)
    network, _, report = load_foreign(saved(tmp_path / "w.pth", WRAPPED[form](whole)))
    names = reference_names(network, ModelConfig(backbone=ARCH))
    assert agrees({names[key]: value for key, value in network.state_dict().items()}, whole)
    assert not report.missing
    assert not report.unexpected


SINGLE = ("module.", "_orig_mod.", "backbone.", "model.", "encoder.", "net.")
PREFIXES = sorted(
    {a + b for a, b in zip(SINGLE, SINGLE[1:] + SINGLE[:1], strict=True)}
    | set(SINGLE)
    | {"student.backbone.", "a.b.c.d.e."}
)


def test_every_combination_of_prefixes_comes_off(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    for number, prefix in enumerate(PREFIXES):
        tensors = under(prefix, plain) | {"head.weight": torch.ones(3, 4)}
        if number % 2:
            save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "x")
        else:
            torch.save({"state_dict": tensors}, tmp_path / "x")
        assert agrees(filled(tmp_path / "x"), plain), prefix


@pytest.mark.parametrize("prefix", ["module.module.", "_orig_mod.module.", "model.net."])
def test_whole_networks_are_found_under_prefixes(tmp_path: Path, whole: dict[str, Tensor], prefix: str) -> None:
    tensors = under(prefix, whole) | {"loss.weight": torch.ones(19)}
    network, _, report = load_foreign(saved(tmp_path / "x", {"state_dict": tensors}))
    assert torch.equal(network.state_dict()["classifier.0.weight"], whole["final2.0.weight"])
    assert "loss.weight" in report.left_out
    assert report.format == f"PyTorch state dict (state_dict.{prefix.rstrip('.')})"


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda d, e: {"model": d, "model_ema": e}, ("model", "model_ema")),
        (lambda d, e: {"state_dict": d, "state_dict_ema": under("module.", e)}, ("state_dict", "state_dict_ema")),
        (lambda d, e: {"state_dict": under("student.", d) | under("teacher.", e)}, ("student", "teacher")),
        (lambda d, e: {"x": under("net.", d) | under("ema.net.", e)}, ("x.net", "x.ema")),
        (lambda d, e: d | under("ema.", e), (None, "ema")),
    ],
)
def test_of_several_that_differ_one_is_named(
    tmp_path: Path, plain: dict[str, Tensor], whole: dict[str, Tensor], wrap: Any, names: tuple[str | None, str]
) -> None:
    other = changed(plain), changed(whole)
    backbone, network = (
        saved(tmp_path / "b.pth", wrap(plain, other[0])),
        saved(tmp_path / "w.pth", wrap(whole, other[1])),
    )
    for load, path in ((filled, backbone), (load_foreign, network), (load_backbone, backbone)):
        with pytest.raises(CheckpointError, match="2 different networks") as caught:
            load(path)
        assert re.search(rf"{re.escape(str(path))}#[\w.]*{names[1]}\b", str(caught.value))
    for name, first, second in zip(names, (plain, other[0]), (whole, other[1]), strict=True):
        if name is not None:
            assert agrees(filled(f"{backbone}#{name}"), first)
            found = spcnet.load_model(f"{network}#{name}").state_dict()
            assert torch.equal(found["classifier.0.weight"], second["final2.0.weight"])


def test_only_what_fits_counts(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    """A second network of another kind or with a missing tensor is none to choose from."""
    name = "conv1.0.weight"
    part = {key: value for key, value in changed(plain).items() if key != name}
    other = changed(plain) | {name: torch.ones(24, 3, 5, 5)}
    assert agrees(filled(saved(tmp_path / "x", {"a": part, "b": plain, "c": other})), plain)


def test_where_nothing_fits_the_message_says_what_there_is_and_how_to_name_it(
    tmp_path: Path, plain: dict[str, Tensor]
) -> None:
    part = {key: value for key, value in plain.items() if not key.startswith("conv5.")}
    content = {"student": under("module.", part), "queue": {"bank": torch.ones(4, 4)}}
    path = saved(tmp_path / "x.pth", content)
    with pytest.raises(CheckpointError) as caught:
        filled(path)
    said = str(caught.value)
    assert "\n" not in said
    assert f"student ({len(part)} tensors, all under module.: conv1, stage2, stage3, stage4, …)" in said
    assert "queue (1 tensor: bank)" in said
    assert f"the nearest, {path}#student.module, lacks 5 tensors, conv5.0.weight" in said
    assert f"{path}#NAME" in said
    with pytest.raises(CheckpointError, match=r"nothing in .* is called 'studnt'.*Did you mean .*#student"):
        filled(f"{path}#studnt")
    with pytest.raises(CheckpointError, match=r"student \(.*queue"):
        load_foreign(path)


def test_numbers_of_other_kinds_and_layouts_are_read(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in plain.items()}
    assert agrees(filled(saved(tmp_path / "half", half)), {k: v.float() for k, v in half.items()})
    few = {k: v for k, v in plain.items() if "num_batches" not in k and not k.startswith("fc.")}
    assert agrees(filled(saved(tmp_path / "few", {"model": few})), plain)
    flat = torch.cat([value.reshape(-1) for value in few.values()])  # all in one memory
    pieces = flat.split([value.numel() for value in few.values()])
    shared = {name: piece.view_as(few[name]) for name, piece in zip(few, pieces, strict=True)}
    assert agrees(filled(saved(tmp_path / "shared", shared)), plain)
    old = saved(tmp_path / "old", {"net": plain, "args": argparse.Namespace(a=1)}, _use_new_zipfile_serialization=False)
    assert agrees(filled(old), plain)
    broken = plain | {"conv1.0.weight": plain["conv1.0.weight"] * torch.nan}
    with pytest.raises(CheckpointError, match=r"values in conv1\.0\.weight that are not finite"):
        filled(saved(tmp_path / "nan", {"model": broken}))
    beside = {"model": plain, "memory": {"bank": torch.full((3, 3), torch.nan)}}
    assert agrees(filled(saved(tmp_path / "beside", beside)), plain)


def mmpretrain_names() -> list[str]:
    """MobileNetV2's tensors by mmpretrain's names, in torchvision's order."""

    def leaves(place: str) -> list[str]:
        norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return [f"{place}.conv.weight", *(f"{place}.bn.{leaf}" for leaf in norm)]

    names = leaves("backbone.conv1")
    for stage, blocks in enumerate((1, 2, 3, 4, 3, 3, 1), start=1):
        for block, layer in itertools.product(range(blocks), range(2 if stage == 1 else 3)):
            names += leaves(f"backbone.layer{stage}.{block}.conv.{layer}")
    return [*names, *leaves("backbone.conv2"), "head.fc.weight", "head.fc.bias"]


def test_a_network_with_names_like_mobilenet_s_is_called_no_known_backbone(tmp_path: Path) -> None:
    """EfficientNet's, as timm has them: the form is the same, the number of blocks is not."""
    names = [
        f"blocks.{stage}.{block}.{layer}.weight"
        for stage, number in enumerate((1, 2, 2, 3, 3, 4, 1))
        for block in range(number)
        for layer in ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    ]
    tensors = {name: torch.ones(1) for name in ("conv_stem.weight", "bn1.weight", *names, "conv_head.weight")}
    path = saved(tmp_path / "x", tensors)
    assert load_backbone(path) is None
    with pytest.raises(CheckpointError, match="it lacks a known backbone; it holds at its top"):
        load_foreign(path)
    with pytest.raises(
        CheckpointError, match=r"has no mobilenet_v2 that fits; it holds at its top \(99 tensors: conv_stem"
    ):
        filled(path, "mobilenet_v2")


def test_names_of_other_programs_are_known(tmp_path: Path, whole: dict[str, Tensor]) -> None:
    mobile = classifier_state("mobilenet_v2")
    theirs = dict(zip(mmpretrain_names(), mobile.values(), strict=True))
    assert agrees(filled(saved(tmp_path / "mm", {"state_dict": theirs, "meta": {}}), "mobilenet_v2"), mobile)
    robust = filled(saved(tmp_path / "robust", {"state_dict": under("module.", whole)}))
    assert torch.equal(robust["conv1.0.weight"], whole["layer0.layer.0.0.weight"])
    assert torch.equal(robust["conv5.0.weight"], whole["layer4.layer.0.weight"])
    network, card, _ = load_foreign(tmp_path / "robust")
    own = tmp_path / "own"
    spcnet.checkpoint.write(own, network.state_dict(), card)
    assert agrees(filled(own), robust)


def test_what_a_program_leaves_beside_the_weights_runs_nothing(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    class Command:
        def __reduce__(self) -> tuple[Any, ...]:
            return subprocess.check_call, (["touch", str(tmp_path / "executed")],)

    for beside in (argparse.Namespace(run=Command()), [Command()], {"optimizer": Command()}):
        path = saved(tmp_path / "x.pth", {"model": plain, "args": beside})
        with pytest.raises(CheckpointError, match=r"was not opened: .*\(it asks for commands\.check_call\)"):
            read_weights(path)
    assert not (tmp_path / "executed").exists()


def test_what_a_program_notes_beside_the_weights_is_passed_over(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    """Values of the standard library, NumPy and PyTorch that training programs keep, at every place that nests."""
    notes: dict[str, Any] = {
        "torch": torch.__version__,  # a class of its own
        "losses": deque([1.0, 2.0], maxlen=9),
        "when": datetime.datetime.now(datetime.UTC),
        "sets": [frozenset("ab"), {1}, range(3), slice(2)],
        "numbers": [decimal.Decimal(1), fractions.Fraction(1, 2), uuid.UUID(int=1)],
        "types": [np.float32, np.dtype("uint8"), int, str, torch.float16],
        "masked": np.ma.masked_equal([1, 2], 1),
        "generators": [np.random.RandomState(0), np.random.default_rng(0)],
        "options": argparse.Namespace(folder=Path("x"), more=argparse.Namespace(scores=np.zeros(3))),
    }
    assert agrees(filled(saved(tmp_path / "x.pth", {"model": plain, **notes})), plain)
    for name, value in notes.items():
        assert list(read_weights(saved(tmp_path / name, {"model": {"w": torch.ones(1)}, "beside": value})).parts) == [
            "model"
        ]
    newer = tmp_path / "newer"  # Python 3.13 has its paths in another module
    pickled = pickle.dumps({"w": 1, "folder": Path("x")}, protocol=2)
    saved(newer, {"w": torch.ones(1), "folder": Path("x")}, _use_new_zipfile_serialization=False)
    assert b"cpathlib\n" in pickled
    newer.write_bytes(newer.read_bytes().replace(b"cpathlib\n", b"cpathlib._local\n"))
    assert read_weights(newer).parts[""]["w"] == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_another_protocol_of_pickle_is_called_so(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "x", {"w": torch.ones(1)}, pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"was saved with pickle protocol 4.*save it again with torch\.save"):
        read_weights(path)


def test_what_is_called_like_an_optimiser_and_is_none_is_found(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    moments = {"exp_avg": changed(plain)}
    for content, part in (
        ({"optimized_model": plain, "optimizer": moments}, "optimized_model"),
        ({"unscheduled": plain, "optimizerG": moments, "optim": moments, "lr_scheduler": moments}, "unscheduled"),
        ({"model_without_optim": plain}, "model_without_optim"),
    ):
        path = saved(tmp_path / "x", content)
        assert list(read_weights(path).parts) == [part]
        assert agrees(filled(path), plain)
    both = saved(tmp_path / "both", {"model": plain, "optimised": changed(plain)})
    with pytest.raises(CheckpointError, match=r"2 different .*#model or .*#optimised"):
        filled(both)


def test_a_part_may_have_a_hash_in_its_name(tmp_path: Path, plain: dict[str, Tensor]) -> None:
    path = saved(tmp_path / "x#y.pth", {"run#1": plain, "run#2": changed(plain)})
    with pytest.raises(CheckpointError, match=r"y\.pth#run#1 or .*y\.pth#run#2$"):
        filled(path)
    assert agrees(filled(f"{path}#run#1"), plain)


@pytest.mark.parametrize("to", ["spcnet", "robustnet"])
def test_what_convert_writes_is_read_back_under_any_name(tmp_path: Path, whole: dict[str, Tensor], to: str) -> None:
    source = saved(tmp_path / "in", {"model": whole, "ema": changed(whole)})
    assert main(["convert", f"{source}#ema", str(tmp_path / "first"), f"--to={to}"]) == 0
    content = (tmp_path / "first").read_bytes()
    names = ("out", "out.pth", "OUT.CKPT", "out.safetensors")
    for name, load in zip(names, (spcnet.load_model, spcnet.from_pretrained) * 2, strict=True):
        path = tmp_path / name
        path.write_bytes(content)
        assert torch.equal(load(path).state_dict()["classifier.0.bias"], whole["final2.0.bias"] + 1)
    assert main(["convert", str(source), str(tmp_path / "none")]) == 1
    assert not (tmp_path / "none").exists()


def test_a_part_of_a_file_of_this_package_is_refused(tmp_path: Path, whole: dict[str, Tensor]) -> None:
    network, card, _ = load_foreign(saved(tmp_path / "in", whole))
    spcnet.checkpoint.write(tmp_path / "own", network.state_dict(), card)
    with pytest.raises(SpcnetError, match="holds one network alone: leave out #ema"):
        spcnet.load_model(f"{tmp_path / 'own'}#ema")


def test_a_pointer_in_place_of_a_network_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 5\n")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        for load in (spcnet.load_model, spcnet.from_pretrained):
            with pytest.raises(CheckpointError, match=r"Git LFS pointer.*git lfs pull"):
                load(path)

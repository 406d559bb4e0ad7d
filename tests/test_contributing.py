"""What CONTRIBUTING.md says it takes to add something is enough: its own code is run."""

import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from spcnet.cli import main
from spcnet.data.catalog import DATASETS, DatasetInfo, Layout
from spcnet.distributed import Reduce
from spcnet.plugins import PLUGINS
from spcnet.types import IGNORE_INDEX
from tests.support import tiny
from tests.support.devices import mixed, near, rounded

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def code_of(heading: str) -> str:
    """The Python that stands below a heading of CONTRIBUTING.md."""
    (section,) = re.findall(rf"^### {heading}\n(.*?)^##", PAGE, re.MULTILINE | re.DOTALL)
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return str(code)


@pytest.mark.parametrize("heading", re.findall(r"\(#([\w-]+)\)", PAGE))
def test_every_way_to_add_something_has_its_section(heading: str) -> None:
    assert re.search(rf"^### {heading.replace('-', '[ -]')}$", PAGE, re.MULTILINE | re.IGNORECASE)


# A data set


def test_a_data_set_is_one_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(DATASETS, "village", DATASETS["camvid"])  # taken out again after the test
    exec(code_of("A data set"), {"DATASETS": DATASETS, "DatasetInfo": DatasetInfo, "Layout": Layout})
    info, root, run = DATASETS["village"], tmp_path / "village", tmp_path / "run"
    assert main(["data", "fixture", "village", str(root), "--images=6"]) == 0
    assert len(list(root.glob("truth/*/**/*_ids.png"))) == 12
    assert main(["data", "list"]) == 0
    assert info.title in capsys.readouterr().out
    assert main(["data", "check", "village", str(root), f"--output={tmp_path}"]) == 0
    options = ("--data.sources=[village]", f"--data.roots={{village: {root}}}")
    assert tiny.train(run, "--method=deeplabv3plus", *options, iterations=1) == 0
    domains = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()][-1]["domains"]
    assert domains.keys() == {"village", "streets/night"}
    labelled = {
        name for name, row in zip(domains["village"]["iou"], domains["village"]["confusion"], strict=True) if sum(row)
    }
    assert labelled
    assert labelled <= set(info.native.values())


# A loss


def dice_loss(logits: Tensor, label: Tensor, **options: Any) -> Tensor:
    names: dict[str, Any] = {
        "F": F, "Float": Float, "IGNORE_INDEX": IGNORE_INDEX, "Int": Int, "Reduce": Reduce, "Tensor": Tensor, "torch": torch,
    }  # fmt: skip
    exec(code_of("A loss"), names)
    loss: Tensor = names["dice_loss"](logits, label, **options)
    return loss


def case(device: str) -> tuple[Tensor, Tensor]:
    """Two images with four classes, of which one is absent, and ignored pixels."""
    dice = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (2, 5, 6), generator=dice)
    label[0, :2] = IGNORE_INDEX
    logits = torch.randn(2, 4, 5, 6, generator=dice, dtype=torch.double)
    return logits.to(device).requires_grad_(), label.to(device)


def test_the_loss_is_the_slow_formula(device: str) -> None:
    logits, label = case(device)
    chance, costs = logits.softmax(1).movedim(1, 3)[label != IGNORE_INDEX], []
    for k in range(3):
        truth = (label[label != IGNORE_INDEX] == k).double()
        costs.append(1 - 2 * (chance[:, k] @ truth) / (chance[:, k].sum() + truth.sum()))
    torch.testing.assert_close(dice_loss(logits, label), torch.stack(costs).mean(), rtol=0, atol=1e-12)


def test_the_gradient_of_the_loss_is_that_of_its_values(device: str) -> None:
    logits, label = case(device)
    assert torch.autograd.gradcheck(lambda x: dice_loss(x, label), logits, nondet_tol=1e-12)


def test_the_loss_of_two_processes_that_sum_is_that_of_one(device: str) -> None:
    logits, label = case(device)
    sent: list[Tensor] = []
    for image in range(2):
        dice_loss(logits[image, None], label[image, None], reduce=lambda t: sent.append(t) or t)
    for image in range(2):
        found = dice_loss(logits[image, None], label[image, None], reduce=lambda t: sent[0] + sent[1])
        torch.testing.assert_close(found, dice_loss(logits, label), rtol=0, atol=1e-12)


def test_without_labels_the_loss_is_zero_and_in_the_graph(device: str) -> None:
    logits, label = case(device)
    loss = dice_loss(logits, torch.full_like(label, IGNORE_INDEX))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == 0
    assert torch.equal(gradient, torch.zeros_like(logits))


def test_in_each_precision_the_loss_is_that_of_double(device: str, dtype: torch.dtype) -> None:
    exact, label = case(device)
    logits, same = rounded(exact, dtype)
    with mixed(device, dtype):
        found = dice_loss(logits, label)
    near(found.detach(), dice_loss(same, label).detach(), dtype, within=16)


# A plug-in


def test_a_plug_in_is_one_module_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("noise")
    monkeypatch.setitem(sys.modules, "noise", module)  # where dataclasses look for the names of annotations
    exec(code_of("A plug-in"), module.__dict__)
    monkeypatch.setitem(PLUGINS, "noise", module.Noise)
    losses = []
    for strength in (0, 0, 3):
        run = tmp_path / str(len(losses))
        plugin = f"--plugins=[{{name: noise, strength: {strength}}}]"
        assert tiny.train(run, "--method=deeplabv3plus", plugin, iterations=1) == 0
        losses.append(json.loads((run / "train.jsonl").read_text().splitlines()[0])["loss"])
    assert losses[0] == losses[1] != losses[2]

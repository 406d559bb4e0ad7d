"""Networks of Rein, SoMA and EoMT from the files that their programs write."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from spcnet.config import ModelConfig
from spcnet.errors import CheckpointError, UsageError
from spcnet.methods import method_named
from spcnet.models.adapters.lora import smallest_triplets
from spcnet.models.network import Segmentor
from spcnet.weights.files import check_finite, several
from spcnet.weights.segmentors import Released

METHOD = "deeplabv3plus"
"""The method that adds nothing to a backbone and a decoder."""


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of a file and of the network."""

    format: str
    """What the file is."""
    matched: tuple[str, ...]
    """Names, as in the file, of the tensors that the network took."""
    left_out: tuple[str, ...]
    """In the file and not wanted: auxiliary head, classifier of ImageNet, norms that a slot's layer replaces."""
    missing: tuple[str, ...]
    """Wanted and not in the file."""
    unexpected: tuple[str, ...]
    """In the file and unknown."""

    def lines(self) -> list[str]:
        """The report in words, a line for each kind."""
        messages = [f"{self.format}: {len(self.matched)} tensors loaded"]
        for what, names in (
            ("left out on purpose", self.left_out),
            ("missing", self.missing),
            ("unexpected", self.unexpected),
        ):
            if names:
                messages.append(f"{len(names)} {what}: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}")
        return messages


class Opened(NamedTuple):
    """A network, its settings, and the names here of what the file gave."""

    network: Segmentor
    model: ModelConfig
    matched: tuple[str, ...]
    left_out: tuple[str, ...]
    """In the file and not wanted."""


def open_released(found: Released, path: Path, base: Path | None) -> Opened:
    """The network that a file of another program describes.

    Raises:
        CheckpointError: the backbone is missing, or tensors are missing, left over or of another shape.
        UsageError: a base is given and not needed.
    """
    if base is None and not found.has_backbone:
        raise CheckpointError(
            f"{path} is {found.maker} without its backbone, which it did not train: give the weights that it started from with "
            f"--base FILE, those of {found.model.backbone.removeprefix('timm/')} in Meta's, timm's or Hugging Face's names"
        )
    if base is not None and found.has_backbone:
        raise UsageError(f"{path} is {found.maker} with its backbone: leave out --base")
    check_finite(path, found.tensors)
    model = replace(found.model, weights=None if base is None else str(base))
    network = method_named(METHOD).build(model, num_classes=found.num_classes, num_domains=1)
    state, tensors = network.state_dict(), dict(found.tensors)
    for name, update in found.updates.items():
        if name not in state:
            raise CheckpointError(
                f"{path} adapts {name}, which {model.backbone} does not have: it is of another backbone"
            )
        rest = tensors.get(name)
        tensors[name] = (_without_start(state[name], found.rank) if rest is None else rest) + update
    left_out = tuple(name for name in tensors if name.startswith("backbone.model.norm.") and name not in state)
    given = {name: value for name, value in tensors.items() if name not in left_out}
    _check(given, state, found, path)
    network.load_state_dict(state | {name: value.to(state[name].dtype) for name, value in given.items()})
    return Opened(network.eval(), replace(model, weights=None), tuple(given), (*left_out, *found.ignored))


def _check(given: dict[str, Tensor], state: dict[str, Tensor], found: Released, path: Path) -> None:
    own = ("decoder.", "rein.", *(("backbone.",) if found.has_backbone else ()))
    problems = {
        "lacks": [name for name in state if name.startswith(own) and name not in given],
        "has in excess": [name for name in given if name not in state],
        "has in another shape": [n for n, value in given.items() if n in state and value.shape != state[n].shape],
    }
    said = [f"{what} {len(names)} tensors, {several(names)}" for what, names in problems.items() if names]
    if said:
        raise CheckpointError(
            f"{path} is {found.maker} on {found.model.backbone.removeprefix('timm/')}, but it {'; it '.join(said)} (by the names "
            "here): it is of another version, or damaged"
        )


def _without_start(weight: Tensor, rank: int) -> Tensor:
    """W without its smallest triplets, as SoMA begins; queries, keys and values each by themselves."""
    parts = weight.chunk(3) if len(weight) == 3 * weight.shape[1] else (weight,)
    rest = []
    for part in parts:
        start = smallest_triplets(part.double(), rank)
        rest.append(part.double() - start.b @ start.a)
    return torch.cat(rest).to(weight.dtype)

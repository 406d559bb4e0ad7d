"""A training step whose loss is not finite: noticed before it spoils the weights, kept on the disk, and repeated.

The loss is known when the forward pass is done. A GPU is asked for it then, and answers while it works on the backward
pass, which is queued already, so that it never waits for the next order. So the optimiser's step is not made, and what is
kept is the state from which the loss can be computed again, on the same device bit for bit. Only the running statistics
of batch norms have moved on, which no loss in training depends on.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spcnet import checkpoint
from spcnet.config import RunConfig, TrainingConfig, as_dict, from_dict
from spcnet.engine.schedule import learning_rate
from spcnet.errors import CheckpointError
from spcnet.files import write_text
from spcnet.types import Batch

FOLDER = "nan"
"""Folder in a run's folder that a failed step is kept in; of a further process with its number, `nan_1`."""
TENSORS_FILE, FACTS_FILE = "step.safetensors", "step.json"
BATCH = "batch."
"""Beginning of the names of the batch's tensors, `batch.PART.FIELD`."""


class Kept(NamedTuple):
    """A step as it was kept."""

    tensors: dict[str, Tensor]
    """Of the network, before the step."""
    optimizer: dict[str, Tensor]
    """Of the optimiser, before the step, as `spcnet.engine.optim.pack` names them."""
    card: checkpoint.ModelCard
    config: RunConfig
    parts: Sequence[Batch]
    """The batch, in the parts that it came in."""
    iteration: int
    """Iterations that were finished before this one."""
    seed: int
    """What the random numbers of its first part were drawn from."""
    precision: dict[str, Any]
    """State of mixed precision."""
    loss: float
    losses: dict[str, float]
    """Each term of the loss before its weight."""


class Culprit(NamedTuple):
    """The first module in a forward pass whose output is not finite."""

    name: str
    """As `named_modules` has it."""
    kind: str
    """Its class."""
    finite_input: bool
    largest_input: float
    """Largest absolute value that came in; NaN where not all were finite."""


def watch(loss: Tensor) -> Callable[[], bool]:
    """A function that tells whether a loss is finite; on a GPU it waits for nothing that was queued after this call."""
    if loss.device.type != "cuda":
        return lambda: math.isfinite(float(loss.detach()))
    copy = torch.empty((), dtype=loss.dtype, pin_memory=True)
    copy.copy_(loss.detach(), non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()

    def finite() -> bool:
        arrived.synchronize()
        return math.isfinite(float(copy))

    return finite


def keep(folder: Path, step: Kept) -> None:
    """Write a step for `read`: tensors with a checksum in one file, and what a person wants to know in another.

    Args:
        folder: where to; made if need be.
        step: network and optimiser as they were before it, its batch and its losses.

    Raises:
        DataError: it cannot be written.
    """
    batch = {
        f"{BATCH}{number}.{name}": getattr(part, name)
        for number, part in enumerate(step.parts)
        for name in ("image", "label", "domain")
    }
    facts = {
        "iteration": step.iteration,
        "seed": step.seed,
        # As text, for JSON has no word for what is not a number.
        "loss": str(step.loss),
        "losses": {name: str(value) for name, value in step.losses.items()},
        "learning_rate": learning_rate(step.iteration, step.config.training),
        "images": [list(part.name) for part in step.parts],
        "settings": as_dict(step.config),
    }
    checkpoint.write(
        folder / TENSORS_FILE,
        {**step.tensors, **step.optimizer, **batch},
        step.card,
        {**facts, "precision": step.precision},
    )
    write_text(folder / FACTS_FILE, json.dumps(facts, indent=2) + "\n")


def read(folder: Path) -> Kept:
    """A kept step.

    Raises:
        CheckpointError: there is none, or it is damaged.
        UsageError: its settings are of another version.
    """
    path = folder / TENSORS_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {TENSORS_FILE}: give the folder that a run with a loss that was not finite left, RUN/{FOLDER}"
        )
    tensors, card, state = checkpoint.read_all(path)
    try:
        parts = [
            Batch(
                image=tensors.pop(f"{BATCH}{number}.image"),
                label=tensors.pop(f"{BATCH}{number}.label"),
                domain=tensors.pop(f"{BATCH}{number}.domain"),
                name=tuple(names),
            )
            for number, names in enumerate(state["images"])
        ]
        optimizer = {name: tensors.pop(name) for name in list(tensors) if name.startswith(checkpoint.OPTIMIZER)}
        return Kept(
            tensors,
            optimizer,
            card,
            from_dict(RunConfig, state["settings"]),
            parts,
            int(state["iteration"]),
            int(state["seed"]),
            state["precision"],
            float(state["loss"]),
            {name: float(value) for name, value in state["losses"].items()},
        )
    except KeyError as error:
        raise CheckpointError(f"{path} is no kept step, it lacks {error}: give a folder RUN/{FOLDER}") from error


@contextmanager
def culprits(network: nn.Module) -> Iterator[list[Culprit]]:
    """A list that gets each module whose output is not finite, in the order in which they finish."""
    found: list[Culprit] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            if all(bool(value.isfinite().all()) for value in _tensors(output)):
                return
            largest = [float(value.detach().abs().max()) for value in _tensors(given) if value.numel()]
            finite = all(math.isfinite(value) for value in largest)
            found.append(
                Culprit(name, type(module).__name__, finite, max(largest, default=0.0) if finite else math.nan)
            )

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in network.named_modules() if name]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def remedy(training: TrainingConfig) -> str:
    """What helps a run whose numbers are not finite; the rate is none of what a run that goes on may change."""
    again = "start again with a lower training.learning_rate"
    return f"go on with --training.precision 32-true, or {again}" if training.precision.endswith("-mixed") else again


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the tensors with a value that is not finite; running statistics, which follow the images, left out."""
    return [
        name
        for name, value in tensors.items()
        if not name.endswith(("running_mean", "running_var")) and not bool(value.isfinite().all())
    ]


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of floating-point numbers in nested tuples."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _tensors(one)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))

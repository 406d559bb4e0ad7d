"""A training step whose loss is not finite: detected before the optimiser's step, saved to disk, and replayed.

The loss is copied from a GPU asynchronously while the backward pass, which is queued already, runs, so that the GPU never
waits. The optimiser's step is then skipped, and the saved state reproduces the loss, on the same device bit for bit. Only
the running statistics of batch norms have been updated, which no training loss depends on.
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
from spcnet.engine.state import how_to_go_on
from spcnet.errors import CheckpointError, DataError
from spcnet.files import write_text
from spcnet.types import Batch

FOLDER = "nan"
"""Folder of a failed step within a run's folder; of other processes with their rank, `nan_1`."""
TENSORS_FILE, FACTS_FILE = "step.safetensors", "step.json"
BATCH = "batch."
"""Prefix of the names of the batch's tensors, `batch.PART.FIELD`."""


class Kept(NamedTuple):
    """A saved step."""

    tensors: dict[str, Tensor]
    """The network's tensors before the step."""
    optimizer: dict[str, Tensor]
    """The optimiser's tensors before the step, from `spcnet.engine.optim.pack`."""
    card: checkpoint.ModelCard
    config: RunConfig
    parts: Sequence[Batch]
    """The micro-batches."""
    iteration: int
    """Number of finished iterations before this step."""
    seed: int
    """Random seed of its first micro-batch."""
    precision: dict[str, Any]
    """State of mixed precision."""
    loss: float
    losses: dict[str, float]
    """Each term of the loss before its weight."""


class Culprit(NamedTuple):
    """The first module in a forward pass whose output is not finite."""

    name: str
    """From `named_modules`."""
    kind: str
    """Its class."""
    finite_input: bool
    largest_input: float
    """Largest absolute input value; NaN if not all are finite."""


def watch(loss: Tensor) -> Callable[[], bool]:
    """A function that returns whether a loss is finite; on a GPU it does not wait for work queued after this call."""
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
    """Save a step for `read`: tensors with a checksum in one file, a readable summary in another.

    Args:
        folder: destination; created if needed.
        step: network and optimiser before the step, its batch and its losses.

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
        # As text, because JSON has no NaN.
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


def explain(step: Kept, rank: int, *, keep_step: bool) -> str:
    """The message of a step whose loss is not finite, which is kept in the run's folder to look at.

    Args:
        step: network and optimiser before the step, its batch and its losses.
        rank: of the process; each keeps its own step.
        keep_step: False where nothing is trained, and so nothing kept.
    """
    output = step.config.output
    folder = output / (f"{FOLDER}_{rank}" if rank else FOLDER)
    terms = ", ".join(f"{name} {value:.3g}" for name, value in step.losses.items())
    message = f"the loss is {step.loss} after iteration {step.iteration + 1} ({terms}): {remedy(step.config.training)}"
    if not keep_step:
        return message
    try:
        keep(folder, step)
        outcome = f"`spcnet debug replay {folder}` shows where it comes from"
    except DataError as error:
        outcome = f"the step could not be kept to look at ({error})"
    return f"{message}; {outcome}. {how_to_go_on(output)}"


def read(folder: Path) -> Kept:
    """Load a saved step.

    Raises:
        CheckpointError: it is missing or damaged.
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
    """A list that collects the modules whose output is not finite, in the order of execution."""
    modules: list[Culprit] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if all(bool(value.isfinite().all()) for value in _tensors(output)):
                return
            largest = [float(value.detach().abs().max()) for value in _tensors(inputs) if value.numel()]
            finite = all(math.isfinite(value) for value in largest)
            modules.append(
                Culprit(name, type(module).__name__, finite, max(largest, default=0.0) if finite else math.nan)
            )

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in network.named_modules() if name]
    try:
        yield modules
    finally:
        for handle in handles:
            handle.remove()


def remedy(training: TrainingConfig) -> str:
    """Advice for a run with non-finite values; a resumed run cannot change its learning rate."""
    again = "start again with a lower training.learning_rate"
    return f"go on with --training.precision 32-true, or {again}" if training.precision.endswith("-mixed") else again


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the tensors with a non-finite value, without running statistics."""
    return [
        name
        for name, value in tensors.items()
        if not name.endswith(("running_mean", "running_var")) and not bool(value.isfinite().all())
    ]


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in nested tuples, lists and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _tensors(one)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))

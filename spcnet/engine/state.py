"""The state of a run on the disk: what a checkpoint holds beside the network, and whether a run may go on from it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spcnet import checkpoint, distributed
from spcnet.config import DataConfig, TrainingConfig, as_dict, kept_on_resume
from spcnet.engine.ema import WeightAverage
from spcnet.engine.optim import unpack
from spcnet.errors import CheckpointError, DataError
from spcnet.methods.base import Method
from spcnet.types import Network


def save(
    run: Path,
    tensors: Mapping[str, Tensor],
    card: checkpoint.ModelCard,
    average: WeightAverage | None,
    training: TrainingConfig,
    method: Method,
    more: Mapping[str, Any],
) -> None:
    """Write a checkpoint from which `resume` goes on, and keep the one before.

    Args:
        run: folder of the run.
        tensors: of the network that is trained and of its optimiser, as `Network.stored` and `optim.pack` give them.
        card: what the network is.
        average: of its weights, once it has begun.
        training: settings of the loop; those that a resumed run must keep are noted.
        method: keeps what it needs beside the network.
        more: what else the run needs to go on; plain JSON values.

    Raises:
        DataError: it cannot be written; the one before stays.
    """
    schedule = {name: as_dict(getattr(training, name)) for name in kept_on_resume("training")}
    averages = {} if average is None else average.pack()
    told = {} if average is None else {"ema": training.ema}
    checkpoint.write(
        run / checkpoint.LATEST_FILE,
        {**tensors, **averages, **kept_by(method)},
        card,
        {**more, **told, "schedule": schedule},
        keep=run / checkpoint.PREVIOUS_FILE,
    )


def resume(
    run: Path,
    network: Network,
    optimizer: torch.optim.Optimizer,
    card: checkpoint.ModelCard,
    average: WeightAverage | None,
    training: TrainingConfig,
    method: Method,
) -> tuple[dict[str, Any], str | None]:
    """Bring network, optimiser and average to where the run's last whole checkpoint stands.

    Args:
        run: folder of the run.
        network: what `Method.build` made.
        optimizer: its optimiser.
        card: what the network is.
        average: of its weights, where the run has one.
        training: settings of the loop.
        method: fills the network, see `Method.restore`, and takes back what it kept.

    Returns:
        What `save` got as `more`; and what the user should know, where it was not the last checkpoint.

    Raises:
        CheckpointError: there is none, both are damaged, or it belongs to another run.
    """
    path, tensors, found, state, damage = checkpoint.read_latest(run)
    if (found.method, found.classes, found.domains) != (card.method, card.classes, card.domains):
        raise CheckpointError(
            f"{path} is of {found.method} on {', '.join(found.domains)} ({len(found.classes)} classes), this run "
            f"is {card.method} on {', '.join(card.domains)} ({len(card.classes)} classes): "
            "resume with the run's own settings or choose another --output"
        )
    adapters = [one.model.get("adapter", {}) for one in (found, card)]
    if len({adapter.get("save_base", True) for adapter in adapters}) > 1:
        raise CheckpointError(
            f"{path} was written with model.adapter.save_base {adapters[0].get('save_base', True)}: a resumed run must keep it"
        )
    _check_schedule(path, state, training)
    method.restore(network, checkpoint.Checkpoint(checkpoint.trained(tensors), found, state), str(path))
    give_back(method, tensors, str(path))
    unpack(optimizer, tensors)
    if average is not None:
        average.unpack(tensors, network, int(state["iteration"]))
    if damage is None:
        return state, None
    return state, f"{damage}. Going on from the one before, {path.name}, of iteration {state['iteration']}"


def kept_by(method: Method) -> dict[str, torch.Tensor]:
    """What a method keeps beside the network, `plugins.NAME`."""
    return {f"{checkpoint.PLUGINS}{name}": value for name, value in method.state().items()}


def give_back(method: Method, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Put back what `kept_by` took.

    Args:
        method: the run's.
        tensors: of the checkpoint.
        source: name of the file, for messages.

    Raises:
        CheckpointError: it is not this method's.
    """
    start = checkpoint.PLUGINS
    kept = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    method.load_state(kept, source)


def _check_schedule(path: Path, state: Mapping[str, Any], training: TrainingConfig) -> None:
    """Refuse another schedule than the checkpoint's; an option that it does not know had what is the default now.

    Raises:
        CheckpointError: names the first option that differs.
    """
    stored = state.get("schedule", {})
    for name in kept_on_resume("training") if stored else ():
        before = stored.get(name, as_dict(getattr(TrainingConfig, name)))
        if before != as_dict(getattr(training, name)):
            raise CheckpointError(
                f"{path} was trained with another training.{name} ({before}): a resumed run must keep its schedule, seed and "
                "iterations"
            )


def check_draws(run: Path, stored: Mapping[str, Any], batch: int, data: DataConfig) -> None:
    """Refuse to resume where images would be seen twice or left out.

    Args:
        run: folder of the run.
        stored: what its checkpoint says of batches and draws.
        batch: images of a stream in the batch of an iteration now.
        data: the settings now.

    Raises:
        CheckpointError: batch or draws were others.
    """
    if stored.get("batch", batch) != batch:
        raise CheckpointError(
            f"the run in {run} had {stored['batch']} images of a stream in a batch, this has {batch} "
            "(data.images_per_domain times training.accumulate times processes): images would be seen twice or left "
            "out; keep the product, for example with twice the training.accumulate on half as many devices"
        )
    changed = [name for name, value in stored.get("drawn", {}).items() if getattr(data, name) != value]
    if changed:
        raise CheckpointError(
            f"the run in {run} drew its images with data.{changed[0]} {stored['drawn'][changed[0]]}, this has "
            f"{getattr(data, changed[0])}: images would be seen twice or left out; resume with the run's own settings "
            "or choose another --output"
        )


def set_damaged_aside(run: Path) -> None:
    """Rename a damaged last checkpoint, so that the next save does not put it in the place of the whole one before."""
    with suppress(OSError):
        os.replace(run / checkpoint.LATEST_FILE, run / checkpoint.DAMAGED_FILE)


def how_to_go_on(run: Path) -> str:
    """What a run that ended early has saved, and how it goes on; for the end of a message."""
    for name in (checkpoint.LATEST_FILE, checkpoint.PREVIOUS_FILE):
        with suppress(CheckpointError):
            done = checkpoint.read_state(run / name)["iteration"]
            return f"Iteration {done} is saved; go on with: spcnet train --config {run}/config.yaml --resume"
    return f"Nothing was saved yet; start again with: spcnet train --config {run}/config.yaml"


@contextmanager
def dead_workers_told(run: Path | None = None) -> Iterator[None]:
    """Tell in one line that a process was killed, of those that read images or of those that train together.

    PyTorch raises wherever this process just is.

    Args:
        run: folder of the run that is trained; None where nothing is.

    Raises:
        DataError: names the cause and the remedy, and how the run goes on.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        said = " ".join(str(error).split())
        broken = not isinstance(error, RuntimeError)  # a worker that was killed while it handed a batch over
        hint = "" if run is None else f". {how_to_go_on(run)}"
        if distributed.world_size() > 1 and not broken and "onnection" in said:
            raise DataError(f"another process of this run ended, see what it says{hint}") from error
        if not broken and not said.startswith("DataLoader worker"):
            raise
        if "Bus error" in said:
            cause, remedy = "shared memory (/dev/shm) was full", "enlarge it, or lower data.workers"
        elif broken or "Killed" in said or "exited unexpectedly" in said:
            cause, remedy = "something killed it, most often the system for want of memory", "lower data.workers"
        else:
            cause, remedy = f"PyTorch says: {said}", "set data.workers to 0 to see where"
        raise DataError(f"a process that reads images ended: {cause}; {remedy}{hint}") from error

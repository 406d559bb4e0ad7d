"""The state of a run on the disk: what a checkpoint holds beside the network, and whether a run may go on from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spcnet import checkpoint
from spcnet.config import TrainingConfig
from spcnet.engine.optim import SCHEDULE, pack, unpack
from spcnet.errors import CheckpointError
from spcnet.methods import Segmentor, fill


def save(
    path: Path,
    network: Segmentor,
    optimizer: torch.optim.Optimizer,
    card: checkpoint.ModelCard,
    training: TrainingConfig,
    more: Mapping[str, Any],
) -> None:
    """Write a checkpoint from which `resume` goes on.

    Args:
        path: where to.
        network: what is trained.
        optimizer: its optimiser.
        card: what the network is.
        training: settings of the loop; those that a resumed run must keep are noted.
        more: what else the run needs to go on; plain JSON values.

    Raises:
        DataError: it cannot be written; the one before stays.
    """
    schedule = {name: getattr(training, name) for name in (*SCHEDULE, "seed")}
    checkpoint.write(path, network.state_dict() | pack(optimizer), card, {**more, "schedule": schedule})


def resume(
    path: Path,
    network: Segmentor,
    optimizer: torch.optim.Optimizer,
    card: checkpoint.ModelCard,
    training: TrainingConfig,
) -> dict[str, Any]:
    """Bring network and optimiser to where a checkpoint stands; returns what `save` got as `more`.

    Raises:
        CheckpointError: there is none, it is damaged, or it belongs to another run.
    """
    tensors, found, state = checkpoint.read_all(path)
    if (found.method, found.classes, found.domains) != (card.method, card.classes, card.domains):
        raise CheckpointError(
            f"{path} is of {found.method} on {', '.join(found.domains)} ({len(found.classes)} classes), this run "
            f"is {card.method} on {', '.join(card.domains)} ({len(card.classes)} classes): "
            "resume with the run's own settings or choose another --output"
        )
    changed = [k for k, v in state.get("schedule", {}).items() if getattr(training, k) != v]
    if changed:
        raise CheckpointError(
            f"{path} was trained with another training.{changed[0]} "
            f"({state['schedule'][changed[0]]}): a resumed run must keep its schedule, seed and iterations"
        )
    fill(network, {k: v for k, v in tensors.items() if not k.startswith(checkpoint.OPTIMIZER)}, str(path))
    unpack(optimizer, tensors)
    return state

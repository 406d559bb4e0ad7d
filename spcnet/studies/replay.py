"""A kept training step whose loss was not finite, repeated: where does it go wrong?"""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from spcnet import checkpoint
from spcnet.config import TrainingConfig
from spcnet.engine import replay as steps
from spcnet.engine.devices import make_fabric
from spcnet.engine.optim import unpack
from spcnet.engine.schedule import learning_rate
from spcnet.engine.state import give_back
from spcnet.engine.trainer import Trainer
from spcnet.formatting import print_plain
from spcnet.methods import method_named
from spcnet.methods.base import fill
from spcnet.plugins import make_plugins, with_plugins
from spcnet.types import IGNORE_INDEX


class Replayed(NamedTuple):
    """A failed step, made again."""

    loss: float
    losses: dict[str, float]
    """Each term of the loss before its weight."""
    culprit: steps.Culprit | None
    """The first module whose output is not finite; None where all are."""
    weights: list[str]
    """Names of the network's tensors that were not finite before the step."""
    images: list[str]
    """Names of the images with a value that is not finite."""
    same: bool
    """Whether the loss and all its terms are what they were, bit for bit."""


def replay(folder: Path, *, accelerator: str | None = None, console: Console | None = None) -> Replayed:
    """Make a kept step again and say where it goes wrong; nothing is written.

    Args:
        folder: what a run with a loss that was not finite left, RUN/nan.
        accelerator: where to compute; where the run did by default.
        console: where the findings are shown; nowhere by default.

    Raises:
        UsageError, CheckpointError: see the message.
    """
    kept = steps.read(folder)
    # Not compiled, for nobody can listen to the modules of compiled code.
    training = dataclasses.replace(kept.config.training, devices=1, nodes=1, strategy="auto", compile=False)
    if accelerator is not None:
        training = dataclasses.replace(training, accelerator=accelerator)
    config = dataclasses.replace(kept.config, training=training)
    method = method_named(config.method)
    network = method.build(
        config.model,
        num_classes=len(kept.card.classes),
        num_domains=len(kept.card.domains),
        cluster_domains=any(name.startswith("clusters.") for name in kept.tensors),
        pretrained=False,
    )
    fabric = make_fabric(training, trains=False)
    trainer = Trainer(config, with_plugins(method, make_plugins(config), network, config), network, kept.card, fabric)
    fill(trainer.network, checkpoint.trained(kept.tensors), str(folder))
    give_back(trainer.method, kept.tensors, str(folder))
    unpack(trainer.optimizer, kept.optimizer)
    if kept.precision:
        fabric.strategy.precision.load_state_dict(kept.precision)
    trainer.iteration = kept.iteration
    with steps.culprits(trainer.network) as culprits:
        result, _ = trainer.gradient(kept.parts)
    losses = {name: float(value) for name, value in result.parts.items()}
    loss = float(result.loss.detach())
    again = Replayed(
        loss,
        losses,
        culprits[0] if culprits else None,
        steps.not_finite(kept.tensors),
        [
            name
            for part in kept.parts
            for name, image in zip(part.name, part.image, strict=True)
            if not image.isfinite().all()
        ],
        same=np.array_equal(
            [loss, *(losses[name] for name in kept.losses)], [kept.loss, *kept.losses.values()], equal_nan=True
        ),
    )
    _show(kept, again, console or Console(quiet=True))
    return again


def _show(kept: steps.Kept, again: Replayed, console: Console) -> None:
    say = partial(print_plain, console)
    training = kept.config.training
    say(
        f"Iteration {kept.iteration + 1} of {training.iterations}: {kept.config.method}, learning rate "
        f"{learning_rate(kept.iteration, training):.3g}, precision {training.precision}"
    )
    image, label = (torch.cat([getattr(part, name).flatten() for part in kept.parts]) for name in ("image", "label"))
    known = label[label != IGNORE_INDEX]
    say(
        f"images: {len(again.images)} not finite ({_some(again.images)})"
        if again.images
        else f"images: finite, {float(image.min()):.3g} to {float(image.max()):.3g}"
    )
    say(
        f"labels: {int(known.min())} to {int(known.max())}, {100 * len(known) / max(1, len(label)):.0f} % of the pixels have one"
        if len(known)
        else "labels: no pixel has one"
    )
    say(f"weights: {_finiteness(again.weights, kept.tensors)}")
    say(f"optimiser: {_finiteness(steps.not_finite(kept.optimizer), kept.optimizer)}")
    table = Table("", "then", "now", box=None)
    terms = [(name, then, again.losses[name]) for name, then in kept.losses.items()]
    for name, then, now in [("loss", kept.loss, again.loss), *terms]:
        table.add_row(name, f"{then:.9g}", f"{now:.9g}")
    console.print(table)
    if not again.same:
        say("Then and now differ: another device, another version, or one of several processes.")
    say(_verdict(again, training))


def _verdict(again: Replayed, training: TrainingConfig) -> str:
    if again.images:
        return f"An image is not finite: check {_some(again.images)}."
    where = "No module fails"
    if again.culprit is not None:
        where = f"The first module whose output is not finite is {again.culprit.name} ({again.culprit.kind})"
    if again.weights:
        cause = "weights were not finite before this step, so the gradient of an earlier step was not"
        return f"{where}; {cause}: {steps.remedy(training)}."
    if again.culprit is not None:
        came = f"what came in was finite, at most {again.culprit.largest_input:.3g}"
        return f"{where}; {came if again.culprit.finite_input else 'what came in was not finite, either'}."
    if not math.isfinite(again.loss):
        bad = [name for name, value in again.losses.items() if not math.isfinite(value)]
        return f"Every module's output is finite; the loss is not: {_some(bad) or 'the sum of its terms'}."
    return "The loss is finite this time."


def _finiteness(bad: list[str], tensors: dict[str, Tensor]) -> str:
    if bad:
        return f"{len(bad)} of {len(tensors)} tensors not finite ({_some(bad)})"
    sizes = {name: float(t.abs().max()) for name, t in tensors.items() if t.is_floating_point() and t.numel()}
    name = max(sizes, key=lambda name: sizes[name] if math.isfinite(sizes[name]) else 0, default="")
    return f"finite, at most {sizes[name]:.3g} ({name})" if name else "none yet"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")

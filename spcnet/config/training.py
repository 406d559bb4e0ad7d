"""The settings of the training loop: the optimiser, its schedule, and where and how the steps are computed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from spcnet.config.options import Settings, option, require

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]


@dataclass(frozen=True)
class TrainingConfig(Settings, group="training"):
    """The loop: an optimiser's steps for a number of iterations."""

    iterations: int = option("schedule", 40_000, least=1, compared="number of iterations")
    """Optimiser steps."""
    optimizer: Literal["sgd", "adamw"] = option("schedule", "sgd")
    """Stochastic gradient descent with momentum, or Adam with decoupled weight decay."""
    learning_rate: float = option("schedule", 0.01, above=0)
    """Learning rate before its decay."""
    momentum: float = option("result", 0.9, least=0, below=1)
    """Momentum of sgd."""
    betas: tuple[float, float] = option("result", (0.9, 0.999), least=0, below=1, noun="both values")
    """Shares of adamw's mean gradient and mean square that a step keeps."""
    weight_decay: float = option("result", 5e-4, least=0)
    """Weight decay."""
    weight_decay_end: float | None = option("result", None, least=0)
    """Weight decay at the end of the run, which it goes to along half a cosine; default: it stays as it is."""
    decay_all: bool | None = option("result", None)
    """Weight decay on norms, biases, embeddings and other one-dimensional parameters, too. Default: with sgd, and not with adamw."""
    backbone_factor: float = option("schedule", 1.0, above=0)
    """Factor on the learning rate of the backbone's parameters."""
    layer_decay: float = option("schedule", 1.0, above=0, most=1)
    """Further factor on them, once for each block or stage from the deepest one upwards (layer-wise learning-rate decay)."""
    schedule: Literal["poly", "cosine"] = option("schedule", "poly")
    """How the learning rate falls: with a power of what is left of the run, or along half a cosine."""
    poly_power: float = option("schedule", 0.9, least=0)
    """Exponent of poly: the learning rate falls as (1 - iteration/iterations)^power."""
    min_rate: float = option("schedule", 0.0, least=0, most=1, noun="a share of the learning rate")
    """Share of the learning rate that is left at the end."""
    warmup: int = option("schedule", 0, least=0, zero="none")
    """First iterations, in which the learning rate grows linearly; its decay begins after them."""
    warmup_factor: float = option("schedule", 1e-6, least=0, most=1, noun="a share of the learning rate")
    """Share of the learning rate at which a warm-up begins."""
    backbone_warmup: tuple[int, int] | None = option("schedule", None, least=0, noun="both numbers")
    """A warm-up of the backbone's own: so many iterations at rate 0, then so many of linear growth; [500,1000] is EoMT's. Default: that of all others."""
    restart: float = option("schedule", 1.0, above=0, most=1, noun="a fraction of the run")
    """Share of the run after which poly starts again (RobustNet's scl-poly, there when borders stop being relaxed); 1 for never."""
    restart_factor: float = option("schedule", 1.0, above=0)
    """Factor on the learning rate at the restart."""
    restart_power: float = option("schedule", 1.5, least=0)
    """Exponent of the schedule after the restart."""
    clip_gradient: float = option("result", 0.0, least=0, zero="off")
    """Largest norm of the gradient of all parameters together; a longer one is scaled down to it. 0 for none."""
    ema: float = option("schedule", 0.0, least=0, below=1, noun="a share", zero="off")
    """Share of the weights' exponential moving average that a step keeps; the average is what is evaluated and saved. 0 for none."""
    ema_start: int = option("schedule", 0, least=0)
    """Iterations before the average begins."""
    seed: int = option("order", 0, least=0)
    """Seed of everything random."""
    log_every: int = option("place", 20, least=1)
    """Iterations between two lines of the training log."""
    checkpoint_every: int = option("place", 500, least=1)
    """Iterations between two checkpoints."""
    evaluate_every: int = option("place", 0, least=0, zero="at the end only")
    """Iterations between two evaluations during training; 0 evaluates at the end only."""
    accelerator: str = option("place", "auto")
    """Where to compute: auto, cpu, cuda or mps."""
    devices: int | str = option("place", 1)
    """How many devices, a process on each, or 'auto' for all; what torchrun or srun started needs no number."""
    nodes: int = option("place", 1, least=1)
    """Number of machines, each with `devices` devices."""
    strategy: Literal["auto", "ddp", "fsdp"] = option("place", "auto")
    """How several processes share a step: each has all weights (ddp), or its part of the weights, their gradients and the optimiser's memory, and gathers the weights block by block (fsdp). auto is ddp."""
    accumulate: int = option("result", 1, least=1)
    """Micro-batches of gradient accumulation before an optimiser step, so that only one has to fit into memory; data.images_per_domain is of one part and process."""
    freeze_batchnorm: bool = option("result", False)
    """Batch norms keep the statistics that they have, for small batches or a finished network."""
    precision: Precision = option("result", "32-true")
    """Precision: 32-true, bf16-mixed, 16-mixed or 64-true."""
    deterministic: bool = option("place", True)
    """Refuse operations that do not repeat bit for bit, where the device offers others."""
    profile: int = option("place", 0, least=0, zero="off", unit="steps")
    """Steps, after a warm-up, whose operations are timed by torch.profiler and written to the run's folder profile/; 0 for none."""
    compile: bool = option("place", False)
    """Translate the network's forward and backward into code for this device first (torch.compile): the first step takes minutes, the others are faster."""
    activation_checkpointing: bool = option("place", False)
    """Compute backbone and decoder again for their gradients instead of keeping what they computed: less memory, more time; the losses are the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, needed in self._without_effect():
            require(
                getattr(self, name) == getattr(type(self), name),
                f"training.{name} is {getattr(self, name)}: it goes with {needed}; leave it out",
            )
        for name, remedy in {"ema": "leave it out", "compile": "leave it out", "precision": "take bf16-mixed"}.items():
            value = getattr(self, name)
            require(
                self.strategy != "fsdp" or value in (0.0, False, "32-true", "bf16-mixed", "64-true"),
                f"training.{name} is {value}, which does not go with training.strategy fsdp: {remedy}, or choose ddp",
            )
        frozen, own = self.backbone_warmup or (0, 0)
        ends = {"warmup": self.warmup, "backbone_warmup": frozen + own}
        for name, until in {**ends, "ema_start": self.ema_start}.items():
            at = round(self.restart * self.iterations) if name in ends else self.iterations
            require(
                until < max(at, 1),
                f"training.{name} lasts for {until} iterations, and "
                + (f"the schedule restarts after {at}" if at < self.iterations else f"the run has {at}")
                + ": it must end before",
            )

    def _without_effect(self) -> Iterator[tuple[str, str]]:
        """Options that the others leave without an effect, with what they would need."""
        rules: list[tuple[bool, str, tuple[str, ...]]] = [
            (self.optimizer == "sgd", "training.optimizer sgd", ("momentum",)),
            (self.optimizer == "adamw", "training.optimizer adamw", ("betas",)),
            (self.schedule == "poly", "training.schedule poly", ("poly_power", "restart")),
            (self.warmup > 0 or bool((self.backbone_warmup or (0, 0))[1]), "a training.warmup", ("warmup_factor",)),
            (self.ema > 0, "a training.ema", ("ema_start",)),
        ]
        return ((name, needed) for fits, needed, names in rules if not fits for name in names)

    @property
    def decays_all(self) -> bool:
        """Whether weight decay is for norms, biases and embeddings, too."""
        return self.optimizer == "sgd" if self.decay_all is None else self.decay_all

"""The training loop, to be read in one sitting.

It knows a method, a network and batches. Devices, precision and processes are Lightning Fabric's. What iteration t
does depends only on the seed, t, and the state after iteration t-1, so that a run which was stopped and goes on gives
the same losses as one that was not.
"""

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from spcnet import checkpoint
from spcnet.config import RunConfig, TrainingConfig
from spcnet.engine import records, state
from spcnet.engine.observer import Observer
from spcnet.engine.optim import make_optimizer, poly_rate, set_rate
from spcnet.errors import DataError, Interrupted
from spcnet.memory import keep_freed_memory
from spcnet.methods import Method, Segmentor
from spcnet.types import Batch, StepResult

Progress = Callable[[int, dict[str, float]], None]
"""Called after each logged iteration with the number of finished iterations and the latest losses."""


def make_fabric(config: TrainingConfig) -> Fabric:
    """Devices and precision as the configuration asks for."""
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        precision=config.precision,
    )
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    if config.deterministic:
        # Some operations have no repeatable form on a GPU; those warn once instead of ending the run.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return fabric


class Trainer:
    """One training run in a folder.

    Args:
        config: the whole run; its `training` part steers the loop, `output` says where to write.
        method: what is trained.
        network: what `method.build` made, fresh.
        card: what the checkpoints say of the network.
        fabric: where to compute.
    """

    def __init__(
        self, config: RunConfig, method: Method, network: Segmentor, card: checkpoint.ModelCard, fabric: Fabric
    ) -> None:
        self.config, self.method, self.card, self.fabric = config, method, card, fabric
        self.network = network.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(network.parameters(), config.training)
        self.iteration = 0
        """Finished iterations."""

    @property
    def latest(self) -> Path:
        """The run's last checkpoint."""
        return self.config.output / checkpoint.LATEST_FILE

    def resume(self) -> None:
        """Go on where the run's last checkpoint stands.

        Raises:
            CheckpointError: there is none, it is damaged, or it belongs to another run.
        """
        precision = self.fabric.strategy.precision
        found = state.resume(self.latest, self.network, self.optimizer, self.card, self.config.training)
        precision.load_state_dict(found.get("precision", {}))
        self.iteration = int(found["iteration"])
        if self.fabric.is_global_zero:
            for name in (records.TRAIN_FILE, records.RESULTS_FILE):
                records.keep_until(self.config.output / name, self.iteration)

    def save(self) -> None:
        """Write a checkpoint from which `resume` goes on.

        Raises:
            DataError: it cannot be written; the one before stays.
        """
        if self.fabric.is_global_zero:
            more = {"iteration": self.iteration, "precision": self.fabric.strategy.precision.state_dict()}
            state.save(self.latest, self.network, self.optimizer, self.card, self.config.training, more)
        self.fabric.barrier()

    def finish(self) -> Path:
        """Write the trained network by itself, without the optimiser."""
        path = self.config.output / checkpoint.MODEL_FILE
        if self.fabric.is_global_zero:
            checkpoint.write(path, self.network.state_dict(), self.card, {"iteration": self.iteration})
        self.fabric.barrier()
        return path

    def fit(
        self,
        batches: Iterable[Batch],
        *,
        on_progress: Progress = lambda iteration, losses: None,
        on_evaluate: Callable[[int], object] = lambda iteration: None,
        trials: Callable[[], Iterable[Iterable[Batch]]] = tuple,
    ) -> None:
        """Train from the current iteration to the last.

        Args:
            batches: one for each iteration that is left, the first that of `self.iteration`.
            trials: makes what the method's statistics are taken from, the same at every call.
            on_progress: told of every iteration.
            on_evaluate: called every `training.evaluate_every` iterations, and not after the last.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the state is saved.
            DataError: the loss is not finite, or a batch cannot be read; the last checkpoint stays.
        """
        training, fabric = self.config.training, self.fabric
        network, optimizer = fabric.setup(self.network, self.optimizer)
        observer = Observer(self.config, enabled=fabric.is_global_zero)
        statistics_at = self.method.statistics_at(self.network, self.config.model, training.iterations)
        with _stop_on_signal() as stopped, closing(observer):
            for batch in batches:
                if self.iteration == statistics_at:
                    self._take_statistics(network, trials(), stopped)
                # Seeding each step makes dropout a function of the iteration, and a resumed run the same run.
                torch.manual_seed(training.seed * 1_000_003 + self.iteration)
                network.train()
                set_rate(optimizer, poly_rate(self.iteration, training))
                result = self._step(network, optimizer, _to_device(batch, fabric.device))
                self.iteration += 1
                last = self.iteration == training.iterations
                if last or self.iteration % training.log_every == 0:
                    on_progress(self.iteration, observer.write(self.iteration, result, optimizer.param_groups[0]["lr"]))
                    self._check_finite(result)
                else:
                    on_progress(self.iteration, {})
                if stopped:
                    self._check_finite(result)
                    self.save()
                    raise Interrupted(self.iteration, self.config.output)
                if last or self.iteration % training.checkpoint_every == 0:
                    self._check_finite(result)
                    self.save()
                if training.evaluate_every and not last and self.iteration % training.evaluate_every == 0:
                    on_evaluate(self.iteration)

    def _step(self, network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> StepResult:
        # No name for the network's output: scores and embeddings are given back as soon as their gradient is taken.
        progress = self.iteration / self.config.training.iterations
        result = self.method.losses(self.network, network(batch.image), batch, self.config.model, progress=progress)
        self.fabric.backward(result.loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.method.update(self.network, batch, result, progress=progress, reduce=self._sum_over_processes)
        return result

    def _take_statistics(self, network: nn.Module, trials: Iterable[Iterable[Batch]], stopped: Sequence[int]) -> None:
        """A run that is killed here takes them again from the beginning, from the same state, so with the same result."""

        def unless_stopped(batches: Iterable[Batch]) -> Iterator[Batch]:
            for batch in batches:
                if stopped:
                    self.save()
                    raise Interrupted(self.iteration, self.config.output)
                yield _to_device(batch, self.fabric.device)

        network.eval()
        self.method.take_statistics(
            self.network,
            network,
            (unless_stopped(batches) for batches in trials),
            self.config.model,
            reduce=self._sum_over_processes,
        )

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return value
        total = self.fabric.all_reduce(value, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def _check_finite(self, result: StepResult) -> None:
        if not math.isfinite(float(result.loss.detach())):
            parts = ", ".join(f"{name} {float(value):.3g}" for name, value in result.parts.items())
            raise DataError(
                f"the loss is {float(result.loss.detach())} after iteration {self.iteration} ({parts}): lower "
                "training.learning_rate, or use training.precision 32-true; the last checkpoint is from before"
            )


def _to_device(batch: Batch, device: torch.device) -> Batch:
    image = batch.image.to(device, non_blocking=True, memory_format=torch.channels_last)
    return Batch(
        image, batch.label.to(device, non_blocking=True), batch.domain.to(device, non_blocking=True), batch.name
    )


@contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """A list that is no longer empty once the user pressed Ctrl-C or the system asked the process to end.

    The step under way is finished first, so that what is saved is a whole state; a second Ctrl-C ends at once.
    """
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        for watched in (signal.SIGINT, signal.SIGTERM):
            before[watched] = signal.signal(watched, note)
    except ValueError:  # not the main thread: signals are somebody else's
        pass
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

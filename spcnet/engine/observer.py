"""Logging of a run: train.jsonl, TensorBoard, tracking servers, the figures of the progress bar.

In each iteration the trainer draws the batch from `timed`, passes the result to `look`, and calls `write` where the losses
are logged. Nothing here changes the training.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from spcnet import distributed
from spcnet.config import RunConfig
from spcnet.engine import records
from spcnet.engine.profiling import Profile
from spcnet.engine.trackers import open_trackers
from spcnet.errors import DataError
from spcnet.methods.base import Method
from spcnet.numerics import device_of, peak_memory
from spcnet.types import IMAGENET_MEAN, IMAGENET_STD, Batch, Network, StepResult

SAMPLES = 2
"""Number of sample images whose predictions are logged."""
LARGEST_SAMPLE = 384
"""Largest height or width of a sample in pixels; larger images are subsampled."""
SCHEDULE = {"learning_rate": "rate", "backbone_learning_rate": "rate/backbone", "weight_decay": "weight_decay"}
"""TensorBoard tag of each value of the schedule, by its name in train.jsonl."""
KEPT = 64
"""Number of latest batches for a method's figures."""


class Observer:
    """Logs a run, from one process only.

    Args:
        config: the run.
        method: provides figures.
        network: the trained network.
        start: finished iterations; later entries of an earlier process are dropped.
        enabled: whether this process logs.
        domains: names of the network's domains.
        colors: RGB of each class, 0..255; without them no predictions are logged.
        say: called with messages for the user.

    Raises:
        UsageError: a tracking server's package is not installed.
        DataError: the folder cannot be written, or a tracking server does not answer.
    """

    def __init__(
        self,
        config: RunConfig,
        method: Method,
        network: Network,
        *,
        start: int = 0,
        enabled: bool = True,
        domains: Sequence[str] = (),
        colors: Sequence[tuple[int, int, int]] = (),
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.config, self.method, self.network, self.enabled, self.say = config, method, network, enabled, say
        self.path = config.output / records.TRAIN_FILE
        self.domains, self.colors = domains, torch.zeros(256, 3, dtype=torch.uint8)
        if colors:
            self.colors[: len(colors)] = torch.tensor(colors, dtype=torch.uint8)
        self.draws = bool(colors)
        self.board: SummaryWriter | None = None
        if enabled:
            threading.excepthook = _thread_failed
            with self._on_disk():
                self.board = SummaryWriter(str(config.output / "tensorboard"), purge_step=start + 1 if start else None)
        self.trackers = open_trackers(config) if enabled else []
        self.profile: Profile | None = None
        self.left = config.training.iterations - start
        self.recent: deque[Any] = deque(maxlen=KEPT)
        """Results of `Method.observe` since the last logged figures."""
        self.started = self.written = time.perf_counter()
        self.waited, self.images = 0.0, 0
        self.first: tuple[float, int] | None = None
        """Time of the first log line, and the number of images until then."""

    def timed(self, batches: Iterable[Sequence[Batch]]) -> Iterator[Sequence[Batch]]:
        """Yield the batches, as lists of micro-batches, and measure the time that loading takes."""
        source = iter(batches)
        if self.enabled and self.config.training.profile and self.left > 0:
            self.profile = Profile(
                self.config.output,
                steps=self.config.training.profile,
                left=self.left,
                device=device_of(self.network),
                say=self.say,
            )
        while True:
            began = time.perf_counter()
            with self.profile.waiting() if self.profile is not None else nullcontext():
                parts = next(source, None)
            self.waited += time.perf_counter() - began
            if parts is None:
                return
            self.images += distributed.world_size() * sum(len(part.image) for part in parts)
            yield parts
            if self.profile is not None and not self.profile.step():
                self.profile = None

    def due(self, iteration: int) -> bool:
        """Whether a batch is shown after so many iterations; the same in every process."""
        every = self.config.logging.every
        return every > 0 and (iteration % every == 0 or iteration == self.config.training.iterations)

    def look(
        self, iteration: int, parts: Sequence[Batch], result: StepResult, predict: Callable[[Tensor], Tensor]
    ) -> None:
        """Collect the observations of a batch; log figures and samples every `logging.every` iterations and after the last.

        Args:
            iteration: number of finished iterations.
            parts: the micro-batches.
            result: result of the step.
            predict: computes the class of each pixel; must not change the network's state or the random generators.
        """
        if not self.enabled or not self.config.logging.every:
            return
        if result.extras is not None:
            self.recent.append(result.extras)
        if not self.due(iteration):
            return
        with torch.no_grad(), self._on_disk():
            figures = self.method.figures(self.network, self.recent, self.domains)
            self.recent.clear()
            assert self.board is not None
            for name, values in figures.histograms.items():
                self.board.add_histogram(name, values, iteration)
            for name, image in figures.images.items():
                self.board.add_image(name, image, iteration, dataformats="HW")
            if self.draws and parts:
                self.board.add_image("samples", self._samples(parts[0], predict), iteration, dataformats="HWC")
        self._tell(figures.scalars, iteration)

    def write(self, iteration: int, result: StepResult, schedule: Mapping[str, float]) -> dict[str, float]:
        """Log an iteration; returns its figures for the progress bar.

        Args:
            iteration: number of finished iterations.
            result: result of the last step.
            schedule: result of `spcnet.engine.schedule.told`.

        Raises:
            DataError: a file cannot be written.
        """
        parts = {name: float(value) for name, value in result.parts.items()}
        loss, now = float(result.loss.detach()), time.perf_counter()
        if self.first is None:
            self.first = now, self.images
        done = self.images - self.first[1]
        speed = done / (now - self.first[0]) if done else 0.0
        data_wait = min(self.waited / max(now - self.written, 1e-9), 1.0)
        self.written, self.waited = now, 0.0
        memory = peak_memory(device_of(self.network))
        if self.enabled:
            records.append_line(
                self.path,
                {
                    "iteration": iteration,
                    "loss": loss,
                    "parts": parts,
                    **schedule,
                    "seconds": round(now - self.started, 3),
                    "images_per_second": round(speed, 2),
                    "data_wait": round(data_wait, 4),
                    "memory": round(memory, 1),
                },
            )
            speeds = {"speed/images_per_second": speed, "speed/data_wait": data_wait, "speed/memory": memory}
            rates = {SCHEDULE[name]: value for name, value in schedule.items()}
            self._tell({"loss": loss, **{f"loss/{k}": v for k, v in parts.items()}, **rates, **speeds}, iteration)
        throughput = {"images_per_second": speed} if speed else {}
        rate = {"rate": schedule["learning_rate"]}
        return {"loss": loss, **parts, **rate, **throughput, "data_wait": data_wait, "memory": memory}

    def results(self, record: Mapping[str, Any]) -> None:
        """Log the mIoU of an evaluation, a line of results.jsonl."""
        scores = {f"miou/{name}": domain["miou"] for name, domain in record["domains"].items()}
        scores |= {f"miou/mean {role}": record[f"mean_{role}_miou"] for role in ("source", "unseen")}
        if self.enabled:
            known = {name: score for name, score in scores.items() if score is not None}
            self._tell(known, record["iteration"], again=True)

    def close(self) -> None:
        """Flush everything to the disk and to the servers."""
        if self.profile is not None:
            self.profile.close()
            self.profile = None
        for tracker in self.trackers:
            try:
                tracker.close()
            except tracker.errors as error:
                self.say(f"{tracker.name} has not got everything: {error}")
        self.trackers = []
        if self.board is not None:
            with suppress(OSError):  # a full disk, which the run reports itself
                self.board.close()

    def _tell(self, figures: Mapping[str, float], iteration: int, *, again: bool = False) -> None:
        """Send figures to TensorBoard and the servers; `again` if the servers may know this iteration already."""
        if self.board is not None:
            with self._on_disk():
                for name, value in figures.items():
                    self.board.add_scalar(name, value, iteration)
                self.board.flush()  # what a killed process had not written would be missing after its checkpoint
        for tracker in list(self.trackers):
            if figures and (again or iteration > tracker.known):
                try:
                    tracker.log(figures, iteration)
                except tracker.errors as error:
                    # A failing server does not end a training of days.
                    self.trackers.remove(tracker)
                    self.say(f"{tracker.name} gets nothing more of this run: {error}")

    def _samples(self, batch: Batch, predict: Callable[[Tensor], Tensor]) -> Tensor:
        """Image, label and prediction side by side, preferably of different domains; H×W×3."""
        first = {int(domain): number for number, domain in reversed(list(enumerate(batch.domain.tolist())))}
        order = [*sorted(first.values()), *(n for n in range(len(batch.image)) if n not in first.values())]
        chosen = torch.tensor(order[:SAMPLES])
        image = batch.image[chosen.to(batch.image.device)]
        step = -(-max(image.shape[2:]) // LARGEST_SAMPLE)
        classes = predict(image)[:, ::step, ::step].cpu()
        truth = batch.label[chosen.to(batch.label.device)][:, ::step, ::step].cpu()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        photo = image[:, :, ::step, ::step].float().cpu() * std + mean
        pixels = (photo.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return torch.cat([pixels, self.colors[truth.long()], self.colors[classes.long()]], dim=2).flatten(0, 1)

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"cannot write {self.config.output / 'tensorboard'} ({error.strerror or error}): check the folder's "
                "permissions and the space left"
            ) from error


_told_before = threading.excepthook


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Ignore write errors of TensorBoard's thread: the next call of the writer raises them in the main thread."""
    of_board = type(failure.thread).__module__.startswith("tensorboard.")
    if not (of_board and issubclass(failure.exc_type, OSError)):
        _told_before(failure)

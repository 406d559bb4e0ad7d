"""What is told of a run while it goes on: train.jsonl, TensorBoard, the losses beside the progress bar."""

import time

from torch.utils.tensorboard.writer import SummaryWriter

from spcnet.config import RunConfig
from spcnet.engine import records
from spcnet.types import StepResult


class Observer:
    """train.jsonl and TensorBoard, from one process only."""

    def __init__(self, config: RunConfig, *, enabled: bool) -> None:
        self.enabled, self.path = enabled, config.output / records.TRAIN_FILE
        self.board = SummaryWriter(str(config.output / "tensorboard")) if enabled else None
        self.started, self.seen = time.perf_counter(), 0
        self.images = config.data.images_per_domain * len(config.data.sources)
        self.first: int | None = None

    def write(self, iteration: int, result: StepResult, rate: float) -> dict[str, float]:
        """Note an iteration; returns its losses for the progress bar."""
        parts = {name: float(value) for name, value in result.parts.items()}
        loss, seconds = float(result.loss.detach()), time.perf_counter() - self.started
        if self.first is None:
            self.first, self.since = iteration, seconds
        done = (iteration - self.first) * self.images
        speed = done / (seconds - self.since) if done else 0.0
        if self.enabled and self.board is not None:
            records.append_line(
                self.path,
                {
                    "iteration": iteration,
                    "loss": loss,
                    "parts": parts,
                    "learning_rate": rate,
                    "seconds": round(seconds, 3),
                    "images_per_second": round(speed, 2),
                },
            )
            for name, value in {"loss": loss, **{f"loss/{k}": v for k, v in parts.items()}, "rate": rate}.items():
                self.board.add_scalar(name, value, iteration)
        return {"loss": loss, **parts}

    def close(self) -> None:
        """See TensorBoard's file to the disk."""
        if self.board is not None:
            self.board.close()

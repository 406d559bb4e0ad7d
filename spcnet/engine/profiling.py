"""Profile of some training steps by torch's profiler, as a trace and as a short table."""

import gzip
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch.profiler import ProfilerAction, ProfilerActivity, profile, record_function

from spcnet.errors import DataError
from spcnet.files import write_atomic, write_text

PROFILE_FOLDER, TRACE_FILE, TABLE_FILE = "profile", "trace.json.gz", "operations.txt"
WARM_UP = 5
"""Steps before those that are recorded: the first ones reserve memory and choose kernels."""
ROWS = 15
"""Operations in the table."""


class Profile:
    """Records some steps of a run, and writes `profile/trace.json.gz` and `profile/operations.txt`.

    Args:
        output: the run's folder.
        steps: how many steps to record.
        left: number of remaining steps; a short run has a shorter warm-up or fewer recorded steps.
        device: device of the network.
        say: called with the table.
    """

    def __init__(
        self, output: Path, *, steps: int, left: int, device: torch.device, say: Callable[[str], object]
    ) -> None:
        self.folder, self.say, self.device = output / PROFILE_FOLDER, say, device
        self.steps = min(steps, left)
        self.warm_up = min(WARM_UP, left - self.steps)
        self.to_come = self.warm_up + self.steps
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.profiler = profile(
            activities=activities,
            schedule=self._action,
            on_trace_ready=self._write,
            acc_events=True,
        )
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise Kineto logs its start and end to the terminal
        self.profiler.start()

    def _action(self, step: int) -> ProfilerAction:
        last = self.warm_up + self.steps - 1
        if step == last:
            return ProfilerAction.RECORD_AND_SAVE
        if self.warm_up <= step < last:
            return ProfilerAction.RECORD
        # The profiler itself starts up during one step that it does not record, where there is room for it.
        return ProfilerAction.WARMUP if step == self.warm_up - 1 else ProfilerAction.NONE

    def waiting(self) -> AbstractContextManager[object]:
        """Label the time within as waiting for data."""
        return record_function("wait for data")

    def step(self) -> bool:
        """Count a finished step; returns whether more steps are to be recorded."""
        self.profiler.step()
        self.to_come -= 1
        if self.to_come == 0:
            self.profiler.stop()
        return self.to_come > 0

    def close(self) -> None:
        """End early and write the recorded steps."""
        if self.to_come > 0:
            self.to_come = 0
            self.profiler.stop()

    def _write(self, profiler: profile) -> None:
        table = self._table(profiler)
        try:
            with tempfile.TemporaryDirectory() as folder:
                plain = Path(folder) / "trace.json"
                profiler.export_chrome_trace(str(plain))
                text = plain.read_bytes()
            if not text.rstrip().endswith(b"}"):
                raise OSError("only a part was written")  # of which the profiler says nothing
        except OSError as error:
            raise DataError(
                f"cannot write the trace into the folder for temporary files ({error.strerror or error}): make space in "
                f"{tempfile.gettempdir()}, or name another folder in TMPDIR"
            ) from error
        packed = gzip.compress(text, compresslevel=6)
        trace = self.folder / TRACE_FILE
        write_atomic(trace, lambda file: file.write(packed))
        write_text(self.folder / TABLE_FILE, table + "\n")
        self.say(f"{table}\nThe trace is {trace}: open it in ui.perfetto.dev or chrome://tracing")

    def _table(self, profiler: profile) -> str:
        """The operations with the largest self time; at most 80 columns wide."""
        on_device = self.device.type == "cuda"
        rows = []
        for event in profiler.key_averages():
            spent = event.self_device_time_total if on_device else event.self_cpu_time_total
            if spent > 0 and not event.key.startswith("ProfilerStep"):
                rows.append((float(spent) / 1000, int(event.count), str(event.key)))
        total = sum(spent for spent, _, _ in rows) or 1.0
        lines = [
            f"{self.steps} steps, time on the {self.device.type} by operation",
            f"{'operation':<46} {'calls/step':>10} {'ms/step':>10} {'share':>7}",
        ]
        for spent, calls, name in sorted(rows, reverse=True)[:ROWS]:
            lines.append(
                f"{name[:46]:<46} {calls / self.steps:>10.1f} {spent / self.steps:>10.2f} {100 * spent / total:>5.1f} %"
            )
        return "\n".join(lines)

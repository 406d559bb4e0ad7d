"""Kill a training run again and again, let it go on, and compare it with one that nobody disturbed.

    python benchmarks/chaos.py --kills 50

Killed at random moments, when the unfinished file of a checkpoint is seen, and by itself right before or after the calls
that put a checkpoint into its place; or asked to end (SIGTERM) and killed some seconds later, as a scheduler does. In the
end weights, optimiser, records and panels must be the same to the last bit.

Python and PyTorch are loaded once: every run is a fork of this process.
"""

import argparse
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from spcnet import checkpoint, training
from spcnet.config import DataConfig, EvaluationConfig, ModelConfig, RunConfig, TrainingConfig
from spcnet.engine import records
from spcnet.errors import SpcnetError

OWN = {"loss", "parts", "learning_rate", "iteration"}
"""What a line of train.jsonl says but for times and speeds."""


class Kill(NamedTuple):
    """How a run ends."""

    how: str
    """`moment`: after some seconds; `part`: some seconds after an unfinished file is seen; `call`: it kills itself at a call."""
    seconds: float = 0.0
    call: str = ""
    """`write` of a checkpoint's bytes, or `fsync`, `link`, `replace` of the system."""
    count: int = 1
    """At which of these calls; for `write` after how many bytes."""
    after: bool = False
    """After the call instead of before it."""

    def __str__(self) -> str:
        if self.how != "call":
            return f"{self.how} {self.seconds:.2f} s"
        return f"{'after' if self.after else 'before'} {self.call} {self.count}"


def settings(output: Path, *, workers: int = 0, iterations: int = 9, **training: Any) -> RunConfig:
    """A run of seconds on generated streets, with an evaluation between two checkpoints."""
    options = {"log_every": 1, "checkpoint_every": 3, "evaluate_every": 4, "accelerator": "cpu", **training}
    return RunConfig(
        method="spcnet",
        model=ModelConfig(backbone="shufflenet_v2", output_stride=32, weights=None, auxiliary_weight=0.4),
        data=DataConfig(
            targets=["streets/night"],
            size=(48, 64),
            images_per_domain=1,
            train_scenes=4,
            test_scenes=2,
            workers=workers,
        ),
        training=TrainingConfig(iterations=iterations, **options),
        evaluation=EvaluationConfig(batch_size=2, panels=1),
        output=output,
    )


def begin(config: RunConfig, *, kill: Kill | None = None) -> int:
    """Fork a process that trains, going on where the folder's run stopped; returns its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        os.setsid()  # so that its data workers can be found when it is gone
        for watched in (signal.SIGINT, signal.SIGTERM):
            signal.signal(watched, signal.SIG_DFL)
        place = os.open(config.output.parent / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(place, 1)
        os.dup2(place, 2)
        sys.stdout = sys.stderr = os.fdopen(place, "w", buffering=1)
        torch.set_num_threads(1)
        if kill is not None and kill.how == "call":
            _arm(kill)
        training.train(config, resume=(config.output / records.CONFIG_FILE).exists())
        code = 0
    except SpcnetError as error:
        print(f"spcnet: {error}", file=sys.stderr)
        code = error.exit_code
    except BaseException:  # noqa: BLE001 - nothing of the child may go on in the parent's code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _arm(kill: Kill) -> None:
    """Let this process kill itself at a call."""
    if kill.call == "write":
        whole = checkpoint._write_safetensors
        checkpoint._write_safetensors = lambda file, *rest: whole(_Dying(file, kill.count), *rest)
        return
    original, calls = getattr(os, kill.call), [0]

    def dying(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        mine = calls[0] == kill.count
        if mine and not kill.after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = original(*args, **options)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(os, kill.call, dying)


class _Dying(io.FileIO):
    """A file whose writer is killed once so many bytes are written."""

    def __init__(self, file: IO[bytes], left: int) -> None:
        super().__init__(os.dup(file.fileno()), "wb")
        self.left = left

    def write(self, data: Any) -> int:
        piece = bytes(data)[: self.left]
        self.left -= len(piece)
        super().write(piece)
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return len(piece)


def ended(number: int, *, until: float | None = None, stop: Callable[[], bool] = lambda: False) -> int | None:
    """Exit code of a process, negative for a signal; None where a time came or something happened before it ended."""
    while True:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            _bury(number)
            return os.waitstatus_to_exitcode(status)
        if (until is not None and time.monotonic() >= until) or stop():
            return None
        time.sleep(0.001)


def _bury(number: int) -> None:
    """End the data workers that a killed process left; they would notice within seconds by themselves."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(number, signal.SIGKILL)


def killed(number: int) -> int:
    """Kill a process; returns its exit code."""
    with suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)
    code = ended(number)
    assert code is not None
    return code


def disturb(config: RunConfig, kill: Kill) -> bool:
    """Let a run go on until it is killed; False where it was finished before."""
    number = begin(config, kill=kill)
    if kill.how == "call":
        code = ended(number)
    elif kill.how == "part":
        code = ended(number, stop=lambda: _unfinished(config.output))
        code = ended(number, until=time.monotonic() + kill.seconds) if code is None else code
    else:
        code = ended(number, until=time.monotonic() + kill.seconds)
    code = killed(number) if code is None else code
    if code not in (0, -signal.SIGKILL):
        raise AssertionError(f"killed {kill}, the run ended with {code}: {said(config)}")
    return code != 0


def terminate(config: RunConfig, *, after: float, grace: float) -> int:
    """Ask a run to end, and kill it if it has not within the grace; returns its exit code."""
    number = begin(config)
    code = ended(number, until=time.monotonic() + after)
    if code is None:
        os.kill(number, signal.SIGTERM)
        code = ended(number, until=time.monotonic() + grace)
    return killed(number) if code is None else code


def finish(config: RunConfig) -> None:
    """Let a run go on to its end."""
    code = ended(begin(config))
    if code:
        raise AssertionError(f"the run ended with {code}: {said(config)}")


def _unfinished(folder: Path) -> bool:
    with suppress(OSError):
        return any(name.endswith(".part") for name in os.listdir(folder))
    return False


def said(config: RunConfig) -> str:
    """The end of what the processes of a run wrote."""
    return (config.output.parent / "said.txt").read_text()[-2000:]


def differences(one: Path, other: Path) -> Iterator[str]:
    """What two runs do not have in common, times left out."""
    for name in (checkpoint.MODEL_FILE, checkpoint.LATEST_FILE):
        if (one / name).read_bytes() != (other / name).read_bytes():
            yield f"{name} differs"
    for name in (records.TRAIN_FILE, records.RESULTS_FILE):
        lines = [[_timeless(line) for line in records.read_lines(run / name)] for run in (one, other)]
        if lines[0] != lines[1]:
            yield f"{name} differs: {[[line['iteration'] for line in told] for told in lines]}"
        if any(
            len((run / name).read_text().splitlines()) != len(records.read_lines(run / name)) for run in (one, other)
        ):
            yield f"{name} has a broken line"
    files = [
        {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file() and _lasting(path)}
        for run in (one, other)
    ]
    if files[0] != files[1]:
        yield f"other files differ: {sorted(str(name) for name in files[0].keys() ^ files[1].keys()) or 'in content'}"


def _lasting(path: Path) -> bool:
    """Whether a file, by its name, is the same however often a run was stopped."""
    return path.suffix in (".png", ".part") or path.name == "panels.json"


def _timeless(line: dict[str, Any]) -> Any:
    if "domains" not in line:
        return {name: value for name, value in line.items() if name in OWN}
    domains = {name: {**domain, "seconds": 0} for name, domain in line["domains"].items()}
    return json.loads(json.dumps({**line, "time": 0, "domains": domains}))


def kills(rng: random.Random, seconds: float, size: int) -> Iterator[Kill]:
    """Endless ways to end a run that takes so many seconds and writes so large a checkpoint."""
    while True:
        yield Kill("moment", rng.uniform(0, seconds))
        yield Kill("part", rng.expovariate(1 / 0.01))
        yield Kill("moment", rng.uniform(0, seconds))
        call = rng.choice(["write", "write", "fsync", "link", "replace"])
        count = (
            rng.randrange(1, size) if call == "write" else rng.randint(1, {"fsync": 20, "link": 3, "replace": 9}[call])
        )
        yield Kill("call", call=call, count=count, after=rng.random() < 0.5)


def chaos(
    folder: Path,
    ways: Iterator[Kill],
    *,
    number: int,
    each: int,
    config: RunConfig,
    reference: Path,
    say: Callable[[str], object] = lambda text: None,
) -> Counter[str]:
    """Kill runs until so many kills are made, each run at most `each` times; finish and compare every one.

    Returns:
        How many kills of each kind hit a run.

    Raises:
        AssertionError: a run differs from the undisturbed one.
    """
    made: Counter[str] = Counter()
    for trial in range(10 * number):
        if made.total() >= number:
            return made
        run = replace(config, output=folder / f"{trial}" / "run")
        run.output.parent.mkdir(parents=True)
        told = []
        for _ in range(min(each, number - made.total())):
            kill = next(ways)
            if not disturb(run, kill):
                break
            made[kill.call or kill.how] += 1
            told.append(str(kill))
        finish(run)
        found = list(differences(reference, run.output))
        say(f"run {trial} killed {len(told)} times ({'; '.join(told)}): {'; '.join(found) or 'the same'}")
        if found:
            raise AssertionError(f"after {told}: {found}")
        for path in run.output.glob("*.safetensors"):
            path.unlink()
    raise AssertionError(f"only {made.total()} kills hit a run")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50, help="how many in all, half of them with a data worker")
    parser.add_argument("--each", type=int, default=5, help="at most so many of one run")
    parser.add_argument("--terms", type=int, default=6, help="how many times to ask a run to end")
    parser.add_argument("--grace", type=float, default=5.0, help="seconds from SIGTERM to SIGKILL")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rng, began = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        total: Counter[str] = Counter()
        for workers in (0, 1):
            folder = Path(place) / f"workers{workers}"
            config = settings(folder / "whole" / "run", workers=workers)
            config.output.parent.mkdir(parents=True)
            started = time.monotonic()
            finish(config)
            seconds = time.monotonic() - started
            size = (config.output / checkpoint.LATEST_FILE).stat().st_size
            print(f"undisturbed, {workers} workers: {seconds:.1f} s, checkpoints of {size / 1e6:.1f} MB")
            ways = kills(rng, seconds, size)
            number = options.kills // 2 if workers else options.kills - options.kills // 2
            made = chaos(
                folder, ways, number=number, each=options.each, config=config, reference=config.output, say=print
            )
            total += made
            asked = replace(config, output=folder / "asked" / "run")
            asked.output.parent.mkdir()
            codes = [
                terminate(asked, after=rng.uniform(0.3, 0.6) * seconds, grace=options.grace)
                for _ in range(options.terms // 2)
            ]
            finish(asked)
            found = list(differences(config.output, asked.output))
            print(f"asked to end: exit codes {codes}: {'; '.join(found) or 'the same'}")
            assert not found, found
        print(f"{total.total()} kills ({dict(total)}) in {time.monotonic() - began:.0f} s: nothing was lost")


if __name__ == "__main__":
    main()

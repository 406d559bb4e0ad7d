"""A run that is killed, asked to end, or whose disk is full goes on as if nothing had been."""

import errno
import itertools
import os
import random
import shutil
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks import chaos
from benchmarks.chaos import Kill
from spcnet import checkpoint, training
from spcnet.config import DataConfig, RunConfig
from spcnet.data.datasets import Sample, SegmentationSet
from spcnet.data.loading import training_batches
from spcnet.data.sampling import Draw, Shard, Stream, TrainingSampler
from spcnet.engine import records
from spcnet.engine.state import dead_workers_told
from spcnet.errors import CheckpointError, DataError, Interrupted
from tests.support.disk import files_of_at_most
from tests.support.training import batches, settings, trainer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks of this process")


class Undisturbed:
    """A run that nobody disturbed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = chaos.settings(folder / "whole" / "run", iterations=4, checkpoint_every=2, evaluate_every=3)
        self.config = replace(config, data=replace(config.data, train_scenes=2, test_scenes=1))
        self.config.output.parent.mkdir()
        began = time.monotonic()
        chaos.finish(self.config)
        self.seconds = time.monotonic() - began

    def again(self, name: str, *, copied: bool = False, workers: int = 0) -> RunConfig:
        """The settings of a run of its own; perhaps with the files of the finished one."""
        output = self.folder / name / "run"
        output.parent.mkdir()
        if copied:
            shutil.copytree(self.config.output, output)
        return replace(self.config, output=output, data=replace(self.config.data, workers=workers))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("chaos"))


def shown_in_tensorboard(run: Path) -> list[tuple[int, float]]:
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    return [(event.step, event.value) for event in board.Scalars("loss")]


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_like_one_that_was_not(whole: Undisturbed) -> None:
    config = whole.again("killed", workers=1)
    ways = [
        Kill("call", call="write", count=50_000),  # within the first checkpoint, so there is none yet
        Kill("moment", random.Random().uniform(0, whole.seconds)),
        Kill("part", 0.005),
        Kill("call", call="link", after=True),
        Kill("call", call="fsync", count=3),
    ]
    hit = [chaos.disturb(config, kill) for kill in ways]
    assert hit.count(True) >= 4
    chaos.finish(config)
    assert list(chaos.differences(whole.config.output, config.output)) == []
    told = records.read_lines(config.output / records.TRAIN_FILE)
    steps, values = zip(*shown_in_tensorboard(config.output), strict=True)
    assert steps == (1, 2, 3, 4), "TensorBoard shows no step twice"
    assert values == pytest.approx([line["loss"] for line in told], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_is_asked_to_end_saves_its_state_before_it_is_killed(whole: Undisturbed, workers: int) -> None:
    """Also where every process of the job is asked, those that read images among them."""
    config = whole.again(f"asked {workers}", workers=workers)
    number = chaos.begin(config)
    log = config.output / records.TRAIN_FILE
    assert chaos.ended(number, stop=lambda: len(records.read_lines(log)) >= 1) is None
    for process in (*children(number), number):
        os.kill(process, signal.SIGTERM)
    code = chaos.ended(number, until=time.monotonic() + 30)
    assert code == 130, chaos.said(config)
    done = checkpoint.read_state(config.output / checkpoint.LATEST_FILE)["iteration"]
    assert done == records.read_lines(log)[-1]["iteration"] < 4
    chaos.finish(config)
    assert list(chaos.differences(whole.config.output, config.output)) == []


def children(number: int) -> list[int]:
    """Processes of a process."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    return []


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="asks Linux for the processes of a process")
@pytest.mark.slow
def test_a_killed_data_worker_ends_the_run_with_one_line(whole: Undisturbed) -> None:
    config = whole.again("worker", workers=1)
    # Long enough for the worker to be at work when it is killed.
    config = replace(config, training=replace(config.training, iterations=1000, evaluate_every=0))
    number = chaos.begin(config)
    latest = config.output / checkpoint.LATEST_FILE
    assert chaos.ended(number, stop=latest.exists) is None
    for worker in children(number):
        os.kill(worker, signal.SIGKILL)
    assert chaos.ended(number) == 1
    (line,) = [line for line in chaos.said(config).splitlines() if "spcnet:" in line or "Error" in line]
    assert "a process that reads images ended: something killed it, most often the system for want of memory" in line
    assert "lower data.workers. Iteration" in line
    assert f"is saved; go on with: spcnet train --config {config.output}/config.yaml --resume" in line
    assert checkpoint.read_state(latest)["iteration"] % 2 == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"), "shared memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. "), "Segmentation fault"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "want of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "want of memory"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "want of memory"),
        (EOFError(), "want of memory"),
    ],
)
def test_the_end_of_a_data_worker_is_told_with_its_cause(error: Exception, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught, dead_workers_told():
        raise error
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="something else"), dead_workers_told():
        raise RuntimeError("something else")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before_and_says_so(whole: Undisturbed) -> None:
    config = whole.again("damaged", copied=True)
    damage(config.output / checkpoint.LATEST_FILE)
    console = Console(record=True, width=400, file=(config.output.parent / "console.txt").open("w"))
    training.train(config, resume=True, console=console)
    shown = console.export_text()
    assert "checkpoint.safetensors is damaged: it does not match its checksum" in shown
    assert "Going on from the one before, checkpoint.previous.safetensors, of iteration 3" in shown
    assert list(chaos.differences(whole.config.output, config.output)) == []
    # The whole one was not replaced by the damaged one, which is set aside.
    assert checkpoint.read(config.output / checkpoint.PREVIOUS_FILE)[2]["iteration"] == 3
    with pytest.raises(CheckpointError):
        checkpoint.read(config.output / checkpoint.DAMAGED_FILE)


@pytest.mark.slow
def test_a_finished_run_that_goes_on_repeats_no_line(whole: Undisturbed) -> None:
    config = whole.again("finished", copied=True)
    training.train(config, resume=True)
    assert list(chaos.differences(whole.config.output, config.output)) == []


def test_two_damaged_checkpoints_end_the_run_with_one_error(tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=4, checkpoint_every=1)
    trainer(config).fit(batches(0, 2))
    for name in (checkpoint.LATEST_FILE, checkpoint.PREVIOUS_FILE):
        damage(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"both checkpoints of .* are damaged") as caught:
        trainer(config).resume()
    assert "\n" not in str(caught.value)


def test_an_evaluation_that_was_not_finished_is_made_up_for(tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=6, evaluate_every=2)

    class Died(BaseException):
        pass

    def dying(iteration: int) -> None:
        if iteration == 4:
            raise Died
        evaluated(iteration)

    asked: list[int] = []

    def evaluated(iteration: int) -> None:
        asked.append(iteration)
        records.append_line(tmp_path / records.RESULTS_FILE, {"iteration": iteration})

    with pytest.raises(Died):
        trainer(config).fit(batches(0, 6), on_evaluate=dying)
    for _ in range(2):
        # The second time nothing is left to do but the two steps.
        second = trainer(config)
        second.resume()
        assert second.iteration == 4, "what comes before an evaluation is saved"
        with suppress(Interrupted):
            second.fit(batches(4, 5), on_evaluate=evaluated)
    assert asked == [2, 4]


def test_a_request_to_end_that_comes_twice_at_once_is_one(tmp_path: Path) -> None:
    def ask(iteration: int, _: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        trainer(settings(tmp_path)).fit(batches(0, 8), on_progress=ask)
    assert checkpoint.read(tmp_path / checkpoint.LATEST_FILE)[2]["iteration"] == 1


def test_a_later_second_request_to_end_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spcnet.signals.SAME_REQUEST", 0.01)

    def ask(iteration: int, _: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        trainer(settings(tmp_path)).fit(batches(0, 8), on_progress=ask)


def test_what_was_told_after_the_checkpoint_is_told_anew(tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=4, checkpoint_every=2)
    trainer(config).fit(batches(0, 3))
    for iteration in (2, 3):
        records.append_line(tmp_path / records.RESULTS_FILE, {"iteration": iteration})
    trainer(config).resume()
    for name in (records.TRAIN_FILE, records.RESULTS_FILE):
        assert records.read_lines(tmp_path / name)[-1]["iteration"] == 2


def test_a_request_to_end_does_not_wait_for_an_evaluation(tmp_path: Path) -> None:
    def evaluate(iteration: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the evaluation goes on")

    run = trainer(settings(tmp_path, evaluate_every=1))
    with pytest.raises(Interrupted, match="after iteration 1, which is saved"):
        run.fit(batches(0, 8), on_evaluate=evaluate)
    assert checkpoint.read(tmp_path / checkpoint.LATEST_FILE)[2]["iteration"] == 1


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    def ask(iteration: int, _: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer(settings(tmp_path)).fit(batches(0, 8), on_progress=ask)
    assert not (tmp_path / checkpoint.LATEST_FILE).exists()


def test_a_full_disk_ends_the_run_with_one_line_and_keeps_what_was_written(tmp_path: Path) -> None:
    config = settings(tmp_path, iterations=4, checkpoint_every=1)
    trainer(config).fit(batches(0, 1))
    going_on = trainer(config)
    going_on.resume()
    with files_of_at_most(1_000_000), pytest.raises(DataError, match="the last whole checkpoint is kept") as caught:
        going_on.fit(batches(1, 4))
    assert "\n" not in str(caught.value)
    assert [line["iteration"] for line in records.read_lines(tmp_path / records.TRAIN_FILE)] == [1, 2]
    assert checkpoint.read(tmp_path / checkpoint.LATEST_FILE)[2]["iteration"] == 1
    assert not list(tmp_path.glob(".*"))
    # With space again it goes on.
    last = trainer(config)
    last.resume()
    last.fit(batches(1, 4))
    assert [line["iteration"] for line in records.read_lines(tmp_path / records.TRAIN_FILE)] == [1, 2, 3, 4]


def test_a_log_that_no_longer_fits_stays_readable(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    records.append_line(path, {"iteration": 1})
    whole = path.read_bytes()
    with files_of_at_most(len(whole) + 5), pytest.raises(DataError, match="cannot write") as caught:
        records.append_line(path, {"iteration": 2})
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == whole
    records.append_line(path, {"iteration": 2})
    assert [line["iteration"] for line in records.read_lines(path)] == [1, 2]


def test_half_a_line_that_a_killed_process_left_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for left in ('{"iteration": 1}\n{"iter', '{"iteration": 1}\n{"iteration": 2}', '{"iteration": 1}\n'):
        path.write_text(left)
        records.append_line(path, {"iteration": 3})
        assert [line["iteration"] for line in records.read_lines(path)] == [1, 3]
    path.write_text('{"iter')
    records.append_line(path, {"iteration": 3})
    assert path.read_text() == '{"iteration": 3}\n'


def test_a_damaged_line_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"iteration": 1}\n{"iterat\x00on": 2\n{"other": 2}\n7\n{"iteration": 3}\n{"iteration": 4}\n')
    records.keep_until(path, 3)
    assert [line["iteration"] for line in records.read_lines(path)] == [1, 3]


def test_a_device_without_space_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"log.jsonl \(No space left on device\): check .* the free space"):
        records.append_line(tmp_path / "log.jsonl", {"iteration": 1})
    assert (tmp_path / "log.jsonl").read_bytes() == b""


def test_what_killed_processes_left_is_removed_when_the_run_goes_on(tmp_path: Path) -> None:
    config = settings(tmp_path)
    left = tmp_path / f".{'0123456789abcdef' * 2}.part"
    left.write_bytes(b"half a checkpoint")
    records.open_run(config)
    assert not left.exists()


class Numbered(SegmentationSet):
    """Images that are told by their names; each shows two classes."""

    def __init__(self, title: str, count: int) -> None:
        self.title, self.count = title, count

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, /) -> Sample:
        label = np.full((40, 60), index % 3, np.uint8)
        label[:, 30:] = 3 + index % 2
        return Sample(np.full((40, 60, 3), index, np.uint8), label, f"{self.title}{index}")


SETS = [Numbered("a", 5), Numbered("b", 8)]
DATA = DataConfig(size=(36, 48), images_per_domain=2, workers=0, tile=16)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampling", ["balanced", "proportional", "alternating", "class_uniform", "rare_class"])
def test_a_restart_shows_no_image_twice_and_leaves_none_out(sampling: str, workers: int) -> None:
    uniform = sampling in ("class_uniform", "rare_class")
    data = replace(DATA, **{sampling: 0.5} if uniform else {"sampling": sampling})  # type: ignore[arg-type]
    if sampling == "rare_class":
        data = replace(data, rare_pixels=20)
    iterations, stops = 20, (0, 3, 4, 11, 20)
    plain = list(training_batches(SETS, data, seed=5, iterations=range(iterations)))
    restarted = []
    for start, end in itertools.pairwise(stops):
        # Workers have read ahead when the run is killed; what they have read is read again.
        loader = iter(
            training_batches(SETS, replace(data, workers=workers), seed=5, iterations=range(start, iterations))
        )
        restarted += [next(loader) for _ in range(end - start)]
    assert [batch.name for batch in restarted] == [batch.name for batch in plain]
    assert all(torch.equal(one.image, other.image) for one, other in zip(restarted, plain, strict=True))
    if not uniform:
        names = [name for batch in restarted for name in batch.name]
        for plain_set in [SETS] if sampling == "proportional" else [[one] for one in SETS]:
            images = {f"{one.title}{index}" for one in plain_set for index in range(len(one))}
            seen = [name for name in names if name in images]
            epochs = [seen[first : first + len(images)] for first in range(0, len(seen), len(images))]
            assert len(epochs) >= 2
            assert all(set(epoch) == images for epoch in epochs if len(epoch) == len(images))


@effort(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    images=st.integers(1, 4),
    parts=st.integers(1, 3),
    alternate=st.booleans(),
    world_size=st.integers(1, 3),
    stops=st.lists(st.integers(0, 12), max_size=4).map(sorted),
    seed=st.integers(0, 99),
)
def test_wherever_a_run_is_restarted_it_draws_the_same(
    lengths: list[int], images: int, parts: int, alternate: bool, world_size: int, stops: list[int], seed: int
) -> None:
    def draws(start: int, end: int, rank: int) -> list[list[Draw]]:
        streams = [Stream([length], seed=seed, first=first) for first, length in enumerate(lengths)]
        sampler = TrainingSampler(
            streams,
            images=images,
            iterations=range(start, 12),
            parts=parts,
            alternate=alternate,
            shard=Shard(rank, world_size),
        )
        return list(sampler)[: (end - start) * parts]

    drawn: Counter[tuple[int, int]] = Counter()
    for rank in range(world_size):
        whole = draws(0, 12, rank)
        pieces = [draws(start, end, rank) for start, end in zip([0, *stops], [*stops, 12], strict=True)]
        assert [batch for piece in pieces for batch in piece] == whole
        drawn.update((draw.domain, draw.image) for batch in whole for draw in batch)
    for domain, length in enumerate(lengths):
        # Over all processes and parts each epoch has every image once.
        times = [drawn[domain, image] for image in range(length)]
        assert max(times) - min(times) <= 1

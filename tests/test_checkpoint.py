"""Checkpoints: whole or not at all, never executed, and clear about what is wrong."""

import errno
import io
import json
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from spcnet import checkpoint
from spcnet.checkpoint import FORMAT, ModelCard
from spcnet.errors import CheckpointError, DataError
from spcnet.files import remove_unfinished
from tests.support.disk import files_of_at_most

CARD = ModelCard("spcnet", {"backbone": "resnet18"}, "cityscapes19", ("road", "sky"), ("a", "b"), (64, 96))


def tensors() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(1000.0), "optimizer.weight": torch.ones(3), "count": torch.tensor(7)}


def write(path: Path) -> bytes:
    checkpoint.write(path, tensors(), CARD, {"iteration": 5})
    return path.read_bytes()


def rewrite_header(path: Path, change: Any) -> None:
    header = {"format": FORMAT, "card": json.loads(json.dumps(vars(CARD))), "state": {}}
    change(header)
    save_file({"a": torch.ones(1)}, path, metadata={"spcnet": json.dumps(header)})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path / "c.safetensors")
    everything, card, state = checkpoint.read_all(tmp_path / "c.safetensors")
    assert card == CARD
    assert state == {"iteration": 5}
    assert everything.keys() == tensors().keys()
    for name, value in tensors().items():
        assert torch.equal(everything[name], value)
        assert everything[name].dtype == value.dtype
    network, _, _ = checkpoint.read(tmp_path / "c.safetensors")
    assert sorted(network) == ["count", "weight"]


def test_tensors_that_share_memory_or_lie_otherwise_are_written(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    checkpoint.write(tmp_path / "c.safetensors", {"a": shared, "b": shared, "t": shared.T}, CARD)
    found, _, _ = checkpoint.read(tmp_path / "c.safetensors")
    assert torch.equal(found["b"], shared)
    assert torch.equal(found["t"], shared.T)


class FullDisk(io.FileIO):
    """Takes a hundred bytes."""

    def write(self, data: Any) -> int:
        super().write(bytes(data)[:100])
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_failure_while_writing_keeps_the_old_file_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "c.safetensors"
    old = write(path)
    reached: list[str] = []

    def fail(*args: Any, **options: Any) -> None:
        reached.append(moment)
        raise OSError(errno.ENOSPC, "No space left on device")

    if moment == "write":
        monkeypatch.setattr(Path, "open", lambda path, mode: reached.append(moment) or FullDisk(path, mode))
    else:
        monkeypatch.setattr(os, moment, fail)
    with pytest.raises(DataError, match=r"No space left on device.*the last whole checkpoint is kept"):
        checkpoint.write(path, {"weight": torch.zeros(1000)}, CARD)
    monkeypatch.undo()
    assert reached == [moment]
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_place_that_cannot_be_written_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .*c\.safetensors") as caught:
        write(tmp_path / "file" / "c.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 7, 100, 2000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(write(path)[:size])
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*truncated or no safetensors file"):
        checkpoint.read(path)


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (5000,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    (tmp_path / "c.safetensors").write_bytes(noise.numpy().tobytes())
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        checkpoint.read(tmp_path / "c.safetensors")


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path, mark = tmp_path / "c.safetensors", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(CheckpointError):
        checkpoint.read(path)
    torch.save({"a": Bomb(mark)}, path)
    with pytest.raises(CheckpointError):
        checkpoint.read(path)
    assert not mark.exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_of_others_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "c.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match="safetensors file of something else: it has no spcnet header"):
        checkpoint.read(tmp_path / "c.safetensors")


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path) -> None:
    rewrite_header(tmp_path / "c.safetensors", lambda header: header.update(format=FORMAT + 1))
    with pytest.raises(CheckpointError, match=rf"newer spcnet \(format {FORMAT + 1}, this one reads {FORMAT}\): upgr"):
        checkpoint.read(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("card"),
        lambda header: header.pop("state"),
        lambda header: header.pop("format"),
        lambda header: header["card"].pop("classes"),
        lambda header: header["card"].update(surprise=1),
        lambda header: header.update(card=[1, 2]),
        lambda header: header.update(format="new"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, change: Any) -> None:
    rewrite_header(tmp_path / "c.safetensors", change)
    with pytest.raises(CheckpointError, match=r"the header of the checkpoint .* is damaged"):
        checkpoint.read(tmp_path / "c.safetensors")


def test_a_header_that_is_no_json_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "c.safetensors", metadata={"spcnet": "{"})
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.read(tmp_path / "c.safetensors")


def test_the_finished_network_of_a_run_comes_before_its_last_checkpoint(tmp_path: Path) -> None:
    latest, finished = tmp_path / checkpoint.LATEST_FILE, tmp_path / checkpoint.MODEL_FILE
    write(latest)
    assert checkpoint.find(tmp_path) == checkpoint.find(latest) == latest
    write(finished)
    assert checkpoint.find(tmp_path) == finished


def test_nothing_there_is_told_apart_from_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the folder .* has no checkpoint"):
        checkpoint.find(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no run or checkpoint .*: check the path"):
        checkpoint.find(tmp_path / "nowhere")


def test_other_programs_read_a_checkpoint_as_plain_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write(path)
    found = load_file(path)
    assert found.keys() == tensors().keys()
    assert all(torch.equal(found[name], value) for name, value in tensors().items())


def test_a_checkpoint_written_before_there_were_checksums_is_read(tmp_path: Path) -> None:
    rewrite_header(tmp_path / "c.safetensors", lambda header: header.update(state={"iteration": 9}))
    found, card, state = checkpoint.read_all(tmp_path / "c.safetensors")
    assert (card, state) == (CARD, {"iteration": 9})
    assert torch.equal(found["a"], torch.ones(1))


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=4),
        st.tuples(st.sampled_from(sorted(checkpoint._DTYPES, key=str)), st.lists(st.integers(0, 3), max_size=4)),
        max_size=6,
    )
)
def test_tensors_of_every_kind_and_shape_come_back(kinds: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    random = torch.Generator().manual_seed(0)
    written = {name: (9 * torch.randn(shape, generator=random)).to(dtype) for name, (dtype, shape) in kinds.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.safetensors"
        checkpoint.write(path, written, CARD)
        found, _, _ = checkpoint.read_all(path)
    assert found.keys() == written.keys()
    for name, value in written.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_a_flipped_bit_in_any_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, {"a": torch.arange(5.0), "b": torch.ones(3, dtype=torch.uint8)}, CARD, {"iteration": 5})
    whole = path.read_bytes()
    checkpoint.read_all(path)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            checkpoint.read_all(path)
        assert "\n" not in str(caught.value), place


def test_every_length_that_is_too_short_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, {"a": torch.arange(5.0)}, CARD)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
            checkpoint.read_all(path)


def generation(number: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((1000,), float(number))}


def save(run: Path, number: int) -> None:
    latest, previous = run / checkpoint.LATEST_FILE, run / checkpoint.PREVIOUS_FILE
    checkpoint.write(latest, generation(number), CARD, {"iteration": number}, keep=previous)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("links", [True, False])
def test_a_run_keeps_the_checkpoint_before_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*args: Any) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    save(tmp_path, 1)
    assert not (tmp_path / checkpoint.PREVIOUS_FILE).exists()
    for number in (2, 3):
        save(tmp_path, number)
    found = {path.name: checkpoint.read(path)[2]["iteration"] for path in tmp_path.iterdir()}
    assert found == {checkpoint.LATEST_FILE: 3, checkpoint.PREVIOUS_FILE: 2}


class Died(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("call", ["fsync", "link", "replace", "unlink"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_at_every_moment_there_is_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, count: int, links: bool
) -> None:
    for number in (1, 2):
        save(tmp_path, number)
    calls = 0
    originals = {name: getattr(os, name) for name in ("fsync", "link", "replace", "unlink")}

    def dying(name: str) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += name == call
            if calls >= count:  # nor does it do anything afterwards
                raise Died
            if name == "link" and not links:
                raise OSError(errno.EPERM, "Operation not permitted")
            return originals[name](*args, **options)

        return run

    for name in originals:
        monkeypatch.setattr(os, name, dying(name))
    with suppress(Died):
        save(tmp_path, 3)
    monkeypatch.undo()
    found = checkpoint.read_latest(tmp_path)
    assert found.state["iteration"] in (2, 3)
    assert torch.equal(found.tensors["weight"], generation(found.state["iteration"])["weight"])
    # The next start removes what was left, and no more.
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {checkpoint.LATEST_FILE, checkpoint.PREVIOUS_FILE}
    assert checkpoint.read_latest(tmp_path).state == found.state


def test_the_checkpoint_before_takes_the_place_of_a_damaged_or_missing_one(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, number)
    assert checkpoint.read_latest(tmp_path).damage is None
    damage(tmp_path / checkpoint.LATEST_FILE)
    found = checkpoint.read_latest(tmp_path)
    assert found.state == {"iteration": 1}
    assert found.damage is not None
    assert "checkpoint.safetensors is damaged: it does not match its checksum" in found.damage
    (tmp_path / checkpoint.LATEST_FILE).unlink()
    assert checkpoint.read_latest(tmp_path).state == {"iteration": 1}
    assert checkpoint.find(tmp_path) == tmp_path / checkpoint.PREVIOUS_FILE
    assert checkpoint.exists(tmp_path)


def test_two_damaged_checkpoints_are_one_error(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, number)
    for name in (checkpoint.LATEST_FILE, checkpoint.PREVIOUS_FILE):
        damage(tmp_path / name)
    with pytest.raises(
        CheckpointError, match=r"both checkpoints of .* are damaged.*train again with --overwrite"
    ) as found:
        checkpoint.read_latest(tmp_path)
    assert "\n" not in str(found.value)


def test_a_checkpoint_of_a_newer_version_is_no_damage(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, number)
    rewrite_header(tmp_path / checkpoint.LATEST_FILE, lambda header: header.update(format=FORMAT + 1))
    with pytest.raises(CheckpointError, match="upgrade"):
        checkpoint.read_latest(tmp_path)


def test_a_disk_that_is_full_while_a_checkpoint_is_written_keeps_the_last(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, number)
    with files_of_at_most(3000), pytest.raises(DataError, match="the last whole checkpoint is kept") as caught:
        save(tmp_path, 3)
    assert "\n" not in str(caught.value)
    assert checkpoint.read_latest(tmp_path).state == {"iteration": 2}
    assert {path.name for path in tmp_path.iterdir()} == {checkpoint.LATEST_FILE, checkpoint.PREVIOUS_FILE}


@contextmanager
def nobody() -> Iterator[None]:
    """Without the rights of root, for whom no folder is read-only."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_is_read_only_keeps_the_last_checkpoint() -> None:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), 1)
        os.chmod(folder, 0o555)
        with nobody(), pytest.raises(DataError, match=r"cannot write .*Permission denied.*the last whole") as caught:
            save(Path(folder), 2)
        assert "\n" not in str(caught.value)
        assert checkpoint.read_latest(Path(folder)).state == {"iteration": 1}
        os.chmod(folder, 0o755)


def test_only_unfinished_files_of_this_package_are_removed(tmp_path: Path) -> None:
    (tmp_path / "panels").mkdir()
    unfinished = [tmp_path / f".{'0a' * 16}.part", tmp_path / "panels" / f".{'1b' * 16}.part"]
    others = [tmp_path / ".mine.part", tmp_path / "a.part", tmp_path / "c.safetensors"]
    for path in (*unfinished, *others):
        path.touch()
    assert remove_unfinished(tmp_path) == 2
    assert [path.exists() for path in (*unfinished, *others)] == [False, False, True, True, True]

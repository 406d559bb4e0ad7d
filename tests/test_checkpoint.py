"""Checkpoints: whole or not at all, never executed, and clear about what is wrong."""

import errno
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from spcnet import checkpoint
from spcnet.checkpoint import FORMAT, ModelCard
from spcnet.errors import CheckpointError, DataError

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

"""What a file is, is recognised by its content: every kind, under every name."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save

from spcnet.errors import CheckpointError, UsageError
from spcnet.file_kinds import EXPORTED, WEIGHTS, FileKind, kind_of, refuse_other, split_part
from tests.support.weight_files import SMALL, TENSORS, onnx_file, tarred, torch_export_file, torch_file, zipped

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0a1b2c\nsize 102502400\n"


CONTENTS: dict[str, tuple[Callable[[], bytes], FileKind]] = {
    "safetensors": (lambda: save(TENSORS), FileKind.SAFETENSORS),
    "cut safetensors": (lambda: save(TENSORS)[:40], FileKind.SAFETENSORS),
    "torch": (torch_file, FileKind.TORCH),
    "old torch": (lambda: torch_file(_use_new_zipfile_serialization=False), FileKind.TORCH_OLD),
    "mindspore": (lambda: SMALL, FileKind.MINDSPORE),
    "onnx": (onnx_file, FileKind.ONNX),
    "cut onnx": (lambda: onnx_file()[:100], FileKind.ONNX),
    "torch.export": (torch_export_file, FileKind.TORCH_EXPORT),
    "torch.export of 2.1": (lambda: zipped("serialized_exported_program.json", "version"), FileKind.TORCH_EXPORT),
    "torchscript": (lambda: zipped("m/data.pkl", "m/constants.pkl", "m/code/a.py"), FileKind.TORCHSCRIPT),
    "cut torch": (lambda: torch_file()[:-100], FileKind.BROKEN_ARCHIVE),
    "torch tar": (lambda: tarred("sys_info", "pickle", "tensors", "storages"), FileKind.TORCH_TAR),
    "tar": (lambda: tarred("weights.pth"), FileKind.ARCHIVE),
    "zip": (lambda: zipped("weights.pth"), FileKind.ARCHIVE),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(20), FileKind.COMPRESSED),
    "pickle": (lambda: pickle.dumps({"model": 1}), FileKind.PICKLE),
    "empty": (lambda: b"", FileKind.EMPTY),
    "pointer": (lambda: POINTER, FileKind.LFS_POINTER),
    "page": (lambda: b"\r\n<!DOCTYPE html><html>" + "Zugriff verweigert, für Gäste ".encode() * 40, FileKind.HTML),
    "xml": (lambda: b"\xef\xbb\xbf<?xml version='1.0'?><Error>AccessDenied</Error>", FileKind.HTML),
    "json": (lambda: b'{"error": "Invalid username or password."}', FileKind.TEXT),
    "utf-16": (lambda: "Not Found".encode("utf-16"), FileKind.TEXT),
    "line feeds": (lambda: b"\n5\nNot Found", FileKind.TEXT),
    "noise": (lambda: bytes(range(255, 0, -1)) * 3, FileKind.UNKNOWN),
    "other message": (lambda: b"\x08\x07\x4a\x01\xff\x3a\x01g", FileKind.UNKNOWN),
    "message without a graph": (lambda: b"\x08\x07\x12\x01\xff", FileKind.UNKNOWN),
    "other message in a message": (lambda: b"\n\x05\xff\xfe\xfd\xfc\xfb", FileKind.UNKNOWN),
    "zeros": (lambda: bytes(1000), FileKind.UNKNOWN),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(20), FileKind.HDF5),
}


@pytest.mark.parametrize("name", ["x", "x.pth", "x.SAFETENSORS", "x.ckpt", "x.onnx"])
@pytest.mark.parametrize("what", CONTENTS)
def test_content_says_what_a_file_is_whatever_its_name(tmp_path: Path, what: str, name: str) -> None:
    content, kind = CONTENTS[what]
    (tmp_path / name).write_bytes(content())
    assert kind_of(tmp_path / name) is kind


@pytest.mark.parametrize("what", CONTENTS)
def test_what_is_no_file_of_weights_is_refused_in_one_line_that_says_what_it_is(tmp_path: Path, what: str) -> None:
    content, kind = CONTENTS[what]
    path = tmp_path / "weights.pth"
    path.write_bytes(content())
    if kind in WEIGHTS:
        assert refuse_other(path) is kind
        return
    with pytest.raises(UsageError if kind in EXPORTED else CheckpointError) as caught:
        refuse_other(path)
    said = str(caught.value)
    assert "\n" not in said
    assert f"{path}" in said
    assert str(kind) in said
    remedies = {
        "pointer": ["git lfs pull", "102,502,400 bytes"],
        "json": ["Invalid username or password"],
        "utf-16": ["'Not Found'"],
        "zip": ["unpack it"],
        "gzip": ["unpack it"],
        "torch tar": ["torch.save"],
    }
    assert all(remedy in said for remedy in remedies.get(what, []))


def test_every_kind_of_content_is_tried() -> None:
    assert {kind for _, kind in CONTENTS.values()} >= set(FileKind) - {FileKind.NUMPY, FileKind.IMAGE}


def test_a_missing_file_and_a_folder_are_told_of(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="check the path"):
            kind_of(path)


def test_a_part_is_named_behind_the_last_hash_unless_the_file_is_called_so(tmp_path: Path) -> None:
    file = tmp_path / "a#1.pth"
    file.write_bytes(b"x")
    assert split_part(file) == (file, None)
    assert split_part(f"{file}#model.ema") == (file, "model.ema")
    assert split_part(f"{file}#") == (Path(f"{file}#"), None)
    assert split_part(tmp_path / "nowhere.pth#x") == (tmp_path / "nowhere.pth#x", None)

"""MindSpore's files: the official framework's, and those that are cut, changed or made up."""

import binascii
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor

from spcnet.errors import CheckpointError
from spcnet.file_kinds import FileKind, kind_of
from spcnet.weights.mindspore import pytorch_names, read_mindspore
from tests import golden
from tests.support.weight_files import SMALL, entry, field, varint


def read(tmp_path: Path, data: bytes) -> dict[str, Tensor]:
    (tmp_path / "x.ckpt").write_bytes(data)
    return read_mindspore(tmp_path / "x.ckpt")


@pytest.mark.parametrize("file", golden.files("ms_small*.ckpt"))
def test_the_official_frameworks_files_are_read(file: str) -> None:
    found = read_mindspore(golden.GOLDEN / file)
    with np.load(golden.GOLDEN / "ms_small_expected.npz") as told:
        assert list(found) == list(told.files)
        for name in told.files:
            assert found[name].numpy().dtype == told[name].dtype
            np.testing.assert_array_equal(found[name].numpy(), told[name])
    assert kind_of(golden.GOLDEN / file) is FileKind.MINDSPORE


def test_a_tensor_in_parts_is_put_together(tmp_path: Path) -> None:
    values = np.arange(12, dtype="<f4")
    raw = values.tobytes()
    data = entry("x", (3, 4), "Float32", raw[:20]) + entry("x", (3, 4), "Float32", raw[20:]) + SMALL
    found = read(tmp_path, data)
    np.testing.assert_array_equal(found["x"].numpy(), values.reshape(3, 4))
    assert list(found) == ["x", "a.weight", "b", "c"]


def test_shapes_may_be_packed_and_unknown_fields_are_passed_over(tmp_path: Path) -> None:
    tensor = field(1, varint(2) + varint(1)) + field(2, b"Float32") + field(3, bytes(8)) + varint(9 << 3) + varint(7)
    tensor += varint(8 << 3 | 5) + bytes(4) + varint(7 << 3 | 1) + bytes(8)
    assert read(tmp_path, field(1, field(1, b"x") + field(2, tensor)))["x"].shape == (2, 1)


def test_the_checksum_is_compared(tmp_path: Path) -> None:
    def sealed(data: bytes) -> bytes:
        return data + b"crc_num" + binascii.crc32(SMALL).to_bytes(10, "big")

    assert read(tmp_path, sealed(SMALL))["b"].tolist() == [1, -2]
    changed = SMALL.replace(b"a.weight", b"a.wright")
    with pytest.raises(CheckpointError, match="checksum does not fit"):
        read(tmp_path, sealed(changed))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (SMALL[:-3], "it ends too early"),
        (b"PK\x03\x04" + bytes(40), "no complete MindSpore checkpoint"),
        (entry("x", (2,), "Float32", bytes(4)), r"'x' has 4 bytes, not those of Float32 of the shape \(2,\)"),
        (entry("x", (2**40, 2**40), "Float32", bytes(4)), "'x' has 4 bytes"),
        (entry("x", (0, 2**62), "Float32", b""), "'x' has 0 bytes"),
        (entry("x", (1,), "Complex", bytes(8)), "'x' is of the type 'Complex'"),
        (SMALL + SMALL, "it holds 'a.weight' twice"),
        (entry("x", (2,), "Int8", b"1") + entry("x", (3,), "Int8", b"2"), "the parts of 'x' differ"),
        (field(1, field(1, b"x")), "no name or no tensor"),
        (field(1, field(1, b"\xff") + field(2, b"")), "a name in it is no text"),
        (b"\x80" * 20, "a number in it has no end"),
        (field(2, b"abc"), "it holds something else"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(data: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path, data)


def test_a_missing_file_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        read_mindspore(tmp_path / "nowhere.ckpt")


@examples(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_files_are_read_or_refused_within_bounds(data: st.DataObject, tmp_path: Path) -> None:
    changed = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(SMALL) - 1))] = data.draw(st.integers(0, 255))
    tracemalloc.start()
    try:
        found = read(tmp_path, bytes(changed[: data.draw(st.integers(0, len(SMALL)))]))
        assert all(value.numel() <= len(SMALL) for value in found.values())
    except CheckpointError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**20


def test_a_gamma_without_a_beta_is_a_layer_scale_and_keeps_its_name() -> None:
    names = ["norm.gamma", "norm.beta", "blocks.0.ls1.gamma", "blocks.0.grn.gamma", "blocks.0.grn.beta"]
    found = pytorch_names({name: torch.ones(1) for name in names})
    assert set(found) == {"norm.weight", "norm.bias", *names[2:]}

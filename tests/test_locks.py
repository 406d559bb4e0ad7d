"""Of two that write to one folder the second is refused, as long as the first lives and no longer."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from spcnet import locks
from spcnet.errors import DataError, UsageError
from spcnet.locks import LOCK_FILE, locked

pytest.importorskip("fcntl", reason="records of a lock are POSIX's")

HOLD = (
    "import sys, time, os\n"
    "from pathlib import Path\n"
    "from spcnet.locks import locked\n"
    "with locked(Path(sys.argv[1]), what='training'):\n"
    "    if len(sys.argv) > 2 and os.fork() == 0:\n"
    "        time.sleep(20)\n"
    "        os._exit(0)\n"
    "    print(os.getpid(), flush=True)\n"
    "    time.sleep(20)\n"
)


@contextmanager
def held(folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *more], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        assert int(process.stdout.readline()) == process.pid
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_the_second_is_refused_by_name_until_the_first_is_killed(tmp_path: Path) -> None:
    """Also where a process that the first one started, such as one that reads images, still lives."""
    with held(tmp_path / "run", "with a fork") as first:
        with (
            pytest.raises(UsageError, match=rf"in use.*process {first.pid} on .*--output"),
            locked(tmp_path / "run", what="training"),
        ):
            pass
        assert (tmp_path / "run" / LOCK_FILE).exists()
        first.kill()
        first.wait()
        with locked(tmp_path / "run", what="training") as note:
            assert note is None


def test_the_folder_is_made_and_left_as_it_was(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "run", what="training"):
        assert [path.name for path in (tmp_path / "a" / "run").iterdir()] == [LOCK_FILE]
    assert list((tmp_path / "a" / "run").iterdir()) == []


def test_the_same_process_is_kept_out_too_and_keeps_its_lock(tmp_path: Path) -> None:
    with locked(tmp_path, what="training"):
        with pytest.raises(UsageError, match="this process"), locked(tmp_path / ".", what="training"):
            pass
        code = subprocess.run([sys.executable, "-c", HOLD, str(tmp_path)], capture_output=True, check=False)
        assert b"in use" in code.stderr
    with locked(tmp_path, what="training"):
        pass


def test_an_error_within_gives_the_folder_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path, what="training"):
        raise ZeroDivisionError
    with locked(tmp_path, what="training"):
        pass


def test_a_file_that_was_removed_while_it_was_waited_for_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two would each hold a file of that name."""
    lock, calls = locks._lock, []

    def after_the_other_is_gone(file: object) -> bool:
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / LOCK_FILE).unlink()
        return lock(file)  # type: ignore[arg-type]

    monkeypatch.setattr(locks, "_lock", after_the_other_is_gone)
    with locked(tmp_path, what="training"):
        assert len(calls) == 2
        assert (tmp_path / LOCK_FILE).exists()


def test_a_file_system_without_locks_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    with locked(tmp_path, what="training") as note:
        assert note is not None
        assert "knows no locks" in note


def test_windows_has_locks_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def locking(file: int, mode: int, size: int) -> None:
        asked.append((os.lseek(file, 0, os.SEEK_CUR), size))
        if len(asked) > 1:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    with locked(tmp_path, what="training") as note:
        assert note is None
        monkeypatch.setattr(locks, "_held", {})  # as another process has it
        with pytest.raises(UsageError, match=f"process {os.getpid()}"), locked(tmp_path, what="training"):
            pass
    assert asked == [(locks._WINDOWS_BYTE, 1)] * 2


def test_a_folder_that_cannot_be_written_is_an_error_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write to the folder"), locked(tmp_path / "file", what="training"):
        pass


def test_a_lock_costs_little(tmp_path: Path) -> None:
    began = time.monotonic()
    for _ in range(20):
        with locked(tmp_path, what="training"):
            pass
    assert time.monotonic() - began < 2

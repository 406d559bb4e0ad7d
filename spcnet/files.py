"""Writing files whole or not at all: under another name first, then renamed. A killed process leaves the old file.

And reading what people write: text in UTF-8, and YAML.
"""

import errno
import json
import os
import re
import stat
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import yaml

from spcnet.errors import DataError, WriteError

_FOR_ALL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE))
"""Errors that the next file would meet, too."""

_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.part")


def write_atomic(path: Path, write: Callable[[IO[bytes]], object], *, keep: Path | None = None) -> None:
    """Write a file, and the folders above it, and see it to the disk before it takes the old one's place.

    Args:
        path: where to.
        write: gets the open file and writes the content.
        keep: name that the old file then has, in the same folder, where it is to be kept. What had that name before
            stays until the new file stands, so that a process killed at any moment leaves a whole file.

    Raises:
        WriteError: no permission, no space, a name that is too long, or something else is in the way.
    """
    temporary, held = _beside(path), _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_place(path)  # before the content is made, which may take hours
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            try:
                os.link(path, held)
            except OSError:  # a file system without hard links
                os.replace(path, keep)
        os.replace(temporary, path)
        if keep is not None:
            if held.exists():
                os.replace(held, keep)
            _sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        for left in (temporary, held):
            with suppress(OSError):
                left.unlink()


def check_writable(path: Path) -> None:
    """Refuse a place where no file can be written, as far as its name and what lies there tell, before there is content.

    Raises:
        WriteError: the name is too long, or a folder has it, or a file stands where its folder should be.
    """
    try:
        _check_place(path)
        parent = path.parent
        while not parent.is_dir():
            if parent.exists() or parent.is_symlink():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))
            parent = parent.parent
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))
    except OSError as error:
        raise write_error(path, error) from error


def _check_place(path: Path) -> None:
    """That a file can have this name; renaming a finished file would find out too late."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def write_error(path: Path, error: OSError) -> WriteError:
    """The error for a file that cannot be written, with what helps against its cause."""
    number = error.errno
    if number == errno.ENAMETOOLONG:
        length, most = len(os.fsencode(path.name)), _longest_name(path)
        advice = (
            f"its name has {length} bytes, and the file system allows {most}: shorten the name of the input by "
            f"{length - most} or more"
            if most and length > most
            else "the whole path is too long: choose an output folder with a shorter path"
        )
    elif number == errno.EISDIR or (number in (errno.ENOTEMPTY, errno.EEXIST) and path.is_dir()):
        advice = "a folder has that name: remove or rename it, or choose another output folder"
    elif number in (errno.ENOTDIR, errno.EEXIST):
        blocking = next((parent for parent in path.parents if parent.exists() or parent.is_symlink()), path.parent)
        advice = (
            f"a file {blocking} stands where a folder is needed: remove or rename it, or choose another output folder"
        )
    else:
        advice = _ADVICE.get(number or 0, "check the folder's permissions and the space left")
    wrong = WriteError(f"cannot write {path}: {error.strerror or error}. {advice[0].upper()}{advice[1:]}")
    wrong.concerns_all = number in _FOR_ALL
    return wrong


_PERMISSION = "check the permissions of the folder, or choose another output folder"
_ROOM = "make room there, or choose another output folder"
_NAME = "the file system does not allow such a name: rename the input, or choose another output folder"
_ADVICE = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), _PERMISSION),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _ROOM),
    **dict.fromkeys((errno.EINVAL, errno.EILSEQ), _NAME),
    errno.EROFS: "the file system can only be read: choose another output folder",
}


def _longest_name(path: Path) -> int:
    """Bytes that a name may have where a file is to lie; 0 where the system does not tell."""
    for folder in path.parents:
        with suppress(OSError, ValueError, AttributeError):
            return os.pathconf(folder, "PC_NAME_MAX")
    return 0


def decoded_text(content: bytes) -> str:
    """The text of a file in UTF-8, with or without byte order mark, or in UTF-16, as programs of Windows may save it.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    encoding = "utf-8"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    else:
        # In UTF-16 every other byte of Latin letters is zero, and text in UTF-8 has none.
        for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
            if content[first::2].count(0) > len(content) // 4:
                encoding = name
    return content.decode(encoding).removeprefix("\ufeff")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8.

    Raises:
        WriteError: as `write_atomic`.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raises as `write_atomic`."""
    write_atomic(path, lambda file: file.write(content))


def read_text(path: Path, what: str = "file") -> str:
    """The text of a file in UTF-8, with or without a byte order mark; its line ends become newlines.

    Raises:
        DataError: it cannot be read, or is no text in UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot read the {what} {path}: {reason}. Check its path and permissions") from error
    remedy = "save it as UTF-8"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        example = "for example with iconv -f UTF-16 -t UTF-8"
        raise DataError(f"the {what} {path} is UTF-16, it must be UTF-8: {remedy}, {example}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, f"0x{error.object[error.start]:02x}"
        said = f"the {what} {path} is not UTF-8: line {line} has the byte {byte}"
        raise DataError(f"{said}; {remedy}, or check that it is a text file") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        said = f"the {what} {path} is no text in UTF-8: line {line} has a NUL byte, as in UTF-16 and damaged files"
        raise DataError(f"{said}; {remedy}, or restore it")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_yaml(path: Path, what: str = "file") -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        DataError: it cannot be read, is no text in UTF-8 or no YAML, or maps no names to values.
    """
    return _mapping(read_text(path, what), path, what)


def read_yaml_text(path: Path, what: str = "file") -> str:
    """The text of a YAML file that holds a mapping, for another program to parse.

    Raises:
        DataError: see `read_yaml`.
    """
    text = read_text(path, what)
    _mapping(text, path, what)
    return with_text_keys(text)


def _mapping(text: str, path: Path, what: str) -> dict[str, Any]:
    try:
        twice = _doubled_key(text)
        values = yaml.safe_load(with_text_keys(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise DataError(f"cannot read the {what} {path}: {said}. Mend that line, it is no YAML") from error
    try:
        json.dumps(values, default=str, skipkeys=True)
    except ValueError:  # a circular reference
        said = f"the {what} {path} has a value that contains itself, by an alias (&name, *name)"
        raise DataError(f"{said}: write the values out") from None
    if twice is not None:
        raise DataError(f"the {what} {path} {twice}")
    if not isinstance(values, dict):
        came = "is empty" if values is None else f"holds a {type(values).__name__}"
        options = " and names no method or other option" if what in ("recipe", "configuration") else ""
        raise DataError(f"the {what} {path} {came}{options}: it must map {'options' if options else 'names'} to values")
    return values


def with_text_keys(text: str) -> str:
    """A YAML text whose keys are all plain: `[128, 64, 128]: road` becomes `128, 64, 128: road`.

    A list cannot be a key of what YAML is read into. Text without such keys comes back as it is.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    changed = False
    for mapping in _mappings(root):
        for place, (key, value) in enumerate(mapping.value):
            if isinstance(key, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in key.value):
                plain = yaml.ScalarNode("tag:yaml.org,2002:str", ", ".join(item.value for item in key.value))
                mapping.value[place] = plain, value
                changed = True
    written: str = yaml.serialize(root, allow_unicode=True) if changed else text
    return written


class ListKeys:
    """Reads YAML as another function does, and lists as keys, too: for `jsonargparse.set_loader`."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self.load: Callable[[str], Any] = load.load if isinstance(load, ListKeys) else load

    def __call__(self, text: str) -> Any:
        """What the text holds; errors are those of the function."""
        try:
            return self.load(text)
        except yaml.constructor.ConstructorError:
            return self.load(with_text_keys(text))


def _mappings(root: yaml.Node | None) -> list[yaml.MappingNode]:
    """Every mapping in a YAML text, each once."""
    mappings: list[yaml.MappingNode] = []
    waiting, visited = [root] if root is not None else [], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            mappings.append(node)
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
    return mappings


def _doubled_key(text: str) -> str | None:
    """What to say of a key that a mapping of a YAML text has twice, of which only the last would count."""
    for mapping in _mappings(yaml.compose(text, Loader=yaml.SafeLoader)):
        lines: dict[str, int] = {}
        for key, _ in mapping.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                line = key.start_mark.line + 1
                if key.value in lines:
                    return f"has {key.value} in line {lines[key.value]} and in line {line}: name it once"
                lines[key.value] = line
    return None


def remove_unfinished(folder: Path) -> int:
    """Remove what killed processes began to write in a folder and the folders below; nobody else may be writing there.

    Returns:
        How many files there were.
    """
    removed = 0
    for path in list(folder.rglob(".*.part")):
        if _UNFINISHED.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()
                removed += 1
    return removed


def _beside(path: Path) -> Path:
    return path.parent / f".{uuid.uuid4().hex}.part"


def _sync_folder(folder: Path) -> None:
    """See the names of the files to the disk; a renamed file keeps its old name over a power cut otherwise."""
    with suppress(OSError):  # not every system lets a folder be opened
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)

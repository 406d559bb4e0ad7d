"""Reading weight files: the tensors at any level of a file, and the one dictionary that fits a network.

Other programs wrap a network's tensors in dictionaries (`model`, `state_dict`, `teacher`, beside optimisers and options)
and put prefixes before their names (`module.`, `_orig_mod.`, `backbone.`). No list of those is kept: a *reading* is any
dictionary of the file with any common prefix of its names removed, and the reading is used whose names and shapes match the
network. If several match and their values differ, the user names one: `FILE#NAME`.

A downloaded file never runs code: it is read by safetensors, as MindSpore's messages, or by `torch.load` with
`weights_only=True` and inert stand-ins for the few harmless classes that training programs leave in their files.
"""

import difflib
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from spcnet.errors import CheckpointError
from spcnet.file_kinds import FileKind, refuse_other
from spcnet.weights.mindspore import pytorch_names, read_mindspore

T = TypeVar("T")

_DEEPEST = 4
"""Depth of nested dictionaries that are searched; programs nest two or three."""
_NO_WEIGHTS = re.compile(r"optim(?!i[sz]ed|al)|sched(?!uled)|scaler|rng|callbacks|loops|_metadata", re.IGNORECASE)
"""Names of dictionaries whose tensors are no weights, unless the file has no other tensors."""
_PROTOCOL = 2
"""Pickle protocol that `torch.save` writes by default."""
_LISTED = 6
"""Largest number of parts that a message lists."""


class Reading(NamedTuple):
    """Tensors of one dictionary of a file with a common prefix, without that prefix."""

    part: str
    """Keys to the dictionary, joined by dots; empty for the top level."""
    prefix: str
    """The removed prefix; empty, or ends in a dot."""
    tensors: dict[str, Tensor]
    """By their names without the prefix."""

    @property
    def name(self) -> str:
        """Its name in `FILE#NAME`."""
        return f"{self.part}.{self.prefix}".strip(".")


class WeightFile(NamedTuple):
    """The tensors of a file."""

    path: Path
    kind: FileKind
    parts: dict[str, dict[str, Tensor]]
    """Each dictionary that holds tensors, by `Reading.part`."""


def read_weights(path: Path) -> WeightFile:
    """Read the tensors of a file, whose format is recognised by its content; nothing in it is executed.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or holds no named tensors.
        UsageError: it is an exported network.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no weight file {path}: check the path")
    kind = refuse_other(path)
    if kind is FileKind.MINDSPORE:
        parts = {"": read_mindspore(path)}
    elif kind is FileKind.SAFETENSORS:
        parts = {"": _read_safetensors(path)}
    else:
        content = _read_torch(path)
        parts = dict(_parts(content, "", 0)) or dict(_parts(content, "", 0, everything=True))
    if not parts:
        raise CheckpointError(f"the weight file {path} is no state dict: it must map names to tensors")
    size = path.stat().st_size
    for part, tensors in parts.items():
        for key, value in tensors.items():
            _check_plain(path, f"{part}.{key}".strip("."), value, size)
        parts[part] = pytorch_names(tensors)
    return WeightFile(path, kind, parts)


def _check_plain(path: Path, name: str, value: Tensor, size: int) -> None:
    plain = value.layout == torch.strided and not (value.is_quantized or value.is_meta or value.is_complex())
    # An expanded view of few values is allowed up to the size of the file.
    if not plain or value.numel() * value.element_size() > max(value.untyped_storage().nbytes(), size):
        raise CheckpointError(
            f"the weight file {path} has under {name!r} no plain array of numbers, or one that is larger than what the "
            "file has for it: it is damaged or made to fill the memory, and was not used"
        )


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that hold NaN or infinite values.

    Raises:
        CheckpointError: one does.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(
                f"{path} has values in {name} that are not finite: the file is damaged or not trained"
            )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, RuntimeError, ValueError, KeyError, OSError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    _refuse_unfolding(path)
    try:
        # An open file, because torch would check the suffix of a path.
        with torch.serialization.safe_globals(_INERT), warnings.catch_warnings(), path.open("rb") as content:
            warnings.simplefilter("ignore")  # about the protocol of a damaged file; the error is raised below
            return torch.load(content, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise _damaged(path, error) from error
    except Exception as error:  # the unpickler raises its own error for code that it refuses to run
        protocol = _pickle_protocol(path)
        if protocol > _PROTOCOL:
            raise CheckpointError(
                f"the weight file {path} was saved with pickle protocol {protocol}, but the safe reader supports only "
                f"protocol {_PROTOCOL}: if you trust its source, read it with torch.load and save it again with "
                "torch.save, without pickle_protocol"
            ) from error
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        asks = f" (it asks for {wanted[1]})" if wanted else ""
        raise CheckpointError(
            f"the weight file {path} is damaged or holds more than tensors, and was not opened: save the state dict alone"
            f"{asks}, or fetch it again"
        ) from error


def _pickle_protocol(path: Path) -> int:
    """Pickle protocol of a PyTorch file; the default one if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as content:
                start = content.read(2)
    except (zipfile.BadZipFile, OSError, StopIteration, NotImplementedError, ValueError):
        with path.open("rb") as content:
            start = content.read(2)
    return start[1] if start[:1] == b"\x80" and len(start) == 2 else _PROTOCOL


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).strip().splitlines() or ["it ends too early"])[0]
    return CheckpointError(
        f"cannot read the weight file {path} ({reason}): it must be a safetensors file or a PyTorch state dict; "
        "fetch it again if the download broke off"
    )


class _Inert:
    """Inert stand-in for an object beside the tensors."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Mapping:
    """Stand-in for a dictionary class; makes a plain one."""

    def __new__(cls, *_: Any, **__: Any) -> "OrderedDict[Any, Any]":  # type: ignore[misc]
        return OrderedDict()


class _Sequence:
    """Stand-in for a list class; makes a plain one."""

    def __new__(cls, *_: Any, **__: Any) -> list[Any]:  # type: ignore[misc]
        return []


# The classes themselves are never imported: these names resolve to the stand-ins above.
_NUMPY = (
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.ma.{name}" for name in ("core._mareconstruct", "core.MaskedArray", "MaskedArray")),
    *(
        f"numpy.{name}"
        for name in ("bool", "bool_", "str_", "float16", "float32", "float64", "uint8", "int32", "int64")
    ),
    *(f"numpy.random._pickle.__{name}_ctor" for name in ("randomstate", "generator", "bit_generator")),
    *(f"numpy.random.{name}" for name in ("_mt19937.MT19937", "_pcg64.PCG64", "bit_generator.SeedSequence")),
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
)
_BUILTINS = ("list", "dict", "tuple", "frozenset", "int", "float", "bool", "str", "range", "xrange", "slice")
_OPTIONS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    ),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    "decimal.Decimal",
    "fractions.Fraction",
    "uuid.UUID",
    "typing.Any",
    "torch.torch_version.TorchVersion",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILTINS),
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig")),
    *(f"omegaconf.base.{name}" for name in ("Metadata", "ContainerMetadata")),
    *(
        f"omegaconf.nodes.{name}Node"
        for name in ("Any", "String", "Integer", "Float", "Boolean", "Enum", "Bytes", "Path")
    ),
    "mmengine.logging.history_buffer.HistoryBuffer",
)
_MAPPINGS = (
    "collections.defaultdict",
    "easydict.EasyDict",
    "yacs.config.CfgNode",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_INERT: list[Any] = [
    *((_Inert, name) for name in (*_NUMPY, *_OPTIONS)),
    *((_Mapping, name) for name in _MAPPINGS),
    (_Sequence, "collections.deque"),
]


def _refuse_unfolding(path: Path) -> None:
    """Refuse compressed archives and overlapping entries, which may expand to any size; PyTorch writes neither."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            overlapping = sum(entry.file_size for entry in entries) > path.stat().st_size
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return  # no archive, or one that PyTorch will not read either
    if compressed or overlapping:
        raise CheckpointError(
            f"{path} is {'a compressed archive' if compressed else 'an archive of more than its own size'}, which PyTorch "
            "does not write: it was not opened; fetch it again from its source"
        )


def _parts(
    content: object, where: str, depth: int, *, everything: bool = False
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every dictionary of tensors in a file's content, the outer ones first; without optimisers and the like, unless `everything`."""
    if isinstance(content, (list, tuple)):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping):
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors and not all(isinstance(key, int) for key in content):
        yield where, tensors
    if depth == _DEEPEST:
        return
    for key, value in content.items():
        if everything or not _NO_WEIGHTS.search(str(key)):
            yield from _parts(value, f"{where}.{key}".strip("."), depth + 1, everything=everything)


# Readings ---------------------------------------------------------------------------------------------------------------


def readings(file: WeightFile, *, at_least: int = 1) -> list[Reading]:
    """Every reading of a file with enough tensors, outer dictionaries and shorter prefixes first."""
    every = []
    for part, tensors in file.parts.items():
        groups: dict[str, dict[str, Tensor]] = {"": tensors}
        for key, value in tensors.items():
            place = key.find(".")
            while place >= 0:
                groups.setdefault(key[: place + 1], {})[key[place + 1 :]] = value
                place = key.find(".", place + 1)
        every += [
            Reading(part, prefix, group)
            for prefix, group in sorted(groups.items(), key=lambda item: item[0].count("."))
            if len(group) >= at_least
        ]
    return every


def apart(networks: Sequence[Reading]) -> list[Reading]:
    """Readings of networks, each without the tensors of networks nested in it.

    A network may hold a second one, such as its moving average, under another prefix.
    """
    return [
        one._replace(
            tensors={
                name: value
                for name, value in one.tensors.items()
                if not any(
                    other.part == one.part
                    and other.prefix != one.prefix
                    and f"{one.prefix}{name}".startswith(other.prefix)
                    for other in networks
                    if len(other.prefix) > len(one.prefix)
                )
            }
        )
        for one in networks
    ]


def named_readings(found: Sequence[Reading], name: str | None, file: WeightFile) -> list[Reading]:
    """The readings that match the name in `FILE#NAME`; all without a name.

    Raises:
        CheckpointError: nothing in the file is called so.
    """
    if name is None:
        return list(found)
    chosen = [one for one in found if f".{name}." in f".{one.name}."]
    everything = [one.name for one in readings(file)]
    if not chosen and not any(f".{name}." in f".{other}." for other in everything):
        near = difflib.get_close_matches(name, [other for other in everything if other], n=1)
        raise CheckpointError(
            f"nothing in {file.path} is called {name!r}: it holds {overview(file)}."
            + (f" Did you mean {file.path}#{near[0]}?" if near else "")
        )
    return chosen


def same_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors have the same names and values; batch counters are ignored."""
    names = {name for name in one if "num_batches" not in name}
    if names != {name for name in other if "num_batches" not in name}:
        return False
    return all(one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in names)


def distinct(found: Iterable[tuple[Reading, Mapping[str, Tensor], T]], name: str | None) -> list[T]:
    """Candidates with different values, one for each set of values; only the one of that name, if there is one.

    Args:
        found: reading, compared tensors and result of each candidate.
        name: the name in `FILE#NAME`.
    """
    different: list[tuple[Reading, Mapping[str, Tensor], T]] = []
    for one in found:
        if not any(same_tensors(one[1], other[1]) for other in different):
            different.append(one)
    return [item for reading, _, item in different if reading.name == name] or [item for *_, item in different]


def ambiguous(file: WeightFile, what: str, fitting: Sequence[Reading]) -> CheckpointError:
    """The error for several matching readings with different values."""
    names = [f"{file.path}#{one.name}" if one.name else f"{file.path}" for one in fitting]
    return CheckpointError(
        f"{file.path} holds {len(fitting)} different networks that are {what}: name one of them, "
        f"{' or '.join(names[:_LISTED])}"
    )


def overview(file: WeightFile) -> str:
    """The parts of a file as text: location, number of tensors, and the prefixes of their names."""
    words = []
    for part, tensors in list(file.parts.items())[:_LISTED]:
        number = f"{len(tensors)} tensor{'s' if len(tensors) != 1 else ''}"
        words.append(f"{part or 'at its top'} ({number}{_beginnings(tensors)})")
    more = len(file.parts) - len(words)
    return ", ".join(words) + (f" and {more} more" if more > 0 else "")


def _beginnings(tensors: Mapping[str, Tensor]) -> str:
    """The prefixes of names as text: the common prefix, and the groups after it."""
    shared, rest = "", list(tensors)
    while all("." in name for name in rest) and len({name.partition(".")[0] for name in rest}) == 1:
        first = rest[0].partition(".")[0] + "."
        shared, rest = shared + first, [name.removeprefix(first) for name in rest]
    groups = list(dict.fromkeys(name.partition(".")[0] for name in rest))
    listed = ", ".join(groups[:4]) + (", …" if len(groups) > 4 else "")
    return f", all under {shared}: {listed}" if shared else f": {listed}"


def several(names: Sequence[str]) -> str:
    """A few names of many."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")

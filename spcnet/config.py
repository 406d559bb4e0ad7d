"""Every setting of a run as frozen values: what may be set, what it means, and which values make no sense.

No torch in here: a recipe can be checked, printed and compared without loading a framework. The defaults are the
paper's (Huang et al., CVPR 2023) and, for what the paper leaves open, those of the framework it was trained in
(RobustNet, Choi et al., CVPR 2021).
"""

import dataclasses
import functools
import inspect
import math
import numbers
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from spcnet.errors import UsageError
from spcnet.files import read_yaml

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
OUTPUT_STRIDES = (8, 16, 32)
Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]


Decides = Literal["result", "schedule", "order", "place"]
"""What an option decides, and with it who may change it:

- `result`: the figures, or what is scored; runs that differ in it are two experiments;
- `schedule`: like `result`, and also what step and what image comes when, so a resumed run must keep it;
- `order`: the random numbers alone; runs that differ in it are seeds of one experiment, and a resumed run must keep it;
- `place`: where and how a run is computed, saved and shown; runs that differ in it are one experiment, and a run that is
  resumed and a sweep that is continued may change it.

The precision is a `result`: bfloat16 rounds to eight bits, which moves figures by more than the order of a sum does. Compiling,
the device and `deterministic` move only the last bits, as another order of the same sums, so they are a `place`.
"""
METADATA = "spcnet"
"""Key of an option's `Rule` in the metadata of its field."""


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise UsageError(message)


class Rule(NamedTuple):
    """What one option decides and which values it may have: the only place where either is written."""

    decides: Decides
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    rising: bool = False
    """Whether it is two numbers of which the first is not larger."""
    choices: tuple[Any, ...] = ()
    """Allowed values, where the type does not name them."""
    noun: str = "it"
    """What the value is, for the message."""
    zero: str = ""
    """What 0 means, for the message."""
    unit: str = ""
    compared: str = ""
    """The words for it where runs must agree in it for a difference to be one of their methods; empty where they need not."""

    @property
    def words(self) -> str:
        """Which numbers are allowed."""
        unit = f" {self.unit}" if self.unit else ""
        if self.least is not None and self.most is not None:
            text = f"lie in {self.least:g}..{self.most:g}"
        elif self.least is not None and self.below is not None:
            text = f"be {self.least:g} or more and below {self.below:g}"
        elif self.above is not None and self.most is not None:
            text = f"be above {self.above:g} and at most {self.most:g}"
        elif self.above is not None:
            text = f"be above {self.above:g}{unit}"
        elif self.least == 0:
            text = f"be 0{f' ({self.zero})' if self.zero else ''} or more{unit}"
        else:
            text = f"be at least {self.least:g}{unit}"
        return text + (", the smaller first" if self.rising else "")

    def check(self, path: str, value: Any) -> None:
        """Refuse a value that is not allowed; of several numbers each must be. None is no number and passes.

        Raises:
            UsageError: says what came and what is allowed.
        """
        if self.choices:
            known = ", ".join(map(str, self.choices))
            _require(
                value is None or value in self.choices,
                f"{path} is {value if isinstance(value, int) else repr(value)}: it must be one of {known}",
            )
        if value is None or (self.least is None and self.above is None):
            return
        numbers = value if isinstance(value, (list, tuple)) else [value]
        inside = len(numbers) > 0 and all(
            (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
            for number in numbers
        )
        finite = inside and all(math.isfinite(number) for number in numbers)
        ordered = not self.rising or list(numbers) == sorted(numbers)
        _require(
            finite and ordered,
            f"{path} is {value}: {self.noun} must {self.words}{' and finite' if inside and not finite else ''}"
            + ("" if len(numbers) else "; give at least one"),
        )


class Option(NamedTuple):
    """One option of a run."""

    path: str
    """Where it stands, such as `data.size`."""
    hint: Any
    """Its type."""
    rule: Rule


def _option(decides: Decides, default: Any = MISSING, *, factory: Callable[[], Any] | None = None, **rule: Any) -> Any:
    """A field of a configuration: what it decides, its default, and the rest of its `Rule`."""
    metadata = {METADATA: Rule(decides, **rule)}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def _settle(config: Any) -> None:
    """Bring the values of a new configuration to their types, one name to a list of one, and check their ranges."""
    for name, option in _by_class()[type(config)].items():
        value = getattr(config, name)
        settled = _checked(option, value)
        if settled is not value and (settled != value or type(settled) is not type(value)):
            object.__setattr__(config, name, settled)


def _checked(option: Option, value: Any) -> Any:
    """A value as the option's type has it, once its type and range are checked."""
    path, hint, rule = option
    settled = coerced(hint, value)
    _require(
        rule.choices != () or _fits(hint, settled),
        f"{path} is {value!r}: it must be {' or '.join(map(_type_name, _parts(hint)))}",
    )
    rule.check(path, settled)
    return settled


def method_option(default: Any = MISSING, **rule: Any) -> Any:
    """A field of a method's own settings: its default or its `factory`, and the rest of its `Rule`; it decides the result."""
    return _option("result", default, **rule)


def method_settings(method: str, kind: type[T], values: Mapping[str, Any]) -> T:
    """A method's own settings from the values of `model.settings`.

    Args:
        method: its name.
        kind: a frozen dataclass whose fields are made by `method_option`.
        values: by the names of the fields; those not named have their defaults.

    Raises:
        UsageError: the method has no such setting, or a value has another type or lies out of range.
    """
    options = {option.path.rpartition(".")[2]: option for _, option in _walk(kind, "model.settings.")}
    for name in values:
        _require(
            name in options,
            f"model.settings.{name}: the method {method} has "
            + (f"the settings {', '.join(options)}" if options else "no settings of its own"),
        )
    return kind(**{name: _checked(options[name], value) for name, value in values.items()})


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of a type that an option can have."""
    for part in _parts(hint):
        kind, kinds = get_origin(part) or part, get_args(part)
        if kind in (int, float):
            number = (numbers.Integral,) if kind is int else (numbers.Real,)
            fits = isinstance(value, number) and not isinstance(value, bool)
        elif kind is list:
            fits = isinstance(value, list) and all(_fits(kinds[0], item) for item in value)
        elif kind is tuple:
            fits = isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, kinds, value))
        else:
            fits = isinstance(value, kind)
        if fits:
            return True
    return False


def _type_name(hint: Any) -> str:
    """A type in the words of a recipe."""
    kind, kinds = get_origin(hint) or hint, get_args(hint)
    if kind is tuple:
        return f"[{', '.join(map(_type_name, kinds))}]"
    if kind is list:
        return f"a list of {_type_name(kinds[0]).split(' ', 1)[1]}s"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(kind, "a path" if kind is Path else "a mapping of names to values")


@cache
def _by_class() -> dict[type, dict[str, Option]]:
    """For each of the classes below its options, by the name of their field."""
    found: dict[type, dict[str, Option]] = {}
    for owner, option in _walk(RunConfig, ""):
        found.setdefault(owner, {})[option.path.rpartition(".")[2]] = option
    return found


@cache
def options() -> dict[str, Option]:
    """Every option of a run by its dotted path, in the order of the fields."""
    return {option.path: option for _, option in _walk(RunConfig, "")}


def _walk(kind: type, prefix: str) -> Iterator[tuple[type, Option]]:
    """Each option of a class and of the classes that its fields hold, with the class that it is a field of."""
    hints = get_type_hints(kind)
    for one in dataclasses.fields(kind):
        hint = hints[one.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            yield from _walk(hint, f"{prefix}{one.name}.")
        else:
            rule: Rule = one.metadata[METADATA]
            literals = [value for part in _parts(hint) if get_origin(part) is Literal for value in get_args(part)]
            yield kind, Option(f"{prefix}{one.name}", hint, rule._replace(choices=rule.choices or tuple(literals)))


def decides(path: str) -> Decides:
    """What the option at a dotted path decides; one within a mapping (`data.roots.gtav`) what the mapping does.

    An option that is not known, of a newer version, counts as one that decides the result.
    """
    known = options()
    while path:
        if path in known:
            return known[path].rule.decides
        path = path.rpartition(".")[0]
    return "result"


def kept_on_resume(group: str) -> tuple[str, ...]:
    """Names of the options in a group, such as `training`, that a resumed run must keep."""
    paths = [path for path, option in options().items() if option.rule.decides in ("schedule", "order")]
    return tuple(name for path in paths for head, _, name in [path.rpartition(".")] if head == group)


def _parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union; the type itself where it is none."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def coerced(hint: Any, value: Any) -> Any:
    """A value as its type has it, where what was meant is plain; any other value as it came.

    One name is a list of one, names with commas between them are a list (`gtav,synthia`), a list becomes a tuple where one is
    wanted, and numbers are read that YAML leaves as text (`5e-4`).

    >>> coerced(list[str], "gtav"), coerced(list[float] | None, "0.5,1"), coerced(tuple[int, int], [512, 1024])
    (['gtav'], [0.5, 1.0], (512, 1024))
    """
    parts = _parts(hint)
    if value is None or (bool in parts and isinstance(value, bool)):
        return value
    sequence = next((part for part in parts if get_origin(part) in (list, tuple)), None)
    if sequence is not None:
        return _sequence(sequence, value, alone=len([part for part in parts if part is not type(None)]) == 1)
    if isinstance(value, (str, int)) and not isinstance(value, bool) and float in parts and str not in parts:
        with suppress(ValueError):
            return float(value)
    if isinstance(value, Path) and Path not in parts and str in parts:
        return str(value)
    return Path(value) if Path in parts and isinstance(value, str) else value


def _sequence(hint: Any, value: Any, *, alone: bool) -> Any:
    kind, kinds = get_origin(hint), get_args(hint)
    if isinstance(value, str):
        pieces: Sequence[Any] = [piece.strip() for piece in value.split(",") if piece.strip()]
        if kind is tuple and len(pieces) < 2:
            return value
    elif (isinstance(value, (int, float)) and not isinstance(value, bool) and kind is list and str not in kinds) or (
        isinstance(value, Path) and kind is list
    ):
        pieces = [value]
    elif isinstance(value, (list, tuple)):
        pieces = value
    else:
        return value
    read = [_item(kinds[min(place, len(kinds) - 1)], piece) for place, piece in enumerate(pieces)]
    # Beside other types, as in `model.norms`, a text is a list only where every piece is of the list's type.
    if isinstance(value, str) and not (read and (alone or not any(isinstance(item, str) for item in read))):
        return value
    return tuple(read) if kind is tuple else read


def _item(hint: Any, value: Any) -> Any:
    if hint is int and isinstance(value, str):
        with suppress(ValueError):
            return int(value)
        return value
    return coerced(hint, value)


def plain_lists(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that wants a list of names, numbers or paths take one alone, or names with commas, as the command line does.

    A text is a sequence of its letters, too, so that nothing else would notice.
    """
    signature = inspect.signature(function)

    @cache
    def hints() -> dict[str, Any]:
        found = get_type_hints(function)
        # `self` has no annotation.
        lists = ((n, part) for n in signature.parameters if n in found for part in _parts(found[n]) if _is_list(part))
        return {name: types.GenericAlias(list, get_args(part)) for name, part in lists}

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        for name, hint in hints().items():
            if isinstance(given.arguments.get(name), (str, int, float, Path)):
                given.arguments[name] = _one_or_several(hint, given.arguments[name])
        return function(*given.args, **given.kwargs)

    return wrapped


def _is_list(hint: Any) -> bool:
    return get_origin(hint) in (list, Sequence) and set(_parts(get_args(hint)[0])) <= {str, int, float, Path}


def _one_or_several(hint: Any, value: Any) -> Any:
    """A list from what is none; a path is one, whatever is in its name."""
    items = _parts(get_args(hint)[0])
    if Path not in items:
        return coerced(hint, value)
    return [value if str in items else Path(value)]


@dataclass(frozen=True)
class StyleConfig:
    """Style projection (paper §3.2), for the methods that have style layers."""

    mode: Literal["projection", "normalization", "substitution"] | None = _option("result", None)
    """What replaces an image's style: the weighted sum of the bases (projection), nothing (normalization), or the nearest base (substitution). Default: what the method's name says."""
    distance: Literal["was", "abs", "kl"] = _option("result", "was")
    """Distance between two styles: Wasserstein, difference of mean/std, or Kullback-Leibler divergence."""
    channel_wise: bool = _option("result", False)
    """Weigh the bases for each channel by itself instead of for the whole image."""
    momentum: float = _option("result", 0.9, least=0, most=1)
    """Share of a style base that one update keeps (α)."""
    sharpness: float = _option("result", 1.0, above=0)
    """Factor on the similarities 1/(1+distance) before the softmax over the bases; 1 is the paper's Eq. 4, more lets the nearest base weigh more."""

    def __post_init__(self) -> None:
        _settle(self)


@dataclass(frozen=True)
class ClusteringConfig:
    """Semantic clustering (paper §3.3), for the methods that classify by prototypes."""

    embedding_dim: int = _option("result", 256, least=1)
    """Size D of a pixel embedding and of a prototype."""
    momentum: float = _option("result", 0.999, least=0, most=1)
    """Share of a prototype that one update keeps (γ)."""
    ramp_up: bool = _option("result", False)
    """Let the momentum grow over the run as exp(-0.1·(1-t/T)²), t/T being the share of the run that is done, instead of the fixed value."""
    temperature: float = _option("result", 0.1, above=0)
    """Divisor τ of the similarities in the discrimination loss."""
    var_weight: float = _option("result", 1.0, least=0, noun="a loss weight", zero="off")
    """Weight β of the compactness loss L_var (pixels to their prototype). In no public source; see docs/LOG.md."""
    dis_weight: float = _option("result", 0.1, least=0, noun="a loss weight", zero="off")
    """Weight of the discrimination loss L_dis (class means away from other classes). In no public source; see docs/LOG.md."""

    def __post_init__(self) -> None:
        _settle(self)


@dataclass(frozen=True)
class WhiteningConfig:
    """The whitening losses (Choi et al., CVPR 2021), for networks with iw, irw or isw in their norm slots."""

    weight: float = _option("result", 0.6, least=0, noun="a loss weight", zero="off")
    """Weight of the whitening loss."""
    relax: int = _option("result", 0, least=0, zero="none")
    """Above 0: irw's margin is the number of covariances divided by this (0: by 64); isw takes so large a share of them instead of clusters."""
    start: float = _option("result", 0.12, least=0, below=1, noun="a fraction of the run")
    """Share of the run that isw trains without the loss, before it takes the statistics; RobustNet's six epochs of GTAV."""
    clusters: int = _option("result", 3, least=2)
    """k of the k-means over the variances of the covariances; isw removes those outside the lowest cluster."""
    trials: int = _option("result", 10, least=1)
    """How many statistics isw takes; a covariance must be sensitive in all of them."""
    pairs: int = _option("result", 500, least=1)
    """Pairs of an image and its photometric alteration in one trial."""
    legacy: bool = _option("result", False)
    """Cluster the zeros below the diagonal, too, as the released code does."""

    def __post_init__(self) -> None:
        _settle(self)


Weighting = Literal["none", "class", "image", "batch"]


@dataclass(frozen=True)
class LossConfig:
    """The cross-entropy, with the forms that RobustNet offers. Those for images and borders leave the auxiliary head out."""

    weighting: Weighting = _option("result", "none")
    """Weights of the classes: none, fixed ones (class), or by how rare each is in its image (image) or in the batch (batch)."""
    class_weights: list[float] | None = _option("result", None, above=0, noun="every weight")
    """For the weighting 'class', a weight for each class; default: RobustNet's for the 19 Cityscapes classes."""
    bound: float = _option("result", 1.0, least=0)
    """For the weightings 'image' and 'batch': how much more than 1 the rarest class may weigh."""
    border: int = _option("result", 0, least=0, zero="none", unit="pixels")
    """A pixel with other classes within so many pixels may have any of them (label relaxation); 0 for none, RobustNet's is 1."""
    border_until: float = _option("result", 1.0, least=0, most=1, noun="a fraction of the run")
    """Share of the run after which borders count like any pixel."""
    strict: list[int] = _option("result", factory=list)
    """Numbers of the classes that keep their own label at a border."""

    def __post_init__(self) -> None:
        _settle(self)
        _require(
            self.class_weights is None or self.weighting == "class",
            f"model.loss.class_weights is {self.class_weights}: it goes with loss.weighting class, which is {self.weighting}",
        )


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    backbone: str = _option("result", "resnet50", compared="backbone")
    """Feature extractor: resnet18, resnet50, resnet101, mobilenet_v2 or shufflenet_v2."""
    decoder: str = _option("result", "deeplabv3plus", compared="decoder")
    """What joins the backbone's feature maps: deeplabv3plus."""
    output_stride: int = _option("result", 16, choices=OUTPUT_STRIDES, compared="output stride")
    """Image size divided by the size of the deepest feature map: 8, 16 or 32. Smaller is finer and costs more."""
    weights: str | None = _option("result", "imagenet", compared="start of the backbone")
    """Where the backbone starts: 'imagenet' (downloaded by torchvision), a local file (FILE#NAME for one of several networks in it), or null for random values."""
    style: StyleConfig = field(default_factory=StyleConfig)
    """Style projection."""
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    """Semantic clustering."""
    whitening: WhiteningConfig = field(default_factory=WhiteningConfig)
    """The whitening losses."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The cross-entropy."""
    norms: dict[str, str] | list[int] | None = _option("result", None)
    """Instance norms in the backbone: slot (stem, layer1 … layer4) → kind (ibn, is, iw, irw, isw, sw), or RobustNet's seven wt_layer codes. Default: what the method's name says."""
    auxiliary_weight: float = _option("result", 0.0, least=0, noun="a loss weight", zero="off")
    """Weight of the loss of an auxiliary head on the third stage; 0 builds none. RobustNet's is 0.4."""
    settings: dict[str, Any] = _option("result", factory=dict)
    """Settings that only this method has, by name; docs/methods.md lists them."""

    def __post_init__(self) -> None:
        _settle(self)


@dataclass(frozen=True)
class DomainSpec:
    """One domain, as it is written in a recipe: `SET[/SUBSET][@SPLIT][+STYLE]`.

    `camvid` is a data set, `streets/night` a subset of one (there: a rendering style), `idd_lite@train` a split of
    one, and `cityscapes+fog` a set whose images get a weather style put on.
    """

    dataset: str
    subset: str | None = None
    split: str | None = None
    style: str | None = None

    @classmethod
    def parse(cls, text: str) -> "DomainSpec":
        """Read a domain from its written form.

        Raises:
            UsageError: the text is not of the form `SET[/SUBSET][@SPLIT][+STYLE]`.
        """
        found = re.fullmatch(r"(\w+)(?:/(\w+))?(?:@(\w+))?(?:\+(\w+))?", text)
        if found is None:
            raise UsageError(
                f"cannot read the domain {text!r}: write SET[/SUBSET][@SPLIT][+STYLE], for example camvid, "
                "streets/night, idd_lite@train or cityscapes+fog"
            )
        return cls(*found.groups())

    def __str__(self) -> str:
        parts = [self.dataset]
        parts += [f"/{self.subset}"] if self.subset else []
        parts += [f"@{self.split}"] if self.split else []
        parts += [f"+{self.style}"] if self.style else []
        return "".join(parts)


Color = tuple[int, int, int]
"""Red, green and blue, each 0..255."""

_COLOR = re.compile(r"[\[(]?\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*[\])]?")


def read_color(written: object) -> Color | None:
    """The RGB colour that is written as `[128, 64, 128]`, `"128, 64, 128"` or `"#804080"`; None for anything else.

    >>> read_color("128, 64, 128"), read_color("#804080"), read_color([128, 64, 128]), read_color("road")
    ((128, 64, 128), (128, 64, 128), (128, 64, 128), None)
    """
    if isinstance(written, str):
        if re.fullmatch(r"#[0-9a-fA-F]{6}", written.strip()):
            written = bytes.fromhex(written.strip()[1:])
        elif numbers := _COLOR.fullmatch(written.strip()):
            written = [int(number) for number in numbers.groups()]
    if not isinstance(written, (list, tuple, bytes)) or len(written) != 3:
        return None
    red, green, blue = written
    if not all(type(channel) is int and 0 <= channel <= 255 for channel in (red, green, blue)):
        return None
    return red, green, blue


@dataclass(frozen=True)
class OwnSet:
    """A data set of your own: where its files lie, and what its labels mean, by their numbers, their colours, or both."""

    images: str
    """Pattern of the photos below the root, photos/{split}/**/*.jpg: * stands for any name, **/ for any folders, {split} for the split."""
    labels: str | list[str]
    """Pattern of the label images, with the same stars: masks/{split}/**/*_mask.png is the label of what the stars stand for. Of several patterns, the first by which a photo has a label."""
    table: dict[int, str] = field(default_factory=dict)
    """Number in the label image, 0..65535 → name of the class, as the label space knows it; void for what is not labelled."""
    splits: list[str] = field(default_factory=lambda: ["train", "val"])
    """Splits, the one to train on first, the one to test on last."""
    colors: dict[Any, str | list[int] | list[list[int] | str]] = field(default_factory=dict)
    """Colour in the label image → name of the class, "128, 64, 128": road; or name → colour, or list of colours, road: [128, 64, 128]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", coerced(list[str], self.splits))
        _require(
            isinstance(self.splits, list) and all(isinstance(split, str) for split in self.splits),
            f"data.sets: splits is {self.splits!r}: it must be a list of names, such as [train, val]",
        )
        _require(bool(self.splits), "data.sets: splits is empty: name at least one")
        for option, patterns in (("images", [self.images]), ("labels", self.label_patterns)):
            _require(bool(patterns), f"data.sets: {option} is empty: name at least one pattern")
            for pattern in patterns:
                self._check_pattern(option, pattern)
        _require(
            bool(self.table or self.colors),
            "data.sets: table is empty, and so is colors: name the class of each number or colour in the label images",
        )
        _require(
            isinstance(self.table, dict) and all(isinstance(name, str) for name in self.table.values()),
            f"data.sets: table is {self.table!r}: it must give each number in the label images the name of a class",
        )
        strange = [number for number in self.table if type(number) is not int or not 0 <= number <= 65535]
        _require(not strange, f"data.sets: table has the numbers {strange}: label images hold 0..65535")
        # One form, whichever it was written in, so that what is stored reads as what was meant.
        found = {", ".join(map(str, color)): name for color, name in self._named_colors().items()}
        object.__setattr__(self, "colors", found)

    @property
    def label_patterns(self) -> list[str]:
        """The patterns of the label images, the preferred one first."""
        return self.labels if isinstance(self.labels, list) else [self.labels]

    @property
    def color_table(self) -> dict[Color, str]:
        """RGB colour in the label images → name of the class."""
        return self._named_colors()

    def _check_pattern(self, option: str, pattern: object) -> None:
        _require(
            isinstance(pattern, str),
            f"data.sets: the pattern {option} is {pattern!r}: write a path below the set's root, with stars",
        )
        assert isinstance(pattern, str)
        _require(
            not Path(pattern).is_absolute() and ".." not in Path(pattern).parts,
            f"data.sets: the pattern {option} is {pattern!r}: it is a path below the set's root",
        )
        _require(
            len(self.splits) == 1 or "{split}" in pattern,
            f"data.sets: the pattern {option} is {pattern!r}: with several splits it says {{split}} where they differ",
        )
        _require(
            self.images.count("*") == pattern.count("*") > 0,
            f"data.sets: images is {self.images!r} and labels is {pattern!r}: both must have the same stars, at least one",
        )

    def _named_colors(self) -> dict[Color, str]:
        rule = (
            'write each colour as "128, 64, 128" or "#804080", in quotes, or [128, 64, 128], with the name of its class; '
            "or the name of a class with its colour or a list of colours"
        )
        _require(isinstance(self.colors, dict), f"data.sets: colors is {self.colors!r}: {rule}")
        names: dict[Color, str] = {}
        for key, value in self.colors.items():
            color, single = read_color(key), read_color(value)
            name: object
            several: list[Color | None]
            if color is not None:
                name, several = value, [color]
            elif single is not None:
                name, several = key, [single]
            else:
                name, several = key, [read_color(one) for one in value] if isinstance(value, list) else []
            right = bool(several) and None not in several and isinstance(name, str) and name != ""
            _require(right, f"data.sets: colors has {key!r}: {value!r}: {rule}")
            for one in several:
                assert one is not None
                known = names.setdefault(one, str(name))
                _require(
                    known == name, f"data.sets: colors gives {one} to {known} and to {name}: a colour has one class"
                )
        return names


@dataclass(frozen=True)
class AugmentationConfig:
    """What happens to a training image, in this order; RobustNet's values."""

    scale: tuple[float, float] = _option("result", (0.5, 2.0), above=0, rising=True, noun="both factors")
    """Range of the random factor on the image's size."""
    flip: float = _option("result", 0.5, least=0, most=1, noun="a probability")
    """Probability of a left-right flip."""
    jitter: float = _option("result", 0.5, least=0, most=1, noun="a probability")
    """Probability of a change of brightness, contrast, saturation (each ±0.4) and hue (±0.1)."""
    blur: tuple[float, float] | None = _option("result", (0.15, 1.3), above=0, rising=True, noun="both values")
    """Range of the standard deviation of a Gaussian blur, in pixels; null for none."""
    styles: list[str] = _option("result", factory=list)
    """Weather and road styles of which an image gets one; empty for none (`spcnet data styles` shows them)."""
    style_probability: float = _option("result", 0.5, least=0, most=1, noun="a probability")
    """Probability that an image gets one of the styles."""
    style_strength: tuple[float, float] = _option(
        "result", (0.3, 1.0), least=0, most=1, rising=True, noun="both values"
    )
    """Range of the strength of a style."""

    def __post_init__(self) -> None:
        _settle(self)
        doubled = sorted({s for s in self.styles if self.styles.count(s) > 1})
        _require(not doubled, f"data.augmentation.styles names {', '.join(doubled)} twice")


@dataclass(frozen=True)
class DataConfig:
    """What is trained on and what is tested on."""

    sources: list[str] = _option("result", factory=lambda: ["streets/game", "streets/toy"], compared="sources")
    """Domains to train on, each SET[/SUBSET][@SPLIT]; their order gives the domain index."""
    targets: list[str] = _option(
        "result",
        factory=lambda: [f"streets/{s}" for s in ("overcast", "dusk", "night", "fog", "rain", "snow")],
        compared="targets",
    )
    """Domains to test on that are never trained on, each SET[/SUBSET][@SPLIT][+STYLE]."""
    space: str = _option("result", "cityscapes19", compared="label space")
    """Label space: cityscapes19, or a named merge such as idd7."""
    roots: dict[str, str] = _option("place", factory=dict)
    """Folder of each data set that lies on disk, by the set's name."""
    root: str | None = _option("place", None)
    """Folder that holds one folder for each data set, named as the set is; for those that data.roots leaves out."""
    sets: dict[str, OwnSet] = _option("result", factory=dict)
    """Data sets of your own, by the name that sources and targets give them."""
    exclude: list[str] = _option("result", factory=list)
    """Files that list images to leave out, as `spcnet data check` writes them."""
    on_bad_image: Literal["stop", "skip"] = _option("result", "stop")
    """What an unreadable image or label does: stop the run, or skip it, which is counted, listed and reported."""
    sampling: Literal["balanced", "proportional", "alternating"] = _option("schedule", "balanced")
    """What a training batch holds: as many images of each source (balanced), of all sources as they come (proportional), or of one source, another each step (alternating)."""
    class_uniform: float = _option("schedule", 0.0, least=0, most=1, noun="a fraction")
    """Share of the images that are drawn class by class, the crop around that class; 0 for none, RobustNet's is 0.5."""
    tile: int = _option("result", 1024, least=16, unit="pixels")
    """Side in pixels of the tiles of an image in which the centre of each class is looked for, for data.class_uniform."""
    pseudo_domains: int = _option("result", 0, least=0, zero="none")
    """Above 0: divide the only source into so many domains; the paper has 10."""
    pseudo_by: Literal["style", "cluster", "random"] = _option("result", "style")
    """What divides it: the style that augmentation gave the image, clusters of the style statistics during training, or chance."""
    size: tuple[int, int] | None = _option(
        "result", (128, 256), least=33, unit="pixels", noun="height and width", compared="image size"
    )
    """Height and width in pixels that every image is brought to; null leaves each as large as it is."""
    crop: tuple[int, int] | None = _option("result", None, least=33, unit="pixels", noun="height and width")
    """Height and width of the piece of an image, brought to that size, that is trained on; default: data.size."""
    images_per_domain: int = _option("result", 4, least=1, compared="images per domain in a batch")
    """Images of each source in a training batch."""
    workers: int = _option("place", 1, least=0, zero="none beside the one that trains")
    """Processes that prepare training images beside the one that trains; 0 prepares them in the same."""
    train_scenes: int = _option("schedule", 2000, least=1, compared="number of training scenes")
    """Generated scenes to train on, for the set `streets`."""
    test_scenes: int = _option("result", 100, least=1, compared="number of test scenes")
    """Generated scenes to test on, for the set `streets`; never among those trained on."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """What happens to a training image."""

    def __post_init__(self) -> None:
        _settle(self)
        for option in ("sources", "targets"):
            for text in getattr(self, option):
                DomainSpec.parse(text)
        _require(len(self.sources) >= 1, "data.sources is empty: name at least one domain to train on")
        doubled = sorted({s for s in self.sources if self.sources.count(s) > 1})
        _require(not doubled, f"data.sources names {', '.join(doubled)} twice: each source is one domain")
        both = sorted(set(self.sources) & set(self.targets))
        _require(not both, f"{', '.join(both)} stands in data.sources and data.targets: a target is never trained on")
        _require(
            self.pseudo_domains == 0 or (self.pseudo_domains >= 2 and len(self.sources) == 1),
            f"data.pseudo_domains is {self.pseudo_domains} with {len(self.sources)} sources: it divides a single source, "
            "into two or more; 0 for not at all",
        )
        _require(
            self.pseudo_domains == 0
            or self.pseudo_by != "style"
            or len(self.augmentation.styles) >= self.pseudo_domains - 1,
            f"data.pseudo_domains is {self.pseudo_domains} by style, but data.augmentation.styles has "
            f"{len(self.augmentation.styles)}: one domain is the images as they are, each other needs a style of its own",
        )
        _require(
            self.pseudo_domains == 0 or self.pseudo_by != "style" or 0 < self.augmentation.style_probability < 1,
            f"data.augmentation.style_probability is {self.augmentation.style_probability}: with domains by style there "
            "must be images with a style and images without",
        )
        _require(
            self.size is not None or self.crop is not None,
            "data.size is null: name data.crop, for images of a batch must be of one size",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """The loop: stochastic gradient descent for a number of iterations."""

    iterations: int = _option("schedule", 40_000, least=1, compared="number of iterations")
    """Optimiser steps."""
    learning_rate: float = _option("schedule", 0.01, above=0)
    """Learning rate at the start."""
    momentum: float = _option("result", 0.9, least=0, below=1)
    """Momentum of stochastic gradient descent."""
    weight_decay: float = _option("result", 5e-4, least=0)
    """Weight decay."""
    poly_power: float = _option("schedule", 0.9, least=0)
    """Exponent of the schedule: the learning rate falls as (1 - iteration/iterations)^power."""
    restart: float = _option("schedule", 1.0, above=0, most=1, noun="a fraction of the run")
    """Share of the run after which the schedule starts anew (RobustNet's scl-poly, there when borders stop being relaxed); 1 for never."""
    restart_factor: float = _option("schedule", 1.0, above=0)
    """Factor on the learning rate at the restart."""
    restart_power: float = _option("schedule", 1.5, least=0)
    """Exponent of the schedule after the restart."""
    seed: int = _option("order", 0, least=0)
    """Seed of everything random."""
    log_every: int = _option("place", 20, least=1)
    """Iterations between two lines of the training log."""
    checkpoint_every: int = _option("place", 500, least=1)
    """Iterations between two checkpoints."""
    evaluate_every: int = _option("place", 0, least=0, zero="at the end only")
    """Iterations between two evaluations during training; 0 evaluates at the end only."""
    accelerator: str = _option("place", "auto")
    """Where to compute: auto, cpu, cuda or mps."""
    devices: int | str = _option("place", 1)
    """How many devices, a process on each, or 'auto' for all; what torchrun or srun started needs no number."""
    nodes: int = _option("place", 1, least=1)
    """How many machines with so many devices each."""
    accumulate: int = _option("result", 1, least=1)
    """Parts of a batch that are looked at one after the other before an optimiser step, so that only one has to fit into memory; data.images_per_domain is of one part and process."""
    freeze_batchnorm: bool = _option("result", False)
    """Batch norms keep the statistics that they have, for small batches or a finished network."""
    precision: Precision = _option("result", "32-true")
    """Precision: 32-true, bf16-mixed, 16-mixed or 64-true."""
    deterministic: bool = _option("place", True)
    """Refuse operations that do not repeat bit for bit, where the device offers others."""
    profile: int = _option("place", 0, least=0, zero="off", unit="steps")
    """Steps, after a warm-up, whose operations are timed by torch.profiler and written to the run's folder profile/; 0 for none."""
    compile: bool = _option("place", False)
    """Translate the network's forward and backward into code for this device first (torch.compile): the first step takes minutes, the others are faster."""
    activation_checkpointing: bool = _option("place", False)
    """Compute backbone and decoder anew for their gradients instead of keeping what they computed: less memory, more time; the losses are the same."""

    def __post_init__(self) -> None:
        _settle(self)


@dataclass(frozen=True)
class EvaluationConfig:
    """How a trained network is scored: at the size of the labels; by default in whole images, at one scale."""

    batch_size: int = _option("place", 8, least=1)
    """Images scored together."""
    panels: int = _option("place", 4, least=0)
    """Images of each domain whose prediction is kept for the report."""
    limit: int = _option("result", 0, least=0, zero="all", compared="limit of scored images")
    """Score only the first so many images of each domain; 0 scores all."""
    window: tuple[int, int] | None = _option("result", None, least=33, unit="pixels", noun="height and width")
    """Height and width in pixels of a window that slides over each image; null looks at the whole image."""
    overlap: float = _option("result", 0.3333)
    """Share of a window that the next one covers, too."""
    window_weights: Literal["uniform", "hann"] = _option("result", "uniform")
    """How much the pixels of a window count where windows overlap: all alike, or less towards its border."""
    scales: list[float] = _option("result", factory=lambda: [1.0], above=0, noun="every factor")
    """Factors on the image's size; the probabilities at all of them are averaged."""
    flip: bool = _option("result", False)
    """Look at the mirror image of each image, too."""

    def __post_init__(self) -> None:
        _settle(self)
        _require(0 <= self.overlap < 1, f"evaluation.overlap is {self.overlap}: a share of a window, below 1")

    @property
    def views(self) -> str | None:
        """How images are looked at, in words; None where it is one look at the whole image."""
        window = [] if self.window is None else [f"windows of {self.window[0]}×{self.window[1]}, {self.window_weights}"]
        if self.window is not None and self.overlap != type(self).overlap:
            window[0] += f", overlap {self.overlap:g}"
        scales = [] if self.scales == [1.0] else [f"scales {', '.join(f'{scale:g}' for scale in self.scales)}"]
        return "; ".join([*window, *scales, *(["mirrored"] if self.flip else [])]) or None


@dataclass(frozen=True)
class LoggingConfig:
    """What is told of a run while it trains, beside train.jsonl and TensorBoard's losses."""

    every: int = _option("place", 500, least=0, zero="off")
    """Iterations between two sample predictions, histograms of style weights and prototype similarities on TensorBoard; 0 for none."""
    wandb: str | None = _option("place", None)
    """Project of Weights & Biases that gets the figures, too; needs pip install wandb."""
    mlflow: str | None = _option("place", None)
    """Address of MLflow, such as http://localhost:5000 or sqlite:///mlflow.db, that gets the figures, too; needs pip install mlflow."""

    def __post_init__(self) -> None:
        _settle(self)
        for name in ("wandb", "mlflow"):
            value = getattr(self, name)
            _require(value is None or value.strip() != "", f"logging.{name} is empty: name one, or leave it out")


@dataclass(frozen=True)
class RunConfig:
    """A run from beginning to end: which method, on what, for how long."""

    method: str = _option("result", "spcnet")
    """Name of a method in `spcnet.METHODS`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is trained and tested on."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """The training loop."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How the result is scored."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """What is told of it meanwhile."""
    output: Path = _option("place", Path("runs/spcnet"))
    """Folder of the run: its log, checkpoints and results."""
    expected: str = _option("place", "")
    """What this recipe should give, in words and figures with their source; not used by the program."""

    def __post_init__(self) -> None:
        _settle(self)
        _require(
            self.training.accumulate == 1 or self.model.loss.weighting != "batch",
            f"training.accumulate is {self.training.accumulate} and model.loss.weighting is batch, whose weights depend on "
            "the labels of all parts: choose the weighting image, or one part",
        )


def recipes_folder() -> Path:
    """Where the recipes that come with this package lie: inside an installed one, beside the source of a checkout."""
    package = Path(__file__).parent
    beside = package.parent / "recipes"
    return beside if (package.parent / "pyproject.toml").is_file() and beside.is_dir() else package / "recipes"


def recipe_path(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with this package, such as `real-small/spcnet`.

    Raises:
        UsageError: there is neither.
    """
    given = Path(name)
    if given.is_file():
        return given
    folder = recipes_folder()
    own = {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}
    found = own.get(name.removeprefix("recipes/").removesuffix(".yaml"))
    if found is None:
        raise UsageError(f"there is no recipe {name}: give a YAML file, or one of {', '.join(own)}")
    return found


def from_dict(kind: type[T], values: Mapping[Any, Any]) -> T:
    """The opposite of `as_dict` for one of the classes above.

    Raises:
        UsageError: a key is unknown or a value is of the wrong kind.
    """
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints), key=str)
    _require(
        not unknown,
        f"unknown {'option' if len(unknown) == 1 else 'options'} {', '.join(map(str, unknown))} in {kind.__name__}: it has "
        f"{', '.join(hints)}",
    )
    fields = [f for f in dataclasses.fields(kind) if f.init] if dataclasses.is_dataclass(kind) else []
    needed = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in needed if name not in values]
    _require(
        not missing, f"{kind.__name__} lacks {' and '.join(missing)}: name {'it' if len(missing) == 1 else 'them'}"
    )
    filled: dict[str, Any] = {}
    for key, value in values.items():
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
            filled[key] = from_dict(hint, value)
        elif dataclasses.is_dataclass(hint) and isinstance(hint, type) and not isinstance(value, hint):
            _require(value is None, f"{key} is {value!r}: it must map options to values")  # None: all are the defaults
            filled[key] = hint()
        elif get_origin(hint) is dict and isinstance(value, Mapping) and dataclasses.is_dataclass(get_args(hint)[1]):
            filled[key] = {name: from_dict(get_args(hint)[1], one) for name, one in value.items()}
        elif get_origin(hint) is dict and isinstance(value, Mapping) and get_args(hint)[0] is int:
            filled[key] = {int(number) if str(number).isdigit() else number: one for number, one in value.items()}
        else:
            filled[key] = coerced(hint, value)
    try:
        return kind(**filled)
    except TypeError as error:
        raise UsageError(f"{kind.__name__} cannot be read: {' '.join(str(error).split())}") from error


def settled(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Stored settings of any version, with the values of the known options as their types have them.

    What is not known, or cannot be brought to its type, stays as it is.
    """
    known = options()
    result: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if path in known:
            result[key] = as_dict(_settled(known[path].hint, value))
        elif isinstance(value, Mapping):
            result[key] = settled(value, f"{path}.")
        else:
            result[key] = value
    return result


def _settled(hint: Any, value: Any) -> Any:
    """As `coerced`; what a mapping holds by name, such as `data.sets`, has the fields of its class, which a later version may add to."""
    if get_origin(hint) is dict and dataclasses.is_dataclass(get_args(hint)[1]) and isinstance(value, Mapping):
        kind: Any = get_args(hint)[1]
        found = dict(value)
        for name, one in value.items():
            with suppress(UsageError):
                found[name] = from_dict(kind, one) if isinstance(one, Mapping) else one
        return found
    return coerced(hint, value)


def as_dict(config: Any) -> Any:
    """A configuration as plain values that JSON and YAML can hold."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: as_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, (list, tuple)):
        return [as_dict(item) for item in config]
    if isinstance(config, dict):
        return {key: as_dict(value) for key, value in config.items()}
    return str(config) if isinstance(config, Path) else config


def read_sets(path: Path) -> dict[str, OwnSet]:
    """The data sets of one's own that a file describes, by name.

    Args:
        path: a YAML file in UTF-8 that maps names to sets, `mytown: {images: ..., labels: ..., table: ...}`; or a recipe
            or a run's `config.yaml` that has them under `data.sets`; or has nothing but them, under `sets`.

    Raises:
        DataError: the file cannot be read, or is no YAML in UTF-8.
        UsageError: it describes no set, or one wrongly.
    """
    rule = "it must map the name of each set to its images, labels, and table or colors; or be a recipe with data.sets"
    values: Any = read_yaml(path.expanduser(), "file of data sets")
    _require(bool(values), f"{path} describes no data set: {rule}")
    data = values.get("data")
    if isinstance(data, dict) and "images" not in data:
        values = data.get("sets")
        _require(isinstance(values, dict) and bool(values), f"{path} is a recipe without data.sets: {rule}")
    elif [*values] == ["sets"] and isinstance(values["sets"], dict) and not {"images", "labels"} & {*values["sets"]}:
        values = values["sets"]
        _require(bool(values), f"{path} describes no data set: {rule}")
    sets: dict[str, OwnSet] = {}
    for name, described in values.items():
        _require(isinstance(described, dict), f"{path}: {name} is {described!r} and no data set: {rule}")
        try:
            sets[str(name)] = from_dict(OwnSet, described)
        except UsageError as error:
            raise UsageError(f"{path}: {name}: {error}") from None
    return sets

"""How domains and data sets of one's own are written."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spcnet.config.options import coerced, require
from spcnet.errors import UsageError


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
        match = re.fullmatch(r"(\w+)(?:/(\w+))?(?:@(\w+))?(?:\+(\w+))?", text)
        if match is None:
            raise UsageError(
                f"cannot read the domain {text!r}: write SET[/SUBSET][@SPLIT][+STYLE], for example camvid, "
                "streets/night, idd_lite@train or cityscapes+fog"
            )
        return cls(*match.groups())

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
        require(
            isinstance(self.splits, list) and all(isinstance(split, str) for split in self.splits),
            f"data.sets: splits is {self.splits!r}: it must be a list of names, such as [train, val]",
        )
        require(bool(self.splits), "data.sets: splits is empty: name at least one")
        for option, patterns in (("images", [self.images]), ("labels", self.label_patterns)):
            require(bool(patterns), f"data.sets: {option} is empty: name at least one pattern")
            for pattern in patterns:
                self._check_pattern(option, pattern)
        require(
            bool(self.table or self.colors),
            "data.sets: table is empty, and so is colors: name the class of each number or colour in the label images",
        )
        require(
            isinstance(self.table, dict) and all(isinstance(name, str) for name in self.table.values()),
            f"data.sets: table is {self.table!r}: it must give each number in the label images the name of a class",
        )
        strange = [number for number in self.table if type(number) is not int or not 0 <= number <= 65535]
        require(not strange, f"data.sets: table has the numbers {strange}: label images hold 0..65535")
        # One form, whichever it was written in, so that what is stored reads as what was meant.
        names = {", ".join(map(str, color)): name for color, name in self._named_colors().items()}
        object.__setattr__(self, "colors", names)

    @property
    def label_patterns(self) -> list[str]:
        """The patterns of the label images, the preferred one first."""
        return self.labels if isinstance(self.labels, list) else [self.labels]

    @property
    def color_table(self) -> dict[Color, str]:
        """RGB colour in the label images → name of the class."""
        return self._named_colors()

    def _check_pattern(self, option: str, pattern: object) -> None:
        require(
            isinstance(pattern, str),
            f"data.sets: the pattern {option} is {pattern!r}: write a path below the set's root, with stars",
        )
        assert isinstance(pattern, str)
        require(
            not Path(pattern).is_absolute() and ".." not in Path(pattern).parts,
            f"data.sets: the pattern {option} is {pattern!r}: it is a path below the set's root",
        )
        require(
            len(self.splits) == 1 or "{split}" in pattern,
            f"data.sets: the pattern {option} is {pattern!r}: with several splits it says {{split}} where they differ",
        )
        require(
            self.images.count("*") == pattern.count("*") > 0,
            f"data.sets: images is {self.images!r} and labels is {pattern!r}: both must have the same stars, at least one",
        )

    def _named_colors(self) -> dict[Color, str]:
        rule = (
            'write each colour as "128, 64, 128" or "#804080", in quotes, or [128, 64, 128], with the name of its class; '
            "or the name of a class with its colour or a list of colours"
        )
        require(isinstance(self.colors, dict), f"data.sets: colors is {self.colors!r}: {rule}")
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
            require(right, f"data.sets: colors has {key!r}: {value!r}: {rule}")
            for one in several:
                assert one is not None
                known = names.setdefault(one, str(name))
                require(
                    known == name, f"data.sets: colors gives {one} to {known} and to {name}: a colour has one class"
                )
        return names

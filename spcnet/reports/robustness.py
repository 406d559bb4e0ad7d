"""The robustness card: what it holds, its summary and its tables.

mPC and rPC are those of Michaelis et al. (2019): the mean score over the corruptions of the benchmark and over their
severities, and its fraction of the score on clean images. Only the fifteen corruptions of the benchmark count in them;
the four of the family `extra` and the weather styles have means of their own.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rich.console
import rich.measure
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from spcnet.formatting import markdown_table, percent
from spcnet.reports.html import counted
from spcnet.reports.plain import to_plain

CLEAN = "clean"
"""The condition in which images are as they are."""
STYLE = "+"
"""Before the name of a weather style, as in a domain's name."""
BENCHMARK = ("noise", "blur", "weather", "digital")
"""Families of corruptions whose mean is mPC."""
STYLES = "styles"
"""What all families of weather styles are together."""


@dataclass(frozen=True)
class Score:
    """What a network makes of a set in one condition."""

    miou: float
    """0..1; NaN where no class occurs."""
    iou: tuple[float, ...]
    """Of each class; NaN for one in neither the truth nor the prediction."""
    pixel_accuracy: float
    """Share of the labelled pixels that are right."""


@dataclass(frozen=True)
class ModelScores:
    """A network with all its scores."""

    label: str
    method: str
    backbone: str
    sources: tuple[str, ...]
    """Domains it was trained on."""
    styles: tuple[str, ...]
    """Weather styles it was trained with."""
    size: tuple[int, int] | None
    """Height and width that images were brought to."""
    precision: str
    scores: Mapping[str, Mapping[int, Score]]
    """By condition and severity; `clean` has the severity 0."""

    @property
    def clean(self) -> float:
        """Its mIoU on the images as they are."""
        return self.scores[CLEAN][0].miou

    def mean(self, condition: str) -> float:
        """Its mIoU in a condition, averaged over the severities."""
        return mean([score.miou for score in self.scores[condition].values()])


@dataclass(frozen=True)
class WorstCase:
    """An image on which networks lose much."""

    image: str
    condition: str
    severity: int
    clean: tuple[float, ...]
    """Each network's mean IoU on the clean image, over the classes it shows."""
    corrupted: tuple[float, ...]
    """The same in this condition."""
    pictures: tuple[str, ...] = ()
    """Names of the files: the image, its truth, what each network sees."""


@dataclass(frozen=True)
class Card:
    """Networks scored on a set in many conditions."""

    domain: str
    images: int
    space: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    families: Mapping[str, str]
    """Family of each condition, in the order in which they are shown."""
    severities: tuple[int, ...]
    models: tuple[ModelScores, ...]
    worst: tuple[WorstCase, ...] = ()
    seed: int = 0
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def conditions(self) -> list[str]:
        """All of them but `clean`."""
        return [name for name in self.families if name != CLEAN]

    @property
    def groups(self) -> dict[str, list[str]]:
        """Conditions by family; those of all styles under `styles`."""
        grouped: dict[str, list[str]] = {}
        for name in self.conditions:
            grouped.setdefault(self.group_of(name), []).append(name)
        return grouped

    @property
    def style_families(self) -> dict[str, list[str]]:
        """Weather styles by their family."""
        grouped: dict[str, list[str]] = {}
        for name in self.groups.get(STYLES, []):
            grouped.setdefault(self.families[name], []).append(name)
        return grouped

    def group_of(self, condition: str) -> str:
        """The key of a condition in `groups`."""
        return STYLES if condition.startswith(STYLE) else self.families[condition]

    @property
    def description(self) -> str:
        """The set with its number of images and label space."""
        return f"{self.domain} ({counted(self.images, 'image')}, {self.space})"

    @property
    def severity_range(self) -> str:
        """The severities in words."""
        low, high = self.severities[0], self.severities[-1]
        without_gaps = len(self.severities) == high - low + 1 and low < high
        return f"{low} to {high}" if without_gaps else ", ".join(map(str, self.severities))

    @property
    def benchmark(self) -> list[str]:
        """The corruptions that count in mPC."""
        return [name for name in self.conditions if self.families[name] in BENCHMARK]


@dataclass(frozen=True)
class Summary:
    """A network's card in a few figures; what was not scored is NaN."""

    clean: float
    mpc: float
    """Mean mIoU over the corruptions of the benchmark and their severities."""
    rpc: float
    """Its fraction of the clean one."""
    families: Mapping[str, float]
    """Mean mIoU over the conditions of each family and their severities."""


def summary(card: Card, model: ModelScores) -> Summary:
    """The means of a network's scores; each corruption weighs alike in its family, and in mPC."""
    mpc = mean([model.mean(name) for name in card.benchmark])
    families = {
        family: mean([model.mean(name) for name in names])
        for family, names in (*card.groups.items(), *card.style_families.items())
    }
    return Summary(model.clean, mpc, ratio(mpc, model.clean), families)


def as_json(card: Card) -> dict[str, Any]:
    """The card as plain values, with the summaries; what is not a number is None."""
    values: dict[str, Any] = to_plain(card)
    for model, entry in zip(card.models, values["models"], strict=True):
        entry["summary"] = to_plain(summary(card, model))
        entry["relative"] = to_plain({name: ratio(model.mean(name), model.clean) for name in card.conditions})
    return values


class _Overview:
    """The networks by family: a line for each network or, where a terminal is too narrow for that, a column."""

    def __init__(self, card: Card) -> None:
        header, rows = overview(card)
        labels = [_label(model) for model in card.models]
        title, figures = f"mIoU in % on {card.domain}", (Column(head, justify="right", no_wrap=True) for head in header)
        self.wide = _grid(title, Column("network", overflow="fold"), *figures)
        for label, cells in zip(labels, rows, strict=True):
            self.wide.add_row(label, *cells)
        self.narrow = _grid(title, Column("", no_wrap=True), *map(_network, card.models))
        for head, *cells in zip(header, *rows, strict=True):
            self.narrow.add_row(head, *cells)

    def __rich_console__(self, console: rich.console.Console, options: rich.console.ConsoleOptions) -> Any:
        needed = rich.measure.Measurement.get(console, options.update(max_width=1000), self.wide).minimum
        yield self.wide if needed <= options.max_width else self.narrow


def _grid(title: str, *columns: Column) -> Table:
    # Narrow gaps: ten columns beside the names have to fit into a terminal of 80.
    return Table(*columns, title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _label(model: ModelScores) -> Text:
    return Text(folded(model.label))


def _network(model: ModelScores) -> Column:
    return Column(_label(model), justify="right", overflow="fold")


def render_terminal(card: Card) -> list[rich.console.RenderableType]:
    """Two tables for a terminal: of the networks, and with a line for each condition."""
    title = "Mean over the severities, and its fraction of clean, in %"
    detail = _grid(title, Column("condition", no_wrap=True), *map(_network, card.models))
    for names in card.groups.values():
        for name in names:
            cells = [_with_share(model, name) for model in card.models]
            detail.add_row(Text(name), *cells, end_section=name == names[-1])
    return [_Overview(card), detail]


def to_markdown(card: Card) -> str:
    """The tables as Markdown: an overview, then every condition."""
    header, rows = overview(card)
    lines = [f"mIoU in % on {card.description}.", ""]
    lines += markdown_table(
        ["network", *header], [[model.label, *cells] for model, cells in zip(card.models, rows, strict=True)]
    )
    lines += ["", f"Mean over severities {card.severity_range}; in brackets its fraction of the clean score, in %.", ""]
    conditions = [[name, *(_with_share(model, name) for model in card.models)] for name in card.conditions]
    clean = [CLEAN, *(percent(model.clean) for model in card.models)]
    lines += markdown_table(["condition", *(model.label for model in card.models)], [clean, *conditions])
    return "\n".join(lines) + "\n"


def overview(card: Card) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the table with a line for each network."""
    families = list(card.groups)
    benchmark = ["mPC", "rPC"] if card.benchmark else []
    rows = []
    for model in card.models:
        robustness = summary(card, model)
        means = [percent(robustness.mpc), percent(robustness.rpc)] if card.benchmark else []
        rows.append([percent(robustness.clean), *means, *(percent(robustness.families[family]) for family in families)])
    return [CLEAN, *benchmark, *families], rows


def folded(label: str) -> str:
    """A long name on two lines."""
    place = label.find("_", 4) + 1 if len(label) > 12 else 0
    return f"{label[:place]}\n{label[place:]}" if place else label


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def ratio(value: float, clean: float) -> float:
    """Fraction of the clean score; NaN where that is 0."""
    return value / clean if clean else math.nan


def _with_share(model: ModelScores, condition: str) -> str:
    """Mean mIoU in a condition, and in brackets its fraction of the clean one, in per cent."""
    value = model.mean(condition)
    return f"{percent(value)} ({percent(ratio(value, model.clean), 0)})"

"""Published results as data, and when they can stand beside one's own.

Each row names where it was read. Rows that are not verified were read in a copy of a table, not in the authors' own files;
rows of which no source was found are not here. Differences of a point or two between rows say little: the sets, the sizes at
which they were scored, the heads and what the backbones had seen before differ (`CAUTIONS`).
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from spcnet.config import DomainSpec
from spcnet.errors import UsageError
from spcnet.reports.runs import Run

SPACE = "cityscapes19"
"""Label space of all published rows."""
CHOICES = ("auto", "all", "none")
"""What to show: rows that can stand beside the runs, all of them, nothing."""
LEAST_HEIGHT = 512
"""The lowest images, in pixels, at which published rows were scored: Rein brings Cityscapes to 512×1024."""
SETS = ("cityscapes", "bdd100k", "mapillary", "gtav", "synthia", "idd")
"""Data sets in the published rows, in the order in which they are shown."""

CAUTIONS = (
    "Sets: RobustNet and SPC-Net train on 12,388 images of GTAV, SHADE with ResNet-101 on the whole set, Rein and MFuser on all 24,966.",
    "Size: RobustNet scores Cityscapes at 1024×2048, Rein at 512×1024; at 1024×2048 Rein's mean is 66.1 instead of 64.3.",
    "Mapillary: RobustNet brings images to a height of 1536 and scores a square of 1536×1536, SPC-Net's code the middle square, "
    "Rein the whole image in half size, with another map of its classes.",
    "Networks: DeepLabV3+ or Mask2Former, ImageNet, CLIP, EVA02 or DINOv2 weights.",
    "Choice of the iteration: RobustNet keeps the last one; tqdm's training validates on Cityscapes, a target.",
)
"""Why published rows can hardly be compared with each other."""


@dataclass(frozen=True)
class Published:
    """One published result."""

    method: str
    backbone: str
    sources: tuple[str, ...]
    """Names of data sets, as in `spcnet.data.catalog`."""
    scores: Mapping[str, float]
    """mIoU by data set, 0..1; empty where only the mean was published."""
    mean: float | None
    """Over Cityscapes, BDD100K and Mapillary, as printed or, where all three are, from them; None where one is missing."""
    protocol: str
    """Name in `spcnet.evaluation.protocols`, or `own` for the paper's own."""
    paper: str
    """Whose method it is."""
    place: str
    """Where the figures were read."""
    verified: bool
    """Whether they were read in the authors' own files; otherwise in a copy of a table, and not checked."""


def _read(row: Mapping[str, str]) -> Published:
    """A row of `published.csv`, in per cent; a mean that is not printed is that of the three sets, where they are known."""
    scores = {name: float(row[name]) / 100 for name in SETS if row[name]}
    mean = float(row["mean"]) if row["mean"] else None
    if mean is None and all(name in scores for name in SETS[:3]):
        mean = 100 * sum(scores[name] for name in SETS[:3]) / 3
    words = {name: row[name] for name in ("method", "backbone", "protocol", "paper", "place")}
    return Published(
        **words,
        sources=tuple(row["sources"].split("+")),
        scores=scores,
        mean=None if mean is None else mean / 100,
        verified=row["verified"] == "yes",
    )


PUBLISHED = tuple(
    map(_read, csv.DictReader(files(__package__).joinpath("published.csv").read_text(encoding="utf-8").splitlines()))
)
"""Rows with a source, by what they were trained on."""


def set_of(domain: str) -> str | None:
    """The published data set that a domain is, by its name; None for a subset, a style, or another set."""
    try:
        spec = DomainSpec.parse(domain)
    except UsageError:
        return None
    plain = spec.subset is None and spec.style is None and spec.split in (None, "val")
    return spec.dataset if plain and spec.dataset in SETS else None


def obstacles(runs: Sequence[Run]) -> tuple[str, ...]:
    """Why published rows cannot stand beside these runs, a sentence each; none where they can."""
    reasons = []
    for run in runs:
        space, size, limit = (run.setting(path) for path in ("data.space", "data.size", "evaluation.limit"))
        if space != SPACE:
            reasons.append(f"Classes: these runs have the label space {space}, published rows the {SPACE} classes.")
        if not any(set_of(name) for name in run.final.names("unseen")):
            what = f"no unseen domain here is one of {', '.join(SETS)} as it is"
            reasons.append(f"Sets: {what}; generated or restyled streets are others.")
        if isinstance(size, (list, tuple)) and len(size) == 2 and size[0] < LEAST_HEIGHT:
            what = f"images were brought to {size[0]}×{size[1]} here"
            reasons.append(f"Size: {what}; published rows were scored at 512×1024 or 1024×2048.")
        if limit:
            reasons.append(f"Images: only the first {limit} of each domain were scored here.")
        if not any(set(row.sources) == _sources(run) for row in PUBLISHED):
            names = ", ".join(map(str, run.setting("data.sources") or ())) or "not recorded"
            reasons.append(f"Sources: trained on {names} here; no published row is.")
    if len({frozenset(_sources(run)) for run in runs}) > 1:
        reasons.append("Sources: the runs differ in what they were trained on.")
    return tuple(dict.fromkeys(reasons))


def beside(runs: Sequence[Run], *, every: bool = False) -> tuple[Published, ...]:
    """Rows trained on the same sets as the runs, with a figure for what these were scored on.

    Args:
        runs: of the same sources.
        every: take rows that are not verified, too, and those that lack some of the runs' domains.
    """
    targets = {target for run in runs for name in run.final.names("unseen") if (target := set_of(name))}
    mean = targets.issuperset(SETS[:3])

    def fits(row: Published) -> bool:
        if every:
            return not targets.isdisjoint(row.scores) or (mean and row.mean is not None)
        return row.verified and (targets.issubset(row.scores) or (mean and row.mean is not None))

    return tuple(row for row in PUBLISHED if all(set(row.sources) == _sources(run) for run in runs) and fits(row))


def _sources(run: Run) -> set[str]:
    names = run.setting("data.sources")
    specs = [str(name).partition("@") for name in names] if isinstance(names, list) else []
    return {name if split in ("", "train") else f"{name}@{split}" for name, _, split in specs}

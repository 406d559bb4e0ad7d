"""Published results as data, and when they can stand beside one's own.

Each row names where it was read. Rows that are not verified were read in a copy of a table, not in the authors' own files;
rows of which no source was found are not here. Differences of a point or two between rows say little: the sets, the sizes at
which they were scored, the heads and what the backbones had seen before differ (`CAUTIONS`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


def _row(
    method: str,
    backbone: str,
    sources: str,
    scores: Sequence[float | None],
    origin: tuple[str, str, str],
    *,
    mean: float | None = None,
    verified: bool = True,
) -> Published:
    """A row from its figures in per cent, for the sets in the papers' order, and from its protocol, paper and place."""
    protocol, paper, place = origin
    order = _FROM_CITYSCAPES if sources == "cityscapes" else SETS
    known = {name: value / 100 for name, value in zip(order, scores, strict=False) if value is not None}
    if mean is None and all(name in known for name in SETS[:3]):
        mean = 100 * sum(known[name] for name in SETS[:3]) / 3
    return Published(
        method=method,
        backbone=backbone,
        sources=tuple(sources.split("+")),
        scores=known,
        mean=None if mean is None else mean / 100,
        protocol=protocol,
        paper=paper,
        place=place,
        verified=verified,
    )


_CHOI = ("robustnet", "Choi et al., CVPR 2021", "README of RobustNet, means of 3 runs")
_HUANG = "Huang et al., CVPR 2023"
_LOGS = ("spcnet-official", _HUANG, "logs of the official code")
_REIN = ("rein", "Wei et al., CVPR 2024", "README of Rein")
_SCSD = ("own", "SCSD, AAAI 2025", "README of SCSD")
_FUSER = "MFuser (arXiv 2504.03193)"
_TUNE = "Causal-Tune (arXiv 2512.16567)"
_SOMA = ("own", "SoMA", "README of SoMA")
_RECYCLE = ("own", "RecycleLoRA, CVPR 2026 Findings", "arXiv 2603.28142")
_COPY = "a copied table"
_UNKNOWN = "not noted"
_FROM_CITYSCAPES = ("bdd100k", "mapillary", "gtav", "synthia")


def _paper(place: str) -> tuple[str, str, str]:
    return "own", _HUANG, f"the paper, {place}"


def _copied(method: str, place: str) -> tuple[str, str, str]:
    return "own", method, place


PUBLISHED: tuple[Published, ...] = (
    # Trained on GTAV
    _row("DeepLabV3+", "ResNet-101", "gtav", (30.06, 24.85, 31.50), _CHOI),
    _row("IBN-Net", "ResNet-101", "gtav", (33.63, 33.30, 36.50), _CHOI),
    _row("ISW (RobustNet)", "ResNet-101", "gtav", (37.09, 35.37, 38.50), _CHOI),
    _row("SPC-Net", "ResNet-50", "gtav", (44.10, 40.47, 45.62), _LOGS),
    _row("SCSD", "ResNet-50, CLIP text", "gtav", (51.72, 44.67, 56.98, None, 43.08), _SCSD),
    _row("TLDR", "ResNet-50", "gtav", (46.97,), _copied("TLDR", "README of TLDR, released weights")),
    _row("Rein", "ResNet-50", "gtav", (49.1,), _REIN),
    _row("Rein", "ResNet-101", "gtav", (45.9,), _REIN),
    _row("Rein", "DINOv2-S", "gtav", (55.3,), _REIN),
    _row("Rein", "DINOv2-B", "gtav", (64.3,), _REIN),
    _row("Rein, released weights", "DINOv2-L", "gtav", (66.7, 60.0), _REIN),
    *(
        _row(method, backbone, "gtav", scores, _copied(paper, place), verified=False)
        for method, backbone, scores, paper, place in (
            ("SAN-SAW", "ResNet-101", (45.33, 41.18, 40.77), "SAN-SAW", f"Table 1 of {_FUSER}"),
            ("WildNet", "ResNet-101", (45.79, 41.73, 47.08), "WildNet", f"Table 1 of {_FUSER}"),
            ("SHADE", "ResNet-101", (46.66, 43.66, 45.50), "SHADE", f"Table 1 of {_FUSER}"),
            ("TLDR", "ResNet-101", (47.58, 44.88, 48.80), "TLDR", f"Table 1 of {_FUSER}"),
            ("FAMix", "ResNet-101, CLIP", (49.47, 46.40, 51.97), "FAMix", f"Table 1 of {_FUSER}"),
            ("SHADE", "MiT-B5", (53.27, 48.19, 54.99), "SHADE", f"Table 1 of {_FUSER}"),
            ("IBAFormer", "MiT-B5", (56.34, 49.76, 58.26), "IBAFormer", _COPY),
            ("VLTSeg", "CLIP-B", (47.50, 45.70, 54.30), "VLTSeg", _COPY),
            ("CLOUDS", "ConvNeXt-L, CLIP", (60.20, 57.40, 67.00), "CLOUDS", _COPY),
            ("VLTSeg", "EVA02-L", (65.60, 58.40, 66.50), "VLTSeg", _COPY),
            ("Rein", "EVA02-L", (65.30, 60.50, 64.90), "Wei et al., CVPR 2024", _COPY),
            ("tqdm", "EVA02-L", (68.88, 59.18, 70.10), "tqdm", _COPY),
            (
                "frozen backbone",
                "DINOv2-L",
                (63.3, 56.1, 63.9),
                "Wei et al., CVPR 2024",
                "Table 1 of arXiv 2312.04265v5",
            ),
            ("Rein", "DINOv2-L", (66.40, 60.40, 66.10), "Wei et al., CVPR 2024", _COPY),
            ("SET", "DINOv2-L", (68.06, 61.64, 67.68), "SET", _COPY),
            ("FADA", "DINOv2-L", (68.23, None, 68.09), "FADA", _TUNE),
            ("Causal-Tune", "DINOv2-L", (66.22, None, 68.21), "Causal-Tune", _TUNE),
            ("MFuser", "DINOv2-L + CLIP-L", (71.24, 61.08, 71.14), "MFuser", _COPY),
            ("MFuser", "DINOv2-L + EVA02-L", (70.19, 63.13, 71.28), "MFuser", _COPY),
            ("SoMA", "DINOv2-L", (71.82, 61.31, 71.67), "SoMA", "mean: README of SoMA; by set: a copied table"),
        )
    ),
    _row("RecycleLoRA", "EVA02-L", "gtav", (), _RECYCLE, mean=66.35, verified=False),
    _row("RecycleLoRA", "DINOv2-L", "gtav", (73.01, 61.77, 72.07), _RECYCLE, verified=False),
    # Trained on GTAV and SYNTHIA
    _row("SPC-Net", "ResNet-50", "gtav+synthia", (46.36, 43.21, 48.33, 71.88, 74.87), _LOGS),
    *(
        _row(method, "ResNet-50", "gtav+synthia", (), _paper("its comparison"), mean=mean, verified=own)
        for method, mean, own in (
            ("DeepLabV3+", 32.26, True),
            ("IBN-Net", 35.27, False),
            ("ISW (RobustNet)", 36.76, False),
            ("SAN-SAW", 40.93, False),
            ("PintheMem", 41.76, False),
            ("WildNet", 42.28, False),
            ("SPC-Net", 45.92, True),
        )
    ),
    *(
        _row(method, backbone, "gtav+synthia", (), _paper("Table 4"), mean=mean)
        for method, backbone, mean in (
            ("DeepLabV3+", "MobileNetV2", 25.24),
            ("SPC-Net", "MobileNetV2", 37.87),
            ("DeepLabV3+", "ShuffleNetV2", 29.03),
            ("SPC-Net", "ShuffleNetV2", 37.75),
            ("DeepLabV3+", "ResNet-101", 33.92),
            ("SPC-Net", "ResNet-101", 46.78),
        )
    ),
    _row("SPC-Net, style projection alone", "ResNet-50", "gtav+synthia", (), _paper("Table 5"), mean=44.55),
    _row("SPC-Net, clustering alone", "ResNet-50", "gtav+synthia", (), _paper("Table 5"), mean=34.93),
    _row("SCSD", "ResNet-50, CLIP text", "gtav+synthia", (52.43, 45.25, 56.58), _SCSD),
    _row("SoMA at 512", "DINOv2-L", "gtav+synthia", (), _SOMA, mean=69.26),
    # Trained on three sources
    _row("SPC-Net", "ResNet-50", "gtav+synthia+idd", (57.91, 53.25, 61.72, 74.36, 78.35, 76.07), _LOGS),
    _row("SoMA at 512", _UNKNOWN, "gtav+synthia+urbansyn", (), _SOMA, mean=71.68),
    _row("SoMA at 1024", _UNKNOWN, "gtav+synthia+urbansyn", (), _SOMA, mean=73.12),
    _row("Rein", _UNKNOWN, "gtav+synthia+urbansyn", (78.4,), _REIN),
    # Trained on Cityscapes
    _row("SCSD", "ResNet-50, CLIP text", "cityscapes", (52.25, 62.51, 51.00, 39.77), _SCSD),
    *(
        _row(method, backbone, "cityscapes", scores, _copied(method, f"Table 2 of {_FUSER}"), verified=False)
        for method, backbone, scores in (
            ("SHADE", "ResNet-101", (50.95, 60.67)),
            ("SAN-SAW", "ResNet-101", (54.73, 61.27)),
            ("WildNet", "ResNet-101", (47.01, 50.94)),
            ("HGFormer", "Swin-L", (61.5, 72.1)),
            ("VLTSeg", _UNKNOWN, (64.4, 76.4)),
            ("Rein", "DINOv2", (65.0, 72.3)),
            ("SET", _UNKNOWN, (65.07, 75.67)),
            ("tqdm", _UNKNOWN, (64.72, 76.15)),
            ("MFuser", _UNKNOWN, (65.81, 77.93)),
        )
    ),
    _row("SoMA", _UNKNOWN, "cityscapes", (67.02, 76.45), _copied("SoMA", _COPY), verified=False),
    _row("RecycleLoRA", _UNKNOWN, "cityscapes", (66.65, 77.54), _RECYCLE, verified=False),
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
    found: dict[str, None] = {}
    for run in runs:
        space = run.setting("data.space")
        if space != SPACE:
            found[f"Classes: these runs have the label space {space}, published rows the {SPACE} classes."] = None
        if not any(set_of(name) for name in run.final.names("unseen")):
            found[
                f"Sets: no unseen domain here is one of {', '.join(SETS)} as it is; generated or restyled streets are others."
            ] = None
        size = run.setting("data.size")
        if isinstance(size, (list, tuple)) and len(size) == 2 and size[0] < LEAST_HEIGHT:
            found[
                f"Size: images were brought to {size[0]}×{size[1]} here; published rows were scored at 512×1024 or 1024×2048."
            ] = None
        limit = run.setting("evaluation.limit")
        if limit:
            found[f"Images: only the first {limit} of each domain were scored here."] = None
        if not any(set(row.sources) == _sources(run) for row in PUBLISHED):
            names = ", ".join(map(str, run.setting("data.sources") or ())) or "not recorded"
            found[f"Sources: trained on {names} here; no published row is."] = None
    if len({frozenset(_sources(run)) for run in runs}) > 1:
        found["Sources: the runs differ in what they were trained on."] = None
    return tuple(found)


def beside(runs: Sequence[Run], *, every: bool = False) -> tuple[Published, ...]:
    """Rows trained on the same sets as the runs, with a figure for what these were scored on.

    Args:
        runs: of the same sources.
        every: take rows that are not verified, too, and those that lack some of the runs' domains.
    """
    targets = {found for run in runs for name in run.final.names("unseen") if (found := set_of(name))}
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

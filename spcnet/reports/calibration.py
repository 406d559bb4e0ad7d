"""What `spcnet calibrate` measured: tables for a terminal, and the section of a page with the reliability diagrams."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from spcnet.errors import DataError
from spcnet.reports.html import escaped, figure, swatch, table
from spcnet.reports.reliability import reliability_svg
from spcnet.reports.robustness import CLEAN
from spcnet.reports.series import Series

CALIBRATION_FILE = "calibration.json"
"""In the folder of a run."""
PIXELS_FILE = "ood_pixels.json"
"""In the folder of a run: how well scores of pixels find unknown objects."""
WAYS = {"network": "network", "temperature": "temperature", "vector": "vector scaling"}
"""How logits become confidence, by their names in the file."""
_FIGURES = {"auroc": "AUROC", "fpr95": "FPR95", "aurc": "AURC"}


def read_calibration(folder: Path) -> dict[str, Any] | None:
    """What the file in a run's folder holds; None where there is none.

    Raises:
        DataError: the file is broken.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for domain in result["domains"].values():
            domain["conditions"][CLEAN]["network"]["pixels"]
        result["temperature"], result["fit"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no calibration: delete it, or write it again with spcnet calibrate") from error
    return result


def _share(figures: Mapping[str, Any], name: str) -> str:
    value = figures.get(name)
    return "–" if value is None else f"{100 * value:.1f}"


def _row(condition: Mapping[str, Any]) -> list[str]:
    """The mIoU, the ECE of each way, and what tells errors apart, in per cent."""
    calibrated = condition["temperature"]
    return [
        _share(condition["network"], "miou"),
        *(_share(condition[way], "ece") for way in WAYS),
        *(_share(calibrated, name) for name in _FIGURES),
    ]


def _heads() -> list[str]:
    return ["mIoU", "ECE", "ECE, temperature", "ECE, vector", *_FIGURES.values()]


def _rows(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Each domain in each condition, the clean ones first."""
    pairs = [
        (name, title, one) for name, domain in result["domains"].items() for title, one in domain["conditions"].items()
    ]
    pairs.sort(key=lambda pair: pair[1] != CLEAN)
    return [(name if title == CLEAN else f"{name}, {title}", one) for name, title, one in pairs]


def terminal_tables(result: Mapping[str, Any]) -> list[Table]:
    """Calibration and detection of errors, and where there are thresholds, what they keep."""
    main = Table(
        title=f"Confidence in %; temperature {result['temperature']:.3f}, fitted on {_fitted(result)}",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    main.add_column("domain", overflow="fold")
    for head in _heads():
        main.add_column(head, justify="right")
    for name, condition in _rows(result):
        main.add_row(name, *_row(condition))
    if result["thresholds"] is None:
        return [main]
    kept = Table(title=_threshold_title(result), box=SIMPLE_HEAD, pad_edge=False)
    kept.add_column("domain", overflow="fold")
    for head in _KEPT.values():
        kept.add_column(head, justify="right")
    for name, condition in _rows(result):
        kept.add_row(name, *_kept_row(condition))
    return [main, kept]


_KEPT = {"coverage": "coverage", "precision": "precision", "miou": "mIoU of the kept", "miou_all": "mIoU, void missed"}


def _kept_row(condition: Mapping[str, Any]) -> list[str]:
    kept = condition["temperature"].get("thresholds") or {}
    return [_share(kept, name) for name in _KEPT]


def _threshold_title(result: Mapping[str, Any]) -> str:
    return f"Pixels that thresholds for a precision of {100 * result['precision']:g} % on the sources keep, in %"


def _fitted(result: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{one['images']} {'training' if one['trained_on'] else 'held-out'} images of {name}"
        for name, one in result["fit"].items()
    )


_FOUND = {"auroc": "AUROC", "auprc": "AUPRC", "fpr95": "FPR95"}


def _found_rows(result: Mapping[str, Any]) -> list[list[str]]:
    return [
        [name, score, *(_share(figures, key) for key in _FOUND)]
        for name, domain in result["domains"].items()
        for score, figures in domain["scores"].items()
    ]


def pixels_table(result: Mapping[str, Any]) -> Table:
    """What `spcnet ood pixels` measured, for a terminal."""
    shown = Table(title="Pixels of unknown objects, in %", box=SIMPLE_HEAD, pad_edge=False)
    for head in ("domain", "score"):
        shown.add_column(head)
    for head in _FOUND.values():
        shown.add_column(head, justify="right")
    for row in _found_rows(result):
        shown.add_row(*row)
    return shown


def unknown_objects(series: Sequence[Series]) -> str:
    """The section of a page about unknown objects: of the first run of each method that measured them."""
    parts = []
    for one in series:
        path = next((run.folder / PIXELS_FILE for run in one.group.runs if (run.folder / PIXELS_FILE).is_file()), None)
        if path is None:
            continue
        try:
            rows = _found_rows(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged: delete it, or write it again with spcnet ood pixels") from error
        parts.append(
            table(
                ["domain", "score", *_FOUND.values()],
                [[*map(escaped, row)] for row in rows],
                caption=f"{escaped(one.label)}: pixels of unknown objects told from known ones, in %.",
                label=f"Unknown objects, {one.label}",
                text=2,
            )
        )
    return "".join(parts)


def confidence(series: Sequence[Series]) -> str:
    """The section of a page: of the first run of each method that has a calibration; empty where none has."""
    return "".join(_run_section(one) for one in series)


def _run_section(one: Series) -> str:
    runs = [(run, result) for run in one.group.runs if (result := read_calibration(run.folder)) is not None]
    if not runs:
        return ""
    run, result = runs[0]
    rows = [[escaped(name), *_row(condition)] for name, condition in _rows(result)]
    clean = len(result["domains"])
    heads = ["domain", *_heads()]
    caption = (
        f"In %. ECE: expected calibration error in 15 bins, of the network as it is, with temperature {result['temperature']:.3f}, "
        f"with vector scaling, fitted on {escaped(_fitted(result))}. AUROC, FPR95, AURC: errors told from right pixels by "
        "the calibrated confidence."
    )
    parts = [
        f"<h3>{swatch(one.color)}{escaped(one.label)} · seed {run.seed}</h3>",
        table(heads, rows[:clean], caption=caption, label=f"Confidence of {one.label}"),
        '<div class="plots">',
    ]
    for name, domain in result["domains"].items():
        ways = {WAYS[way]: domain["conditions"][CLEAN][way] for way in ("network", "temperature")}
        if all(figures["pixels"] for figures in ways.values()):
            parts.append(figure(reliability_svg(name, ways, label=f"Reliability diagram of {one.label} on {name}")))
    parts.append("</div>")
    if result["thresholds"] is not None:
        kept = [[escaped(name), *_kept_row(condition)] for name, condition in _rows(result)]
        caption = f"{_threshold_title(result)}."
        parts.append(table(["domain", *_KEPT.values()], kept, caption=caption, label=f"Thresholds of {one.label}"))
    if rows[clean:]:
        detail = table(heads, rows[clean:], caption="The same in other conditions.", label="Confidence by condition")
        parts.append(f"<details><summary>Corruptions and weather styles</summary>{detail}</details>")
    return "".join(parts)

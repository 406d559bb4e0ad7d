"""The robustness of the runs on a page, from the cards that `spcnet robustness` wrote about them."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from spcnet.errors import DataError
from spcnet.formatting import percent
from spcnet.reports.html import counted, escaped, swatch, table
from spcnet.reports.plain import from_plain
from spcnet.reports.robustness import CLEAN, Card, ModelScores, ratio, summary
from spcnet.reports.runs import Run
from spcnet.reports.series import Series, each_run

CARD_FILE = "robustness.json"


def read_cards(runs: Sequence[Run]) -> dict[Path, Card]:
    """The cards that know one of the runs, by their files: in the runs' folders, and in the folders beside these.

    Of several cards of one set the one that knows most of the runs is taken, then the one with the most conditions.

    Raises:
        DataError: a file of that name is broken.
    """
    paths: dict[Path, None] = {}
    folders = {folder: None for run in runs for folder in (run.folder.absolute(), run.folder.resolve())}
    for place in dict.fromkeys(place for folder in folders for place in (folder, folder.parent)):
        for path in (place / CARD_FILE, *sorted(place.glob(f"*/{CARD_FILE}"))):
            if path.is_file():
                paths[path.resolve()] = None
    best: dict[str, tuple[tuple[int, int], Path, Card]] = {}
    for path in paths:
        card = _read(path)
        known = sum(_model_of(path, card, run) is not None for run in runs)
        worth = (known, len(card.families))
        if known and (card.domain not in best or worth > best[card.domain][0]):
            best[card.domain] = (worth, path, card)
    return {path: card for _, path, card in best.values()}


def _read(path: Path) -> Card:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return cast(Card, from_plain(Card, values))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no robustness card: delete it, or write it again with spcnet robustness") from error


def _model_of(path: Path, card: Card, run: Run) -> ModelScores | None:
    """The run's own scores on a card in its folder or beside it; None where it has none, or several networks are as likely.

    Cards name a network by its folder, with the folders above it where names are the same; runs may have been moved since.
    """
    if not any(folder.parent.resolve() in path.parents for folder in (run.folder.absolute(), run.folder.resolve())):
        return None
    known = (run.folder.resolve().name, run.method, run.setting("model.backbone"))
    alike = [one for one in card.models if (Path(one.label).name, one.method, one.backbone) == known]
    shared = [_common_end(Path(one.label).parts, run.folder.resolve().parts) for one in alike]
    return alike[shared.index(max(shared))] if alike and shared.count(max(shared)) == 1 else None


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many of their last entries are the same."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def robustness(series: Sequence[Series], cards: Mapping[Path, Card]) -> str:
    """For each card a line for each run that it knows; empty without cards."""
    return "".join(_card(series, path, card) for path, card in cards.items())


def _card(series: Sequence[Series], path: Path, card: Card) -> str:
    known = [(one, run, model) for one, run in each_run(series) if (model := _model_of(path, card, run)) is not None]
    families = list(card.groups)
    rows = []
    for one, run, model in known:
        robustness = summary(card, model)
        benchmark = [robustness.mpc, robustness.rpc] if card.benchmark else []
        scores = [model.clean, *benchmark, *(robustness.families[family] for family in families)]
        name = f'{swatch(one.color)}{escaped(one.label)}<span class="below std">seed {run.seed}</span>'
        rows.append([name, *map(percent, scores)])
    severities = ", ".join(map(str, card.severities))
    what = (
        "; mPC is the mean over the corruptions of the benchmark, rPC its fraction of clean." if card.benchmark else "."
    )
    where = f"{escaped(card.domain)} ({counted(card.images, 'image')})"
    caption = f"mIoU in % on {where}, averaged over the severities {severities}{what}"
    heads = [CLEAN, *(["mPC", "rPC"] if card.benchmark else []), *map(escaped, families)]
    overview = table(["method", *heads], rows, caption=caption, label=f"Robustness on {card.domain}")
    conditions = [
        [escaped(name), *(_share(model.mean(name), model.clean) for _, _, model in known)] for name in card.conditions
    ]
    detail = table(
        ["condition", *(f"{escaped(one.label)}<br>seed {run.seed}" for one, run, _ in known)],
        conditions,
        caption="Share of the clean mIoU that is left in each condition, in %; the stronger the colour, the more is lost.",
        label=f"Robustness on {card.domain} by condition",
    )
    others = len(card.models) - len(known)
    where = f"{path.parent.name}/{path.name}"
    note = f"From {where}" + (f", which knows {counted(others, 'other network')}, too" if others else "") + "."
    return (
        f"<h3>{escaped(card.domain)}</h3>{overview}<details><summary>Every condition</summary>{detail}</details>"
        f'<p class="note">{escaped(note)} Beside it lies a page with each severity and the worst cases in pictures.</p>'
    )


def _share(value: float, clean: float) -> str:
    fraction = ratio(value, clean)
    if not math.isfinite(fraction):
        return "–"
    lost = round(80 * min(max(1 - fraction, 0.0), 1.0))
    return f'<span class="lost" style="--much:{lost}%" title="mIoU {percent(value)} %">{100 * fraction:.0f}</span>'

"""Images with their truth and what each method sees in them; the page's script enlarges them and hides classes."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spcnet.reports import figures, html
from spcnet.reports.html import breakable, css_rgb, escaped, label_picture, scrolling, swatch
from spcnet.reports.runs import Panel
from spcnet.reports.series import Series, same_classes

IGNORE = 255
"""Label of a pixel that is not scored, as in `spcnet.types.IGNORE_INDEX`, which would load torch."""
WIDTH = 640
"""The most pixels across of a picture on the page."""


def images(series: Sequence[Series], wanted: int) -> str:
    """Image, truth and each method's prediction, for the first images of each unseen domain."""
    shown, left_out = same_classes(series)
    shown = [one for one in shown if one.first.panels]
    if not shown or wanted == 0:
        return ""
    final = shown[0].first.final
    used: set[int] = set()
    blocks, numbers = "", itertools.count()
    heads = ["image", "truth", *(one.label for one in shown)]
    marks = ["", "", *(swatch(one.color) for one in shown)]
    titles = "".join(
        f'<div class="head">{mark}<span class="name">{breakable(head)}</span></div>'
        for mark, head in zip(marks, heads, strict=True)
    )
    for domain in final.names("unseen"):
        by_name = [{panel.name: panel for panel in one.first.panels.get(domain, ())} for one in shown]
        names = list(dict.fromkeys(name for panels in by_name for name in panels))
        # Images that every method has come first: they can be compared.
        names.sort(key=lambda name: sum(name not in panels for panels in by_name))
        if not names:
            continue
        cells = titles
        for name in names[:wanted]:
            row = _Row(next(numbers), f"{escaped(name)} of {escaped(domain)}", final.colors)
            cells += row.cells(name, [panels.get(name) for panels in by_name], shown)
            used |= row.used
        grid = f'<div class="panels" style="--columns: {len(heads)}">{cells}</div>'
        blocks += f"<h3>{escaped(domain)}</h3>" + scrolling(grid, f"Images of {domain}")
    if not blocks:
        return ""
    entries = [(*entry, k) for k, entry in enumerate(zip(final.classes, final.colors, strict=True)) if k in used]
    entries += [("not labelled", (0, 0, 0), IGNORE)] if IGNORE in used else []
    listed = "".join(
        f'<li data-class="{place}" data-color="{",".join(map(str, color))}">{swatch(css_rgb(color))}{escaped(name)}</li>'
        for name, color, place in entries
    )
    seeds = ", ".join(dict.fromkeys(str(one.first.seed) for one in shown))
    note = (
        f"Some images of each unseen domain, spread over it and not chosen by hand, with the predictions of the run with seed {seeds}. "
        f"Below each prediction: the fraction of this image's labelled pixels that is right.{escaped(left_out)}"
        ' <span id="how" hidden>Click an image to enlarge it, a class to hide it.</span>'
    )
    return (
        f'<p class="note">{note}</p><div class="toggles"><ul class="legend" data-classes aria-label="Classes">{listed}</ul>'
        f'<div class="tools"></div></div>{blocks}'
    )


class _Row:
    """One image beside its truth and the predictions."""

    def __init__(self, number: int, where: str, colors: Sequence[tuple[int, int, int]]) -> None:
        self.number, self.where, self.colors = number, where, colors
        self.used: set[int] = set()
        """Classes in its pictures."""

    def cells(self, name: str, panels: Sequence[Panel | None], series: Sequence[Series]) -> str:
        """As HTML; a method that did not keep the image has a word in its place."""
        first = next(panel for panel in panels if panel is not None)
        truth = figures.read_labels(first.truth)
        photo = figures.picture_uri(first.image, width=WIDTH)
        self.size = photo[1]
        shown = html.photo(photo, f"Image {self.where}", self._attributes(0, "image"))
        cells = f"<div>{shown}<small>{escaped(name)}</small></div>"
        cells += f"<div>{self._labels(truth, f'True classes of {self.where}', 1, 'truth')}</div>"
        for column, (panel, one) in enumerate(zip(panels, series, strict=True), start=2):
            if panel is None:
                cells += "<div><small>not kept by this run</small></div>"
                continue
            prediction = figures.read_labels(panel.prediction)
            fraction = _share_right(truth, prediction)
            words = f"{100 * fraction:.0f} % right" if fraction is not None else ""
            label = escaped(one.label)
            alt = f"Classes that {label} sees in {self.where}" + (f": {words}" if words else "")
            picture = self._labels(prediction, alt, column, label + (f", {words}" if words else ""))
            cells += f"<div>{picture}<small>{words}</small></div>"
        return cells

    def _labels(self, labels: npt.NDArray[np.uint8], alt: str, column: int, words: str) -> str:
        self.used.update(np.unique(labels).tolist())
        attributes = self._attributes(column, words)
        return label_picture(labels, self.colors, alt, like=self.size, width=WIDTH, attributes=attributes)

    def _attributes(self, column: int, words: str) -> str:
        """What the script needs to know of a picture."""
        return (
            f' data-row="{self.number}" data-column="{column}" data-where="{self.where}" data-words="{words}" '
            f'data-shape="{self.size[0] / self.size[1]:.4f}"'
        )


def _share_right(truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> float | None:
    known = truth != IGNORE
    if truth.shape != prediction.shape or not known.any():
        return None
    return float((truth[known] == prediction[known]).mean())

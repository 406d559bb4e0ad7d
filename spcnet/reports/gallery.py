"""Images with their truth and what each method sees in them; the page's script enlarges them and hides classes."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spcnet.reports import figures
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
    blocks = []
    row = 0
    for domain in final.names("unseen"):
        by_name = [{panel.name: panel for panel in one.first.panels.get(domain, ())} for one in shown]
        names = list(dict.fromkeys(name for panels in by_name for name in panels))
        # Images that every method has come first: they can be compared.
        names.sort(key=lambda name: sum(name not in panels for panels in by_name))
        if not names:
            continue
        heads = ["image", "truth", *(one.label for one in shown)]
        cells = [
            f'<div class="head">{swatch(shown[i - 2].color) if i >= 2 else ""}<span class="name">{breakable(head)}</span></div>'
            for i, head in enumerate(heads)
        ]
        for name in names[:wanted]:
            cells += _panel_row(domain, name, [panels.get(name) for panels in by_name], shown, final.colors, used, row)
            row += 1
        grid = f'<div class="panels" style="--columns: {len(heads)}">{"".join(cells)}</div>'
        blocks.append(f"<h3>{escaped(domain)}</h3>" + scrolling(grid, f"Images of {domain}"))
    if not blocks:
        return ""
    entries = [
        (place, name, color)
        for place, (name, color) in enumerate(zip(final.classes, final.colors, strict=True))
        if place in used
    ]
    entries += [(IGNORE, "not labelled", (0, 0, 0))] if IGNORE in used else []
    listed = "".join(
        f'<li data-class="{place}" data-color="{",".join(map(str, color))}">{swatch(css_rgb(color))}{escaped(name)}</li>'
        for place, name, color in entries
    )
    seeds = ", ".join(dict.fromkeys(str(one.first.seed) for one in shown))
    note = (
        f"Some images of each unseen domain, spread over it and not chosen by hand, with the predictions of the run with seed {seeds}. "
        f"Below each prediction: the share of this image's labelled pixels that is right.{escaped(left_out)}"
        ' <span id="how" hidden>Click an image to enlarge it, a class to hide it.</span>'
    )
    return (
        f'<p class="note">{note}</p><div class="toggles"><ul class="legend" data-classes aria-label="Classes">{listed}</ul>'
        f'<div class="tools"></div></div>{"".join(blocks)}'
    )


def _panel_row(
    domain: str,
    name: str,
    panels: Sequence[Panel | None],
    series: Sequence[Series],
    colors: Sequence[tuple[int, int, int]],
    used: set[int],
    row: int,
) -> list[str]:
    first = next(panel for panel in panels if panel is not None)
    truth = figures.read_labels(first.truth)
    used.update(int(k) for k in np.unique(truth))
    uri, size = figures.picture_uri(first.image, width=WIDTH)
    where = f"{escaped(name)} of {escaped(domain)}"

    def attributes_of(column: int, words: str) -> str:
        """What the script needs to know of a picture."""
        return (
            f' data-row="{row}" data-column="{column}" data-where="{where}" data-words="{words}" '
            f'data-shape="{size[0] / size[1]:.4f}"'
        )

    cells = [
        f'<div><img src="{uri}" alt="Image {where}" width="{size[0]}" height="{size[1]}" loading="lazy"{attributes_of(0, "image")}>'
        f"<small>{escaped(name)}</small></div>",
        "<div>"
        + label_picture(
            truth, colors, f"True classes of {where}", like=size, width=WIDTH, attributes=attributes_of(1, "truth")
        )
        + "</div>",
    ]
    for column, (panel, one) in enumerate(zip(panels, series, strict=True), start=2):
        if panel is None:
            cells.append("<div><small>not kept by this run</small></div>")
            continue
        prediction = figures.read_labels(panel.prediction)
        used.update(int(k) for k in np.unique(prediction))
        share = _share_right(truth, prediction)
        words = f"{100 * share:.0f} % right" if share is not None else ""
        label = escaped(one.label)
        alt = f"Classes that {label} sees in {where}" + (f": {words}" if words else "")
        known = attributes_of(column, label + (f", {words}" if words else ""))
        picture = label_picture(prediction, colors, alt, like=size, width=WIDTH, attributes=known)
        cells.append(f"<div>{picture}<small>{words}</small></div>")
    return cells


def _share_right(truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> float | None:
    known = truth != IGNORE
    if truth.shape != prediction.shape or not known.any():
        return None
    return float((truth[known] == prediction[known]).mean())

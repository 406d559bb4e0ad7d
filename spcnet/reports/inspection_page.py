"""The page about the inside of networks: figures, tables and how to read them."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spcnet.files import write_text
from spcnet.formatting import percent
from spcnet.reports import figures, html
from spcnet.reports.inspection import PICTURES, Inspection, figure_text, mean_of, nearest
from spcnet.reports.inspection_figures import (
    BY,
    PAGE,
    class_color,
    domain_mark,
    draw_pixels,
    draw_styles,
    draw_weights,
    prototypes_figure,
    rows_array,
    settings,
    weights_height,
)

_NARROW = "grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr))"
"""Four maps beside each other on a wide screen."""


def write_page(inspections: Sequence[Inspection], output: Path) -> Path:
    """Write one page about the inside of one or several networks: no network, no scripts, light and dark, phone and paper.

    Raises:
        DataError: a picture cannot be read, or the page not be written.
    """
    write_text(output, render_page(inspections))
    return output


def render_page(inspections: Sequence[Inspection]) -> str:
    """The page of `write_page` as text.

    Raises:
        DataError: a picture cannot be read.
    """
    names = [inspection.run for inspection in inspections]
    heading = f"Inside {', '.join(names[:-1]) + ' and ' if names[1:] else ''}{names[-1]}"
    sections = [
        (f"run-{i}", inspection.run if names[1:] else "What was seen", inspection_section(inspection))
        for i, inspection in enumerate(inspections)
    ]
    sections.append(("reading", "How to read this", html.render("reading_inspection")))
    return html.document(heading, sections, version=inspections[0].environment.get("spcnet"))


def inspection_section(inspection: Inspection) -> str:
    """What was seen inside a network, as a piece of HTML for a page with the style of `spcnet.reports.html`.

    Raises:
        DataError: a picture cannot be read.
    """
    counts = [len(inspection.of(domain)) for domain in range(len(inspection.domains))]
    shown = "; ".join(
        f"{html.escaped(domain.name)} ({domain.role}, {html.counted(count, 'image')})"
        for domain, count in zip(inspection.domains, counts, strict=True)
    )
    lead = (
        f"{html.escaped(inspection.method)} on {html.escaped(inspection.backbone)} after {inspection.iteration} iterations, shown images of "
        f"{shown}."
    )
    missing = "".join(f'<p class="note">{html.escaped(line)}</p>' for line in inspection.missing)
    parts = [
        ("Styles", _styles_part(inspection)),
        ("Style weights λ", _weights_part(inspection)),
        ("Nearest known style", _nearest_part(inspection)),
        ("Pixels", _pixels_part(inspection)),
        ("Prototypes", _prototypes_part(inspection)),
    ]
    return f'<p class="note">{lead}</p>{missing}' + "".join(f"<h3>{name}</h3>{body}" for name, body in parts if body)


def _on_page(draw: Callable[[Axes], None], *, size: tuple[float, float], label: str) -> str:
    """A figure of one plot for a page; `label` says it in words, for those who cannot see it."""
    with matplotlib.rc_context(settings(PAGE)):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        return figures.page_svg(figure, label=label)


def _styles_part(inspection: Inspection) -> str:
    plots, rows = [], []
    projected = any(layer.after for layer in inspection.layers)
    for layer in inspection.layers:
        for after in (False, True) if layer.after else (False,):
            fraction = layer.told_after if after else layer.told_before
            words = (
                f"Map of styles at {layer.place}{', after projection' if after else ''}: the nearest other image is of the "
                f"same domain for {percent(fraction, 0, ' %')}"
            )
            draw = partial(draw_styles, inspection=inspection, layer=layer, after=after, ink=PAGE)
            plots.append(html.figure(_on_page(draw, size=(3.4, 3.6), label=words)))
        cells = [html.escaped(layer.place), percent(layer.told_before, 0, " %"), figure_text(layer.gap_before)]
        rows.append([*cells, percent(layer.told_after, 0, " %"), figure_text(layer.gap_after)] if projected else cells)
    sizes = [len(inspection.of(domain)) / len(inspection.images) for domain in range(len(inspection.domains))]
    chance = sum(size * size for size in sizes)
    note = (
        "t-SNE of each image's style: mean and deviation of every channel there"
        + (", before and after the style layer" if projected else "")
        + ", with the known styles, all of a place on one map"
        + (" (in grey what the other map shows)" if projected else "")
        + ". Who is whose neighbour counts; distances between far clusters, and how large a cluster is, mean little."
    )
    measured = (
        "Told: fraction of the images whose nearest other image by style is of their own domain "
        f"(by chance {percent(chance, 0, ' %')}). Gap: distance between the mean styles of two domains, squared and per channel, mean over "
        "the pairs."
    )
    heads = ["place", "told before", "gap before", "told after", "gap after"] if projected else ["place", "told", "gap"]
    table = html.table(heads, rows, caption="Styles in figures.", label="Styles in figures")
    return (
        f'<p class="note">{note}</p>{_legend(inspection)}<div class="plots" style="{_NARROW}">{"".join(plots)}</div>'
        f'<p class="note">{measured}</p>{table}'
    )


def _weights_part(inspection: Inspection) -> str:
    weighed = [layer for layer in inspection.layers if layer.weights]
    if not weighed:
        return ""
    if len(inspection.known) == 1:
        return '<p class="note">With a single known style λ is 1 for every image.</p>'
    plots, rows = [], []
    for layer in weighed:
        draw = partial(draw_weights, inspection=inspection, layer=layer, ink=PAGE)
        words = f"λ of the images at {layer.place}; the means stand in the table"
        plots.append(html.figure(_on_page(draw, size=(4.3, weights_height(inspection)), label=words)))
    for domain, one in enumerate(inspection.domains):
        images = inspection.of(domain)
        cells = [f"{100 * value:.1f}" for layer in weighed for value in rows_array(layer.weights)[images].mean(axis=0)]
        rows.append([_mark(inspection, domain) + html.breakable(one.name), *cells])
    heads = ["domain"] + [
        f"{html.escaped(layer.place)}<br>{html.breakable(name)}" for layer in weighed for name in inspection.known
    ]
    how = {
        2: "each dot is an image, the line the mean",
        3: "each mark is an image, the cross is equal fractions, and a corner is not 100 % but what stands beside it",
    }
    note = (
        f"How much each known style explains each image; {how.get(len(inspection.known), 'each column is an image')}. "
        "All places are drawn on the same scale."
    )
    return f'<p class="note">{note}</p><div class="plots large">{"".join(plots)}</div>' + html.table(
        heads, rows, caption="Mean λ over the images of a domain, in %.", label="Mean style weights by domain"
    )


def _nearest_part(inspection: Inspection) -> str:
    rows = []
    for domain, one in enumerate(inspection.domains):
        images = inspection.of(domain)
        if not images:
            continue
        cells = []
        for layer in inspection.layers:
            near = [nearest(layer, image) for image in images]
            cells += [f"{100 * near.count(style) / len(images):.0f} %" for style in range(len(inspection.known))]
            cells.append(figure_text(mean_of([min(layer.distance[image]) for image in images])))
        rows.append([_mark(inspection, domain) + html.breakable(one.name), one.role, *cells])
    heads = ["domain", "role"]
    for layer in inspection.layers:
        heads += [f"{html.escaped(layer.place)}<br>{html.breakable(name)}" for name in inspection.known]
        heads.append(f"{html.escaped(layer.place)}<br>distance")
    note = (
        "Share of a domain's images that are nearest to each known style, and the mean distance to the nearest. "
        "Every image stands in nearest.csv."
    )
    label = "Nearest known style by domain"
    table = f'<p class="note">{note}</p>' + html.table(heads, rows, caption=f"{label}.", label=label, text=2)
    return table + _pairs(inspection)


def _pairs(inspection: Inspection) -> str:
    parts = []
    for pair in inspection.pairs:
        files = [inspection.folder / PICTURES / name for name in pair.pictures]
        if not all(file.is_file() for file in files):
            continue
        cells = []
        for file, image in zip(files, (pair.image, pair.nearest), strict=True):
            seen = inspection.images[image]
            picture = figures.picture_uri(file, width=300)
            where = html.escaped(inspection.domains[seen.domain].name)
            near = f"nearest style {html.escaped(inspection.known[nearest(inspection.layers[0], image)])}"
            words = near if image == pair.image else f"distance {figure_text(pair.distance)}"
            photo = html.photo(picture, f"{html.escaped(seen.name)} of {where}")
            cells.append(f"<div>{photo}<small>{where}: {html.escaped(seen.name)}; {words}</small></div>")
        parts.append(f'<div class="panels" style="--columns: 2; min-width: 0">{"".join(cells)}</div>')
    if not parts:
        return ""
    note = (
        f"Unseen pictures (left), and the source picture whose style at {html.escaped(inspection.layers[0].place)} is nearest (right): of each unseen "
        "domain the image at the median of that distance, and the farthest."
    )
    return f'<p class="note">{note}</p><div class="plots">{"".join(parts)}</div>'


def _pixels_part(inspection: Inspection) -> str:
    if not inspection.pixels.points:
        return ""
    plots = []
    for by in BY:
        draw = partial(draw_pixels, inspection=inspection, by=by, ink=PAGE)
        svg = _on_page(draw, size=(4.5, 4.7), label=f"Map of pixels, coloured by {by}")
        if by == "class":
            plots.append(f"<div>{html.figure(_readable(svg, inspection))}{_class_legend(inspection)}</div>")
        else:
            legend = _legend(inspection, sorted(set(inspection.pixels.domain)), plain=True)
            plots.append(f"<div>{html.figure(svg)}{legend}</div>")
    what = {"embedding": "the embeddings of pixels", "feature": "the decoder's features of pixels, at unit length"}
    marks = "; diamonds are the prototypes, one of each class and known style" if inspection.pixels.prototypes else ""
    most = max(inspection.pixels.label.count(k) for k in set(inspection.pixels.label))
    note = (
        f"t-SNE of {what[inspection.pixels.kind]} ({len(inspection.pixels.points)} of them, at most {most} of a class){marks}. A class that the network "
        "knows in every domain is one cluster on the left, with all domains mixed on the right."
    )
    rows = [
        [_mark(inspection, domain, plain=True) + html.breakable(one.name), one.role, percent(fraction, 0, " %")]
        for domain, (one, fraction) in enumerate(zip(inspection.domains, inspection.pixels.matched, strict=True))
        if math.isfinite(fraction)
    ]
    maps = f'<p class="note">{note}</p><div class="plots large">{"".join(plots)}</div>'
    if not rows:
        return maps
    measured = (
        "Matched: fraction of a domain's pixels whose most similar pixel of another domain, a source, is of their class; mean "
        "over the classes."
    )
    heads = ["domain", "role", "matched"]
    table = html.table(heads, rows, caption="Matched pixels.", label="Matched pixels", text=2)
    return f'{maps}<p class="note">{measured}</p>{table}'


def _prototypes_part(inspection: Inspection) -> str:
    if inspection.prototypes is None:
        return ""
    within, between = inspection.prototypes.within, inspection.prototypes.between
    with matplotlib.rc_context(settings(PAGE)):
        label = "Cosines of all prototypes; the means stand beside it"
        svg = figures.page_svg(prototypes_figure(inspection, inspection.prototypes, PAGE), label=label)
    summary = f"Between classes the mean cosine is {between:.2f}"
    if math.isfinite(within):
        summary = f"The prototypes of one class in two domains have a mean cosine of {within:.2f}, those of two classes {between:.2f}"
    alike = inspection.prototypes.alike
    rows = [[f"{html.escaped(one)} and {html.escaped(other)}", f"{cosine:.2f}"] for one, other, cosine in alike]
    caption, label = "The classes that are most alike.", "Most alike classes"
    table = html.table(["classes", "cosine"], rows, caption=caption, label=label)
    order = ", ".join(map(html.escaped, inspection.known))
    note = f"{summary}. In each class the order is {order}. A prototype whose class no training image of its domain showed stays near 0 to all others."
    return f'<p class="note">{note}</p><div class="plots large">{html.figure(svg)}<div>{table}</div></div>'


_SHAPES = {
    "o": "M4 0a4 4 0 1 0 .01 0z",
    "^": "M4 0L8 8H0z",
    "s": "M.5 .5H7.5V7.5H.5z",
    "D": "M4 0L8 4L4 8L0 4z",
    "v": "M0 0H8L4 8z",
    "P": "M2.6 0H5.4V2.6H8V5.4H5.4V8H2.6V5.4H0V2.6H2.6z",
    "X": "M2 0L4 2L6 0L8 2L6 4L8 6L6 8L4 6L2 8L0 6L2 4L0 2z",
    "p": "M4 0L8 3L6.5 8H1.5L0 3z",
    "h": "M4 0L7.5 2V6L4 8L.5 6V2z",
    "*": "M4 0L5 2.9H8L5.6 4.8L6.5 8L4 6.1L1.5 8L2.4 4.8L0 2.9H3z",
}
"""The markers as drawings in a square of 8."""


def _shape(marker: str, color: str) -> str:
    """A marker for a legend; sized here, for the page's legends are made for lines."""
    return (
        '<svg viewBox="-.6 -.6 9.2 9.2" aria-hidden="true" style="width: 11px; height: 11px; margin-right: 6px; vertical-align: -1px">'
        f'<path d="{_SHAPES[marker]}" style="fill: {figures.css_color(color)}; stroke: var(--ink); stroke-width: .6"/></svg>'
    )


def _mark(inspection: Inspection, domain: int, *, plain: bool = False) -> str:
    color, marker = domain_mark(inspection, domain)
    return _shape("o" if plain else marker, color)


def _legend(inspection: Inspection, domains: Iterable[int] | None = None, *, plain: bool = False) -> str:
    shown = range(len(inspection.domains)) if domains is None else domains
    entries = [
        f"{_mark(inspection, d, plain=plain)}{html.escaped(inspection.domains[d].name)} ({inspection.domains[d].role})"
        for d in shown
    ]
    return html.legend(entries if plain else [*entries, f"{_shape('*', 'transparent')}known style"], "Domains")


def _class_legend(inspection: Inspection) -> str:
    classes = sorted(set(inspection.pixels.label))
    marks = (f"{_shape('o', _mixed(class_color(inspection, k)))}{html.escaped(inspection.classes[k])}" for k in classes)
    return html.legend(marks, "Classes")


def _mixed(color: str) -> str:
    """A class's colour with some of the page's ink: dark blue cars would be lost on a dark page."""
    return f"color-mix(in srgb, {color} 72%, var(--ink))"


def _readable(svg: str, inspection: Inspection) -> str:
    for k in set(inspection.pixels.label):
        svg = svg.replace(class_color(inspection, k), _mixed(class_color(inspection, k)))
    return svg

"""The words for what methods log and show, by the names that files have: for reports, pictures and the web page.

A name that is not here is shown as it is, so that a new method need not be in here.
"""

from typing import NamedTuple

Layers = tuple[tuple[float, ...], ...]
"""A figure that a network tells of images: the parts of a whole, one for each source, for each of its layers that has it."""

TERMS = {
    "ce": "is the cross-entropy",
    "focal": "the focal loss",
    "ohem": "the cross-entropy of the hard pixels",
    "dice": "the Dice loss of the regions of the classes",
    "lovasz": "the Lovasz extension of 1 - IoU",
    "aux": "the cross-entropy of the auxiliary head",
    "var": "how far pixels are from the prototype of their class and domain",
    "dis": "how much class means resemble the prototypes of other classes",
    "whitening": "what is left of the covariances that are to vanish",
}
"""What the terms of a loss are, by the names that training logs."""


class Words(NamedTuple):
    """What a figure of images is called and means."""

    title: str
    symbol: str
    heading: str
    caption: str = ""
    note: str = ""
    layer: str = "layer"
    """What its layers are called."""
    parts: str = "Sources"
    """What its numbers are of."""
    file: str = ""
    """Name of its table of images, without the ending, and of its place in reports; the figure's own where empty."""
    absent: str = ""
    """Said of a network without it; empty where nothing need be said."""


FIGURES = {
    "style_weights": Words(
        title="mix of source styles",
        symbol="λ",
        heading="Style weights",
        caption="fraction of each known style in each style layer",
        note="λ: how much each source style explains the images of a domain, averaged over its images. Equal fractions mean that "
        "the layer does not tell the styles apart; a source should be explained mostly by itself.",
        layer="style layer",
        parts="Source styles",
        file="styles",
        absent="this network has no style layers",
    )
}
"""The figures that files and pages tell of for every network, as null where it has none."""


def words_of(figure: str) -> Words:
    """What a figure is called; its own name where nothing else is known."""
    plain = figure.replace("_", " ")
    return FIGURES.get(figure) or Words(plain, plain, plain.capitalize())

"""Whether a data set has a single labelled pixel."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from spcnet.data.datasets import FolderSet, SegmentationSet
from spcnet.data.items import item_loader
from spcnet.errors import DataError
from spcnet.labels import IGNORE

FEW = 4
"""Images that are read first; the others by all worker processes."""


def check_labelled(
    name: str, images: SegmentationSet, *, workers: int = 0, say: Callable[[str], object] = lambda text: None
) -> None:
    """Refuse a source without a single labelled pixel, from which nothing can be learnt; parameters as in `labelled`.

    Raises:
        DataError: no image that can be read has a labelled pixel.
    """
    if not labelled(name, images, workers=workers, say=say):
        rule = f"no readable one of its {len(images):,} images has a pixel that is not void"
        remedy = "Check that the label images are the set's class maps and that its split has public labels"
        problem = f"the source {name} has no labelled pixel, so nothing can be learnt from it: {rule}"
        raise DataError(f"{problem}. {remedy}, or take it out of data.sources")


def labelled(
    name: str, images: SegmentationSet, *, workers: int = 0, say: Callable[[str], object] = lambda text: None
) -> bool:
    """Whether any pixel of a set has a class.

    Images of a set of files are read in random order until one has, as a rule the first. A generated set is labelled; a
    set in which nothing can be read counts as labelled, for its reader reports that.

    Args:
        name: of the set, for `say`.
        images: the set.
        workers: processes that read, where many images have to be read.
        say: called with a line when many have to be read.
    """
    stored = images.stored()
    if stored is None:
        return True
    order = np.random.default_rng(0).permutation(len(stored))
    readable = False
    for begin, end, helpers in ((0, FEW, 0), (FEW, len(order), workers)):
        part = order[begin:end]
        if begin and len(part):
            say(f"{FEW} images of {name} have no labelled pixel: reading all {len(order):,}")
        for has_labels in item_loader(_HasLabels(stored, part), workers=min(helpers, len(part))):
            if has_labels:
                return True
            readable |= has_labels is not None
    return not readable


class _HasLabels(Dataset[bool | None]):
    """Whether images that can be read have a labelled pixel; None for one that cannot."""

    def __init__(self, stored: FolderSet, order: NDArray[np.int64]) -> None:
        self.stored, self.order = stored, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> bool | None:
        index = int(self.order[place])
        try:
            if int(self.stored.label_of(index).min(initial=IGNORE)) == IGNORE:
                return False
            self.stored.read(index)  # a label is of no use without its photo
        except DataError:
            return None
        return True

"""The ways in which papers evaluate the same networks on the same sets, by name.

Rows of two papers are comparable only where both speak one protocol. `spcnet` is this package's own: whole images at
the size that the run trained at, every image counted once, at its label's own size. The others do what published
figures were made with, faults included, and say how they differ:

- `robustnet`: the code of RobustNet (Choi et al., CVPR 2021), in which much of the field was measured.
- `spcnet-official`: the inference code of SPC-Net (Huang et al., CVPR 2023).
- `rein`: that of Rein (Wei et al., CVPR 2024), which most work on foundation models follows.
- `vfm-full` and `vfm-full-coarse`: that of VFMSeg (Tang et al., AAAI 2025), images at twice Rein's size, evaluated in full
  or coarsely first.

A protocol changes images and labels before the network sees them (`ProtocolSet`), and how the network views them (`TestTimeAugmentation`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from spcnet.config import DomainSpec
from spcnet.data.datasets import Sample, SegmentationSet, WrappedSet
from spcnet.errors import lookup
from spcnet.evaluation.tta import CoarseToFine, TestTimeAugmentation

MAPILLARY_SIDE = 1536
"""Height to which RobustNet and SPC-Net bring Mapillary's images, and the side of the square that they evaluate."""
REIN_WINDOW = (512, 512)
REIN_STRIDE = 341
FULL_STRIDE = 320
"""Pixels from one of VFMSeg's windows, which are as large as Rein's, to the next."""
ALL = "all"
"""Stands for every protocol."""

Prepare = Callable[[Sample, str], Sample]
"""A sample and the name of its set → image and label as the protocol has them."""


@dataclass(frozen=True)
class Protocol:
    """How networks are scored."""

    name: str
    summary: str
    differs: tuple[str, ...] = ()
    """What is not as in `spcnet`, a line each."""
    prepare: Prepare | None = None
    """What becomes of each image and label; None brings the image to the run's size."""
    views: TestTimeAugmentation | None = None
    """How images are viewed; None leaves it to the options."""
    align_corners: bool = True
    """How logits are brought to the label's size: with the corners of both on each other, or the edges."""
    swapped: bool = False
    """Whether precision is printed as recall, and recall as precision."""
    instead: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Sets whose labels it reads otherwise: the name of the one that does."""

    def domain(self, text: str) -> str:
        """A domain as this protocol reads it, for example `mapillary` with the labels of `mapillary_rein`."""
        spec = DomainSpec.parse(text)
        other = self.instead.get(spec.dataset)
        return text if other is None else other + text[len(spec.dataset) :]


class ProtocolSet(WrappedSet):
    """A set whose images and labels come as a protocol has them."""

    def __init__(self, plain: SegmentationSet, prepare: Prepare, *, dataset: str) -> None:
        """Prepare a set.

        Args:
            plain: the set as it lies on disk.
            prepare: what becomes of each sample.
            dataset: name of the set, on which that may depend.
        """
        super().__init__(plain)
        self.prepare, self.dataset = prepare, dataset

    def read(self, index: int, /) -> Sample:
        """Read and prepare one image; see `SegmentationSet.read`."""
        return self.prepare(self.plain.read(index), self.dataset)._replace(depth=None)


def protocol_set(plain: SegmentationSet, protocol: Protocol, *, dataset: str) -> SegmentationSet:
    """The images of a set as a protocol has them."""
    if protocol.prepare is None:
        return plain
    prepare = protocol.prepare
    if prepare is rein and _halved(plain):
        prepare = rein_halved
    return ProtocolSet(plain, prepare, dataset=dataset)


def _halved(plain: SegmentationSet) -> bool:
    """Whether a set lies in the halved copies that Rein's tool makes of Mapillary (`val_img`, `val_label`)."""
    files = plain.stored()
    return files is not None and files.pairs[0].image.parent.name.endswith("_img")


def unchanged(sample: Sample, dataset: str) -> Sample:
    """Image and label at their own size."""
    return sample


def robustnet(sample: Sample, dataset: str) -> Sample:
    """Own size; of Mapillary a square of 1536×1536 as RobustNet cuts it, padding and all."""
    if not _is_mapillary(dataset):
        return sample
    height, width = sample.label.shape
    size = (int(width / height * MAPILLARY_SIDE), MAPILLARY_SIDE)
    image = _resized(sample.image, size, Image.Resampling.BICUBIC)
    label = _resized(sample.label, size, Image.Resampling.NEAREST)
    return sample._replace(
        image=_centre_with_padding(image, MAPILLARY_SIDE), label=_centre_with_padding(label, MAPILLARY_SIDE)
    )


def _centre_with_padding(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """The middle of an image of that height, as RobustNet cuts it.

    A narrow image is widened with zeros on both sides, each time by all that is missing; then the middle is taken where
    it was before. What lies there are zeros (black, and in a label the class 0, road) and only the left part of the
    image.
    """
    width = pixels.shape[1]
    missing = max(side - width, 0)
    left = round((width - side) / 2) - missing  # in the image's own columns
    square = np.zeros((side, side, *pixels.shape[2:]), dtype=np.uint8)
    first, last = max(left, 0), min(left + side, width)
    square[: pixels.shape[0], first - left : last - left] = pixels[:side, first:last]
    return square


def spcnet_official(sample: Sample, dataset: str) -> Sample:
    """Own size; of Mapillary the largest square in the middle, brought to 1536×1536."""
    if not _is_mapillary(dataset):
        return sample
    height, width = sample.label.shape
    side = min(height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)
    size = (MAPILLARY_SIDE, MAPILLARY_SIDE)
    image, label = (pixels[top : top + side, left : left + side] for pixels in (sample.image, sample.label))
    return sample._replace(
        image=_resized(image, size, Image.Resampling.BILINEAR), label=_resized(label, size, Image.Resampling.NEAREST)
    )


def rein(sample: Sample, dataset: str) -> Sample:
    """Images within 1024×512 (BDD100K within 1280×720) as tall as wide as before; Mapillary halved first."""
    if _is_mapillary(dataset):
        height, width = sample.label.shape
        half = (width // 2, height // 2)
        sample = sample._replace(
            image=_resized(sample.image, half, Image.Resampling.BICUBIC),
            label=_resized(sample.label, half, Image.Resampling.NEAREST),
        )
    return rein_halved(sample, dataset)


def rein_halved(sample: Sample, dataset: str) -> Sample:
    """As `rein`, for a set of Mapillary that was halved on disk."""
    return _within(sample, (1280, 720) if dataset == "bdd100k" else (1024, 512))


def vfm_full(sample: Sample, dataset: str) -> Sample:
    """Images within 2048×1024, smaller ones made larger; labels at their own size."""
    return _within(sample, (2048, 1024))


def _within(sample: Sample, most: tuple[int, int]) -> Sample:
    """The image as large as a long and a short side allow, as tall as wide as before."""
    long, short = most
    height, width = sample.image.shape[:2]
    factor = min(long / max(height, width), short / min(height, width))
    return sample._replace(image=_as_opencv(sample.image, (int(height * factor + 0.5), int(width * factor + 0.5))))


def _as_opencv(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Bilinear without smoothing before it, as OpenCV resizes."""
    if image.shape[:2] == size:
        return image
    pixels = torch.from_numpy(np.ascontiguousarray(image)).movedim(2, 0)[None].float()
    resized = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)[0]
    return np.ascontiguousarray(resized.add_(0.5).clamp_(0, 255).byte().movedim(0, 2).numpy())


def _is_mapillary(dataset: str) -> bool:
    return dataset in ("mapillary", "mapillary_rein")


def _resized(pixels: npt.NDArray[np.uint8], size: tuple[int, int], resample: Image.Resampling) -> npt.NDArray[np.uint8]:
    """Pixels at another width and height."""
    return np.array(Image.fromarray(pixels).resize(size, resample))  # a copy: torch wants memory it may write to


_OWN_SIZE = "images keep their own size; spcnet brings them to the size that the run trained at"
_SWAPPED = "precision is printed as recall and recall as precision, as in its logs"
_DROPPED = (
    "not imitated: on N GPUs its sampler leaves out the last images, up to N-1; here every image counts exactly once"
)

_FULL = (
    "images within 2048×1024, smaller ones made larger; spcnet brings them to the size that the run trained at",
    "windows of 512×512 at every 320 pixels, whose scores are averaged; spcnet evaluates whole images",
    "scores are brought to the label's size with the edges on each other; spcnet: the corners",
    "Mapillary: more of its classes are road, sidewalk, pole and sign (the set mapillary_rein); labels keep their size",
)
_REINS_LABELS = MappingProxyType({"mapillary": "mapillary_rein"})

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("spcnet", "whole images at the run's size, scored at the labels' own size, every image once"),
        Protocol(
            "robustnet",
            "RobustNet's code (Choi et al., CVPR 2021)",
            differs=(
                _OWN_SIZE,
                "Mapillary: images at a height of 1536 (bicubic), of which a square of 1536×1536 is scored; of one narrower "
                "than that the right part is lost, and black padding is scored as road",
                _SWAPPED,
                _DROPPED,
            ),
            prepare=robustnet,
            views=TestTimeAugmentation(),
            swapped=True,
        ),
        Protocol(
            "spcnet-official",
            "SPC-Net's inference code (Huang et al., CVPR 2023)",
            differs=(
                _OWN_SIZE,
                "Mapillary: the largest square in the middle, at 1536×1536; the rest is not scored",
                _SWAPPED,
            ),
            prepare=spcnet_official,
            views=TestTimeAugmentation(),
            swapped=True,
        ),
        Protocol(
            "rein",
            "Rein's code (Wei et al., CVPR 2024)",
            differs=(
                "images within 1024×512, BDD100K within 1280×720, without smoothing before they are made smaller; "
                "spcnet brings them to the size that the run trained at",
                "windows of 512×512 at every 341 pixels, whose logits are averaged; spcnet: whole images",
                "logits are brought to the label's size with the edges on each other; spcnet: the corners",
                "Mapillary: image and label at half their size, and more of its classes are road, sidewalk, pole and sign "
                "(the set mapillary_rein)",
            ),
            prepare=rein,
            views=TestTimeAugmentation(window=REIN_WINDOW, stride=REIN_STRIDE),
            align_corners=False,
            instead=_REINS_LABELS,
        ),
        Protocol(
            "vfm-full",
            "VFMSeg's test size (Tang et al., AAAI 2025), each window at that size",
            differs=_FULL,
            prepare=vfm_full,
            views=TestTimeAugmentation(window=REIN_WINDOW, stride=FULL_STRIDE),
            align_corners=False,
            instead=_REINS_LABELS,
        ),
        Protocol(
            "vfm-full-coarse",
            "VFMSeg's inference (Tang et al., AAAI 2025): coarse first, fine where that is not sure",
            differs=(
                *_FULL,
                "a first pass at half that size through the same windows; a window where it is sure (probability above "
                "0.968) of more than 80 % of the pixels keeps its scores and is not evaluated again",
                "not imitated: VFMSeg's second pass has a network of its own, which sees the first pass's scores; here the "
                "same network makes both passes",
            ),
            prepare=vfm_full,
            views=TestTimeAugmentation(window=REIN_WINDOW, stride=FULL_STRIDE, coarse=CoarseToFine()),
            align_corners=False,
            instead=_REINS_LABELS,
        ),
    )
}
"""Every protocol by its name."""


def protocol_named(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UsageError: there is none.
    """
    return lookup(name, PROTOCOLS, "protocol")


def protocols_named(name: str) -> tuple[Protocol, ...]:
    """The protocol of that name alone; every one for `all`.

    Raises:
        UsageError: there is none.
    """
    return tuple(PROTOCOLS.values()) if name == ALL else (protocol_named(name),)


def as_published(record: Mapping[str, Any], protocol: Protocol) -> dict[str, Any]:
    """A record of `spcnet.evaluation.evaluator.record` with the protocol's name, and with what it prints as what."""
    domains = record["domains"]
    if protocol.swapped:
        domains = {
            name: {**domain, "precision": domain["recall"], "recall": domain["precision"]}
            for name, domain in domains.items()
        }
    return {**record, "domains": domains, "protocol": protocol.name}

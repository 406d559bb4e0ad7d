"""What happens to an image and its label between the file and the network.

Transforms are torchvision's v2: they take a `tv_tensors.Image` and a `tv_tensors.Mask` together and move both the same
way. The augmentation and its order are RobustNet's (Choi et al., CVPR 2021), which the paper trains with: a random
scale, a random crop, a flip, colour jitter, blur. All randomness comes from torch's CPU generator.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from spcnet.config import DataConfig
from spcnet.types import IGNORE_INDEX, IMAGENET_MEAN, IMAGENET_STD


def normalise(image: UInt8[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
    """RGB bytes as a network takes them: zero mean and unit deviation over ImageNet."""
    # One multiply-add for 1/255, mean and deviation together.
    scale, shift = _channels(image.device)
    return torch.addcmul(shift, image.as_subclass(Tensor).float(), scale)


def denormalise(image: Float[Tensor, "*B 3 H W"]) -> UInt8[Tensor, "*B 3 H W"]:
    """RGB bytes of what `normalise` made, rounded, and cut off outside 0..255."""
    scale, shift = _channels(image.device)
    return ((image.float() - shift) / scale).round().clamp(0, 255).to(torch.uint8)


def _channels(device: torch.device) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1)
    return 1 / (255 * std), -mean / std


class RandomScaledCrop(v2.Transform):  # type: ignore[misc]  # torchvision carries no types
    """A random piece of the image, at a random scale.

    The result is what resizing the image to `size` times the factor and then cutting `crop` out of it gives, but only
    what is kept gets resized. Where the scaled image is smaller than `crop` it lies at a random place, on black; the
    label there is `IGNORE_INDEX`. Images are resampled bilinearly with antialiasing, labels take the nearest pixel.
    """

    def __init__(
        self, size: tuple[int, int] | None, *, scale: tuple[float, float], crop: tuple[int, int] | None = None
    ) -> None:
        """Set the ranges.

        Args:
            size: height and width in pixels that the factor multiplies; each image's own where there is none.
            scale: smallest and largest factor; each factor between is equally likely.
            crop: height and width of the result; `size` by default.

        Raises:
            ValueError: there is neither a size nor a crop.
        """
        super().__init__()
        result = crop or size
        if result is None:
            raise ValueError("without a size there must be a crop")
        self.size, self.crop, self.scale = size, result, scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the box of the image that is kept, its size in the result, and where it lies there."""
        height, width = v2.query_size(flat_inputs)
        factor = float(torch.empty(()).uniform_(*self.scale))
        size = self.size or (height, width)
        top, box_height, new_height, above = _place(height, size[0] * factor, self.crop[0])
        left, box_width, new_width, before = _place(width, size[1] * factor, self.crop[1])
        below = self.crop[0] - new_height - above
        after = self.crop[1] - new_width - before
        return {
            "box": (top, left, box_height, box_width),
            "resized": [new_height, new_width],
            "padding": [before, above, after, below],
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut, resize and pad one image or label."""
        is_label = isinstance(inpt, tv_tensors.Mask)
        # As plain pixels: of a `Mask` torchvision takes the pixel at the corner of each cell, not the one at its middle.
        pixels = inpt.as_subclass(Tensor)[None] if is_label else inpt
        nearest, bilinear = v2.InterpolationMode.NEAREST_EXACT, v2.InterpolationMode.BILINEAR
        piece = v2.functional.resized_crop(
            pixels, *params["box"], params["resized"], interpolation=nearest if is_label else bilinear, antialias=True
        )
        if any(params["padding"]):
            piece = v2.functional.pad(piece, params["padding"], fill=IGNORE_INDEX if is_label else 0)
        return tv_tensors.wrap(piece[0], like=inpt) if is_label else piece


def _place(length: int, scaled_to: float, wanted: int) -> tuple[int, int, int, int]:
    """Along one axis: first pixel and length of the part that is kept, its new length, and the padding before it."""
    scaled = max(1, round(scaled_to))
    if scaled >= wanted:
        kept = max(1, round(length * wanted / scaled))
        return _up_to(length - kept), kept, wanted, 0
    return 0, length, scaled, _up_to(wanted - scaled)


def _up_to(last: int) -> int:
    """A random whole number from 0 to `last`, both included."""
    return int(torch.randint(last + 1, ()))


class RandomBlur(v2.Transform):  # type: ignore[misc]  # torchvision carries no types
    """A Gaussian blur of a random standard deviation; labels stay as they are.

    `v2.GaussianBlur` takes four times as long: one kernel size for all, in two dimensions at once.
    """

    def __init__(self, sigma: tuple[float, float]) -> None:
        """Set the range of the standard deviation, in pixels."""
        super().__init__()
        self.sigma = sigma

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the standard deviation."""
        return {"sigma": float(torch.empty(()).uniform_(*self.sigma))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Blur an image."""
        if isinstance(inpt, tv_tensors.Mask):
            return inpt
        return tv_tensors.wrap(gaussian_blur(inpt.as_subclass(Tensor), sigma=params["sigma"]), like=inpt)


def gaussian_blur(image: UInt8[Tensor, "C H W"], *, sigma: float) -> UInt8[Tensor, "C H W"]:
    """Blur with a Gaussian that is cut off at three standard deviations; beyond its edge an image goes on as there.

    One direction after the other, each a sum of shifted images.
    """
    reach = math.ceil(3 * sigma)
    weights = [math.exp(-((d / sigma) ** 2) / 2) for d in range(-reach, reach + 1)]
    total = sum(weights)
    blurred = torch.nn.functional.pad(image[None].float(), (reach,) * 4, mode="replicate")[0]
    for dim, length in ((1, image.shape[1]), (2, image.shape[2])):
        shifted = [blurred.narrow(dim, start, length) for start in range(len(weights))]
        blurred = shifted[0] * (weights[0] / total)
        for part, weight in zip(shifted[1:], weights[1:], strict=True):
            blurred.add_(part, alpha=weight / total)
    return blurred.round_().to(torch.uint8)


def training_transform(data: DataConfig) -> v2.Transform:
    """Image and label (bytes) → augmented image and label (bytes) of `data.crop`; `normalise` comes after.

    In this order: random scale and crop, flip, colour jitter, Gaussian blur, each as `data.augmentation` says.
    """
    augmentation = data.augmentation
    steps: list[v2.Transform] = [
        RandomScaledCrop(data.size, crop=data.crop, scale=augmentation.scale),
        v2.RandomHorizontalFlip(augmentation.flip),
        v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)], p=augmentation.jitter),
    ]
    if augmentation.blur is not None:
        steps.append(RandomBlur(augmentation.blur))
    return v2.Compose(steps)


def photometric_transform() -> v2.Transform:
    """Image (bytes) → image (bytes) with strongly altered colours, blurred; what selective whitening compares with."""
    return v2.Compose([v2.ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.3), RandomBlur((0.15, 1.3))])


def evaluation_transform(data: DataConfig) -> v2.Transform:
    """Image (bytes) → image (bytes) of `data.size`, or as it is where that is None; `normalise` comes after.

    Labels are not given to it: they stay at their own size, to which the evaluator brings the class scores.
    """
    if data.size is None:
        return v2.Identity()
    return v2.Resize(data.size, interpolation=v2.InterpolationMode.BILINEAR, antialias=True)

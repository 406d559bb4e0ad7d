"""What happens to an image and its label between the file and the network.

The augmentation and its order are RobustNet's (Choi et al., CVPR 2021), which the paper trains with: a random scale, a
random crop, a flip, colour jitter, blur; and a weather style between crop and padding, where one is configured. All
randomness comes from torch's CPU generator.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Shaped, UInt8
from torch import Tensor
from torchvision.transforms import v2

from spcnet.config import DataConfig
from spcnet.errors import lookup
from spcnet.synthesis.weather import WEATHER, apply_weather_pair
from spcnet.types import IGNORE_INDEX, IMAGENET_MEAN, IMAGENET_STD


def normalise(image: UInt8[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
    """RGB bytes as a network takes them: zero mean and unit deviation over ImageNet."""
    # One multiply-add for 1/255, mean and deviation together.
    scale, shift = _channels(image.device)
    if image.device.type != "cpu" or image.dim() > 4:
        return torch.addcmul(shift, image.float(), scale)
    normalised = torch.empty(image.shape)
    pairs = zip(image, normalised, strict=True) if image.dim() == 4 else [(image, normalised)]
    for one, out in pairs:
        for rows in _bands(one):
            torch.addcmul(shift, one[:, rows].float(), scale, out=out[:, rows])
    return normalised


def denormalise(image: Float[Tensor, "*B 3 H W"]) -> UInt8[Tensor, "*B 3 H W"]:
    """RGB bytes of what `normalise` made, rounded, and cut off outside 0..255."""
    scale, shift = _channels(image.device)
    return ((image.float() - shift) / scale).round().clamp(0, 255).to(torch.uint8)


def _channels(device: torch.device) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1)
    return 1 / (255 * std), -mean / std


class Cut(NamedTuple):
    """Which part of an image is kept, how large it becomes, and where it then lies in the result."""

    box: tuple[int, int, int, int]
    """Top, left, height and width of the part, in pixels of the image."""
    resized: tuple[int, int]
    """Height and width that the part is brought to."""
    padding: tuple[int, int, int, int]
    """Pixels to add left, above, right and below."""
    window: tuple[float, float, float, float]
    """The box as fractions of the image's height and width."""


class RandomScaledCrop:
    """A random piece of the image, at a random scale.

    The result is what resizing the image to `size` times the factor and then cutting `crop` out of it gives, but only
    what is kept gets resized. Where the scaled image is smaller than `crop` it lies at a random place, on black; the
    label there is `IGNORE_INDEX`. Images are resampled bilinearly with antialiasing, labels take the nearest pixel.

    In steps, because what depends on where in the photograph a pixel is stands between them: `draw`, `cut`, `pad`.
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
        result = crop or size
        if result is None:
            raise ValueError("without a size there must be a crop")
        self.size, self.crop, self.scale = size, result, scale

    def draw(self, height: int, width: int, *, centre: tuple[float, float] | None = None) -> Cut:
        """Draw the part of an image that is kept.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.
            centre: row and column, as fractions of height and width, of a pixel that must be in it.
        """
        factor = float(torch.empty(()).uniform_(*self.scale))
        size = self.size or (height, width)
        row, column = (
            (min(int(c * n), n - 1) for c, n in zip(centre, (height, width), strict=True)) if centre else (None,) * 2
        )
        top, box_height, new_height, above = _place(height, size[0] * factor, self.crop[0], row)
        left, box_width, new_width, before = _place(width, size[1] * factor, self.crop[1], column)
        return Cut(
            box=(top, left, box_height, box_width),
            resized=(new_height, new_width),
            padding=(before, above, self.crop[1] - new_width - before, self.crop[0] - new_height - above),
            window=(top / height, left / width, box_height / height, box_width / width),
        )

    def cut(self, planes: Shaped[Tensor, "C h w"], cut: Cut, *, blend: bool) -> Shaped[Tensor, "C h2 w2"]:
        """The part, at its new size: `blend` for an image, without for what holds one value or another, as labels do."""
        nearest, bilinear = v2.InterpolationMode.NEAREST_EXACT, v2.InterpolationMode.BILINEAR
        part: Tensor = v2.functional.resized_crop(
            planes, *cut.box, list(cut.resized), interpolation=bilinear if blend else nearest, antialias=True
        )
        return part

    def pad(self, part: UInt8[Tensor, "C h2 w2"], cut: Cut, *, value: int) -> UInt8[Tensor, "C H W"]:
        """The part at its place in the result."""
        if not any(cut.padding):
            return part
        padded: Tensor = v2.functional.pad(part, list(cut.padding), fill=value)
        return padded


def _place(length: int, scaled_to: float, wanted: int, centre: int | None = None) -> tuple[int, int, int, int]:
    """Along one axis: first pixel and length of the part that is kept, its new length, and the padding before it.

    With a centre the part begins anywhere from where that is its last pixel to where it is its first, and is then moved
    into the image (RobustNet).
    """
    scaled = max(1, round(scaled_to))
    if scaled < wanted:
        return 0, length, scaled, _up_to(wanted - scaled)
    kept = max(1, round(length * wanted / scaled))
    last = length - kept
    first = _up_to(last) if centre is None else min(max(centre - _up_to(kept - 1), 0), last)
    return first, kept, wanted, 0


def _up_to(last: int) -> int:
    """A random whole number from 0 to `last`, both included."""
    return int(torch.randint(last + 1, ()))


class ColourJitter:
    """A random change of brightness, contrast, saturation and hue, in random order.

    What `v2.ColorJitter` gives, bit for bit, in a sixth of the time: band after band of the picture, so that what one
    step leaves is still in the processor's cache for the next.
    """

    def __init__(self, amount: float, *, hue: float) -> None:
        """Factors on brightness, contrast and saturation lie `amount` around 1, turns of the hue (1: a circle) around 0."""
        self.ranges = v2.ColorJitter(brightness=amount, contrast=amount, saturation=amount, hue=hue)

    def draw(self) -> list[tuple[int, float]]:
        """Draw the steps of `change_colours`."""
        drawn = self.ranges.make_params([])
        factors = [drawn[f"{name}_factor"] for name in ("brightness", "contrast", "saturation", "hue")]
        return [(int(step), factors[step]) for step in drawn["fn_idx"]]

    def __call__(self, image: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 H W"]:
        """Change the colours of an image."""
        return change_colours(image, self.draw())


def change_colours(image: UInt8[Tensor, "3 H W"], steps: Sequence[tuple[int, float]]) -> UInt8[Tensor, "3 H W"]:
    """Change brightness (0), contrast (1), saturation (2) and hue (3) in the order given, each by its factor.

    After each step values are cut off to whole ones, as torchvision does.
    """
    changed = torch.empty_like(image, memory_format=torch.contiguous_format)
    order = [step for step, _ in steps]
    # Contrast needs to know the mean of the whole picture, so what stands before it is done first.
    begins = [0, order.index(1)] if 1 in order else [0]
    for begin, end in pairwise([*begins, len(steps)]):
        grey = _grey(image.float()).mean() if order[begin:end][:1] == [1] else None
        for rows in _bands(image):
            band = image[:, rows].float()
            for step, factor in steps[begin:end]:
                if step == 3:
                    band = _turn_hue(band, factor)
                    continue
                towards = grey if step == 1 else _grey(band) if step == 2 else None
                band.mul_(factor)
                if towards is not None:
                    band.add_(towards, alpha=1 - factor)
                band.clamp_(0, 255).floor_()
            changed[:, rows] = band
        image = changed
    return changed


def _bands(image: Shaped[Tensor, "C H W"]) -> list[slice]:
    """Bands of rows that fit into the processor's cache with all intermediate results."""
    height = max(1, 32768 // max(1, image.shape[2]))
    return [slice(top, min(top + height, image.shape[1])) for top in range(0, image.shape[1], height)]


def _grey(image: Float32[Tensor, "3 H W"]) -> Float32[Tensor, "H W"]:
    """Brightness of each pixel, as whole numbers."""
    red, green, blue = image
    brightness: Tensor = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    return brightness.floor_()


def _turn_hue(image: Float32[Tensor, "3 H W"], turn: float) -> Float32[Tensor, "3 H W"]:
    """Whole numbers 0..255 in, with the hue turned out: to hue, saturation and value, and back.

    Choices are made by multiplying with 0 or 1 and by limits, which is exact and ten times faster than `torch.where`.
    """
    image = image * (1 / 255)
    red, green, blue = image
    high = torch.maximum(torch.maximum(red, green), blue)
    span = high - torch.minimum(torch.minimum(red, green), blue)
    # A grey pixel has no span, and nothing is divided there but 0.
    saturation = span / high.clamp_min(1e-9)
    to_red, to_green, to_blue = (high - image).div_(span.clamp_min_(1e-9))
    # 0 where the channel is the highest, else 1: a step of 1 in 255 is more than 1/1024.
    red_below, green_below = to_red.mul(1024).clamp_max_(1), to_green.mul(1024).clamp_max_(1)
    hue = (to_red + 2).sub_(to_blue).mul_(1 - green_below).add_((to_green + 4).sub_(to_red).mul_(green_below))
    hue = hue.mul_(red_below).add_(to_blue.sub_(to_green).mul_(1 - red_below))
    hue.mul_(1 / 6).add_(1).frac_().add_(turn)
    hue.sub_(hue.floor()).mul_(6)  # in sixths of the circle
    # Of the three channels one is highest, one lowest, and one between, which rises in every other sixth.
    sixth = hue.floor()
    part = (hue - sixth).mul_(saturation)
    falls = sixth.mul_(0.5).frac_().mul_(2)
    rest = 1 - saturation
    between = (part + rest).mul_(1 - falls).add_((1 - part).mul_(falls)).mul_(high)
    low = rest.mul_(high)
    # Green is highest within a sixth of 2 and lowest beyond two sixths, blue at 4, red the other way round at 3.
    for channel, middle in ((0, 3), (1, 2), (2, 4)):
        away = (hue - middle).abs_()
        near, far = (1 - away).mul_(2**30), (2 - away).mul_(2**30)
        if channel == 0:
            near, far = far.neg_(), near.neg_()
        image[channel] = between.clamp(torch.minimum(high, near), torch.maximum(low, far))
    return image.mul_(255 + 1 - 1e-3).floor_()


def random_blur(image: UInt8[Tensor, "C H W"], sigma: tuple[float, float]) -> UInt8[Tensor, "C H W"]:
    """A Gaussian blur whose standard deviation in pixels lies anywhere between these two."""
    return gaussian_blur(image, sigma=float(torch.empty(()).uniform_(*sigma)))


def gaussian_blur(image: UInt8[Tensor, "C H W"], *, sigma: float) -> UInt8[Tensor, "C H W"]:
    """Blur with a Gaussian that is cut off at three standard deviations; beyond its edge an image goes on as there.

    One direction after the other, each a sum of shifted images, band after band. `v2.GaussianBlur` takes ten times as
    long: one kernel size for all, in two dimensions at once.
    """
    reach = math.ceil(3 * sigma)
    weights = [math.exp(-((d / sigma) ** 2) / 2) for d in range(-reach, reach + 1)]
    weights = [weight / sum(weights) for weight in weights]
    if 255 * (1 - weights[reach] ** 2) < 0.49:
        return image  # no pixel could change by as much as rounding takes back
    width = image.shape[2]
    padded = torch.nn.functional.pad(image[None], (reach,) * 4, mode="replicate")[0]
    blurred = torch.empty_like(image, memory_format=torch.contiguous_format)
    for rows in _bands(image):
        band = padded[:, rows.start : rows.stop + 2 * reach].float()
        band = _weighted_sum([band.narrow(1, start, rows.stop - rows.start) for start in range(2 * reach + 1)], weights)
        band = _weighted_sum([band.narrow(2, start, width) for start in range(2 * reach + 1)], weights)
        blurred[:, rows] = band.round_()
    return blurred


def _weighted_sum(parts: list[Tensor], weights: list[float]) -> Tensor:
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total.add_(part, alpha=weight)
    return total


TRIES = 10
"""Pieces of an image that are drawn until one shows enough of a rare class, DAFormer's number."""


class Augmented(NamedTuple):
    """An image and its label, ready to be trained on but for `normalise`."""

    image: UInt8[Tensor, "3 H W"]
    label: UInt8[Tensor, "H W"]
    style: int | None
    """Which of `data.augmentation.styles` the image was given."""


class TrainingTransform:
    """Image and label → augmented image and label of `data.crop`, as `data.augmentation` says.

    In this order: random scale and crop, a style, padding, flip, colour jitter, Gaussian blur. The style comes before
    the padding, and gets the window of the piece in the photograph, so that the horizon stays where it was.
    """

    def __init__(self, data: DataConfig) -> None:
        """Take the settings; raises `UsageError` for an unknown style."""
        augmentation = data.augmentation
        for style in augmentation.styles:
            lookup(style, WEATHER, "weather style")
        self.augmentation = augmentation
        self.pixels = data.rare_pixels // 2
        self.crop = RandomScaledCrop(data.size, crop=data.crop, scale=augmentation.scale)
        self.jitter = ColourJitter(0.4, hue=0.1)

    def __call__(
        self,
        image: UInt8[Tensor, "3 h w"],
        label: UInt8[Tensor, "h w"],
        *,
        centre: tuple[float, float] | None = None,
        depth: Float32[Tensor, "h w"] | None = None,
        show: int | None = None,
    ) -> Augmented:
        """Augment one image; everything random comes from torch's CPU generator.

        Args:
            image: RGB.
            label: class of each pixel.
            centre: row and column, as fractions of height and width, of a pixel that must be kept.
            depth: distance of each pixel in metres, where it is known; styles use it.
            show: a class; the piece is drawn up to `TRIES` times until more than half of `data.rare_pixels` of it are in it.
        """
        for _ in range(1 if show is None else TRIES):
            cut = self.crop.draw(*image.shape[1:], centre=centre)
            # A plane and not a `Mask`, of which torchvision takes the pixel at the corner of each cell, not at its middle.
            truth = self.crop.cut(label[None], cut, blend=False)
            if show is None or int((truth == show).sum()) > self.pixels:
                break
        photo = self.crop.cut(image, cut, blend=True)
        style = None
        if self.augmentation.styles:
            far = None if depth is None else self.crop.cut(depth[None], cut, blend=False)[0]
            photo, truth, style = self._styled(photo, truth, cut, far)
        photo, truth = self.crop.pad(photo, cut, value=0), self.crop.pad(truth, cut, value=IGNORE_INDEX)
        if _happens(self.augmentation.flip):
            photo, truth = photo.flip(2), truth.flip(2)
        if _happens(self.augmentation.jitter):
            photo = self.jitter(photo)
        blur = self.augmentation.blur
        return Augmented(photo if blur is None else random_blur(photo, blur), truth[0], style)

    def _styled(
        self, photo: Tensor, truth: Tensor, cut: Cut, depth: Tensor | None
    ) -> tuple[Tensor, Tensor, int | None]:
        """Image and label in one of the styles, or as they are."""
        options = self.augmentation
        # All is drawn in any case, so that what comes after does not depend on whether there is a style.
        happens = _happens(options.style_probability)
        style, seed = _up_to(len(options.styles) - 1), _up_to(2**31 - 1)
        strength = float(torch.empty((), dtype=torch.float64).uniform_(*options.style_strength))
        if not happens:
            return photo, truth, None
        styled, moved = apply_weather_pair(
            photo.permute(1, 2, 0).contiguous().numpy(),
            truth[0].contiguous().numpy(),
            options.styles[style],
            seed=seed,
            strength=strength,
            depth=None if depth is None else depth.contiguous().numpy(),
            window=cut.window,
        )
        return torch.from_numpy(styled).permute(2, 0, 1).contiguous(), torch.from_numpy(moved)[None], style


def _happens(probability: float) -> bool:
    return bool(torch.rand(1) < probability)


def photometric_transform() -> Callable[[Tensor], Tensor]:
    """Image (bytes) → image (bytes) with strongly altered colours, blurred; what selective whitening compares with."""
    jitter = ColourJitter(0.8, hue=0.3)
    return lambda image: random_blur(jitter(image), (0.15, 1.3))


def evaluation_transform(data: DataConfig) -> Callable[[Tensor], Tensor]:
    """Image (bytes) → image (bytes) of `data.size`, or as it is where that is None; `normalise` comes after.

    Labels are not given to it: they stay at their own size, to which the evaluator resizes the logits.
    """
    if data.size is None:
        return v2.Identity()  # type: ignore[no-any-return]
    return v2.Resize(data.size, interpolation=v2.InterpolationMode.BILINEAR, antialias=True)  # type: ignore[no-any-return]

"""The way of a training image from the disk to the network, against the same steps written plainly.

Plain is RobustNet's way: Pillow resizes the whole photograph by the random factor (bicubic, labels nearest), pads and
crops, flips, changes the colours one step after the other, blurs (RobustNet: scikit-image, which is slower); then
torchvision's ToTensor and Normalize. Both sides get the same pictures and the same random factors: a 1914×1052
photograph and its palette label as PNG, scale 0.5..2, crop 768, flip, jitter with probability 0.5, blur. `jpeg` and `raw`
read the copies that `spcnet data cache` makes of them, at the same size.

One thread, one image after the other, in seconds of computing time, so that a busy machine changes little; each side in
a process of its own, of which the peak of memory is given, in turns, of which the fastest counts.

The pictures are enlarged ones of `--photos`, a folder of images, with a little noise; without it, generated streets.

    python benchmarks/loading.py --photos ../shared/data/cityscapes256/leftImg8bit/val
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from _machine import describe
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from torchvision.transforms import functional

from spcnet import labels
from spcnet.config import DataConfig
from spcnet.data.cache import CacheFormat, Form, write_cache
from spcnet.data.datasets import FolderSet
from spcnet.data.folders import SetFolder
from spcnet.data.images import read_image
from spcnet.data.label_images import read_label
from spcnet.data.loading import training_batches
from spcnet.data.sampling import Draw, Stream
from spcnet.data.transforms import Cut, TrainingTransform, change_colours, gaussian_blur, normalise
from spcnet.synthesis import streets
from spcnet.types import IGNORE_INDEX, IMAGENET_MEAN, IMAGENET_STD

SIZE = (1052, 1914)
CROP = (768, 768)
DATA = DataConfig(size=None, crop=CROP, images_per_domain=1, workers=0)
TRANSFORM = TrainingTransform(DATA)
SIDES = {"plain": "original", "ours": "original", "ours, jpeg": "jpeg", "ours, raw": "raw"}
"""Which pictures each side reads."""


def make_pictures(folder: Path, photos: Path | None, count: int) -> None:
    """A small GTAV, and its copies."""
    rng = np.random.default_rng(0)
    known = sorted(path for path in photos.rglob("*") if path.suffix in {".png", ".jpg"})[:count] if photos else []
    for index in range(count):
        scene = streets.generate(index, style="game", size=(263, 478))
        small = Image.open(known[index % len(known)]).convert("RGB") if known else Image.fromarray(scene.image)
        large = np.asarray(small.resize(SIZE[::-1], Image.Resampling.BICUBIC), dtype=np.float32)
        photo = Image.fromarray((large + rng.normal(0, 1.6, (*SIZE, 3))).round().clip(0, 255).astype(np.uint8))
        label = Image.fromarray(scene.label).resize(SIZE[::-1], Image.Resampling.NEAREST)
        label.putpalette(rng.integers(0, 256, 768).tolist())
        for kind, image in (("images", photo), ("labels", label)):
            (folder / "original" / kind).mkdir(parents=True, exist_ok=True)
            image.save(folder / "original" / kind / f"{index + 1:05d}.png")
    for form in get_args(Form):
        write_cache("gtav", folder / "original", folder / form, CacheFormat(form=form))


def pictures(folder: Path) -> FolderSet:
    pairs, *_ = SetFolder("gtav", folder).find_split("full")
    return FolderSet(pairs, table=np.arange(256, dtype=np.uint8))


class Parameters(NamedTuple):
    """What is drawn for an image, in the order in which training draws it."""

    cut: Cut
    flip: bool
    colours: list[tuple[int, float]]
    sigma: float

    @classmethod
    def of(cls, drawn: Draw) -> "Parameters":
        torch.manual_seed(drawn.seed)
        cut = TRANSFORM.crop.draw(*SIZE)
        flip = bool(torch.rand(1) < DATA.augmentation.flip)
        colours = TRANSFORM.jitter.draw() if bool(torch.rand(1) < DATA.augmentation.jitter) else []
        assert TRANSFORM.blur is not None
        return cls(cut, flip, colours, TRANSFORM.blur.draw())


class Clock:
    """Seconds of computing time of each named step."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[step] += time.process_time() - start


def plainly(found: FolderSet, drawn: Draw, clock: Clock) -> tuple[Tensor, Tensor]:
    """One image, step by step, RobustNet's way."""
    pair, (cut, flip, colours, sigma) = found.pairs[drawn.image], Parameters.of(drawn)
    with clock("read image"):
        image = Image.open(pair.image).convert("RGB")
    with clock("read label"):
        label = Image.fromarray(found.table[np.array(Image.open(pair.label))])
    with clock("scale and crop"):
        factor = cut.resized[0] / cut.box[2]
        size = (round(image.width * factor), round(image.height * factor))
        image, label = image.resize(size, Image.Resampling.BICUBIC), label.resize(size, Image.Resampling.NEAREST)
        if any(cut.padding):
            padding = [cut.padding[0], cut.padding[1], cut.padding[2], cut.padding[3]]
            image, label = functional.pad(image, padding), functional.pad(label, padding, fill=IGNORE_INDEX)
        left = min(round(cut.box[1] * factor), max(0, image.width - CROP[1]))
        top = min(round(cut.box[0] * factor), max(0, image.height - CROP[0]))
        image, label = (one.crop((left, top, left + CROP[1], top + CROP[0])) for one in (image, label))
    with clock("flip"):
        if flip:
            image, label = functional.hflip(image), functional.hflip(label)
    with clock("jitter"):
        for step, amount in colours:
            if step == 3:
                image = functional.adjust_hue(image, amount)
            else:
                kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[step]
                image = kind(image).enhance(amount)
    with clock("blur"):
        image = image.filter(ImageFilter.GaussianBlur(sigma))
    with clock("normalise"):
        tensor = functional.normalize(functional.to_tensor(image), IMAGENET_MEAN, IMAGENET_STD)
        return tensor[None], torch.from_numpy(np.array(label, dtype=np.int64))[None]


def stepwise(found: FolderSet, drawn: Draw, clock: Clock) -> tuple[Tensor, Tensor]:
    """One image with the steps that `training_batches` takes, each by itself."""
    pair, (cut, flip, colours, sigma) = found.pairs[drawn.image], Parameters.of(drawn)
    with clock("read image"):
        photo = read_image(pair.image)
    with clock("read label"):
        truth = labels.apply(found.table, read_label(pair.label), pair.name)
    with clock("scale and crop"):
        image = TRANSFORM.crop.cut(torch.from_numpy(photo).permute(2, 0, 1), cut, blend=True).contiguous()
        label = TRANSFORM.crop.cut(torch.from_numpy(truth)[None], cut, blend=False)
        image = TRANSFORM.crop.pad(image, cut, value=0)
        label = TRANSFORM.crop.pad(label, cut, value=IGNORE_INDEX)
    with clock("flip"):
        if flip:
            image, label = image.flip(2), label.flip(2)
    with clock("jitter"):
        if colours:
            image = change_colours(image, colours)
    with clock("blur"):
        image = gaussian_blur(image, sigma=sigma)
    with clock("normalise"):
        return normalise(image[None]), label.long()


def measure(side: str, folder: Path, images: int) -> dict[str, Any]:
    """Milliseconds for an image, of the whole way and of each step, and the peak of memory in MiB."""
    torch.set_num_threads(1)
    found = pictures(folder / SIDES[side])
    stream = Stream([len(found)], seed=0)
    draws = [stream.draw(position) for position in range(images)]
    clock = Clock()
    if side != "plain":
        batches = iter(training_batches([found], DATA, seed=0, iterations=range(images)))
        for drawn in draws:
            with clock("all"):
                batch = next(batches)
            assert torch.equal(batch.label, stepwise(found, drawn, Clock())[1]), "the steps are the loader's"
            del batch
    steps = Clock()
    for drawn in draws:
        (plainly if side == "plain" else stepwise)(found, drawn, steps)
    total = clock.seconds["all"] if clock.seconds else sum(steps.seconds.values())
    return {
        "all": total / images * 1e3,
        "steps": {step: seconds / images * 1e3 for step, seconds in steps.seconds.items()},
        "memory": peak_memory(),
    }


def peak_memory() -> float:
    """Most memory that this process held, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # `ru_maxrss` counts the process that started this one, too
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of images that are enlarged; generated streets without it")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--images", type=int, default=16, help="images that are prepared in each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        json.dump(measure(arguments.side, arguments.folder, arguments.images), sys.stdout)
        return
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(Path(folder), arguments.photos, arguments.pictures)
        sizes = {path.suffix[1:]: path.stat().st_size / 2**20 for path in Path(folder).glob("*/images/00001.*")}
        for _ in range(arguments.turns):
            for side in SIDES:
                command = [
                    sys.executable,
                    __file__,
                    "--side",
                    side,
                    "--folder",
                    folder,
                    "--images",
                    str(arguments.images),
                ]
                done = subprocess.run(
                    command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
                )
                results[side].append(json.loads(done.stdout))
    best = {side: min(found, key=lambda result: result["all"]) for side, found in results.items()}
    print(describe())
    held = ", ".join(f"{size:.1f} MiB as {kind}" for kind, size in sizes.items())
    print(f"{SIZE[1]}×{SIZE[0]} pixels; a photograph has {held}")
    print(f"\n{'ms for an image':<20}" + "".join(f"{side:>15}" for side in SIDES))
    for step in best["plain"]["steps"]:
        print(f"{step:<20}" + "".join(f"{best[side]['steps'][step]:>15.1f}" for side in SIDES))
    rows = {
        "the whole way": lambda side: best[side]["all"],
        "images per second": lambda side: 1e3 / best[side]["all"],
        "times plain": lambda side: best["plain"]["all"] / best[side]["all"],
        "peak memory, MiB": lambda side: best[side]["memory"],
    }
    for name, value in rows.items():
        print(f"{name:<20}" + "".join(f"{value(side):>15.1f}" for side in SIDES))


if __name__ == "__main__":
    main()

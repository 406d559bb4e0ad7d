"""What a weather style costs for a training crop, against what decoding the photograph costs, on one thread.

python benchmarks/weather.py [--photo FILE] [--repeats NUMBER] [--size PIXELS] [--strength SHARE] [--output FILE]
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _machine import describe, median
from PIL import Image

from spcnet.synthesis.streets import generate
from spcnet.synthesis.weather import WEATHER, apply_weather

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "cityscapes256" / "leftImg8bit"
SIZE = (1914, 1052)
"""Width and height of a photograph of GTA V, the usual source of DGSS."""
GRAIN = 4.0
"""Standard deviation of the noise on the enlarged photograph, so that it packs as badly as a real one, about 3.5 MB."""


def photograph(path: Path | None) -> Image.Image:
    """A photograph of the usual size: an enlarged one with noise, so that it is as hard to pack as a sharp one."""
    if path is None:
        path = next(iter(sorted(PHOTOS.rglob("*.jpg"))), None)
    small = Image.fromarray(generate(0, style="game", size=(256, 512)).image) if path is None else Image.open(path)
    large = np.asarray(small.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
    noisy = large + GRAIN * np.random.default_rng(0).standard_normal(large.shape, dtype=np.float32)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def milliseconds(action: Callable[[int], object], repeats: int) -> float:
    """Median time of an action that is given the number of its repeat, after one that does not count."""
    action(0)
    times = []
    for index in range(repeats):
        start = time.perf_counter()
        action(index)
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--size", type=int, default=768, help="side of the crop")
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    size = arguments.size
    photo = photograph(arguments.photo)
    packed = io.BytesIO()
    photo.save(packed, "PNG")
    left, top = (photo.width - size) // 2, (photo.height - size) // 2
    crop = np.asarray(photo)[top : top + size, left : left + size]
    window = (top / photo.height, left / photo.width, size / photo.height, size / photo.width)

    decode = milliseconds(lambda _: Image.open(io.BytesIO(packed.getvalue())).convert("RGB"), arguments.repeats)

    def styled(style: str) -> Callable[[int], object]:
        return lambda seed: apply_weather(crop, style, seed=seed, strength=arguments.strength, window=window)

    styles = {style: milliseconds(styled(style), arguments.repeats) for style in WEATHER}
    sys.stdout.write(
        f"{describe()}\none {size}×{size} crop of a {photo.width}×{photo.height} photograph; decoding it, a PNG of "
        f"{len(packed.getvalue()) / 1e6:.1f} MB, takes {decode:.1f} ms\n{'style':<12}{'ms':>8}{'of decoding':>13}\n"
    )
    for style, taken in styles.items():
        sys.stdout.write(f"{style:<12}{taken:>8.1f}{taken / decode:>13.2f}\n")
    shares = [taken / decode for taken in styles.values()]
    sys.stdout.write(f"{'largest':<20}{max(shares):>13.2f}\n{'mean':<20}{sum(shares) / len(shares):>13.2f}\n")
    if arguments.output:
        record = {
            "machine": describe(),
            "crop": size,
            "strength": arguments.strength,
            "decode_ms": decode,
            "style_ms": styles,
        }
        arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

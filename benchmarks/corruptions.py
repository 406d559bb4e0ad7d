"""What a corruption costs for an image, against what decoding that image costs, on one thread.

python benchmarks/corruptions.py [--photo FILE] [--repeats NUMBER] [--severity 1..5] [--output FILE]

Two sizes: a training crop, 768×768, and a photograph of Cityscapes, 2048×1024. Decoded is a PNG of the same size.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _machine import describe
from numpy.typing import NDArray
from PIL import Image
from weather import milliseconds, photograph

from spcnet.synthesis.corruptions import CORRUPTIONS, corrupt

SIZES = ((768, 768), (1024, 2048))
"""Height and width."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--severity", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photo = np.asarray(photograph(arguments.photo).resize((2048, 1052), Image.Resampling.BICUBIC))
    record = {"machine": describe(), "severity": arguments.severity, "decode_ms": {}, "corruption_ms": {}}
    for height, width in SIZES:
        size = f"{width}×{height}"
        image = np.ascontiguousarray(photo[:height, :width])
        packed = io.BytesIO()
        Image.fromarray(image).save(packed, "PNG")

        def decode(_: int, content: bytes = packed.getvalue()) -> None:
            Image.open(io.BytesIO(content)).convert("RGB")

        def corrupted(name: str, image: NDArray[np.uint8] = image) -> Callable[[int], object]:
            return lambda seed: corrupt(image, name, severity=arguments.severity, seed=seed)

        record["decode_ms"][size] = milliseconds(decode, arguments.repeats)
        record["corruption_ms"][size] = {name: milliseconds(corrupted(name), arguments.repeats) for name in CORRUPTIONS}
    sizes = list(record["decode_ms"])
    decoding = ", ".join(f"{size}: {record['decode_ms'][size]:.1f} ms" for size in sizes)
    sys.stdout.write(f"{record['machine']}\nseverity {arguments.severity}; decoding the PNG takes {decoding}\n")
    sys.stdout.write(f"{'':<20}" + "".join(f"{size:>12}{'of decoding':>13}" for size in sizes) + "\n")

    def line(title: str, taken: Callable[[str], float]) -> None:
        cells = (f"{taken(size):>9.1f} ms{taken(size) / record['decode_ms'][size]:>13.2f}" for size in sizes)
        sys.stdout.write(f"{title:<20}{''.join(cells)}\n")

    for name in CORRUPTIONS:
        line(name, lambda size, name=name: record["corruption_ms"][size][name])
    line("largest", lambda size: max(record["corruption_ms"][size].values()))
    line("mean", lambda size: sum(record["corruption_ms"][size].values()) / len(CORRUPTIONS))
    if arguments.output:
        arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Street scenes drawn per second in each style, on one thread.

python benchmarks/streets.py [--size HEIGHT WIDTH] [--scenes NUMBER]
"""

import argparse
import sys
import time

from spcnet.synthesis.streets import STYLES, generate


def scenes_per_second(style: str, size: tuple[int, int], num_scenes: int) -> tuple[float, float]:
    """Scenes drawn in one second of wall-clock time, and in one second of this process's computing time."""
    wall, cpu = time.perf_counter(), time.process_time()
    for index in range(num_scenes):
        generate(index, style=style, size=size)
    return num_scenes / (time.perf_counter() - wall), num_scenes / (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--scenes", type=int, default=60)
    arguments = parser.parse_args()
    height, width = arguments.size
    generate(0, style="game")  # textures are made once, on first use
    sys.stdout.write(
        f"{height}×{width} pixels, {arguments.scenes} scenes\n{'style':<10}{'per second':>12}{'per CPU second':>16}\n"
    )
    for style in STYLES:
        wall, cpu = scenes_per_second(style, (height, width), arguments.scenes)
        sys.stdout.write(f"{style:<10}{wall:>12.1f}{cpu:>16.1f}\n")


if __name__ == "__main__":
    main()

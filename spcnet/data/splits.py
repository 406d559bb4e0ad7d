"""Which image belongs to which split, for the sets whose files are not sorted by it.

GTAV: the split that its authors published, less 15 training frames of a single colour, as in RobustNet: 12,388 to train,
6,382 to validate, 6,181 to test on. SYNTHIA-RAND-CITYSCAPES: RobustNet's random split, 6,580 and 2,820.
"""

import base64
import re
from functools import lru_cache
from importlib.resources import files


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="ascii")


@lru_cache(maxsize=1)
def gtav() -> dict[str, frozenset[str]]:
    """Names without ending of GTAV's frames, by split; `full` has all 24,966, those of a single colour, too."""
    # Frames 1 to 24,966 in order: the number of frames in a row of train (t), val (v), test (e), or of none (x).
    frames: dict[str, set[str]] = {"t": set(), "v": set(), "e": set(), "x": set()}
    number = 1
    for split, count in re.findall(r"([tvex])(\d+)", _read("split_gtav.txt")):
        frames[split].update(f"{frame:05d}" for frame in range(number, number + int(count)))
        number += int(count)
    splits = {"train": frames["t"], "val": frames["v"], "test": frames["e"], "full": set().union(*frames.values())}
    return {name: frozenset(members) for name, members in splits.items()}


@lru_cache(maxsize=1)
def synthia() -> dict[str, frozenset[str]]:
    """Names without ending of SYNTHIA's images, by split."""
    packed = base64.b85decode(_read("split_synthia.txt").strip())  # images 0 to 9,399 as bits; a set bit is val
    is_val = [bool(packed[i // 8] >> (7 - i % 8) & 1) for i in range(9400)]
    names = [f"{i:07d}" for i in range(9400)]
    return {
        "train": frozenset(name for name, val in zip(names, is_val, strict=True) if not val),
        "val": frozenset(name for name, val in zip(names, is_val, strict=True) if val),
        "full": frozenset(names),
    }

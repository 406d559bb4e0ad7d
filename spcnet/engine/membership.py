"""The images of a run's sources: recorded at its start, compared when it is resumed.

A batch is a function of the seed, the iteration and the list of images. A list with one image more or fewer changes all
later batches, so that some images would be seen twice and others never. The checkpoint holds the number of images of each
source and a digest of their names in order; the names, for the error message, are in a small file beside it.
"""

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spcnet.errors import CheckpointError
from spcnet.files import write_atomic

IMAGES_FILE = "images.json.gz"
"""File in a run's folder with the names of each source's images."""
SHOWN = 3
"""Number of images that a message names."""


class Images(NamedTuple):
    """The images of one source."""

    number: int
    digest: str
    """Of the names in order; empty for images without names."""
    names: Sequence[str]

    def noted(self) -> dict[str, Any]:
        """Their entry in a checkpoint."""
        return {"number": self.number, "digest": self.digest}


def images_of(number: int, names: Sequence[str] | None) -> Images:
    """The images of a source, by number and names relative to its root; names are None for generated images."""
    return Images(number, "" if names is None else _digest(names), names or ())


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def write(run: Path, images: Mapping[str, Images]) -> None:
    """Write the names of the images of each source into the folder of a run.

    Raises:
        DataError: it cannot be written.
    """
    names = {source: list(source_images.names) for source, source_images in images.items() if source_images.digest}
    if names:  # generated scenes have none
        content = gzip.compress(json.dumps(names).encode(), 6, mtime=0)
        write_atomic(run / IMAGES_FILE, lambda file: file.write(content))


def check(run: Path, noted: Mapping[str, Mapping[str, Any]], images: Mapping[str, Images]) -> None:
    """Refuse to resume a run with other images than it started with.

    Args:
        run: folder of the run.
        noted: entry of each source in the checkpoint; empty for a run of an earlier version.
        images: the present images of each source.

    Raises:
        CheckpointError: a source has other images.
    """
    for source, before in noted.items():
        now = images.get(source)
        if now is None or now.noted() == before:
            continue
        names = _names(run, source, str(before["digest"]))
        gone, new = ([], []) if names is None else (_without(names, now.names), _without(now.names, names))
        changes = [
            f"{len(changed):,} {what} ({', '.join(changed[:SHOWN])}{', ...' if len(changed) > SHOWN else ''})"
            for changed, what in ((gone, "removed"), (new, "added"))
            if changed
        ]
        if names is not None and not changes:
            changes = ["in another order"]
        remedies = ["put back what was removed or excluded"] if gone or names is None else []
        remedies += ["name what was added in a file of data.exclude"] if new or names is None else []
        raise CheckpointError(
            f"the images of the source {source} are not those with which the run in {run} started, "
            f"{before['number']:,} then, {now.number:,} now{''.join(f', {change}' for change in changes)}: images would be seen "
            f"twice or left out; {' and '.join(remedies)}{', or ' if remedies else ''}begin again with another --output"
        )


def _names(run: Path, source: str, digest: str) -> list[str] | None:
    """The recorded names of a source; None if the file is missing or does not belong to the checkpoint."""
    try:
        names = json.loads(gzip.decompress((run / IMAGES_FILE).read_bytes()))[source]
        return names if _digest(names) == digest else None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error):
        return None


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """The names that are not among the others, in order."""
    left = Counter(others)
    remaining = []
    for name in names:
        if left[name] > 0:
            left[name] -= 1
        else:
            remaining.append(name)
    return remaining

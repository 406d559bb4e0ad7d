"""Which images a run draws from: noted when it begins, compared when it goes on.

A batch is a function of the seed and the iteration, and of the list of images. One image more or fewer gives every later
batch other images, so that some would be seen twice and others never. The checkpoint has the number of each source's
images and a digest of their names in order; the names themselves, for the message, lie beside it in one small file.
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
"""In a run's folder: the names of each source's images."""
SHOWN = 3
"""Images that a message names."""


class Images(NamedTuple):
    """The images of one source."""

    number: int
    digest: str
    """Of the names in their order; empty where the images have none."""
    names: Sequence[str]

    def noted(self) -> dict[str, Any]:
        """What a checkpoint says of them."""
        return {"number": self.number, "digest": self.digest}


def images_of(number: int, names: Sequence[str] | None) -> Images:
    """The images of a source: how many, and their names, which do not depend on where they lie; None for generated ones."""
    return Images(number, "" if names is None else _digest(names), names or ())


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def write(run: Path, images: Mapping[str, Images]) -> None:
    """Note the names of the images of each source in the folder of a run.

    Raises:
        DataError: it cannot be written.
    """
    names = {source: list(own.names) for source, own in images.items() if own.digest}
    if names:  # generated scenes have none
        content = gzip.compress(json.dumps(names).encode(), 6, mtime=0)
        write_atomic(run / IMAGES_FILE, lambda file: file.write(content))


def check(run: Path, noted: Mapping[str, Mapping[str, Any]], images: Mapping[str, Images]) -> None:
    """Refuse to go on with other images than those that the run was begun with.

    Args:
        run: folder of the run.
        noted: of each source what its checkpoint says; of a run of an earlier version nothing.
        images: what there is now.

    Raises:
        CheckpointError: a source has other images; says how many and names some.
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
            f"the images of the source {source} are not those that the run in {run} was begun with, "
            f"{before['number']:,} then, {now.number:,} now{''.join(f', {change}' for change in changes)}: images would be seen "
            f"twice or left out; {' and '.join(remedies)}{', or ' if remedies else ''}begin again with another --output"
        )


def _names(run: Path, source: str, digest: str) -> list[str] | None:
    """The names that a source had; None where the file is not there or is not the one that belongs to the checkpoint."""
    try:
        names = json.loads(gzip.decompress((run / IMAGES_FILE).read_bytes()))[source]
        return names if _digest(names) == digest else None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error):
        return None


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Those names that the others do not have, in order."""
    left = Counter(others)
    found = []
    for name in names:
        if left[name] > 0:
            left[name] -= 1
        else:
            found.append(name)
    return found

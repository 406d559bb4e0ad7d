"""The same work on each of many files, in several processes: results in order, errors as one line, Ctrl-C ends it."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from spcnet.errors import DataError, UsageError
from spcnet.signals import leave_interrupt_to_parent

Item = TypeVar("Item")
Result = TypeVar("Result")

_AT_ONCE = 8
"""Items that a process is sent together: few enough that all stop at once, enough that sending them costs nothing."""


def in_processes(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Generator[Result, None, None]:
    """What `work` makes of each item, in the order of the items.

    Only a few results wait at any time, so that memory does not grow with the number of items. Who stops before the end
    closes it (`contextlib.closing`), which ends the processes.

    Args:
        work: a function of a module, or a `functools.partial` of one: it is sent to the processes.
        items: what to work on; their text names them where a process dies.
        workers: how many processes; with 0 the calling one does it all.
        on_progress: called with the number of items that are done, and of all.

    Raises:
        UsageError: the number of workers is negative.
        DataError: `work` raised it, or a process was ended from outside.
    """
    if workers < 0:
        raise UsageError(f"there are {workers} workers: it must be 0 (no processes beside this one) or more")
    progress = on_progress or (lambda done, total: None)
    total = len(items)
    progress(0, total)
    if workers == 0 or total <= _AT_ONCE:
        for done, item in enumerate(items, 1):
            result = work(item)
            progress(done, total)
            yield result
        return
    pieces = [items[first : first + _AT_ONCE] for first in range(0, total, _AT_ONCE)]
    waiting: deque[Future[list[Result]]] = deque()
    pool = ProcessPoolExecutor(min(workers, len(pieces)), initializer=leave_interrupt_to_parent)
    done = 0
    try:
        for piece in pieces:
            waiting.append(pool.submit(_all, work, piece))
            while len(waiting) > 4 * workers or (waiting and piece is pieces[-1]):
                results = waiting.popleft().result()
                done += len(results)
                progress(done, total)
                yield from results
    except BrokenProcessPool:
        what = f"a worker process was ended from outside after {done} of {total} files, perhaps for want of memory"
        raise DataError(f"{what}: take fewer workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _all(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [work(item) for item in items]

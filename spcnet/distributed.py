"""Several processes that train together: what each has to know of the others.

Every loss and every update of the package is a function of sums over images. `all_reduce_sum` sums over the processes,
so that R processes find what one finds on the joined batch; `MicroBatchSums` does the same for the micro-batches of
gradient accumulation. With one process all of it is the identity and costs nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from spcnet.errors import SpcnetError

T = TypeVar("T")

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes; the identity where there is one."""


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum over the processes, of the same shape everywhere; the gradient flows back to each.

    Made for losses that are functions of such sums, and so the same in every process: what flows back is multiplied by
    the number of processes, since DistributedDataParallel takes the mean of the processes' gradients.
    """
    if world_size() == 1:
        return value
    total: Tensor = _AllReduceSum.apply(value)
    return total


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _all_reduced(value.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * world_size()


def all_reduce_mean(value: Tensor) -> Tensor:
    """The mean over the processes, for what each then uses in its own way; the gradient is summed over all of them."""
    if world_size() == 1:
        return value
    mean: Tensor = _AllReduceMean.apply(value)
    return mean


class _AllReduceMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _all_reduced(value.detach()) / world_size()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _all_reduced(gradient) / world_size()


def _all_reduced(value: Tensor) -> Tensor:
    summed = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(summed)
    return summed


def gather_rows(value: Tensor) -> Tensor:
    """The rows of all processes, process by process, without gradient; each has equally many of the same shape."""
    if world_size() == 1:
        return value.detach()
    rows = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(rows, value.detach().contiguous())
    return torch.cat(rows)


class MicroBatchSums:
    """Sums over the micro-batches of a batch, and over the processes.

    It is called wherever a loss needs a sum. In a first round over the parts, without gradient, it only collects; from
    then on each call answers with the sum over all parts, through which the gradient flows to the part at hand. The
    calls have to come in the same order for every part, and no sum may depend on another.
    """

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.known = False
        self.place = 0

    def begin(self) -> None:
        """Another part follows."""
        self.place = 0

    def close(self) -> None:
        """All parts have been seen once."""
        self.sums = [all_reduce_sum(value) for value in self.sums]
        self.known = True

    def __call__(self, value: Tensor) -> Tensor:
        """Collect a part's value, or give the sum over all parts."""
        place, self.place = self.place, self.place + 1
        if self.known:
            # Nothing is added to the sum but the way back; see `all_reduce_sum` for the factor.
            return self.sums[place] + world_size() * (value - value.detach())
        if place == len(self.sums):
            self.sums.append(value.detach().clone())
        else:
            self.sums[place] += value.detach()
        return value


def gather(value: T) -> list[T]:
    """What each process has to say, in their order; the same list everywhere."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_host())
    return values


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Whether each flag is set in some process."""
    if world_size() == 1:
        return flags
    votes = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(votes, group=_host())
    return tuple(bool(vote) for vote in votes.tolist())


def has_largest(score: float) -> bool:
    """Whether this process has the largest score; of equal ones the first has it."""
    scores = gather(score)
    return scores.index(max(scores)) == rank()


_hosts: dict[int, Any] = {}


def _host() -> Any:
    """A group whose messages go from processor to processor: they do not make a GPU wait."""
    if dist.get_backend() == "gloo":
        return None
    world = id(dist.group.WORLD)
    if world not in _hosts:
        _hosts[world] = dist.new_group(backend="gloo")
    return _hosts[world]


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """What goes wrong in one process goes wrong in all: none waits for another that is gone.

    Every process has to come here, and may not talk to the others within.

    Raises:
        SpcnetError: that of the first process that has one; the first of all tells it.
    """
    error = None
    try:
        yield
    except SpcnetError as raised:
        error = raised
    sync_error(error)


def sync_error(error: SpcnetError | None) -> None:
    """Raise in every process what one of them found.

    Raises:
        SpcnetError: that of the first process that has one; the first of all tells it.
    """
    if world_size() == 1:
        if error is not None:
            raise error
        return
    if any_of(error is not None)[0]:
        first = next(raised for raised in gather(error) if raised is not None)
        first.told_elsewhere = rank() > 0
        raise first

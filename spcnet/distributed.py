"""Communication between the processes of a distributed training.

Every loss and every update of the package is a function of sums over images. `all_reduce_sum` sums over the processes,
so that R processes compute the same as one process on the joined batch; `MicroBatchSums` does this for the micro-batches of
gradient accumulation. With one process everything is the identity and costs nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from spcnet.errors import SpcnetError

T = TypeVar("T")

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes; the identity with one process."""


_alone = ContextVar("_alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process takes itself for the only one."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def world_size() -> int:
    """Number of processes."""
    together = dist.is_available() and dist.is_initialized() and not _alone.get()
    return dist.get_world_size() if together else 1


def rank() -> int:
    """Index of this process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_reduce_sum(value: Tensor) -> Tensor:
    """Differentiable all-reduce sum of a tensor with the same shape in all processes.

    For losses that are functions of such sums, and so equal in all processes: the gradient is multiplied by the number of
    processes, since DistributedDataParallel averages the gradients over the processes.
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
    """Differentiable all-reduce mean, for values that each process uses differently; the gradient is summed over the processes."""
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
    """Sums over the micro-batches of a batch and over the processes.

    A loss calls it wherever it needs a sum. The first pass over the micro-batches, without gradient, collects the values; in
    the second pass each call returns the sum over all micro-batches, with the gradient of the current one. The order of the
    calls must be the same for all micro-batches, and no sum may depend on another.
    """

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.known = False
        self.place = 0

    def begin(self) -> None:
        """Start the next micro-batch."""
        self.place = 0

    def close(self) -> None:
        """End the first pass."""
        self.sums = [all_reduce_sum(value) for value in self.sums]
        self.known = True

    def __call__(self, value: Tensor) -> Tensor:
        """Collect a micro-batch's value in the first pass, return the sum in the second."""
        place, self.place = self.place, self.place + 1
        if self.known:
            # Adds zero, for the gradient; see `all_reduce_sum` for the factor.
            return self.sums[place] + world_size() * (value - value.detach())
        if place == len(self.sums):
            self.sums.append(value.detach().clone())
        else:
            self.sums[place] += value.detach()
        return value


def gather(value: T) -> list[T]:
    """The value of each process, in order of rank; the same list in all processes."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_host())
    return values


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Whether each flag is set in any process."""
    if world_size() == 1:
        return flags
    votes = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(votes, group=_host())
    return tuple(bool(vote) for vote in votes.tolist())


def has_largest(score: float) -> bool:
    """Whether this process has the largest score; of equal scores the lowest rank's."""
    scores = gather(score)
    return scores.index(max(scores)) == rank()


_hosts: dict[int, Any] = {}


def _host() -> Any:
    """A group for communication between processors, which does not synchronise GPUs."""
    if dist.get_backend() == "gloo":
        return None
    world = id(dist.group.WORLD)
    if world not in _hosts:
        _hosts[world] = dist.new_group(backend="gloo")
    return _hosts[world]


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Raise an error of one process in all processes, so that none waits for another that ended.

    Every process has to enter, and must not communicate within.

    Raises:
        SpcnetError: the error of the lowest rank that has one; rank 0 prints it.
    """
    error = None
    try:
        yield
    except SpcnetError as raised:
        error = raised
    sync_error(error)


def sync_error(error: SpcnetError | None) -> None:
    """Raise an error of one process in all processes.

    Raises:
        SpcnetError: the error of the lowest rank that has one; rank 0 prints it.
    """
    if world_size() == 1:
        if error is not None:
            raise error
        return
    if any_of(error is not None)[0]:
        first = next(raised for raised in gather(error) if raised is not None)
        first.told_elsewhere = rank() > 0
        raise first

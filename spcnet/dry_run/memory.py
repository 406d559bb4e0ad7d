"""How many bytes a training step takes, before one is made: followed through a step of tensors that have no numbers."""

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from spcnet import distributed
from spcnet.config import DataConfig, RunConfig
from spcnet.engine.optim import memory_size
from spcnet.engine.prepare import freeze_batchnorm
from spcnet.methods import method_named
from spcnet.models.network import Segmentor
from spcnet.plugins import make_plugins
from spcnet.types import Batch, SegOutput

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def micro_batch_size(data: DataConfig) -> int:
    """Images of a micro-batch of one process."""
    return data.images_per_domain * (1 if data.sampling == "alternating" else len(data.sources))


def weights(network: nn.Module) -> tuple[int, int]:
    """Bytes of all parameters, and of those that are trained."""
    return _bytes(network.parameters()), _bytes(p for p in network.parameters() if p.requires_grad)


def _bytes(parameters: Iterable[Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in parameters)


def step_memory(network: Segmentor, config: RunConfig, device: str, *, processes: int = 1) -> int:
    """Most bytes that tensors of one process take at a time in a training step of the run, from shapes alone.

    What operations need within themselves, and what the memory's manager holds beside, is not among them.

    Args:
        network: stays as it is.
        config: of the run.
        device: kind of device that it computes on.
        processes: how many train together.
    """
    whole, trained = weights(network)
    memory = memory_size(config.training) * trained
    moved = 0 if device == "cpu" else trained  # AdamW's and SGD's sums over all parameters together
    double = 2 if config.training.precision == "64-true" else 1
    if config.training.strategy == "fsdp":
        parts = [weights(part) for part in network.parts()]
        rest = [total - sum(sizes) for total, sizes in zip((whole, trained), zip(*parts, strict=True), strict=True)]
        # Gathered at a time: what is of no part, a part and the one that is fetched meanwhile; of gradients one of each.
        largest = sorted(parts)[-2:]
        gathered = int(sum(rest)) + sum(size for size, _ in largest) + largest[-1][1]
        kept = -(-(whole + trained + memory) // processes) + gathered
        return double * (kept + _peak(network, config, device, keep_gradients=False))
    buckets = trained if processes > 1 else 0  # of gradients, which DistributedDataParallel keeps between the steps
    kept = whole + memory + buckets + (whole if config.training.ema else 0)
    return double * (kept + max(_peak(network, config, device), trained + moved))


def _peak(network: Segmentor, config: RunConfig, device: str, *, keep_gradients: bool = True) -> int:
    """Most bytes that are there at a time beside parameters and buffers, from the batch to the last gradient."""
    size = config.data.crop or config.data.size
    assert size is not None
    training, method, images = config.training, method_named(config.method), micro_batch_size(config.data)
    # A plug-in that compares two views puts the altered images behind the images as they are.
    images *= 2 if any(plugin.doubles for plugin in make_plugins(config)) else 1
    mode, half = FakeTensorMode(allow_non_fake_inputs=True), HALF.get(training.precision)
    fake = _without_numbers(network, mode)
    if not keep_gradients:
        for parameter in fake.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda value: setattr(value, "grad", None))  # type: ignore[no-untyped-call]
    count = _LiveBytes((*fake.parameters(), *fake.buffers()))
    with mode, count, distributed.alone():
        # All micro-batches are on the device, the network has one at a time.
        batches = [
            Batch(
                torch.empty(images, 3, *size).to(memory_format=torch.channels_last),
                torch.empty(images, *size, dtype=torch.long),
                torch.empty(images, dtype=torch.long),
                tuple(map(str, range(images))),
            )
            for _ in range(training.accumulate)
        ]
        for batch in batches[:2]:  # the second finds the gradients of the first
            fake.train()
            if training.freeze_batchnorm:
                freeze_batchnorm(fake)
            method.prepare(fake, batch, config.model, progress=0.0)

            def forward(image: Tensor = batch.image) -> SegOutput:
                with torch.autocast(device, dtype=half, enabled=half is not None):
                    output: SegOutput = fake(image)
                return output

            _loss(fake, forward, batch, config).backward()  # type: ignore[no-untyped-call]
    return count.peak


def _loss(network: Segmentor, forward: Callable[[], SegOutput], batch: Batch, config: RunConfig) -> Tensor:
    """That of the method; of masks, whose loss depends on numbers, one of all that the network says of them."""
    if network.classifier is None:
        return torch.stack([part.float().mean() for mask in forward().masks for part in mask]).sum()
    method = method_named(config.method)
    return method.losses(network, forward(), batch, config.model, progress=0.0, reduce=distributed.all_reduce_sum).loss


def _without_numbers(network: Segmentor, mode: FakeTensorMode) -> Segmentor:
    """A copy whose parameters and buffers have shapes alone."""
    memo: dict[int, Any] = {id(value): mode.from_tensor(value) for value in network.buffers()}
    memo |= {
        id(value): nn.Parameter(mode.from_tensor(value.detach()), value.requires_grad) for value in network.parameters()
    }
    return copy.deepcopy(network, memo)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows which memories of tensors live.

    Args:
        known: tensors that are not counted.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known = {value.untyped_storage()._cdata for value in known}
        self.every = WeakIdKeyDictionary()
        """Answers to whether all numbers are so, which here are yes; other numbers that are asked for are 0."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            kind = bool if args[0].dtype == torch.bool else float if args[0].dtype.is_floating_point else int
            return kind(args[0] in self.every)
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.all, torch.ops.aten._is_all_true):
            self.every[result] = True
        tree_map_only(Tensor, self._note, result)
        self.peak = max(self.peak, self.now)
        return result

    def _note(self, value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        return value

    def _free(self, memory: int, size: int) -> None:
        self.known.discard(memory)
        self.now -= size

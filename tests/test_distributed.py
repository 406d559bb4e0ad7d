"""Several processes that train together find what one finds on the joined batch; with real processes (gloo)."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from torch import Tensor

from spcnet.config import ModelConfig, WhiteningConfig
from spcnet.distributed import all_reduce_sum
from spcnet.losses.masks import mask_losses
from spcnet.methods import METHODS
from spcnet.models.whitening import SwitchableWhitening
from spcnet.types import IGNORE_INDEX, Batch, MaskPrediction

WORLD = 2
Found = dict[str, Tensor]


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 48, 64, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def switchable(rank: int, world: int) -> Found:
    """Output, running moments, and gradients of a layer on a share of a batch."""
    dice = torch.Generator().manual_seed(0)
    whole = torch.randn(4, 32, 6, 7, generator=dice, dtype=torch.double)
    direction = torch.randn(whole.shape, generator=dice, dtype=torch.double)
    feature = whole[rank::world].clone().requires_grad_()
    torch.manual_seed(0)
    layer = SwitchableWhitening(32).double().train()
    output = layer(feature)
    (output * direction[rank::world]).sum().backward()
    assert feature.grad is not None
    found = {"each output": output.detach(), "each gradient": feature.grad}
    found |= {f"sum {name}": value.grad for name, value in layer.named_parameters() if value.grad is not None}
    return found | {f"same {name}": value for name, value in layer.named_buffers()}


def selective(rank: int, world: int) -> Found:
    """Masks of selective whitening after two trials of twelve pairs."""
    torch.manual_seed(0)
    model = ModelConfig("shufflenet_v2", weights=None, whitening=WhiteningConfig(clusters=3))
    network = METHODS["isw"].build(model, num_classes=5, num_domains=2).double().eval()
    pairs = images(48).view(2, 12, 2, 3, 48, 64)

    def batch(pair: Tensor) -> Batch:
        label = torch.full((2, 48, 64), IGNORE_INDEX)
        return Batch(pair, label, torch.zeros(2, dtype=torch.long), ("altered", "plain"))

    def summed(value: Tensor) -> Tensor:
        if world > 1:
            torch.distributed.all_reduce(value)
        return value

    trials = [[batch(pair) for pair in trial[rank::world]] for trial in pairs]
    METHODS["isw"].take_statistics(network, network, trials, model, reduce=summed)
    return {f"same {name}": value for name, value in network.named_buffers() if name.endswith(("mask", "trials"))}


def masks(rank: int, world: int) -> Found:
    """Losses of two predictions of queries, and their gradients as DistributedDataParallel adds them up."""
    dice = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (4, 6, 8), generator=dice).repeat_interleave(8, 1).repeat_interleave(8, 2)
    label[1] = IGNORE_INDEX  # the second process then has other images than the first, and fewer masks
    whole = [torch.randn(4, 7, *size, generator=dice, dtype=torch.double) for size in ((5,), (12, 16)) * 2]
    own = [value[rank::world].clone().requires_grad_() for value in whole]
    predictions = [MaskPrediction(*own[:2]), MaskPrediction(*own[2:])]
    losses = mask_losses(predictions, label[rank::world], num_points=50, progress=0.3, reduce=all_reduce_sum)
    gradients = torch.autograd.grad(torch.stack(losses).sum(), own)
    found = {f"each gradient {number}": value / world for number, value in enumerate(gradients)}
    return found | {f"same {name}": value.detach() for name, value in losses._asdict().items()}


def work(rank: int, case: Callable[[int, int], Found], folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    torch.save(case(rank, WORLD), f"{folder}/{rank}.pth")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("case", [switchable, selective, masks])
def test_two_processes_equal_one(case: Callable[[int, int], Found], tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (case, str(tmp_path)), nprocs=WORLD)
    shares = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(WORLD)]
    expected = case(0, 1)
    assert all(share.keys() == expected.keys() for share in shares)
    for name, value in expected.items():
        found = [share[name] for share in shares]
        if name.startswith("each"):
            joined = torch.empty_like(value)
            for rank, part in enumerate(found):
                joined[rank::WORLD] = part
            torch.testing.assert_close(joined, value, rtol=0, atol=1e-10)
        elif name.startswith("sum"):
            torch.testing.assert_close(found[0] + found[1], value, rtol=0, atol=1e-9)
        else:
            assert torch.equal(found[0], found[1])
            torch.testing.assert_close(found[0], value, rtol=0, atol=1e-12)
    masks = [value for name, value in expected.items() if name.endswith("mask")]
    assert all(0 < int(mask.sum()) < mask.numel() / 2 for mask in masks)

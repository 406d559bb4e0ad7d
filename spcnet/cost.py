"""Cost of a network: parameters, multiply-accumulates, memory, time; and Table 8 of the paper by its counting rule."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from spcnet.config import AdapterConfig, ModelConfig, plain_lists
from spcnet.errors import UsageError, lookup
from spcnet.methods import METHODS, method_named
from spcnet.methods.baseline import Baseline
from spcnet.models.backbones import BACKBONES, backbone_info
from spcnet.models.backbones.torchvision import NormedBlock
from spcnet.models.heads import DECODERS
from spcnet.models.heads.deeplab import ASPP
from spcnet.models.network import Segmentor

PAPER = {"deeplabv3plus": (45.08, 277.77), "ibn": (45.08, 277.82), "isw": (45.08, 277.78), "spcnet": (45.22, 286.09)}
"""Parameters in millions and "GFLOPs" of Table 8 (Huang et al., CVPR 2023), ResNet-50."""
PAPER_SIZE = (1024, 1024)


@dataclass(frozen=True)
class Cost:
    """Cost of one network for one image of a given size."""

    method: str
    backbone: str
    decoder: str
    adapter: str
    parameters: int
    """Number of parameters, without the auxiliary head."""
    trained: int
    """Number of trainable parameters."""
    macs: int
    """Multiply-accumulates of the matrix products: half the FLOPs of torch's counter."""
    activations: int
    """Bytes of activations that a training step keeps for the backward pass, in single precision."""
    seconds: float | None
    """Median time of a forward pass; None if not measured."""


def cost(
    method: str,
    backbone: str,
    *,
    size: tuple[int, int],
    num_classes: int = 19,
    num_domains: int = 2,
    repeats: int = 0,
    device: str = "cpu",
    model: ModelConfig | None = None,
) -> Cost:
    """Count the cost of a network for one image, and with `repeats` measure its time.

    The counts are derived from shapes, without computation.

    Args:
        method: name in `METHODS`.
        backbone: name of the backbone.
        size: height and width of the image.
        num_classes: K.
        num_domains: M.
        repeats: number of timed forward passes; 0 for none.
        device: device of the timing.
        model: settings of the network, whose auxiliary head is left out; the defaults by default.

    Raises:
        UsageError: a name is unknown, or the parts cannot be combined.
    """
    info = method_named(method)
    network_settings = model or ModelConfig()
    network = _build(info, backbone, num_classes, num_domains, model=network_settings)
    with FakeTensorMode(allow_non_fake_inputs=True):  # shapes without numbers
        image = torch.empty(1, 3, *size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(image)
    activations = kept_for_backward(network, size)
    return Cost(
        method,
        backbone,
        network_settings.decoder,
        network_settings.adapter.kind,
        *parameter_counts(network)[::-1],
        macs=counter.get_total_flops() // 2,
        activations=activations,
        seconds=_timed(network, size, repeats, device) if repeats else None,
    )


def parameter_counts(network: nn.Module) -> tuple[int, int]:
    """Number of trainable and of all parameters of a network."""
    sizes = [(value.numel(), value.requires_grad) for value in network.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def _build(
    method: Baseline,
    backbone: str,
    num_classes: int,
    num_domains: int,
    *,
    auxiliary: bool = False,
    model: ModelConfig | None = None,
) -> Segmentor:
    weight = 0.4 if auxiliary else 0.0
    model = model or ModelConfig()
    adapter = replace(model.adapter, save_base=True)
    model = replace(model, backbone=backbone, weights=None, auxiliary_weight=weight, adapter=adapter)
    return method.build(model, num_classes=num_classes, num_domains=num_domains, pretrained=False)


def kept_for_backward(network: Segmentor, size: tuple[int, int]) -> int:
    """Bytes that autograd keeps of an image for the backward pass, in single precision, from shapes alone.

    Args:
        network: left in training mode.
        size: height and width of the images.
    """
    counters = {name: value.clone() for name, value in network.named_buffers() if name.endswith("num_batches_tracked")}
    # Not of one, on which batch norms of pooled maps have no variance and do something else.
    two, three = (_kept(network, images, size) for images in (2, 3))
    for name, count in counters.items():
        network.get_buffer(name).copy_(count)  # the only numbers that a pass without numbers changes
    return three - two


def _kept(network: Segmentor, images: int, size: tuple[int, int]) -> int:
    """Bytes of a forward pass, each memory once, without parameters and buffers."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    # A transposed weight is saved as a view of its fake tensor, which is held for the same reason as below.
    weights = [one for w in (*network.parameters(), *network.buffers()) for one in (w, mode.from_tensor(w))]
    weight_storages = {weight.untyped_storage()._cdata for weight in weights}
    kept: dict[int, tuple[Tensor, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weight_storages:
            # The tensor is held as well: another storage could reuse the address of a freed one.
            kept[storage._cdata] = (tensor, storage.nbytes())
        return tensor

    with mode, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        image = torch.empty(images, 3, *size)
        output = network.train()(image)
        del output
    return sum(size for _, size in kept.values())


def _timed(network: Segmentor, size: tuple[int, int], repeats: int, device: str) -> float:
    network = network.eval().to(device)
    image = torch.randn(1, 3, *size, device=device)

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    seconds = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            wait()
            started = time.perf_counter()
            network(image)
            wait()
            seconds.append(time.perf_counter() - started)
    return sorted(seconds[1:])[repeats // 2]


@plain_lists
def costs(
    methods: Sequence[str] | None,
    backbones: Sequence[str] | None,
    decoders: Sequence[str] = ("deeplabv3plus",),
    adapters: Sequence[Literal["full", "frozen", "lora", "rein"]] = ("full",),
    *,
    size: tuple[int, int],
    repeats: int,
    device: str = "cpu",
    output_stride: int | None = 16,
) -> Iterator[Cost | UsageError]:
    """The costs of all combinations; an error for parts that cannot be combined.

    Raises:
        UsageError: a name is unknown.
    """
    for name in methods or ():
        method_named(name)
    for name in backbones or ():
        backbone_info(name)
    for name in decoders:
        lookup(name, DECODERS, "decoder")
    for backbone, decoder, adapter, method in product(backbones or BACKBONES, decoders, adapters, methods or METHODS):
        try:
            model = ModelConfig(decoder=decoder, output_stride=output_stride, adapter=AdapterConfig(kind=adapter))
            yield cost(method, backbone, size=size, repeats=repeats, device=device, model=model)
        except UsageError as error:
            yield error


def paper_macs(network: Segmentor, image: Tensor) -> int:
    """Operations by the rule of Table 8, over the modules of a network in evaluation, without its auxiliary head.

    A convolution counts its multiply-accumulates and one for each output with a bias; batch norm 2 for each element,
    instance norm 1 (with gain and offset 2), ReLU 1, pooling 1 for each element that goes in. Interpolation, products
    with prototypes, layer norms, residual sums and style layers count nothing.
    """
    total = 0

    def count(module: nn.Module, given: tuple[Tensor, ...], output: object) -> None:
        nonlocal total
        if not isinstance(output, Tensor):  # the network itself, and others that only hold layers
            return
        if isinstance(module, nn.Conv2d):
            per_output = module.weight[0].numel() + (module.bias is not None)
            total += output.numel() * per_output
        elif isinstance(module, nn.BatchNorm2d):
            total += 2 * output.numel()
        elif isinstance(module, nn.InstanceNorm2d):
            total += (2 if module.affine else 1) * output.numel()
        elif isinstance(module, (nn.ReLU, nn.ReLU6)):
            total += output.numel()
        elif isinstance(module, (nn.MaxPool2d, nn.AdaptiveAvgPool2d)):
            total += given[0].numel()
        elif isinstance(module, ASPP):
            total += given[0].numel()  # its pooling over the whole image
        elif isinstance(module, NormedBlock):
            total += output.numel()  # its last ReLU

    with _hooked(network.modules(), count), torch.no_grad():
        network.eval()(image)
    return total


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: object) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def paper_table() -> list[tuple[str, float, float, float, float]]:
    """Table 8 reproduced: method, millions of parameters with the auxiliary head, giga operations, and the paper's two values."""
    rows = []
    for method, (parameters, operations) in PAPER.items():
        network = _build(method_named(method), "resnet50", 19, 2, auxiliary=True)
        with FakeTensorMode(allow_non_fake_inputs=True):
            macs = paper_macs(network, torch.empty(1, 3, *PAPER_SIZE))
        # The released code declares bases and prototypes as parameters.
        bases = [stats for known in network.known_styles().values() for stats in known.bases]
        prototypes = network.prototypes()
        learned = [*network.parameters(), *bases, *(() if prototypes is None else (prototypes,))]
        rows.append((method, sum(value.numel() for value in learned) / 1e6, macs / 1e9, parameters, operations))
    return rows

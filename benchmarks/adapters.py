"""What adapters cost on a vision transformer, as ratios to the plain one.

What is measured: the whole network with a decoder, for one image, in evaluation and in a training step (forward, backward of
the sum of the scores). The networks take turns, so that a busy machine slows all alike; the table has the fastest and the
median pass, each with its ratio to the network that is trained whole. Merged networks are measured twice, that is as often as
the plain network is: their computations are the same, so the ratio tells how exact the comparison is. How much scores in
single precision differ once updates that are not zero are merged, and how long the starts take, is printed below.

    python benchmarks/adapters.py
    python benchmarks/adapters.py --backbone timm/vit_large_patch14_dinov2 --starts
"""

import argparse
import time

import torch
from _machine import describe, median
from torch import nn

from spcnet.config import AdapterConfig, ModelConfig
from spcnet.cost import parameter_counts
from spcnet.methods import METHODS
from spcnet.models.adapters import LoRA, merge
from spcnet.models.adapters.lora import last_pivots, smallest_triplets
from spcnet.models.network import Segmentor

ADAPTERS = {
    "full": AdapterConfig(),
    "frozen": AdapterConfig("frozen"),
    "lora": AdapterConfig("lora"),
    "soma": AdapterConfig("lora", start="soma"),
    "rein": AdapterConfig("rein"),
}


def network_of(adapter: AdapterConfig, args: argparse.Namespace) -> Segmentor:
    torch.manual_seed(0)
    model = ModelConfig(args.backbone, weights=None, decoder=args.decoder, adapter=adapter)
    network = METHODS["deeplabv3plus"].build(model, num_classes=19, num_domains=1).to(args.device)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, LoRA):
                module.lora_b.add_(torch.randn_like(module.lora_b), alpha=0.01)
    return network


def timed(network: Segmentor, image: torch.Tensor, *, training: bool) -> float:
    network.train(training)
    if image.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter() if image.is_cuda else time.process_time()
    with torch.set_grad_enabled(training):
        logits = network(image).logits
        if training:
            logits.sum().backward()
            network.zero_grad(set_to_none=True)
    if image.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() if image.is_cuda else time.process_time()) - started


def show_starts(network: nn.Module) -> None:
    """How long the starts take for the backbone's largest layers, one of each shape."""
    shapes = {module.base.shape: module.base for module in network.modules() if isinstance(module, LoRA)}
    for shape, weight in shapes.items():
        for name, decompose in (("soma", smallest_triplets), ("qr", last_pivots)):
            started = time.perf_counter()
            decompose(weight.detach().cpu().flatten(1), 16)
            print(f"{name:>14} of {tuple(shape)}: {time.perf_counter() - started:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--backbone", default="timm/vit_small_patch16_224", help="a vision transformer of timm")
    parser.add_argument("--decoder", default="linear", help="what is behind it")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), help="height and width of the image")
    parser.add_argument("--repeats", type=int, default=7, help="passes of each network that are timed")
    parser.add_argument("--threads", type=int, default=1, help="threads on the processor")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to compute")
    parser.add_argument("--starts", action="store_true", help="also time the decompositions")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    image = torch.randn(1, 3, *args.size, device=args.device)
    networks = {name: network_of(adapter, args) for name, adapter in ADAPTERS.items()}
    networks |= {f"{name} merged": merge(networks[name]) for name in ("lora", "soma")}
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in networks}
    for turn in range(args.repeats + 1):
        for name, network in networks.items():
            for place, training in enumerate((False, True)):
                found = timed(network, image, training=training)
                if turn:  # the first loads kernels
                    seconds[name][place].append(found)
    print(f"{args.backbone}, {args.decoder}, 1×3×{args.size[0]}×{args.size[1]}")
    columns = ("forward ms", "fastest", "step ms", "fastest", "M trained")
    rows = {
        name: [
            *(1000 * value for times in seconds[name] for value in (median(times), min(times))),
            parameter_counts(network)[0] / 1e6,
        ]
        for name, network in networks.items()
    }
    print(f"{'adapter':>14}" + "".join(f"{title:>18}" for title in columns))
    for name, row in rows.items():
        pairs = zip(row, rows["full"], strict=True)
        print(f"{name:>14}" + "".join(f"{value:>10.2f} ({value / plain:5.3f})" for value, plain in pairs))
    with torch.inference_mode():
        for name in ("lora", "soma"):
            given = networks[name].eval()(image).logits
            difference = (networks[f"{name} merged"].eval()(image).logits - given).abs().max() / given.abs().max()
            print(f"{name} merged: scores differ by {float(difference):.1e} of the largest")
    if args.starts:
        show_starts(networks["lora"])
    print(describe(args.device))


if __name__ == "__main__":
    main()

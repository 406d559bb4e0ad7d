"""What heads of masks cost: EoMT against the plain vision transformer, Mask2Former with and without its pixel decoder.

First the passes in evaluation, all taking turns, on one image: timm's own blocks on the tokens of the image; the same with
as many further tokens in the last blocks as EoMT has queries; EoMT's tokens through its own loop, without heads; the whole
of EoMT; and the vision transformer with the decoder `linear`. The first three say what queries and loop add to a plain
vision transformer, the last two are whole networks. Then, on the random maps of `heads.py`, forward passes in evaluation
and training steps with their losses of DeepLabV3+ and Mask2Former, and the losses of the ten predictions alone.

    python benchmarks/masks.py
    python benchmarks/masks.py --vit vit_large_patch16_224 --repeats 3
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from _machine import describe, median
from heads import PLACES, Given, timed
from torch import Tensor

from spcnet.config import FeaturesConfig, HeadConfig, ModelConfig
from spcnet.methods import METHODS
from spcnet.models.heads import DECODERS
from spcnet.models.network import Segmentor
from spcnet.types import Batch

METHOD = METHODS["deeplabv3plus"]


def vit_passes(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Passes of a vision transformer with and without queries, by name."""
    made: dict[str, Any] = {}
    for decoder in ("linear", "eomt"):
        model = ModelConfig(f"timm/{args.vit}", decoder=decoder, weights=None, features=FeaturesConfig())
        torch.manual_seed(0)
        network = METHOD.build(model, num_classes=args.classes, num_domains=1)
        made[decoder] = network.eval().to(args.device)
    image = torch.randn(1, 3, *args.size, device=args.device)
    network = made["eomt"]
    backbone, decoder = network.backbone, network.decoder
    blocks, first = backbone.model.blocks, decoder.first_block

    def plain(further: bool) -> None:
        tokens, _ = backbone.embed(image)
        for number, block in enumerate(blocks):
            if further and number == first:
                tokens = torch.cat([decoder.queries[None], tokens], dim=1)
            tokens = block(tokens)
        backbone.norm(tokens)

    def loop() -> None:
        tokens, state = backbone.tokens_before(first, image)
        tokens = torch.cat([decoder.queries[None], tokens], dim=1)
        for number in range(first, len(blocks)):
            tokens = backbone.run_block(number, tokens, state)
        backbone.norm(tokens)

    return {
        "plain blocks": lambda: plain(False),
        "plain blocks, further tokens": lambda: plain(True),
        "eomt without heads": loop,
        "eomt": lambda: network(image),
        "decoder linear": lambda: made["linear"](image),
    }


class Head:
    """A decoder on maps that stand ready, and a step with its losses."""

    def __init__(self, name: str, config: HeadConfig, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.model = ModelConfig(decoder=name, head=config, weights=None)
        backbone = Given(384, [4, 8, 16, 32])
        decoder = DECODERS[name](backbone, args.classes, config)
        classifier = None if decoder.masks else METHOD.make_classifier(decoder, args.classes, 1, self.model)
        self.network = Segmentor(backbone, decoder, classifier).to(args.device)
        self.image = torch.zeros(1, 3, *args.size, device=args.device)
        backbone.maps = {place: backbone.random(place, self.image) for place in PLACES}
        blocks = torch.randint(0, args.classes, (1, 8, 8)).repeat_interleave(args.size[0] // 8, 1)
        label = blocks.repeat_interleave(args.size[1] // 8, 2).to(args.device)
        self.batch = Batch(self.image, label, label.new_zeros(1), ("image",))

    def forward(self) -> None:
        self.network.eval()(self.image)

    def step(self) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            output = self.network.train()(self.image)
            METHOD.losses(self.network, output, self.batch, self.model).loss.backward()  # type: ignore[no-untyped-call]
            self.network.zero_grad(set_to_none=True)

    def losses(self) -> Callable[[], Tensor]:
        output = self.network.train()(self.image)
        return lambda: METHOD.losses(self.network, output, self.batch, self.model).loss


def table(title: str, works: dict[str, Callable[[], object]], args: argparse.Namespace) -> None:
    """Time all in turns and print median, fastest, and their ratios to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with torch.inference_mode():
        for turn in range(args.repeats + 1):
            for name, work in works.items():
                found = timed(work, args.device)
                if turn:  # the first loads kernels
                    seconds[name].append(found)
    rows = {name: [1000 * median(values), 1000 * min(values)] for name, values in seconds.items()}
    print(f"{title:>38}{'median ms':>20}{'fastest':>20}")
    reference = next(iter(rows.values()))
    for name, row in rows.items():
        pairs = zip(row, reference, strict=True)
        print(f"{name:>38}" + "".join(f"{value:>11.1f} ({value / first:5.3f})" for value, first in pairs))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--vit", default="vit_small_patch16_224", help="plain vision transformer of timm")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), help="height and width of the image")
    parser.add_argument("--classes", type=int, default=19, help="number of classes")
    parser.add_argument("--repeats", type=int, default=7, help="passes that are timed")
    parser.add_argument("--threads", type=int, default=1, help="threads on the processor")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to compute")
    parser.add_argument("--only", choices=("vit", "heads"), help="one of the two parts")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only != "heads":
        table(f"{args.vit}, evaluation", vit_passes(args), args)
    if args.only != "vit":
        heads = {
            "deeplabv3plus": Head("deeplabv3plus", HeadConfig(), args),
            "mask2former": Head("mask2former", HeadConfig(), args),
            "mask2former, no pixel decoder": Head("mask2former", HeadConfig(pixel_decoder=False), args),
        }
        table("head, evaluation", {name: head.forward for name, head in heads.items()}, args)
        table("head, training step", {name: head.step for name, head in heads.items()}, args)
        table("losses of ten predictions", {"mask2former": heads["mask2former"].losses()}, args)
    print(describe(args.device))


if __name__ == "__main__":
    main()

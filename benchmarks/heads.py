"""What each decoder costs on the same features, as ratios to DeepLabV3+.

What is measured: decoder, classifier and the resizing of the scores to the image, from the maps that a vision transformer
with `model.features.pyramid=resize` gives: 384 channels at the strides 4, 8, 16 and 32 of one image of 512×512. The maps
are random and stand ready, so no backbone is timed; in a training step they get a gradient, as behind a backbone that is
trained. All heads take turns, so that a busy machine slows all alike; the table has the median and the fastest of a forward
pass in evaluation and of forward and backward in training, parameters, and what a training step keeps for its backward
pass, each with its ratio to DeepLabV3+. The time of the processor is summed over threads, which other programs disturb
least; on a GPU it is the time by the clock.

A head that runs blocks of the backbone itself has no cost of its own here, and is left out with the reason.

    python benchmarks/heads.py
    python benchmarks/heads.py --pyramid 16 16 16 16 --channels 1024
"""

import argparse
import time
from collections.abc import Callable, Collection
from typing import Any

import torch
from _machine import describe, median
from torch import Tensor

from spcnet.config import HeadConfig, ModelConfig
from spcnet.cost import kept_for_backward
from spcnet.errors import UsageError
from spcnet.methods import METHODS
from spcnet.models.backbones import Backbone
from spcnet.models.backbones.base import Tap
from spcnet.models.heads import DECODERS
from spcnet.models.network import Segmentor
from spcnet.types import SegOutput

REFERENCE = "deeplabv3plus"
PLACES = ("embed", "block2", "block5", "block8", "block11")


class Given(Backbone):
    """Maps that stand ready instead of a backbone."""

    def __init__(self, channels: int, strides: list[int]) -> None:
        super().__init__(dict.fromkeys(PLACES, channels), dict(zip(PLACES, [16, *strides], strict=True)))
        self.maps: dict[str, Tensor] = {}

    def features(
        self,
        image: Tensor,
        places: Collection[str],
        tap: Tap | None = None,
        *,
        recompute: bool = False,
    ) -> dict[str, Tensor]:
        if not self.maps:  # shapes alone are asked for
            return {place: self.random(place, image) for place in places}
        return {place: self.maps[place] for place in places}

    def random(self, place: str, image: Tensor) -> Tensor:
        sizes = [-(-side // self.strides[place]) for side in image.shape[2:]]
        return torch.randn(len(image), self.channels[place], *sizes, device=image.device, requires_grad=True)


def network_of(name: str, args: argparse.Namespace) -> Segmentor:
    torch.manual_seed(0)
    backbone = Given(args.channels, args.pyramid)
    decoder = DECODERS[name](backbone, args.classes, HeadConfig())
    model = ModelConfig(decoder=name, weights=None)
    method = METHODS["deeplabv3plus"]
    classifier = None if decoder.masks else method.make_classifier(decoder, args.classes, 1, model)
    return Segmentor(backbone, decoder, classifier).to(args.device)


def outputs_of(output: SegOutput) -> list[Tensor]:
    """What a loss is taken of: the scores, or of a mask head every layer's classes and masks."""
    return [value for prediction in output.masks for value in prediction] or [output.logits]


class Subject:
    """A head behind its maps, and what is timed of it."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.device, self.network = args.device, network_of(name, args)
        self.parameters = sum(value.numel() for value in self.network.parameters())
        self.image = torch.zeros(1, 3, *args.size, device=args.device)
        self.kept = kept_for_backward(self.network, args.size) / 2**20
        backbone: Any = self.network.backbone
        backbone.maps = {place: backbone.random(place, self.image) for place in PLACES}

    def forward(self) -> None:
        with torch.inference_mode():
            self.network.eval()(self.image)

    def step(self) -> None:
        wanted = outputs_of(self.network.train()(self.image))
        torch.autograd.backward(wanted, [torch.ones_like(value) for value in wanted])
        self.network.zero_grad(set_to_none=True)


def timed(work: Callable[[], object], device: str) -> float:
    if device == "cpu":
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--heads", nargs="+", choices=sorted(DECODERS), default=list(DECODERS), help="decoders")
    parser.add_argument("--channels", type=int, default=384, help="of each map")
    parser.add_argument("--pyramid", type=int, nargs=4, default=[4, 8, 16, 32], help="strides of the four maps")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), help="height and width of the image")
    parser.add_argument("--classes", type=int, default=19, help="number of classes")
    parser.add_argument("--repeats", type=int, default=7, help="passes of each head that are timed")
    parser.add_argument("--threads", type=int, default=1, help="threads on the processor")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to compute")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    subjects: dict[str, Subject] = {}
    for name in dict.fromkeys((REFERENCE, *args.heads)):
        try:
            subjects[name] = Subject(name, args)
        except UsageError as error:
            print(f"{name} is left out: {error}")
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in subjects}
    for turn in range(args.repeats + 1):
        for name, subject in subjects.items():
            found = timed(subject.forward, args.device), timed(subject.step, args.device)
            if turn:  # the first loads kernels
                seconds[name][0].append(found[0])
                seconds[name][1].append(found[1])
    strides = "/".join(map(str, args.pyramid))
    print(f"{args.channels} channels at strides {strides} of 1×3×{args.size[0]}×{args.size[1]}, {args.classes} classes")
    columns = ("forward ms", "fastest", "step ms", "fastest", "M params", "kept MiB")
    rows = {
        name: [
            *(1000 * value for times in seconds[name] for value in (median(times), min(times))),
            subject.parameters / 1e6,
            subject.kept,
        ]
        for name, subject in subjects.items()
    }
    print(f"{'head':>14}" + "".join(f"{title:>18}" for title in columns))
    for name, row in rows.items():
        pairs = zip(row, rows[REFERENCE], strict=True)
        print(f"{name:>14}" + "".join(f"{value:>10.2f} ({value / plain:5.3f})" for value, plain in pairs))
    print(describe(args.device))


if __name__ == "__main__":
    main()

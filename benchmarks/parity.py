"""How far exported networks are from the modules they came from: every method on every backbone, in both formats.

Networks are whole and have random weights; their running statistics are drawn, too, so that each of them counts. Both
files are written, read back and run at three sizes, none of which they were traced at. A difference is the largest one
of scores, as a share of the largest score (or of 1, where that is less); equal is the share of pixels with the same class.

    python benchmarks/parity.py
    python benchmarks/parity.py --methods spcnet isw --backbones resnet18
"""

import argparse
import sys
from itertools import product

import torch
from _machine import describe
from torch import nn

from spcnet.checkpoint import ModelCard
from spcnet.config import ModelConfig, as_dict
from spcnet.export import comparison, deployment, onnx_files
from spcnet.labels import label_space
from spcnet.methods import METHODS, build_model
from spcnet.models.backbones import BACKBONES

SIZES = ((1, 33, 33), (2, 64, 96), (3, 47, 71))
"""Images, height and width."""
SPACE = label_space("cityscapes19")
DOMAINS = ("streets/game", "streets/toy")


def made(method: str, backbone: str) -> tuple[deployment.Deployed, ModelCard]:
    """A network as it is exported, and what it says of itself."""
    torch.manual_seed(0)
    network = build_model(method, backbone=backbone, num_classes=len(SPACE), num_domains=len(DOMAINS))
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    model = as_dict(ModelConfig(backbone=backbone, weights=None))
    card = ModelCard(method, model, SPACE.name, SPACE.classes, DOMAINS, (48, 64))
    return deployment.Deployed(network.eval(), card), card


def programs(deployed: deployment.Deployed, card: ModelCard) -> dict[str, deployment.Program]:
    """Both formats, written and read back."""
    graph = deployment.traced(deployed)
    onnx = onnx_files.to_onnx(graph, deployment.describe(deployed, card, format="onnx", opset=onnx_files.OPSET))
    own = deployment.to_torch(graph, deployment.describe(deployed, card, format="torch-export", opset=onnx_files.OPSET))
    return {"onnx": onnx_files.onnx_program(onnx), "torch-export": deployment.torch_program(own)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{describe()}\n\n{'method':<22}{'backbone':<15}{'format':<14}{'difference':>10}{'equal':>10}")
    farthest, least = 0.0, 1.0
    for method, backbone in product(arguments.methods, arguments.backbones):
        deployed, card = made(method, backbone)
        for name, program in programs(deployed, card).items():
            checks = comparison.compare(deployed, program, SIZES)
            difference = max(check.difference / max(1, check.largest) for check in checks)
            equal = min(check.equal for check in checks)
            print(f"{method:<22}{backbone:<15}{name:<14}{difference:>10.1e}{100 * equal:>8.3f} %", flush=True)
            farthest, least = max(farthest, difference), min(least, equal)
    print(f"\nThe farthest differs by {farthest:.1e}, and at least {100 * least:.3f} % of the labels are equal")
    sys.exit(farthest > 1e-4 or least < 0.999)


if __name__ == "__main__":
    main()

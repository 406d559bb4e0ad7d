"""What is done with a network that is there: predictions, files for other programs, cards for a hub, its cost."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from spcnet import checkpoint
from spcnet.config import plain_lists
from spcnet.convert import is_foreign, load_any, load_backbone, load_foreign, write_backbone, write_robustnet
from spcnet.cost import PAPER_SIZE, costs, paper_table
from spcnet.engine.progress import bar
from spcnet.errors import UsageError, unknown_name_error
from spcnet.export.hub import push_to_hub, save_pretrained
from spcnet.file_kinds import split_part
from spcnet.methods import METHODS, method_named
from spcnet.models.backbones import BACKBONES, backbone_info
from spcnet.reports.html import counted


@plain_lists
def convert(
    source: Path,
    output: Path,
    *,
    to: str = "spcnet",
    method: str | None = None,
    output_stride: int | None = None,
    wt_layer: Sequence[int] | None = None,
    space: str | None = None,
    domains: Sequence[str] | None = None,
    allow_missing: Sequence[str] = (),
    console: Console | None = None,
) -> None:
    """Write a network from another code's file in this package's format, or the other way round.

    Args:
        source: file of RobustNet or SPC-Net (PyTorch, MindSpore), of this package, or folder of a run; or an ImageNet
            backbone (torchvision, timm, MIT CSAIL), which becomes a file for `model.weights`. `FILE#NAME` for one of several
            networks in a file.
        output: file to write.
        to: `spcnet`, or `robustnet` for a state dict with RobustNet's names.
        method: see `spcnet.convert.load_foreign`, as for the following.
        output_stride: of the network.
        wt_layer: RobustNet's seven codes.
        space: label space.
        domains: names of the source domains.
        allow_missing: beginnings of names that may be missing.
        console: where the report is shown; nowhere by default.

    Raises:
        UsageError, CheckpointError, DataError: see the message.
    """
    console = console or Console(quiet=True)
    if to not in ("spcnet", "robustnet"):
        raise unknown_name_error(to, ("spcnet", "robustnet"), "format")
    checkpoint.find(split_part(source).file)  # says what is missing
    if not is_foreign(source):
        given = {
            "method": method,
            "output_stride": output_stride,
            "wt_layer": wt_layer,
            "space": space,
            "domains": domains,
            "allow_missing": allow_missing or None,
        }
        if idle := [name for name, value in given.items() if value is not None]:
            raise UsageError(f"{source} says itself what network it holds: leave out {', '.join(idle)}")
        network, card = load_any(source)
        told = [f"spcnet checkpoint: {len(network.state_dict())} tensors loaded"]
    elif (backbone := load_backbone(source)) is not None:
        if to != "spcnet":
            raise UsageError(f"{source} is an ImageNet {backbone.name} alone: --to {to} is for whole networks")
        for line in backbone.report.lines():
            console.print(line, highlight=False, markup=False)
        write_backbone(backbone, output)
        console.print(
            f"{backbone.name}, written to {output}: give it as --model.weights", highlight=False, markup=False
        )
        return
    else:
        network, card, report = load_foreign(
            source,
            method=method,
            output_stride=output_stride,
            wt_layer=wt_layer,
            space=space,
            domains=domains,
            allow_missing=allow_missing,
        )
        told = report.lines()
    for line in told:
        console.print(line, highlight=False, markup=False)
    if to == "spcnet":
        checkpoint.write(output, network.state_dict(), card)
    else:
        write_robustnet(network, card, output)
    console.print(
        f"{card.method} on {card.model['backbone']}, output stride {card.model['output_stride']}, {len(card.classes)} classes "
        f"({card.space}), {len(card.domains)} source domains: written to {output}",
        highlight=False,
        markup=False,
    )


def push(
    model: Path, repo_id: str, *, private: bool = True, folder: Path | None = None, console: Console | None = None
) -> None:
    """Put a network with its model card on the Hugging Face Hub, or into a folder to look at.

    Args:
        model: folder of a run, or a file that `load_model` reads.
        repo_id: `OWNER/NAME`.
        private: of a new repository, whether only its owner sees it.
        folder: write there instead, and upload nothing.
        console: where the address is shown; nowhere by default.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    if folder is not None:
        written = save_pretrained(model, folder, repo_id=repo_id)
        console.print(f"Written to {written}; nothing was uploaded", highlight=False, markup=False)
        return
    address = push_to_hub(model, repo_id, private=private)
    console.print(f"The network is at {address}", highlight=False, markup=False)


@plain_lists
def benchmark_cost(
    *,
    methods: Sequence[str] | None = None,
    backbones: Sequence[str] | None = None,
    size: tuple[int, int] = (512, 1024),
    repeats: int = 3,
    device: str = "cpu",
    paper: bool = False,
    console: Console,
) -> None:
    """Print what methods cost on backbones, or the paper's Table 8 counted again.

    Args:
        methods: names in `METHODS`; all by default.
        backbones: names in `BACKBONES`; all by default.
        size: height and width of the image.
        repeats: forward passes to time; 0 for none.
        device: where to time.
        paper: Table 8 instead.
        console: where to print.

    Raises:
        UsageError: a name is unknown.
    """
    if paper:
        table = _cost_table(["method"], ["M params", "Table 8", "G operations", "Table 8"])
        for name, *figures in paper_table():
            table.add_row(name, *(f"{value:.2f}" for value in (figures[0], figures[2], figures[1], figures[3])))
        console.print(table)
        console.print(
            f"ResNet-50, one image of {PAPER_SIZE[0]}×{PAPER_SIZE[1]}: the paper's GFLOPs are multiply-accumulates at that size, "
            "counted over modules (convolutions, norms, ReLU, pooling). Parameters with the auxiliary head.",
            highlight=False,
        )
        return
    for name in methods or ():
        method_named(name)
    for name in backbones or ():
        backbone_info(name)
    table = _cost_table(["backbone", "method"], ["M params", "G MACs", "MiB", *(["ms"] if repeats else [])])
    with bar(console, len(methods or METHODS) * len(backbones or BACKBONES), 0, "cost") as show:
        for done, found in enumerate(costs(methods, backbones, size=size, repeats=repeats, device=device), start=1):
            timed = [f"{1000 * found.seconds:.0f}"] if found.seconds is not None else []
            table.add_row(
                found.backbone,
                found.method,
                f"{found.parameters / 1e6:.2f}",
                f"{found.macs / 1e9:.2f}",
                f"{found.activations / 2**20:.0f}",
                *timed,
            )
            show(done, {})
    console.print(table)
    console.print(
        f"One image of {size[0]}×{size[1]}. MACs: matrix products, half of what torch's FLOP counter finds. MiB: what a training "
        "step keeps for its backward pass, in single precision."
        + (
            f" ms: median of {repeats} forward passes, {device}, {counted(torch.get_num_threads(), 'thread')}."
            if repeats
            else ""
        ),
        highlight=False,
    )


def _cost_table(names: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(box=SIMPLE)
    for title in names:
        table.add_column(title, no_wrap=True)
    for title in figures:
        table.add_column(title, justify="right", no_wrap=True)
    return table

"""`spcnet cost`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from spcnet.config import plain_lists

if TYPE_CHECKING:
    from spcnet.cost import Cost


@plain_lists
def cost(
    *,
    methods: Sequence[str] | None = None,
    backbones: Sequence[str] | None = None,
    decoders: Sequence[str] = ("deeplabv3plus",),
    adapters: Sequence[Literal["full", "frozen", "lora", "rein"]] = ("full",),
    size: tuple[int, int] = (512, 1024),
    output_stride: int | None = 16,
    repeats: int = 3,
    accelerator: str = "cpu",
    markdown: bool = False,
    paper: bool = False,
    console: Console | None = None,
) -> None:
    """Count and measure what networks cost: parameters, multiply-accumulates, memory, time.

    Args:
        methods: Methods, [deeplabv3plus,spcnet]; all by default.
        backbones: Backbones, [resnet50,timm/convnext_tiny]; those of torchvision by default.
        decoders: Decoders, [linear,segformer].
        adapters: What of the backbone is trained, [full,frozen,lora,rein]; with more than full the table has the trained
            parameters.
        size: Height and width of the image, [H,W].
        output_stride: Of the backbones: 8, 16 or 32, or null for their own.
        repeats: Forward passes to time; 0 for none.
        accelerator: Where to compute: auto, cpu, cuda or mps.
        markdown: Write the table as Markdown.
        paper: Instead: the paper's Table 8, counted by its own rule.
        console: Where the table is shown; nowhere by default.

    Raises:
        UsageError: a name is unknown, or the accelerator is not available.
    """
    console = console or Console(quiet=True)
    if paper:
        _show_paper_table(console)
        return
    import torch

    from spcnet.cost import Cost, costs
    from spcnet.engine.progress import bar
    from spcnet.methods import METHODS
    from spcnet.models.backbones import BACKBONES
    from spcnet.numerics import find_device
    from spcnet.reports.html import counted

    device = str(find_device(accelerator))
    rows, unfit = [], []
    total = len(methods or METHODS) * len(backbones or BACKBONES) * len(decoders) * len(adapters)
    adapted = list(adapters) != ["full"]
    with bar(console, total, 0, "cost") as show:
        settings: dict[str, Any] = {"size": size, "output_stride": output_stride, "repeats": repeats, "device": device}
        for done, one in enumerate(costs(methods, backbones, decoders, adapters, **settings), start=1):
            if isinstance(one, Cost):
                rows.append(_row(one, adapted=adapted))
            else:
                unfit.append(str(one))
            show(done, {})
    _show(
        console,
        ["backbone", "decoder", "method", *(["adapter"] if adapted else [])],
        ["M params", *(["M trained"] if adapted else []), "G MACs", "MiB", *(["ms"] if repeats else [])],
        rows,
        markdown,
    )
    text = (
        f"One image of {size[0]}×{size[1]}. MACs: matrix products, half of what torch's FLOP counter finds. MiB: what a "
        "training step keeps for its backward pass, in single precision."
    )
    if repeats:
        text += f" ms: median of {repeats} forward passes, {device}, {counted(torch.get_num_threads(), 'thread')}."
    console.print("\n".join([text, *(f"Left out: {reason}" for reason in dict.fromkeys(unfit))]), highlight=False)


def _row(one: "Cost", *, adapted: bool) -> list[str]:
    trained = [f"{one.trained / 1e6:.2f}"] if adapted else []
    figures = [f"{one.parameters / 1e6:.2f}", *trained, f"{one.macs / 1e9:.2f}", f"{one.activations / 2**20:.0f}"]
    times = [f"{1000 * one.seconds:.0f}"] if one.seconds is not None else []
    return [one.backbone, one.decoder, one.method, *([one.adapter] if adapted else []), *figures, *times]


def _show(console: Console, names: list[str], figures: list[str], rows: list[list[str]], markdown: bool) -> None:
    if markdown:
        lines = [[*names, *figures], ["---"] * len(names) + ["--:"] * len(figures), *rows]
        for line in lines:
            console.print(f"| {' | '.join(line)} |", highlight=False, soft_wrap=True)
        return
    table = _columns(names, figures)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _show_paper_table(console: Console) -> None:
    from spcnet.cost import PAPER_SIZE, paper_table

    table = _columns(["method"], ["M params", "Table 8", "G operations", "Table 8"])
    for method, parameters, operations, paper_parameters, paper_operations in paper_table():
        figures = (parameters, paper_parameters, operations, paper_operations)
        table.add_row(method, *(f"{value:.2f}" for value in figures))
    console.print(table)
    console.print(
        f"ResNet-50, one image of {PAPER_SIZE[0]}×{PAPER_SIZE[1]}: the paper's GFLOPs are multiply-accumulates at that size, "
        "counted over modules (convolutions, norms, ReLU, pooling). Parameters with the auxiliary head.",
        highlight=False,
    )


def _columns(names: Sequence[str], figures: Sequence[str]) -> Table:
    columns = (
        Column(title, justify="left" if title in names else "right", no_wrap=True) for title in (*names, *figures)
    )
    return Table(*columns, box=SIMPLE)

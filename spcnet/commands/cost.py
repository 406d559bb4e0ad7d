"""`spcnet cost`."""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from spcnet.config import plain_lists


@plain_lists
def cost(
    *,
    methods: Sequence[str] | None = None,
    backbones: Sequence[str] | None = None,
    size: tuple[int, int] = (512, 1024),
    repeats: int = 3,
    accelerator: str = "cpu",
    paper: bool = False,
    console: Console | None = None,
) -> None:
    """Count and measure what networks cost: parameters, multiply-accumulates, memory, time.

    Args:
        methods: Methods, [deeplabv3plus,spcnet]; all by default.
        backbones: Backbones, [resnet50]; all by default.
        size: Height and width of the image, [H,W].
        repeats: Forward passes to time; 0 for none.
        accelerator: Where to compute: auto, cpu, cuda or mps.
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

    from spcnet.cost import costs
    from spcnet.engine.progress import bar
    from spcnet.methods import METHODS, method_named
    from spcnet.models.backbones import BACKBONES, backbone_info
    from spcnet.numerics import find_device
    from spcnet.reports.html import counted

    for name in methods or ():
        method_named(name)
    for name in backbones or ():
        backbone_info(name)
    device = str(find_device(accelerator))
    table = _columns(["backbone", "method"], ["M params", "G MACs", "MiB", *(["ms"] if repeats else [])])
    with bar(console, len(methods or METHODS) * len(backbones or BACKBONES), 0, "cost") as show:
        for done, one in enumerate(costs(methods, backbones, size=size, repeats=repeats, device=device), start=1):
            figures = [f"{one.parameters / 1e6:.2f}", f"{one.macs / 1e9:.2f}", f"{one.activations / 2**20:.0f}"]
            times = [f"{1000 * one.seconds:.0f}"] if one.seconds is not None else []
            table.add_row(one.backbone, one.method, *figures, *times)
            show(done, {})
    console.print(table)
    text = (
        f"One image of {size[0]}×{size[1]}. MACs: matrix products, half of what torch's FLOP counter finds. MiB: what a "
        "training step keeps for its backward pass, in single precision."
    )
    if repeats:
        text += f" ms: median of {repeats} forward passes, {device}, {counted(torch.get_num_threads(), 'thread')}."
    console.print(text, highlight=False)


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
    table = Table(box=SIMPLE)
    for title in names:
        table.add_column(title, no_wrap=True)
    for title in figures:
        table.add_column(title, justify="right", no_wrap=True)
    return table

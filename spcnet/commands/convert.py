"""`spcnet convert`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from spcnet.config import plain_lists
from spcnet.errors import UsageError, unknown_name_error


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
    merge: bool = False,
    base: Path | None = None,
    console: Console | None = None,
) -> None:
    """Bring in a network from other code, or write one for RobustNet.

    Args:
        source: File of RobustNet or SPC-Net (.pth, .ckpt), Rein, SoMA or EoMT, one of spcnet, or a backbone of torchvision, timm or MIT CSAIL,
            which becomes a file for --model.weights; FILE#NAME for one of several networks in a file.
        output: File to write, *.safetensors; with --to robustnet *.pth.
        to: Format: spcnet, or robustnet for a state dict with RobustNet's names.
        method: Method, where the file does not tell: is or isw.
        output_stride: 8, 16 or 32; no file tells it. 32 for ResNet-18, else 16.
        wt_layer: RobustNet's seven codes, [0,0,2,2,2,0,0].
        space: Label space; the one with as many classes as the network by default.
        domains: Names of the source domains, [gtav,synthia].
        allow_missing: Beginnings of names that may be missing and stay random.
        merge: Of a network of spcnet: put LoRA's updates into the weights; --to robustnet always does. Without it a file that
            holds only what was trained becomes whole.
        base: File of the pretrained backbone, for a file of Rein or SoMA that holds only what was trained.
        console: Where the result is shown; nowhere by default.

    Raises:
        UsageError, CheckpointError, DataError: see the message.
    """
    from spcnet import checkpoint
    from spcnet import convert as conversion
    from spcnet.file_kinds import split_part
    from spcnet.runs import OpenRun

    console = console or Console(quiet=True)
    if to not in ("spcnet", "robustnet"):
        raise unknown_name_error(to, ("spcnet", "robustnet"), "format")
    checkpoint.find(split_part(source).file)  # says what is missing
    foreign = conversion.is_foreign(source)
    if foreign and merge:
        raise UsageError(f"{source} is of other code and has no updates to merge: leave out --merge")
    if foreign and (backbone := conversion.load_backbone(source)) is not None:
        if to != "spcnet":
            raise UsageError(f"{source} is an ImageNet {backbone.name} alone: --to {to} is for whole networks")
        conversion.write_backbone(backbone, output)
        lines = backbone.report.lines()
        message = f"{backbone.name}, written to {output}: give it as --model.weights"
    else:
        if foreign:
            network, card, report = conversion.load_foreign(
                source,
                method=method,
                output_stride=output_stride,
                wt_layer=wt_layer,
                space=space,
                domains=domains,
                allow_missing=allow_missing,
                base=base,
            )
            lines = report.lines()
        else:
            options = [method, output_stride, wt_layer, space, domains, allow_missing or None, base]
            names = ("method", "output_stride", "wt_layer", "space", "domains", "allow_missing", "base")
            if idle := [name for name, value in zip(names, options, strict=True) if value is not None]:
                raise UsageError(f"{source} says itself what network it holds: leave out {', '.join(idle)}")
            run = OpenRun(source)
            network, card = conversion.whole_network(run.network, run.card, merge=merge, to=to)
            lines = [f"spcnet checkpoint: {len(network.state_dict())} tensors loaded"]
        if to == "spcnet":
            checkpoint.write(output, network.state_dict(), card)
        else:
            conversion.write_robustnet(network, card, output)
        message = (
            f"{card.method} on {card.model['backbone']}, output stride {card.model['output_stride']}, "
            f"{len(card.classes)} classes ({card.space}), {len(card.domains)} source domains: written to {output}"
        )
    for line in (*lines, message):
        console.print(line, highlight=False, markup=False)

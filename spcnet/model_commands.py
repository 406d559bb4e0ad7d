"""What is done with a network that is there: predictions, files for other programs, cards for a hub, its cost."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from spcnet import checkpoint
from spcnet import export as exporting
from spcnet.config import DataConfig, DomainSpec, plain_lists
from spcnet.convert import is_foreign, load_any, load_backbone, load_foreign, write_backbone, write_robustnet
from spcnet.cost import PAPER_SIZE, costs, paper_table
from spcnet.data.catalog import with_sets
from spcnet.data.datasets import SegmentationSet, open_domain, print_remarks
from spcnet.engine import records
from spcnet.engine.progress import bar, bars
from spcnet.errors import UsageError, unknown_name_error
from spcnet.evaluation.metrics import mean_iou
from spcnet.evaluation.tta import TestTimeAugmentation
from spcnet.export.hub import push_to_hub, save_pretrained
from spcnet.file_kinds import split_part
from spcnet.files import write_atomic
from spcnet.inference.images import find_images, search_images
from spcnet.inference.ood import OODDetector, ood_file
from spcnet.inference.predictor import Predictor, Speed
from spcnet.inference.results import Results, Written
from spcnet.inference.video import is_video
from spcnet.labels import label_space
from spcnet.methods import BACKBONES, METHODS, method_named
from spcnet.models.backbones import backbone_info
from spcnet.reports.html import counted
from spcnet.runs import OpenRun


@plain_lists
def predict(
    model: Path,
    inputs: Sequence[str | Path],
    *,
    output: Path,
    size: tuple[int, int] | None = None,
    full_size: bool = False,
    views: TestTimeAugmentation | None = None,
    batch_size: int = 1,
    speed: Speed = "auto",
    results: Results | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> int:
    """Label images and videos and write class maps, overlays, and how much each source style explains each image.

    Args:
        model: folder of a run, or a checkpoint file.
        inputs: images, videos, folders, globs, webcams.
        output: folder for the results.
        size: height and width that images are brought to; the size of the training images by default.
        full_size: leave images at their own size.
        views: how images are looked at; whole and once by default.
        batch_size: images that the network sees together.
        speed: whether the network is rewritten to be faster.
        results: what is written.
        device: where to compute.
        console: where progress is shown; nowhere by default.

    Returns:
        How many images and videos could not be predicted to their end; each is told of on the console.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
        KeyboardInterrupt: the user stopped it; what is done until then is written.
    """
    console = console or Console(quiet=True)
    if full_size and size is not None:
        raise UsageError(f"size is [{size[0]},{size[1]}], and full_size leaves images at their own: drop one of them")
    network, card = load_any(model)
    views = views or TestTimeAugmentation()
    wanted = None if full_size else size or card.size
    # Told only of what it was learnt from: whole images at the size of the training.
    familiar = views.plain and wanted is not None and wanted == card.size and ood_file(model).is_file()
    unfamiliarity = OODDetector.read(model, network) if familiar else None
    predictor = Predictor(
        network,
        space=label_space(card.space),
        size=wanted,
        device=device,
        source_names=card.domains,
        views=views,
        batch_size=batch_size,
        speed=speed,
        unfamiliarity=unfamiliarity,
    )
    search = search_images(inputs, output=output, videos=True)
    titles = ["predict", *(["frames"] if any(is_video(one.path) for one in search.images) else [])]
    with bars(console, titles, [0] * len(titles)) as shows:
        predictions = predictor.predict_paths(
            inputs,
            output,
            results=results,
            progress=lambda done, total, outcome: shows[0](done, {}, total),
            on_frame=lambda done, total: shows[-1](done, {}, max(done, total)),
        )
    broken = [video for video in predictions.videos if video.broken]
    for reason in [*(failure.reason for failure in predictions.failures), *(str(video.broken) for video in broken)]:
        console.print(f"skipped: {reason}", style="red", highlight=False, markup=False, soft_wrap=True)
    for video in predictions.videos:
        if video.note:
            console.print(f"note: {video.note}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    frames = sum(video.frames for video in predictions.videos)
    told = [
        *([counted(len(predictions.written), "image")] if predictions.written or not frames else []),
        *([f"{frames} frames of {len(predictions.videos)} video(s)"] if frames else []),
    ]
    console.print(f"{' and '.join(told)} labelled in {output}", highlight=False, soft_wrap=True)
    if search.left_out:
        told_left_out = f"left out {search.left_out.text()}"
        console.print(told_left_out, style="yellow", highlight=False, markup=False, soft_wrap=True)
    strange = [one for one in predictions.written if one.unfamiliarity and one.unfamiliarity.percentile == 1]
    if strange:
        console.print(
            f"{len(strange)} of {len(predictions.written)} images are stranger than every image that the network was made "
            f"familiar with; the strangest is {max(strange, key=_strangeness).path}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    return len(predictions.failures) + len(broken)


def _strangeness(image: Written) -> float:
    return image.unfamiliarity.score if image.unfamiliarity else 0.0


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


def export(
    model: Path,
    *,
    output: Path,
    format: exporting.Format = "onnx",
    output_kind: exporting.Kind = "logits",
    normalise: bool = False,
    pixels: exporting.Pixels = "uint8",
    opset: int = exporting.OPSET,
    licence: str | None = None,
    int8: bool = False,
    calibration: str | None = None,
    calibration_images: int = 64,
    score: str | None = None,
    limit: int = 0,
    roots: Mapping[str, str] | None = None,
    sets: Path | None = None,
    repeats: int = 3,
    console: Console | None = None,
) -> dict[str, Any]:
    """Write a network as a file that runs without this package, with a report of how it compares with the network.

    With `int8` a second file, `NAME.int8.onnx`, computes its convolutions in 8-bit integers; the report says what that
    costs on a domain.

    Args:
        model: folder of a run, a checkpoint file, or one of RobustNet or SPC-Net.
        output: file to write, `*.onnx` or `*.pt2`; the report is written beside it.
        format: `onnx`, or `torch-export`.
        output_kind: `logits` for the scores of each pixel, `labels` for its class.
        normalise: let the file normalise images 0..255 itself.
        pixels: type of those images.
        opset: version of the ONNX operators.
        licence: what the file says of its terms.
        int8: write the second file.
        calibration: domain, or folder of images, that shows how large activations are; of a domain its training split.
        calibration_images: how many of them, spread evenly.
        score: domain that both files are scored on; the test split of the calibration's by default, none for a folder.
        limit: score so many images at most; 0 for all.
        roots: folders of data sets, beside the run's own.
        sets: file that describes sets of one's own, beside the run's own; see `spcnet.config.read_sets`.
        repeats: passes to time; 0 for none.
        console: where the report is shown; nowhere by default.

    Returns:
        What the report says.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    console = console or Console(quiet=True)
    if int8 and format != "onnx":
        raise UsageError(f"--int8 is for the format onnx, and the format is {format}: drop one of them")
    if int8 and calibration is None:
        raise UsageError(
            "--int8 needs --calibration: a domain, for example camvid, or a folder of images like those to come"
        )
    if calibration is not None and not int8:
        raise UsageError("--calibration is for --int8: give both, or --score to score the file on a domain")
    if pixels != "uint8" and not normalise:
        raise UsageError(f"--pixels {pixels} is for a file that normalises its images: give --normalise, too")
    if calibration_images < 1 or limit < 0 or repeats < 0:
        raise UsageError(
            f"calibration_images is {calibration_images}, limit {limit}, repeats {repeats}: there must be at least one image, "
            "and the others must be 0 or more"
        )
    network, card = load_any(model)
    own = OpenRun(model).config.data if (model / records.CONFIG_FILE).is_file() else DataConfig()
    own = with_sets(own, sets)
    data = dataclasses.replace(own, size=card.size, space=card.space, workers=0, roots={**own.roots, **(roots or {})})
    space = label_space(card.space)
    shown: SegmentationSet | Path | None = None
    if calibration is not None and Path(calibration).is_dir():
        shown = Path(calibration)
        find_images([shown])  # what is wrong with it is told before the network is exported
    elif calibration is not None:
        spec = DomainSpec.parse(calibration)
        shown = open_domain(spec, data=data, space=space, training=True)
        score = score or str(dataclasses.replace(spec, split=None))
    tested = open_domain(DomainSpec.parse(score), data=data, space=space, training=False) if score else None
    print_remarks([one for one in (shown, tested) if isinstance(one, SegmentationSet)], console)
    written = exporting.export(
        network,
        card,
        output,
        format=format,
        kind=output_kind,
        pixels=pixels if normalise else None,
        opset=opset,
        licence=licence,
    )
    deployed = exporting.Deployed(network, card, kind=output_kind, pixels=pixels if normalise else None)
    size = card.size or (512, 1024)
    files = {output: written.checks}
    if int8:
        assert shown is not None
        images = exporting.calibration_pictures(shown, data.size, limit=calibration_images)
        content = exporting.quantise(output.read_bytes(), map(deployed.given, images))
        small = output.with_name(f"{output.stem}.int8{output.suffix}")
        write_atomic(small, lambda file: file.write(content))
        files[small] = ()
    found: dict[str, Any] = {}
    sizes = _cost_table(["file"], ["images", "size", "scores differ", "equal labels"])
    table = _cost_table(["file"], ["MiB", *(["ms"] if repeats else []), *(["mIoU"] if tested else [])])
    with bar(console, len(files), 0, "compare") as show:
        for done, (path, checks) in enumerate(files.items(), start=1):
            content = path.read_bytes()
            program = exporting.onnx_program(content) if format == "onnx" else exporting.torch_program(content)
            checks = checks or exporting.compare(deployed, program, exporting.checked_sizes(card.size))
            time = exporting.timed(deployed, program, size, repeats=repeats) if repeats else None
            result = (
                exporting.score(program, deployed, tested, data, num_classes=len(space), limit=limit)
                if tested
                else None
            )
            found[path.name] = {
                "bytes": len(content),
                "checks": [check._asdict() for check in checks],
                "timing": None if time is None else time._asdict(),
                "domain": score,
                "images": None if result is None else result.images,
                "miou": None if result is None else mean_iou(result.counts),
            }
            table.add_row(
                path.name,
                f"{len(content) / 2**20:.1f}",
                *([f"{1000 * time.file:.0f}"] if time else []),
                *([f"{100 * found[path.name]['miou']:.2f}"] if result else []),
            )
            for check in checks:
                of = (
                    str(check.images),
                    f"{check.height}×{check.width}",
                    f"{check.difference:.1e}",
                    f"{check.equal:.2%}",
                )
                sizes.add_row(path.name, *of)
            show(done, {})
    report = exporting.write_report(written, files=found)
    console.print(sizes)
    console.print(table)
    console.print(
        "Compared with the network on generated streets."
        + (
            f" ms: one image of {size[0]}×{size[1]}, median of {repeats}, cpu, {counted(torch.get_num_threads(), 'thread')}; the network "
            f"in torch {1000 * found[output.name]['timing']['network']:.0f}."
            if repeats
            else ""
        )
        + (f" mIoU on {score}, {counted(found[output.name]['images'], 'image')}." if tested else ""),
        highlight=False,
    )
    console.print(f"Written: {', '.join(map(str, files))}; the report is {report}", highlight=False, markup=False)
    return found


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

"""What `spcnet export` does beside writing a file: an 8-bit copy, and how both compare with the network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from spcnet import export as exporting
from spcnet.config import DomainSpec
from spcnet.data.datasets import SegmentationSet, print_remarks
from spcnet.engine.progress import bar
from spcnet.errors import UsageError
from spcnet.evaluation.metrics import mean_iou
from spcnet.export import comparison, deployment, onnx_files, quantisation
from spcnet.files import write_atomic
from spcnet.formatting import print_plain
from spcnet.inference.images import find_images
from spcnet.reports.html import counted
from spcnet.runs import OpenRun
from spcnet.studies.engines import PLAIN_SIZE, parity, parity_table, parse_engine


@dataclass(frozen=True)
class ExportOptions:
    """How a network is written as a file for other programs, and what is said of the file."""

    format: deployment.Format = "onnx"
    output_kind: deployment.Kind = "logits"
    normalise: bool = False
    """Let the file normalise images 0..255 itself."""
    pixels: deployment.Pixels = "uint8"
    """Type of those images."""
    opset: int = onnx_files.OPSET
    licence: str | None = None
    size: tuple[int, int] | None = None
    """Height and width of its images, for backbones that take those of one size alone once they are exported."""
    int8: bool = False
    """Write a second file whose convolutions compute in 8-bit integers."""
    calibration: str | None = None
    """Domain, or folder of images, that shows how large activations are."""
    calibration_images: int = 64
    score: str | None = None
    """Domain that the files are scored on."""
    limit: int = 0
    """Largest number of images to evaluate; 0 for all."""
    repeats: int = 3
    """Passes to time; 0 for none."""
    engines: Sequence[str] = ()
    """Engines that are compared with the network, too: each `NAME` or `NAME:PRECISION`."""

    @property
    def given_pixels(self) -> deployment.Pixels | None:
        """Type of the images that the file takes; None for normalised ones."""
        return self.pixels if self.normalise else None

    def check(self, output: Path) -> None:
        """Refuse options that do not go together.

        Args:
            output: file to write.

        Raises:
            UsageError: names them.
        """
        if self.int8 and self.format != "onnx":
            raise UsageError(f"--int8 is for the format onnx, and the format is {self.format}: drop one of them")
        suffix = exporting.SUFFIXES[self.format]
        if output.suffix.lower() != suffix:
            raise UsageError(f"the output is {output}: a file of the format {self.format} ends in {suffix}")
        if self.int8 and self.calibration is None:
            raise UsageError(
                "--int8 needs --calibration: a domain, for example camvid, or a folder of images like those to come"
            )
        small = self.int8 or "int8" in [parse_engine(text)[1] for text in self.engines]
        if self.calibration is not None and not small:
            raise UsageError(
                "--calibration is for --int8 and for engines in int8: give both, or --score to evaluate the file on a domain"
            )
        if self.pixels != "uint8" and not self.normalise:
            raise UsageError(f"--pixels {self.pixels} is for a file that normalises its images: give --normalise, too")
        if self.calibration_images < 1 or self.limit < 0 or self.repeats < 0:
            numbers = f"calibration_images is {self.calibration_images}, limit {self.limit}, repeats {self.repeats}"
            raise UsageError(f"{numbers}: there must be at least one image, and the others must be 0 or more")


def export(run: OpenRun, output: Path, options: ExportOptions, console: Console) -> dict[str, Any]:
    """Write a network as a file, with a report of how it compares with the network.

    Args:
        run: the network.
        output: file to write, `*.onnx` or `*.pt2`; the report is written beside it.
        options: how.
        console: where the report is shown.

    Returns:
        What the report says of each file, by its name.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
    """
    options.check(output)
    calibration, score = _calibration(run, options.calibration), options.score
    if score is None and isinstance(calibration, SegmentationSet):
        score = str(replace(DomainSpec.parse(str(options.calibration)), split=None))
    tested = run.tests([score])[score] if score is not None else None
    print_remarks([one for one in (calibration, tested) if isinstance(one, SegmentationSet)], console)
    written = exporting.export(
        run.network,
        run.card,
        output,
        kind=options.output_kind,
        pixels=options.given_pixels,
        opset=options.opset,
        licence=options.licence,
        size=options.size,
    )
    deployed = deployment.Deployed(
        run.network, run.card, kind=options.output_kind, pixels=options.given_pixels, size=options.size
    )
    checks = {output: written.checks}
    if options.int8 and calibration is not None:
        images = quantisation.calibration_pictures(
            calibration, deployed.size or run.data.size, limit=options.calibration_images
        )
        content = quantisation.quantise(output.read_bytes(), map(deployed.given, images))
        small = output.with_name(f"{output.stem}.int8{output.suffix}")
        write_atomic(small, lambda file: file.write(content))
        checks[small] = ()
    files: dict[str, Any] = {}
    with bar(console, len(checks), 0, "compare") as show:
        for done, (path, of_file) in enumerate(checks.items(), start=1):
            files[path.name] = _compare(path, of_file, run, deployed, options, tested) | {"domain": score}
            show(done, {})
    compared = parity(run, options.engines, options.calibration, tested=tested, limit=options.limit)
    engines = {"engines": [row._asdict() for row in compared]} if compared else {}
    report = exporting.write_report(written, files=files, **engines)
    if compared:
        console.print(parity_table(compared))
    _show(files, options, deployed.size or run.card.size, console)
    print_plain(console, f"Written: {', '.join(map(str, checks))}; the report is {report}")
    return files


def _calibration(run: OpenRun, calibration: str | None) -> SegmentationSet | Path | None:
    """The images that show how large activations are; what is wrong with them is named before the network is exported."""
    if calibration is None:
        return None
    if Path(calibration).is_dir():
        find_images([Path(calibration)])
        return Path(calibration)
    return run.training_sets([calibration])[calibration]


def _compare(
    path: Path,
    checks: tuple[comparison.Check, ...],
    run: OpenRun,
    deployed: deployment.Deployed,
    options: ExportOptions,
    tested: SegmentationSet | None,
) -> dict[str, Any]:
    """What the report says of one file."""
    content = path.read_bytes()
    program = onnx_files.onnx_program(content) if options.format == "onnx" else deployment.torch_program(content)
    checks = checks or comparison.compare(
        deployed, program, comparison.checked_sizes(run.card.size, fixed=deployed.size)
    )
    size = deployed.size or run.card.size or PLAIN_SIZE
    timing = comparison.timed(deployed, program, size, repeats=options.repeats) if options.repeats else None
    entry: dict[str, Any] = {
        "bytes": len(content),
        "checks": [check._asdict() for check in checks],
        "timing": None if timing is None else timing._asdict(),
        "domain": None,
        "images": None,
        "miou": None,
    }
    if tested is not None:
        data = replace(run.data, workers=0)
        result = quantisation.score(program, deployed, tested, data, num_classes=len(run.space), limit=options.limit)
        entry |= {"images": result.images, "miou": mean_iou(result.counts)}
    return entry


def _show(files: dict[str, Any], options: ExportOptions, size: tuple[int, int] | None, console: Console) -> None:
    first = next(iter(files.values()))
    sizes = _table("images", "size", "logits differ", "equal labels")
    table = _table("MiB", *(["ms"] if first["timing"] else []), *(["mIoU"] if first["domain"] else []))
    for name, entry in files.items():
        table.add_row(
            name,
            f"{entry['bytes'] / 2**20:.1f}",
            *([f"{1000 * entry['timing']['file']:.0f}"] if entry["timing"] else []),
            *([f"{100 * entry['miou']:.2f}"] if entry["domain"] else []),
        )
        for check in entry["checks"]:
            size_text = f"{check['height']}×{check['width']}"
            difference, equal = f"{check['difference']:.1e}", f"{check['equal']:.2%}"
            sizes.add_row(name, str(check["images"]), size_text, difference, equal)
    console.print(sizes)
    console.print(table)
    text = "Compared with the network on generated streets."
    if first["timing"]:
        height, width = size or PLAIN_SIZE
        text += (
            f" ms: one image of {height}×{width}, median of {options.repeats}, cpu, {counted(torch.get_num_threads(), 'thread')}; "
            f"the network in torch {1000 * first['timing']['network']:.0f}."
        )
    if first["domain"]:
        text += f" mIoU on {first['domain']}, {counted(first['images'], 'image')}."
    print_plain(console, text)


def _table(*figures: str) -> Table:
    table = Table(box=SIMPLE)
    table.add_column("file", no_wrap=True)
    for title in figures:
        table.add_column(title, justify="right", no_wrap=True)
    return table

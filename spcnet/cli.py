"""The command line: `spcnet COMMAND`, also `python -m spcnet COMMAND`. Options in, one function call out."""

import inspect
import os
import sys
from argparse import Action
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import (
    ActionYesNo,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    set_parsing_settings,
)
from rich.console import Console

from spcnet import __version__
from spcnet.config import RunConfig, recipe_path
from spcnet.errors import SpcnetError
from spcnet.options import OptionParser, add_run_options

SHORT = {
    **{
        f"--{name}": f"--training.{name}"
        for name in ("accelerator", "devices", "precision", "seed", "iterations", "profile", "compile")
    },
    **{f"--{name}": f"--data.{name}" for name in ("root", "on_bad_image")},
}
"""Options of `train` that have a short form."""
PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}
"""Short names of precisions, as Lightning has them."""
BARE = {"--profile": "10", "--compile": "true"}
"""Options of `train` that may stand without a value, and what they then mean."""
TRACEBACK = "Show the traceback of an error."
USAGE, DATA, INTERRUPTED = 2, 1, 130
"""Exit codes: a wrong option, a wrong file, stopped by the user."""


def _add_train(parser: ArgumentParser) -> None:
    add_run_options(parser)
    parser.add_argument("--resume", action=ActionYesNo, default=False, help="Go on where the run in --output stopped.")
    parser.add_argument(
        "--overwrite", action=ActionYesNo, default=False, help="Begin anew in a folder that already holds a run."
    )
    parser.add_argument(
        "--dry_run",
        action=ActionYesNo,
        default=False,
        help="Only check data, memory and time: make and time some steps, the method's statistics, a checkpoint and an evaluation of some images; the run's folder is not touched.",
    )


def _train(options: Namespace, console: Console) -> int:
    from spcnet import distributed, training
    from spcnet.studies.report import show_table

    known = {name: options[name] for name in RunConfig.__dataclass_fields__}
    config = RunConfig(**known)
    if options.dry_run:
        from spcnet import dry_run

        report = dry_run.rehearse(config, resume=options.resume, overwrite=options.overwrite, say=console.print)
        if distributed.rank() == 0:
            dry_run.show(report, config, console)
        return 0 if report.ready else DATA
    training.train(config, resume=options.resume, overwrite=options.overwrite, console=console)
    if distributed.rank() > 0:
        return 0
    show_table([config.output], console)
    console.print(
        f"The run is in {config.output}; `spcnet report {config.output}` makes a page of it.", highlight=False
    )
    return 0


def _add_sweep(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", type=str, help="A YAML file, or the name of one that comes with spcnet.")
    parser.add_argument(
        "--methods", type=str, default="", help="Methods, spcnet,deeplabv3plus or [spcnet,deeplabv3plus]; the recipe's."
    )
    parser.add_argument("--seeds", type=str, default="", help="Seeds, 0,1,2 or [0,1,2]; the recipe's.")
    parser.add_argument(
        "--vary",
        action="append",
        type=str,
        default=[],
        help="An option with its values, training.learning_rate=[0.01,5e-3]; can be given again.",
    )
    parser.add_argument(
        "--set",
        action="append",
        type=str,
        default=[],
        help="An option with its value in all runs, training.iterations=100; can be given again.",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/sweep"), help="Folder for the runs and their table.")
    parser.add_argument("--jobs", type=int, default=1, help="Trainings at the same time; on GPUs each has its own.")
    parser.add_argument(
        "--select",
        type=Literal["last", "best_on_source", "oracle"],
        default="last",
        help="Which evaluation of a run counts: the last, the best on its sources, or (oracle) the best on the test data.",
    )
    parser.add_argument(
        "--dry_run", action=ActionYesNo, default=False, help="Only list the runs and what is left to do."
    )


def _sweep(options: Namespace, console: Console) -> int:
    from spcnet import sweep

    planned = sweep.plan(
        options.recipe,
        output=options.output,
        methods=sweep.listed(options.methods),
        seeds=sweep.seeds(options.seeds),
        vary={path: sweep.listed(text) for path, text in sweep.assigned(options.vary, "--vary").items()},
        settings=sweep.assigned(options.set, "--set"),
    )
    if options.dry_run:
        sweep.show_plan(planned, console, jobs=options.jobs)
        return 0
    found = sweep.sweep(planned, output=options.output, jobs=options.jobs, rule=options.select, console=console)
    return DATA if any(run["state"] != "done" for run in found["runs"]) else 0


def _add_evaluate(parser: ArgumentParser) -> None:
    parser.add_argument(
        "model",
        type=Path,
        help="Folder of a run, file of weights, ONNX file of spcnet export, or folder of predicted class maps.",
    )
    parser.add_argument(
        "--targets",
        type=list[str] | None,
        default=None,
        help="Score these domains alone, for example [cityscapes,cityscapes+fog]; [] for a run's sources; by default its sources and targets.",
    )
    parser.add_argument(
        "--roots", type=dict[str, str] | None, default=None, help="Folder of each data set, by its name."
    )
    _add_sets(parser)
    parser.add_argument(
        "--protocol", type=str, default="spcnet", help="How papers score: spcnet, robustnet, spcnet-official or rein."
    )
    parser.add_argument(
        "--size",
        type=tuple[int, int] | None,
        default=None,
        help="Height and width that images are brought to, [H,W]; the size of the training images by default.",
    )
    parser.add_argument(
        "--batch_size", type=int | None, default=None, help="Images scored together; the run's own by default."
    )
    parser.add_argument("--limit", type=int | None, default=None, help="Score only so many images of each domain.")
    parser.add_argument("--panels", type=int | None, default=None, help="Images of each domain kept for the report.")
    parser.add_argument(
        "--window", type=tuple[int, int] | None, default=None, help="Slide a window of this height and width, [H,W]."
    )
    parser.add_argument("--overlap", type=float | None, default=None, help="Share of a window that the next covers.")
    parser.add_argument(
        "--window_weights",
        type=Literal["uniform", "hann"] | None,
        default=None,
        help="Whether pixels near a window's border count less (hann).",
    )
    parser.add_argument(
        "--scales", type=list[float] | None, default=None, help="Average over these sizes of the image, [0.5,1,1.5]."
    )
    parser.add_argument("--flip", type=bool | None, default=None, help="Look at mirror images, too: true or false.")
    parser.add_argument("--devices", type=int | str, default=1, help="How many devices share the images, or auto.")
    parser.add_argument("--classes", action=ActionYesNo, default=False, help="Show each domain class by class, too.")
    parser.add_argument(
        "--space",
        type=str | None,
        default=None,
        help="Label space of a folder of predictions; what `spcnet predict` noted there, else cityscapes19.",
    )
    parser.add_argument(
        "--ids",
        type=Literal["auto", "train", "label", "color"],
        default="auto",
        help="What the pixels of predictions are: train ids, Cityscapes' label ids, or colours; auto looks at the names.",
    )
    parser.add_argument(
        "--output",
        type=Path | None,
        default=None,
        help="File that gets the result as a line; beside the model by default.",
    )


def _evaluate(options: Namespace, console: Console) -> int:
    from spcnet.commands.evaluate import evaluate

    evaluate(**_arguments(evaluate, options), console=console)
    return 0


def _arguments(function: Callable[..., object], options: Namespace) -> dict[str, Any]:
    """The options that a command's function takes."""
    return {name: options[name] for name in inspect.signature(function).parameters if name in options}


def _add_predict(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="Folder of a run, or a checkpoint file.")
    parser.add_argument(
        "inputs",
        type=str,
        nargs="+",
        help="Images, videos, folders of them, quoted patterns such as 'a/*.png', or webcam:0.",
    )
    parser.add_argument("--output", type=Path, default=Path("predictions"), help="Folder for class maps and overlays.")
    parser.add_argument(
        "--size",
        type=tuple[int, int] | None,
        default=None,
        help="Height and width that images are brought to, [H,W]; the size of the training images by default.",
    )
    parser.add_argument(
        "--full_size", action=ActionYesNo, default=False, help="Leave images at their own size instead of --size."
    )
    parser.add_argument(
        "--window", type=tuple[int, int] | None, default=None, help="Slide a window of this height and width, [H,W]."
    )
    parser.add_argument("--overlap", type=float, default=1 / 3, help="Share of a window that the next covers.")
    parser.add_argument(
        "--window_weights",
        type=Literal["uniform", "hann"],
        default="uniform",
        help="Whether pixels near a window's border count less (hann).",
    )
    parser.add_argument(
        "--scales", type=list[float], default=[1.0], help="Average over these sizes of the image, [0.5,1,1.5]."
    )
    parser.add_argument("--flip", action=ActionYesNo, default=False, help="Look at mirror images, too.")
    parser.add_argument(
        "--batch_size", type=int, default=1, help="Images, frames or windows that the network sees together."
    )
    parser.add_argument(
        "--overlay",
        type=float | None,
        default=0.5,
        help="Opacity of the colours over the image, 0..1; null for no overlays and no video.",
    )
    parser.add_argument(
        "--ids",
        type=Literal["train", "label", "color"],
        default="train",
        help="What class maps hold: train ids 0..K-1, Cityscapes' label ids 7..33, or colours.",
    )
    parser.add_argument(
        "--format",
        type=Literal["spcnet", "cityscapes"],
        default="spcnet",
        help="cityscapes: nothing but label ids, named as Cityscapes' own evaluation wants them.",
    )
    parser.add_argument(
        "--confidence",
        action=ActionYesNo,
        default=False,
        help="Also write how probable the class of each pixel is, as a grey image.",
    )
    parser.add_argument("--every", type=int, default=1, help="Take one frame of so many of a video.")
    parser.add_argument("--limit", type=int, default=0, help="Take so many frames of a video at most; 0 for all.")
    parser.add_argument(
        "--frame_maps", action=ActionYesNo, default=False, help="Also write the class map of each frame of a video."
    )
    parser.add_argument(
        "--speed",
        type=Literal["auto", "plain", "fused"],
        default="auto",
        help="Run the network as it is (plain), or rewritten so that a processor is faster (fused); auto: where it pays.",
    )
    parser.add_argument("--accelerator", type=str, default="auto", help="Where to compute: auto, cpu, cuda or mps.")


def _predict(options: Namespace, console: Console) -> int:
    from spcnet.commands.predict import predict

    return predict(**_arguments(predict, options), console=console)


def _add_report(parser: ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", help="Folders of runs to show side by side.")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="The page to write.")
    parser.add_argument(
        "--baseline", type=str, default="deeplabv3plus", help="Method that the others are compared with."
    )
    parser.add_argument("--title", type=str | None, default=None, help="Title of the page.")
    parser.add_argument(
        "--published",
        type=Literal["auto", "all", "none"],
        default="auto",
        help="Published results on the page: beside the runs where they can stand there, all of them, or none.",
    )


def _report(options: Namespace, console: Console) -> int:
    from spcnet.studies import report

    report.report(
        options.runs,
        output=options.output,
        baseline=options.baseline,
        title=options.title,
        published=options.published,
        console=console,
    )
    return 0


def _add_convert(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        help="File of RobustNet or SPC-Net (.pth, .ckpt), one of spcnet, or a backbone of torchvision or timm; "
        "FILE#NAME for one of several networks in it.",
    )
    parser.add_argument("output", type=Path, help="File to write, *.safetensors; with --to robustnet *.pth.")
    parser.add_argument(
        "--to", type=str, default="spcnet", help="Format: spcnet, or robustnet for a state dict with RobustNet's names."
    )
    parser.add_argument(
        "--method", type=str | None, default=None, help="Method, where the file does not tell: is or isw."
    )
    parser.add_argument(
        "--output_stride",
        type=int | None,
        default=None,
        help="8, 16 or 32; no file tells it. 32 for ResNet-18, else 16.",
    )
    parser.add_argument(
        "--wt_layer", type=list[int] | None, default=None, help="RobustNet's seven codes, [0,0,2,2,2,0,0]."
    )
    parser.add_argument("--space", type=str | None, default=None, help="Label space; told by the number of classes.")
    parser.add_argument(
        "--domains", type=list[str] | None, default=None, help="Names of the source domains, [gtav,synthia]."
    )
    parser.add_argument(
        "--allow_missing", type=list[str], default=[], help="Beginnings of names that may be missing and stay random."
    )


def _convert(options: Namespace, console: Console) -> int:
    from spcnet import model_commands

    model_commands.convert(**{name: options[name] for name in _CONVERT}, console=console)
    return 0


_CONVERT = (
    "source",
    "output",
    "to",
    "method",
    "output_stride",
    "wt_layer",
    "space",
    "domains",
    "allow_missing",
)


def _add_app(parser: ArgumentParser) -> None:
    parser.add_argument("models", type=Path, nargs="+", help="Folders of runs, or checkpoint files.")
    parser.add_argument("--host", type=str, default="127.0.0.1", help="Address to listen at; 0.0.0.0 for all.")
    parser.add_argument("--port", type=int, default=7860, help="Port to listen at; 0 for any that is free.")
    parser.add_argument("--share", type=bool, default=False, help="Make a public address, through Gradio's servers.")
    parser.add_argument("--max_megapixels", type=float, default=24.0, help="Of an uploaded picture, or of a frame.")
    parser.add_argument("--max_mb", type=float, default=50.0, help="Megabytes of an uploaded file.")
    parser.add_argument("--max_seconds", type=float, default=10.0, help="Seconds of a video that are labelled.")
    parser.add_argument("--time_limit", type=float, default=120.0, help="Seconds that labelling a video may take.")
    parser.add_argument("--concurrency", type=int, default=1, help="Requests worked on together; the others wait.")
    parser.add_argument("--accelerator", type=str, default="auto", help="Where to compute: auto, cpu, cuda or mps.")


def _app(options: Namespace, console: Console) -> int:
    from spcnet.app.server import serve
    from spcnet.app.uploads import Limits

    serve(
        options.models,
        host=options.host,
        port=options.port,
        share=options.share,
        limits=Limits(
            megapixels=options.max_megapixels,
            megabytes=options.max_mb,
            seconds=options.max_seconds,
            time=options.time_limit,
            concurrency=options.concurrency,
        ),
        device=options.accelerator,
        console=console,
    )
    return 0


def _add_export(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="Folder of a run, or a checkpoint file.")
    parser.add_argument(
        "--format",
        type=Literal["onnx", "torch-export"],
        default="onnx",
        help="onnx, or torch-export for a file that torch.export.load reads.",
    )
    parser.add_argument("--output", type=Path, default=Path("model.onnx"), help="File to write, *.onnx or *.pt2.")
    parser.add_argument(
        "--output_kind",
        type=Literal["logits", "labels"],
        default="logits",
        help="What the file answers: the scores of each pixel, or its class.",
    )
    parser.add_argument(
        "--normalise", action=ActionYesNo, default=False, help="The file takes RGB 0..255 and normalises it itself."
    )
    parser.add_argument(
        "--pixels", type=Literal["uint8", "float32"], default="uint8", help="Type of the image with --normalise."
    )
    parser.add_argument("--opset", type=int, default=20, help="Version of the ONNX operators.")
    parser.add_argument("--licence", type=str | None, default=None, help="What the file says of its terms.")
    parser.add_argument(
        "--int8", action=ActionYesNo, default=False, help="Write NAME.int8.onnx as well, and what it loses."
    )
    parser.add_argument(
        "--calibration", type=str | None, default=None, help="Domain or folder of images to calibrate int8 with."
    )
    parser.add_argument("--calibration_images", type=int, default=64, help="How many of them.")
    parser.add_argument(
        "--score", type=str | None, default=None, help="Domain to score the files on; the calibration's by default."
    )
    parser.add_argument("--limit", type=int, default=0, help="Score only so many images; 0 for all.")
    parser.add_argument(
        "--roots", type=dict[str, str] | None, default=None, help="Folder of each data set, by its name."
    )
    _add_sets(parser)
    parser.add_argument("--repeats", type=int, default=3, help="Passes to time; 0 for none.")


def _export(options: Namespace, console: Console) -> int:
    from spcnet.commands.export import export

    export(**_arguments(export, options), console=console)
    return 0


def _add_push(parser: ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="Folder of a run, or a checkpoint file.")
    parser.add_argument("repo_id", type=str, help="Repository on the Hugging Face Hub, OWNER/NAME; made if need be.")
    parser.add_argument(
        "--private", action=ActionYesNo, default=True, help="Of a new repository: only its owner sees it."
    )
    parser.add_argument(
        "--folder",
        type=Path | None,
        default=None,
        help="Write network and model card into this folder, to look at, and upload nothing.",
    )


def _push(options: Namespace, console: Console) -> int:
    from spcnet import model_commands

    model_commands.push(options.model, options.repo_id, private=options.private, folder=options.folder, console=console)
    return 0


def _add_benchmark(parser: ArgumentParser) -> None:
    parser.add_argument("what", type=Literal["cost"], help="cost: parameters, multiply-accumulates, memory, time.")
    parser.add_argument("--methods", type=list[str] | None, default=None, help="Methods, [deeplabv3plus,spcnet]; all.")
    parser.add_argument("--backbones", type=list[str] | None, default=None, help="Backbones, [resnet50]; all.")
    parser.add_argument(
        "--size", type=tuple[int, int], default=(512, 1024), help="Height and width of the image, [H,W]."
    )
    parser.add_argument("--repeats", type=int, default=3, help="Forward passes to time; 0 for none.")
    parser.add_argument("--device", type=str, default="cpu", help="Where to time, for example cuda.")
    parser.add_argument(
        "--paper", action=ActionYesNo, default=False, help="Instead: the paper's Table 8, counted by its own rule."
    )


def _benchmark(options: Namespace, console: Console) -> int:
    from spcnet import model_commands

    names = ("methods", "backbones", "size", "repeats", "device", "paper")
    model_commands.benchmark_cost(**{name: options[name] for name in names}, console=console)
    return 0


def _add_robustness(parser: ArgumentParser) -> None:
    parser.add_argument(
        "models", type=Path, nargs="+", help="Folders of runs, or checkpoint files, of one label space."
    )
    parser.add_argument("--set", type=str, required=True, help="Data set to score on, for example cityscapes.")
    parser.add_argument(
        "--roots", type=dict[str, str] | None, default=None, help="Folder of each data set, by its name."
    )
    _add_sets(parser)
    parser.add_argument(
        "--corruptions", type=list[str] | None, default=None, help="Which corruptions, [fog,snow]; [] for none; all."
    )
    parser.add_argument(
        "--styles", type=list[str] | None, default=None, help="Which weather styles, [rain,night]; [] for none; all."
    )
    parser.add_argument("--severities", type=list[int], default=[1, 2, 3, 4, 5], help="Which severities, each 1..5.")
    parser.add_argument(
        "--limit", type=int, default=0, help="Score only so many images, spread over the set; 0 for all."
    )
    parser.add_argument("--worst", type=int, default=6, help="How many of the worst cases are shown as pictures.")
    parser.add_argument("--batch_size", type=int, default=8, help="Images that a network sees together.")
    parser.add_argument("--workers", type=int, default=1, help="Processes that corrupt images; 0 for none.")
    parser.add_argument("--seed", type=int, default=0, help="Of noise, flakes and drops.")
    parser.add_argument("--accelerator", type=str, default="auto", help="Where to compute: auto, cpu, cuda or mps.")
    parser.add_argument(
        "--output", type=Path, default=Path("robustness"), help="Folder of the card; a later call goes on."
    )


def _robustness(options: Namespace, console: Console) -> int:
    from spcnet.reports.robustness import render_terminal
    from spcnet.studies import robustness

    given = {name: options[name] for name in _ROBUSTNESS}
    card = robustness.robustness(**given, domain=options["set"], console=console)
    for table in render_terminal(card):
        console.print(table)
    console.print(f"The card is {options.output / robustness.PAGE_FILE}", highlight=False, markup=False)
    return 0


_ROBUSTNESS = (
    "models",
    "roots",
    "sets",
    "corruptions",
    "styles",
    "severities",
    "limit",
    "worst",
    "batch_size",
    "workers",
    "seed",
    "accelerator",
    "output",
)


def _add_inspect(parser: ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", help="Folders of runs to look into.")
    parser.add_argument("--images", type=int, default=50, help="Most images of each domain, spread evenly over it.")
    parser.add_argument("--pixels", type=int, default=60, help="Most pixels of each class and domain on the maps.")
    parser.add_argument(
        "--targets",
        type=list[str] | None,
        default=None,
        help="Unseen domains instead of the run's own, for example [cityscapes,cityscapes+fog].",
    )
    parser.add_argument(
        "--roots", type=dict[str, str] | None, default=None, help="Folder of each data set, by its name."
    )
    _add_sets(parser)
    parser.add_argument(
        "--batch_size", type=int | None, default=None, help="Images seen together; the run's own by default."
    )
    parser.add_argument("--seed", type=int, default=0, help="Of t-SNE and of which pixels are shown.")
    parser.add_argument("--accelerator", type=str, default="auto", help="Where to compute: auto, cpu, cuda or mps.")
    parser.add_argument(
        "--output", type=Path | None, default=None, help="Write one page of all the runs as well, to this file."
    )


def _inspect(options: Namespace, console: Console) -> int:
    from spcnet.reports.inspection import render_terminal
    from spcnet.reports.inspection_page import write_page
    from spcnet.studies import inspection

    names = ("images", "pixels", "targets", "roots", "sets", "batch_size", "seed", "accelerator")
    given = {name: options[name] for name in names}
    found = [inspection.inspect(run, **given, console=console) for run in options.runs]
    console.print(render_terminal(found))
    pages = [one.folder / inspection.PAGE_FILE for one in found]
    if options.output is not None:
        pages.append(write_page(found, options.output))
    for page in pages:
        console.print(f"The page is {page}", highlight=False, markup=False)
    return 0


def _add_familiarise(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="Folder of a run.")
    parser.add_argument(
        "--images", type=int, default=100, help="So many images of each domain, spread over it; 0 for all."
    )
    parser.add_argument(
        "--domains",
        type=list[str] | None,
        default=None,
        help="What to show, for example [camvid@val,idd_lite@train]; the sources as they were trained on.",
    )
    parser.add_argument(
        "--roots", type=dict[str, str] | None, default=None, help="Folder of each data set, by its name."
    )
    _add_sets(parser)
    parser.add_argument("--batch_size", type=int, default=8, help="Images that the network sees together.")
    parser.add_argument("--accelerator", type=str, default="auto", help="Where to compute: auto, cpu, cuda or mps.")


def _familiarise(options: Namespace, console: Console) -> int:
    from spcnet.inference.ood import ood_file
    from spcnet.studies import ood

    given = {name: options[name] for name in _FAMILIARISE}
    found = ood.familiarise(**given, console=console)
    console.print(
        f"{len(found.known)} images of {', '.join(found.domains)} are what is usual: {ood_file(options.run)}",
        highlight=False,
        markup=False,
    )
    return 0


_FAMILIARISE = ("run", "images", "domains", "roots", "sets", "batch_size", "accelerator")


def _add_unfamiliarity(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="Folder of a run.")
    parser.add_argument(
        "--images", type=int, default=50, help="So many images of each domain as they are, spread over it; 0 for all."
    )
    parser.add_argument(
        "--targets", type=list[str] | None, default=None, help="Unseen domains instead of the run's own."
    )
    parser.add_argument(
        "--corruptions", type=list[str] | None, default=None, help="Which corruptions, [fog,snow]; [] for none; all."
    )
    parser.add_argument(
        "--styles", type=list[str] | None, default=None, help="Which weather styles, [rain,night]; [] for none; all."
    )
    parser.add_argument("--severities", type=list[int], default=[2, 5], help="Of the corruptions, each 1..5.")
    parser.add_argument(
        "--varied", type=int, default=12, help="So many images of each domain are shown in every condition."
    )
    parser.add_argument(
        "--roots", type=dict[str, str] | None, default=None, help="Folder of each data set, by its name."
    )
    _add_sets(parser)
    parser.add_argument("--batch_size", type=int, default=8, help="Images that the network sees together.")
    parser.add_argument("--seed", type=int, default=0, help="Of noise, flakes and drops.")
    parser.add_argument("--accelerator", type=str, default="auto", help="Where to compute: auto, cpu, cuda or mps.")


def _unfamiliarity(options: Namespace, console: Console) -> int:
    from spcnet.studies import ood

    found = ood.unfamiliarity(**{name: options[name] for name in _UNFAMILIARITY}, console=console)
    for table in ood.tables(found):
        console.print(table)
    console.print(f"All figures are in {options.run / ood.RESULT_FILE}", highlight=False, markup=False)
    return 0


_UNFAMILIARITY = (
    "run",
    "images",
    "targets",
    "corruptions",
    "styles",
    "severities",
    "varied",
    "roots",
    "sets",
    "batch_size",
    "seed",
    "accelerator",
)


def _add_demo(parser: ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="Folder for the runs and the report.")
    parser.add_argument(
        "--iterations", type=int | None, default=None, help="Training steps of each network; the recipe's by default."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of everything random.")


def _demo(options: Namespace, console: Console) -> int:
    from spcnet.demo import demo

    demo(output=options.output, iterations=options.iterations, seed=options.seed, console=console)
    return 0


def _data(options: Namespace, console: Console) -> int:
    return _act("data", options, console)


def _act(command: str, options: Namespace, console: Console) -> int:
    _, _, run = ACTIONS[command][options.action]
    return run(options[options.action], console)


def _add_set(parser: ArgumentParser) -> None:
    parser.add_argument("name", type=str, help="Data set, for example gtav; `spcnet data list` shows all.")
    parser.add_argument("root", type=Path, help="Folder of the set.")
    _add_own(parser)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="Processes that read images.")


def _add_own(parser: ArgumentParser) -> None:
    parser.add_argument("--recipe", type=str | None, default=None, help="Recipe in which your own sets are described.")
    _add_sets(parser)


def _add_sets(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--sets",
        type=Path | None,
        default=None,
        help="YAML file that describes sets of your own, by name, as data.sets of a recipe does.",
    )


def _add_check(parser: ArgumentParser) -> None:
    _add_set(parser)
    parser.add_argument("--split", type=str | None, default=None, help="One of its splits; all by default.")
    parser.add_argument(
        "--space", type=str | None, default=None, help="Count the pixels of this label space's classes, too."
    )
    parser.add_argument("--output", type=Path, default=Path(), help="Folder for NAME_check.json and NAME_exclude.txt.")


def _add_preview(parser: ArgumentParser) -> None:
    parser.add_argument("domain", type=str, help="SET[/SUBSET][@SPLIT][+STYLE], for example idd_lite@train.")
    parser.add_argument("root", type=Path | None, nargs="?", default=None, help="Folder of the set.")
    _add_own(parser)
    parser.add_argument("--space", type=str, default="cityscapes19", help="Label space of the colours.")
    parser.add_argument("--num_images", type=int, default=8, help="How many images.")
    parser.add_argument("--width", type=int, default=320, help="Width of an image on the sheet, in pixels.")
    parser.add_argument("--seed", type=int, default=0, help="Other seeds choose other images.")
    parser.add_argument("--output", type=Path, default=Path("preview.png"), help="Picture to write.")


def _add_styles(parser: ArgumentParser) -> None:
    parser.add_argument(
        "image", type=Path | None, nargs="?", default=None, help="Photograph; a generated street by default."
    )
    parser.add_argument("--styles", type=list[str] | None, default=None, help="Which styles, [fog,rain]; all.")
    parser.add_argument(
        "--strengths", type=list[float], default=[0.25, 0.5, 0.75, 1.0], help="At which strengths, each in 0..1."
    )
    parser.add_argument("--width", type=int, default=320, help="Width of a picture on the sheet, in pixels.")
    parser.add_argument("--seed", type=int, default=0, help="Of drops, flakes, lamps.")
    parser.add_argument("--output", type=Path, default=Path("styles.png"), help="Picture to write.")


def _add_cache(parser: ArgumentParser) -> None:
    parser.add_argument("name", type=str, help="Data set, for example gtav; `spcnet data list` shows all.")
    parser.add_argument("root", type=Path, help="Folder of the set; it stays as it is.")
    parser.add_argument("folder", type=Path, help="Folder of the copy.")
    _add_own(parser)
    parser.add_argument(
        "--size",
        type=tuple[int, int] | None,
        default=None,
        help="Height and width, [H,W]; each image's own by default.",
    )
    parser.add_argument("--splits", type=list[str] | None, default=None, help="Which splits, [train,val]; all.")
    parser.add_argument(
        "--form",
        type=Literal["jpeg", "raw"],
        default="jpeg",
        help="jpeg, or raw for unpacked pixels: fastest, and ten times as large.",
    )
    parser.add_argument("--quality", type=int, default=95, help="Of the JPEG files, 1..100.")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="Processes that read and write.")


def _add_fixture(parser: ArgumentParser) -> None:
    parser.add_argument("name", type=str, help="Data set, for example gtav; `spcnet data list` shows all.")
    parser.add_argument("folder", type=Path, help="Where to; a new or empty folder.")
    parser.add_argument("--layout", type=str | None, default=None, help="Name or number of one of its layouts.")
    parser.add_argument("--images", type=int, default=2, help="Images of each split.")
    parser.add_argument("--seed", type=int, default=0, help="Other seeds give other streets.")


def _data_action(function: str) -> Callable[[Namespace, Console], int]:
    def run(options: Namespace, console: Console) -> int:
        from spcnet import dataset_commands

        given = {name: value for name, value in vars(options).items() if name not in ("action", "traceback")}
        return getattr(dataset_commands, function)(**given, console=console) or 0

    return run


DATA_ACTIONS: dict[str, tuple[str, Callable[[ArgumentParser], None], Callable[[Namespace, Console], int]]] = {
    "list": ("List the data sets.", lambda parser: None, _data_action("list_sets")),
    "check": ("Read a whole set and say what is wrong with it.", _add_check, _data_action("check_set")),
    "preview": ("Write a sheet of images with their labels.", _add_preview, _data_action("preview")),
    "styles": (
        "Write a sheet of a photograph in every weather and road style.",
        _add_styles,
        _data_action("show_styles"),
    ),
    "cache": ("Copy a set once in a form that is quick to read.", _add_cache, _data_action("copy_set")),
    "fixture": ("Make a small valid set of generated streets.", _add_fixture, _data_action("make_fixture")),
}
"""Action of `spcnet data` → what it does, its options, its function."""


def _add_replay(parser: ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="What the run left, RUN/nan.")
    parser.add_argument(
        "--accelerator", type=str | None, default=None, help="Where to compute, for example cpu; as the run did."
    )


def _replay(options: Namespace, console: Console) -> int:
    from spcnet import debug_commands

    debug_commands.replay(options.folder, accelerator=options.accelerator, console=console)
    return 0


DEBUG_ACTIONS: dict[str, tuple[str, Callable[[ArgumentParser], None], Callable[[Namespace, Console], int]]] = {
    "replay": ("Make a step whose loss was not finite again, and say where it goes wrong.", _add_replay, _replay),
}
"""Action of `spcnet debug` → what it does, its options, its function."""

ACTIONS = {"data": DATA_ACTIONS, "debug": DEBUG_ACTIONS}
"""Commands that have actions."""

COMMANDS: dict[str, tuple[str, Callable[[ArgumentParser], None], Callable[[Namespace, Console], int]]] = {
    "demo": (
        "Train baseline and SPC-Net on generated streets, test on unseen weather, write a report.",
        _add_demo,
        _demo,
    ),
    "train": ("Train a network on source domains and test it on unseen ones.", _add_train, _train),
    "sweep": (
        "Train a recipe with several methods, seeds and settings, and make a table of them.",
        _add_sweep,
        _sweep,
    ),
    "data": ("List, check, look at, copy and make data sets; show the weather styles.", lambda parser: None, _data),
    "evaluate": ("Test a trained network.", _add_evaluate, _evaluate),
    "predict": ("Label images and videos with a trained network.", _add_predict, _predict),
    "app": ("Show networks side by side on a page, with your own photos and videos.", _add_app, _app),
    "convert": ("Bring in a network from RobustNet or SPC-Net, or write one for them.", _add_convert, _convert),
    "export": ("Write a network as ONNX or as a program of torch, and compare it.", _add_export, _export),
    "push": ("Put a network with its model card on the Hugging Face Hub.", _add_push, _push),
    "benchmark": ("Measure what networks cost.", _add_benchmark, _benchmark),
    "robustness": (
        "Score networks under 19 corruptions and in weather styles, and write a card.",
        _add_robustness,
        _robustness,
    ),
    "inspect": (
        "Look inside networks: maps of styles and pixels, λ, nearest known styles, prototypes.",
        _add_inspect,
        _inspect,
    ),
    "familiarise": (
        "Show a network its sources, so that it can say how strange other images are.",
        _add_familiarise,
        _familiarise,
    ),
    "unfamiliarity": (
        "Say what the unfamiliarity score of a network is worth.",
        _add_unfamiliarity,
        _unfamiliarity,
    ),
    "report": ("Make one HTML page of one or several runs.", _add_report, _report),
    "debug": (
        "Look again at what went wrong in a run.",
        lambda parser: None,
        lambda options, console: _act("debug", options, console),
    ),
}
"""Command → what it does, its options, its function."""


class _Help(DefaultHelpFormatter):
    """Help that names a path a path, and no class of Python."""

    def _get_type_str(self, action: Action) -> str | None:
        found: str | None = super()._get_type_str(action)
        return found and found.replace("<class 'Path'>", "path").replace("Path", "path")


def make_parser(*wanted: str) -> ArgumentParser:
    """The parser of all commands.

    Args:
        wanted: the commands that get their options, for it takes time to make them; all of them if none is named.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = OptionParser(
        prog="spcnet",
        formatter_class=_Help,
        description="Domain-generalised semantic segmentation: train on streets with labels, work on streets without.",
        version=__version__,
    )
    parser.add_argument("--debug", action=ActionYesNo, default=False, dest="traceback", help=TRACEBACK)
    commands = parser.add_subcommands(dest="command", required=True)
    for name, (summary, add_options, _) in COMMANDS.items():
        short = f" Short forms: {', '.join(f'{k} for {v}' for k, v in SHORT.items())}." if name == "train" else ""
        sub = OptionParser(description=summary + short, formatter_class=_Help)
        sub.add_argument("--debug", action=ActionYesNo, default=False, dest="traceback", help=TRACEBACK)
        if not wanted or name in wanted:
            add_options(sub)
        commands.add_subcommand(name, sub, help=summary)
        if name in ACTIONS and (not wanted or name in wanted):
            # Only now, for jsonargparse wants levels from the top down.
            _add_actions(sub, name)
    return parser


def _add_actions(parser: ArgumentParser, command: str) -> None:
    actions = parser.add_subcommands(dest="action", required=True)
    for name, (summary, add_options, _) in ACTIONS[command].items():
        sub = OptionParser(description=summary, formatter_class=_Help)
        add_options(sub)
        actions.add_subcommand(name, sub, help=summary)


def with_recipes(arguments: Sequence[str]) -> list[str]:
    """Put the file in the place of a recipe's name after `--config`, and long options in the place of short ones.

    Hyphens in an option's name stand for underscores: `--allow-missing` is `--allow_missing`.

    Raises:
        UsageError: there is no such recipe.
    """
    found = list(arguments)
    for i, argument in enumerate(found):
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
            argument = found[i] = name + equals + value
        if "train" in found[:2] and name in SHORT:
            if name == "--precision":
                if equals:
                    value = PRECISIONS.get(value, value)
                elif i + 1 < len(found):
                    found[i + 1] = PRECISIONS.get(found[i + 1], found[i + 1])
            alone = name in BARE and not equals and (i + 1 == len(found) or found[i + 1].startswith("-"))
            found[i] = SHORT[name] + (f"={BARE[name]}" if alone else equals + value)
        if argument == "--config" and i + 1 < len(found):
            found[i + 1] = str(recipe_path(found[i + 1]))
        elif argument.startswith("--config="):
            found[i] = f"--config={recipe_path(argument.removeprefix('--config='))}"
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code.

    0 done, 1 something is wrong with a file, 2 something is wrong with an option, 130 stopped by the user.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    console, errors = Console(), Console(stderr=True, soft_wrap=True)
    debug = "--debug" in given
    try:
        # The first word is the command; without one there is only help to show.
        first = next((word for word in given if not word.startswith("-")), "help")
        parser = make_parser(*([first] if first in (*COMMANDS, "help") else []))
        options = parser.instantiate(parser.parse_args(with_recipes(given)))
        _, _, run = COMMANDS[options.command]
        return run(options[options.command], console)
    except SpcnetError as error:
        if debug:
            raise
        if error.told_elsewhere:
            return 0
        errors.print(f"spcnet: {error}", style="red", highlight=False, markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        errors.print("spcnet: stopped", highlight=False)
        return INTERRUPTED

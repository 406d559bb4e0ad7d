"""Commands that are not yet functions of `spcnet.commands`: their options and what they call."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from jsonargparse import ActionYesNo, ArgumentParser, Namespace
from rich.console import Console

DATA = 1


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
    from spcnet.studies import scoring

    names = ("batch_size", "limit", "panels", "window", "overlap", "window_weights", "scales", "flip")
    scoring.evaluate(
        options.model,
        targets=options.targets,
        roots=options.roots,
        sets=options.sets,
        evaluation={name: options[name] for name in names if options[name] is not None},
        protocol=options.protocol,
        size=options.size,
        space=options.space,
        ids=options.ids,
        devices=options.devices,
        output=options.output,
        classes=options.classes,
        console=console,
    )
    return 0


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
    from spcnet import model_commands
    from spcnet.evaluation.tta import TestTimeAugmentation
    from spcnet.inference.results import Results

    results = ("overlay", "ids", "format", "confidence", "frame_maps", "every", "limit")
    if options.format == "cityscapes":
        options.overlay, options.ids = None, "label"
    failures = model_commands.predict(
        options.model,
        options.inputs,
        output=options.output,
        size=options.size,
        full_size=options.full_size,
        views=TestTimeAugmentation(
            options.window,
            options.overlap,
            weights=options.window_weights,
            scales=tuple(options.scales),
            flip=options.flip,
        ),
        batch_size=options.batch_size,
        speed=options.speed,
        results=Results(**{name: options[name] for name in results}),
        device=options.accelerator,
        console=console,
    )
    return DATA if failures else 0


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
    from spcnet import model_commands

    model_commands.export(**{name: options[name] for name in _EXPORT}, console=console)
    return 0


_EXPORT = (
    "model",
    "output",
    "format",
    "output_kind",
    "normalise",
    "pixels",
    "opset",
    "licence",
    "int8",
    "calibration",
    "calibration_images",
    "score",
    "limit",
    "roots",
    "sets",
    "repeats",
)


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


def _add_sets(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--sets",
        type=Path | None,
        default=None,
        help="YAML file that describes sets of your own, by name, as data.sets of a recipe does.",
    )


PAIRS: dict[str, tuple[Callable[[ArgumentParser], None], Callable[[Namespace, Console], int]]] = {
    "evaluate": (_add_evaluate, _evaluate),
    "predict": (_add_predict, _predict),
    "app": (_add_app, _app),
    "export": (_add_export, _export),
    "robustness": (_add_robustness, _robustness),
    "inspect": (_add_inspect, _inspect),
    "ood fit": (_add_familiarise, _familiarise),
    "ood evaluate": (_add_unfamiliarity, _unfamiliarity),
}

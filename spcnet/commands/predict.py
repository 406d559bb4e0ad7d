"""`spcnet predict`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from spcnet.config import plain_lists
from spcnet.errors import UsageError

if TYPE_CHECKING:
    from spcnet.inference.results import Predictions


@plain_lists
def predict(
    model: Path,
    inputs: Sequence[str | Path],
    *,
    output: Path = Path("predictions"),
    size: tuple[int, int] | None = None,
    full_size: bool = False,
    window: tuple[int, int] | None = None,
    overlap: float = 1 / 3,
    window_weights: Literal["uniform", "hann"] = "uniform",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    batch_size: int = 1,
    overlay: float | None = 0.5,
    ids: Literal["train", "label", "color"] = "train",
    format: Literal["spcnet", "cityscapes", "bravo"] = "spcnet",
    confidence: bool = False,
    thresholds: bool = True,
    every: int = 1,
    limit: int = 0,
    frame_maps: bool = False,
    engine: Literal["auto", "torch", "fused", "onnxruntime", "openvino", "tensorrt"] = "auto",
    precision: Literal["f32", "bf16", "int8"] = "f32",
    calibration: str | None = None,
    accelerator: str = "auto",
    console: Console | None = None,
) -> int:
    """Label images and videos with a trained network.

    Args:
        model: Folder of a run, or a file of weights.
        inputs: Images, videos, folders of them, quoted patterns such as 'a/*.png', or webcam:0.
        output: Folder for class maps and overlays.
        size: Height and width that images are brought to, [H,W]; the size of the training images by default.
        full_size: Leave images at their own size instead of --size.
        window: Slide a window of this height and width over each image, [H,W].
        overlap: Fraction of a window that the next one covers.
        window_weights: Whether pixels near a window's border count less (hann).
        scales: Average over these sizes of the image, [0.5,1,1.5].
        flip: Average with the mirror image.
        batch_size: Images, frames or windows that the network sees together.
        overlay: Opacity of the colours over the image, 0..1; null for no overlays and no video.
        ids: What class maps hold: train ids 0..K-1, Cityscapes' label ids 7..33, or colours.
        format: Names and contents of the files; cityscapes: nothing but label ids, named as Cityscapes' own evaluation wants them; bravo: train
            ids and the confidence in 16 bits, as the BRAVO challenge does.
        confidence: Also write how probable the class of each pixel is, as a grey image.
        thresholds: Make pixels void whose confidence lies below the thresholds in the model's card, where it has any; see
            spcnet calibrate.
        every: Take every Nth frame of a video.
        limit: Most frames of a video; 0 for all.
        frame_maps: Also write the class map of each frame of a video.
        engine: What runs the network: torch as it is, fused, onnxruntime, openvino or tensorrt; auto: openvino on a processor where it is installed.
        precision: What the engine computes in: f32, bf16 or int8.
        calibration: Domain or folder of images to calibrate int8 with; the run's sources by default.
        accelerator: Where to compute: auto, cpu, cuda or mps.
        console: Where progress is shown; nowhere by default.

    Returns:
        The exit code: 1 where an image or video could not be predicted to its end; each is named on the console.

    Raises:
        UsageError, DataError, CheckpointError: see the message.
        KeyboardInterrupt: the user stopped it; what is done until then is written.
    """
    from spcnet.engine.progress import bars
    from spcnet.evaluation.tta import TestTimeAugmentation
    from spcnet.inference.images import search_images
    from spcnet.inference.ood import OODDetector, ood_file
    from spcnet.inference.predictor import Predictor
    from spcnet.inference.results import Results
    from spcnet.inference.video import is_video
    from spcnet.runs import OpenRun
    from spcnet.studies.engines import engine_options

    console = console or Console(quiet=True)
    if full_size and size is not None:
        raise UsageError(f"size is [{size[0]},{size[1]}], and full_size leaves images at their own: drop one of them")
    if format == "cityscapes":
        overlay, ids = None, "label"
    if format == "bravo":  # which wants a class for each pixel
        overlay, confidence, thresholds = None, True, False
    run = OpenRun(model)
    views = TestTimeAugmentation(window, overlap, weights=window_weights, scales=tuple(scales), flip=flip)
    image_size = None if full_size else size or run.card.size
    predictor = Predictor(
        run.network,
        space=run.space,
        size=image_size,
        device=accelerator,
        source_names=run.card.domains,
        views=views,
        batch_size=batch_size,
        engine=engine_options(run, engine, precision, calibration, size=image_size),
    )
    fitted = run.card.calibration
    predictor.calibrate(fitted if fitted is None or thresholds else replace(fitted, thresholds=None))
    # The detector is fitted on whole images at the size of the training.
    if ood_file(model).is_file() and views.plain and image_size is not None and image_size == run.card.size:
        predictor.score_ood(OODDetector.read(model, run.network))
    search = search_images(inputs, output=output, videos=True)
    titles = ["predict", *(["frames"] if any(is_video(one.path) for one in search.images) else [])]
    with bars(console, titles, [0] * len(titles)) as shows:
        predictions = predictor.predict_paths(
            inputs,
            output,
            results=Results(overlay, ids, format, confidence, frame_maps, every, limit),
            progress=lambda done, total, outcome: shows[0](done, {}, total),
            on_frame=lambda done, total: shows[-1](done, {}, max(done, total)),
        )
    left_out = search.left_out.text() if search.left_out else None
    return 1 if _show(predictions, output, left_out, console) else 0


def _show(predictions: "Predictions", output: Path, left_out: str | None, console: Console) -> int:
    """Print what was labelled and what was not, and say how many images and videos that are."""
    from spcnet.reports.html import counted

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    broken = [str(video.broken) for video in predictions.videos if video.broken]
    reasons = [*(failure.reason for failure in predictions.failures), *broken]
    for reason in reasons:
        say(f"skipped: {reason}", style="red")
    for video in predictions.videos:
        if video.note:
            say(f"note: {video.note}", style="yellow")
    frames = sum(video.frames for video in predictions.videos)
    parts = [
        *([counted(len(predictions.written), "image")] if predictions.written or not frames else []),
        *([f"{frames} frames of {len(predictions.videos)} video(s)"] if frames else []),
    ]
    say(f"{' and '.join(parts)} labelled in {output}")
    if left_out:
        say(f"left out {left_out}", style="yellow")
    scores = {one.path: one.ood_score for one in predictions.written if one.ood_score}
    strange = {path: reading.score for path, reading in scores.items() if reading.percentile == 1}
    if strange:
        say(
            f"{len(strange)} of {len(predictions.written)} images have a higher OOD score than every image that the detector "
            f"was fitted on; the highest has {max(strange, key=strange.__getitem__)}"
        )
    return len(reasons)

"""The page: what a visitor chooses, and what is shown for it. Needs Gradio (the extra `app`)."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from spcnet.app.figures import Side, captions, class_fractions, facts, shown
from spcnet.app.studio import NO_STYLE, STYLE_CHOICES, Model, Studio, about_style, styled
from spcnet.app.uploads import Limits, expected, fitting, frames, is_film, opened
from spcnet.errors import DataError, SpcnetError, lookup
from spcnet.inference.ood import OODScore
from spcnet.inference.results import Prediction
from spcnet.inference.video import VideoWriter

TITLE = "spcnet: streets, seen by trained networks"
INTRO = (
    "Each pixel is coloured by the class that a network finds there. Take a scene or upload your own, give it another "
    "weather, and move the slider on the picture to compare."
)
MODELS, PHOTO_LEFT, PHOTO_RIGHT = "Two networks", "Photo | left network", "Photo | right network"
FRAME_WIDTH = 640
"""Pixels that each of the two sides of a video is wide at most."""
PROGRESS = gr.Progress()
"""As a default value it asks Gradio for a progress bar."""
KEPT_VIDEOS = 16
"""Labelled videos that are kept at most."""
STYLESHEET, SCRIPT = (Path(__file__).with_name(name) for name in ("page.css", "page.js"))


def uploader(label: str) -> gr.File:
    """A field for a visitor's file. Unlike Gradio's own it never fetches an address, and leaves no file per request.

    It is no subclass, for Gradio writes a stub file beside the module of each.
    """
    field = gr.File(label=label, file_count="single", height=150, elem_id="upload")
    move = field.async_move_resource_to_block_cache

    async def moved(given: str | Path | None) -> str | None:
        if "://" in str(given):
            raise gr.Error("Addresses are not fetched: upload a file", print_exception=False)
        path: str | None = await move(given)
        return path

    field.async_move_resource_to_block_cache = moved  # type: ignore[method-assign,assignment]
    # That the file was uploaded, Gradio has seen to.
    field.preprocess = lambda payload: None if payload is None else str(payload.path)  # type: ignore[method-assign,union-attr]
    return field


class Choice(NamedTuple):
    """All that a visitor chose, in the order of the page's inputs."""

    upload: str | None
    scene: int
    style: str
    strength: float
    compare: str
    left: str
    right: str
    opacity: float

    @property
    def source(self) -> Path | int:
        """The uploaded file, or the number of a scene."""
        return Path(self.upload) if self.upload else self.scene

    @property
    def sides(self) -> tuple[str | None, str | None]:
        """Networks on the two sides; None for the photo."""
        return {PHOTO_LEFT: (None, self.left), PHOTO_RIGHT: (None, self.right)}.get(
            self.compare, (self.left, self.right)
        )


class Shown(NamedTuple):
    """What is shown for a choice, in the order of the page's outputs."""

    captions: str
    pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    facts: str
    is_film: bool


def predict(studio: Studio, choice: Choice) -> Shown:
    """What is shown for a choice.

    Raises:
        SpcnetError: what was uploaded or chosen makes no sense.
    """
    image = studio.photo(choice.source, choice.style, choice.strength)
    pictures: list[NDArray[np.uint8]] = []
    sides: dict[str, Side] = {}
    for name in choice.sides:
        if name is None:
            pictures.append(shown(image, None, None, opacity=0))
            continue
        model = lookup(name, studio.models, "network")
        scored = studio.predict(name, choice.source, choice.style, choice.strength)
        pictures.append(shown(image, scored.prediction.class_map, model.space, opacity=choice.opacity))
        sides.setdefault(name, _Sum(model).add(scored.prediction).side(video=False, ood=scored.ood))
    note = "" if choice.style == NO_STYLE else f"Style: {about_style(choice.style)}."
    film = isinstance(choice.source, Path) and is_film(choice.source)
    if film:
        note += " This is the video's first frame."
    left, right = (name or "photo" for name in choice.sides)
    text = facts(list(sides.values()), note=note.strip())
    return Shown(captions(left, right), (pictures[0], pictures[1]), text, film)


class _Sum:
    """A network's predictions of a picture, or of the frames of a video, summed."""

    def __init__(self, model: Model) -> None:
        self.model, self.frames, self.seconds = model, 0, 0.0
        self.fractions = np.zeros(len(model.space))
        self.figures: dict[str, NDArray[np.float64]] = {}

    def add(self, prediction: Prediction) -> "_Sum":
        """Add a prediction; returns the sum."""
        self.frames += 1
        self.seconds += prediction.seconds
        self.fractions += class_fractions(prediction.class_map, self.model.space)
        for name, layers in prediction.figures.items():
            self.figures[name] = self.figures.get(name, 0) + np.array(layers)
        return self

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The class map of a frame, which is added."""
        prediction = self.model.predict(image).prediction
        self.add(prediction)
        return prediction.class_map

    def side(self, *, video: bool, ood: OODScore | None = None) -> Side:
        """The means."""
        model = self.model
        return Side(
            name=model.name,
            about=model.about,
            space=model.space,
            fractions=tuple((self.fractions / self.frames).tolist()),
            figures={name: tuple(map(tuple, (total / self.frames).tolist())) for name, total in self.figures.items()},
            sources=model.domains,
            ood=ood,
            seconds=self.seconds,
            engine=model.predictor.engine,
            frames=self.frames if video else 0,
        )


class Labelled(NamedTuple):
    """A video that was labelled."""

    path: Path
    facts: str


def label_video(
    studio: Studio,
    choice: Choice,
    path: Path,
    *,
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Labelled:
    """Label a video's first seconds, both sides beside each other.

    Args:
        studio: networks and limits.
        choice: what was uploaded and chosen.
        path: MP4 file to write.
        stopped: called after each frame: whether to end.
        progress: called after each frame with how many are done and how many there may be.

    Raises:
        SpcnetError: it is no video, it is broken before its first frame, or beyond the limits.
    """
    source = choice.source
    if isinstance(source, int):
        raise DataError("there is no video: upload one")
    limits = studio.limits
    end = time.monotonic() + limits.time
    why: list[str] = []

    def enough() -> bool:
        if stopped():
            why.append("stopped")
        elif time.monotonic() > end:
            why.append(f"ended after {limits.time:g} seconds of work")
        return bool(why)

    sums = {name: _Sum(lookup(name, studio.models, "network")) for name in choice.sides if name is not None}
    with ExitStack() as stack:
        video = stack.enter_context(opened(source, limits=limits))
        total = expected(video, limits=limits)
        writer: VideoWriter | None = None
        done = 0
        for frame in frames(video, limits=limits, enough=enough):
            if writer is None:
                file = stack.enter_context(path.open("wb"))
                writer = VideoWriter(file, rate=video.rate, pixel_aspect=video.pixel_aspect)
                stack.callback(writer.close)
            image = styled(frame.image, choice.style, strength=choice.strength)
            maps = {name: total.predict(image) for name, total in sums.items()}
            sides = [
                _frame(image, None if name is None else maps[name], name, studio, choice.opacity)
                for name in choice.sides
            ]
            writer.write(np.concatenate(sides, axis=1), frame.seconds)
            done += 1
            progress(done, max(done, total))
        if not done:
            reason = (video.broken or "").replace(str(source), "the video")
            raise DataError(reason or "the video has no frames: give another")
    said = [text.replace(str(source), "the video") for text in (video.broken, video.note) if text]
    notes = [f"Means over the {done} frames that were labelled", *why, *said]
    return Labelled(path, facts([total.side(video=True) for total in sums.values()], note="; ".join(notes) + "."))


def _frame(
    image: NDArray[np.uint8], class_map: NDArray[np.uint8] | None, name: str | None, studio: Studio, opacity: float
) -> NDArray[np.uint8]:
    """One side of a frame, with its name."""
    space = None if name is None else studio.models[name].space
    picture = Image.fromarray(shown(image, class_map, space, opacity=opacity, width=1))
    if picture.width > FRAME_WIDTH:
        picture = picture.resize(
            (FRAME_WIDTH, round(picture.height * FRAME_WIDTH / picture.width)), Image.Resampling.BILINEAR
        )
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(11, picture.width // 36))
    text = name or "photo"
    left, top, right, bottom = draw.textbbox((8, 6), text, font=font)
    draw.rectangle((left - 5, top - 4, right + 5, bottom + 4), fill=(0, 0, 0))
    draw.text((8, 6), text, fill=(255, 255, 255), font=font)
    return np.array(picture)


class Jobs:
    """Which visitors' videos are being labelled, and where the results lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: OrderedDict[str, threading.Event] = OrderedDict()
        self._done: deque[Path] = deque()

    @contextmanager
    def job(self, visitor: str) -> Iterator[tuple[Path, threading.Event]]:
        """A file for a result, and what tells that it is not wanted any more. A visitor's earlier job ends."""
        self.stop(visitor)
        stop = self._running[visitor] = threading.Event()
        path = self.folder / f"{uuid4().hex}.mp4"
        self._done.append(path)
        while len(self._done) > KEPT_VIDEOS:
            self._done.popleft().unlink(missing_ok=True)
        try:
            yield path, stop
        finally:
            if self._running.get(visitor) is stop:
                del self._running[visitor]

    def stop(self, visitor: str) -> None:
        """End what a visitor began."""
        running = self._running.get(visitor)
        if running is not None:
            running.set()


@contextmanager
def errors_shown() -> Iterator[None]:
    """Errors are shown on the page, as text without mark-up."""
    try:
        yield
    except SpcnetError as error:
        text = str(error).translate({ord("<"): "‹", ord(">"): "›"})
        raise gr.Error(text[:1].upper() + text[1:], duration=15, print_exception=False) from None


class _Handlers:
    """What the page calls when a visitor chooses something."""

    def __init__(self, studio: Studio, jobs: Jobs) -> None:
        self.studio, self.jobs = studio, jobs

    def show(self, *values: Any) -> tuple[Any, ...]:
        """Values of the inputs → those of the outputs, without a labelled video."""
        with errors_shown():
            result = predict(self.studio, Choice(*values))
        return (*result[:3], gr.Column(visible=result.is_film), None, "")

    def label(self, *values: Any, progress: gr.Progress = PROGRESS) -> tuple[str, str]:
        """Values of the inputs and the visitor → the labelled video and its facts."""
        *choice, visitor = values
        with errors_shown(), self.jobs.job(str(visitor)) as (path, stop):
            labelled = label_video(
                self.studio,
                Choice(*choice),
                path,
                stopped=stop.is_set,
                progress=lambda done, total: progress((done, total), unit="frames"),
            )
        return str(labelled.path), labelled.facts

    @staticmethod
    def pick(event: gr.SelectData) -> tuple[int, None]:
        """The number of the scene, and no upload."""
        return int(event.index), None


class _Inputs(NamedTuple):
    """The fields on the left, in the order of `Choice`."""

    upload: gr.File
    scene: gr.State
    style: gr.Dropdown
    strength: gr.Slider
    compare: gr.Radio
    left: gr.Dropdown
    right: gr.Dropdown
    opacity: gr.Slider


class _Outputs(NamedTuple):
    """The fields on the right, in the order of what `_Handlers.show` returns."""

    captions: gr.HTML
    pictures: gr.ImageSlider
    facts: gr.HTML
    film: gr.Column
    video: gr.Video
    means: gr.HTML


def build(studio: Studio, *, folder: Path) -> gr.Blocks:
    """The page.

    Raises:
        SpcnetError: a network cannot label the first scene.
    """
    names, limits = [*studio.models], studio.limits
    several = len(names) > 1
    start = Choice(None, 0, NO_STYLE, 1.0, MODELS if several else PHOTO_LEFT, names[0], names[1 if several else 0], 0.6)
    first = predict(studio, start)
    jobs = Jobs(folder)
    handlers = _Handlers(studio, jobs)
    page: gr.Blocks = gr.Blocks(title="spcnet", analytics_enabled=False, delete_cache=(600, 3600))
    with page:
        gr.HTML(
            f'<h1>{TITLE}</h1><p class="intro">{INTRO} At most {limits.megabytes:g} MB and {limits.megapixels:g} megapixels; '
            f"of a video the first {limits.seconds:g} seconds.</p>"
        )
        visitor = gr.State(lambda: uuid4().hex)
        with gr.Row(equal_height=False, elem_id="desk"):
            with gr.Column(scale=1, min_width=300):
                gallery, inputs = _choices(names, start, _thumbnails(studio, folder))
            with gr.Column(scale=3, min_width=320, elem_id="result"):
                run, stop, outputs = _result(first, limits)
        shared: dict[str, Any] = {
            "concurrency_limit": limits.concurrency,
            "concurrency_id": "networks",
            "api_visibility": "private",
        }
        # Progress and errors are shown once, on the picture.
        on_picture: dict[str, Any] = {**shared, "show_progress_on": [outputs.pictures]}
        changes = [
            *(inputs.upload.upload, inputs.upload.clear, inputs.style.change, inputs.compare.change),
            *(inputs.left.change, inputs.right.change, inputs.strength.change, inputs.opacity.change),
        ]
        gr.on(changes, handlers.show, [*inputs], [*outputs], trigger_mode="always_last", **on_picture)
        picked = gallery.select(handlers.pick, None, [inputs.scene, inputs.upload], api_visibility="private")
        picked.success(handlers.show, [*inputs], [*outputs], **on_picture)
        run.click(handlers.label, [*inputs, visitor], [outputs.video, outputs.means], **shared)
        stop.click(jobs.stop, [visitor], None, concurrency_limit=None, api_visibility="private")
    page.queue(max_size=limits.waiting, default_concurrency_limit=limits.concurrency)
    return page


def _thumbnails(studio: Studio, folder: Path) -> list[tuple[str, str]]:
    """File and name of each scene in small."""
    thumbnails = []
    for number, street in enumerate(studio.scenes):
        path = folder / f"scene-{number}.png"
        Image.fromarray(fitting(street.image, 2**15)).save(path)
        thumbnails.append((str(path), street.name))
    return thumbnails


def _choices(names: list[str], start: Choice, thumbnails: list[tuple[str, str]]) -> tuple[gr.Gallery, _Inputs]:
    """The fields with which a visitor chooses."""
    several = len(names) > 1
    gallery = gr.Gallery(
        thumbnails,
        label="Generated scenes",
        columns=4,
        height="auto",
        allow_preview=False,
        object_fit="cover",
        interactive=False,
        buttons=[],
        elem_id="scenes",
    )
    inputs = _Inputs(
        upload=uploader("Your own photo or video"),
        scene=gr.State(0),
        style=gr.Dropdown([*STYLE_CHOICES], value=NO_STYLE, label="Weather or damage", elem_id="style"),
        strength=gr.Slider(0, 1, value=1.0, step=0.05, label="Strength", elem_id="strength"),
        left=gr.Dropdown(names, value=start.left, label="Left network" if several else "Network", elem_id="left"),
        right=gr.Dropdown(names, value=start.right, label="Right network", visible=several, elem_id="right"),
        compare=gr.Radio(
            [MODELS, PHOTO_LEFT, PHOTO_RIGHT] if several else [PHOTO_LEFT],
            value=start.compare,
            label="Compare",
            visible=several,
            elem_id="compare",
        ),
        opacity=gr.Slider(0, 1, value=start.opacity, step=0.05, label="Opacity", elem_id="opacity"),
    )
    return gallery, inputs


def _result(first: Shown, limits: Limits) -> tuple[gr.Button, gr.Button, _Outputs]:
    """The buttons of a video, and the fields that show a result."""
    sides = gr.HTML(first.captions)
    pictures = gr.ImageSlider(
        first.pictures,
        label="Classes",
        show_label=False,
        interactive=False,
        buttons=["fullscreen"],
        max_height=640,
        elem_id="slider",
    )
    with gr.Column(visible=False, elem_id="film") as film:
        with gr.Row():
            run = gr.Button(f"Label the video (first {limits.seconds:g} s)", variant="primary")
            stop = gr.Button("Stop")
        video = gr.Video(
            label="Labelled video", show_label=False, interactive=False, buttons=["download"], elem_id="video"
        )
        means = gr.HTML("")
    return run, stop, _Outputs(sides, pictures, gr.HTML(first.facts), film, video, means)

"""The web demo without a browser: reading what visitors bring, styles, what is kept, what is told, what is let through."""

import asyncio
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spcnet.app import figures, server, uploads
from spcnet.app.figures import Side, captions, class_fractions, facts, shown
from spcnet.app.guard import Guard, is_needed
from spcnet.app.studio import (
    NO_STYLE,
    STYLE_CHOICES,
    RecentValues,
    Studio,
    about_style,
    scene_size,
    short_names,
    styled,
)
from spcnet.app.uploads import Limits, fitting, is_film, read_photo, read_upload
from spcnet.cli import main
from spcnet.errors import DataError, SpcnetError, UsageError
from spcnet.inference.images import read_rgb
from spcnet.inference.ood import OODScore
from spcnet.inference.predictor import Predictor
from spcnet.labels import label_space
from spcnet.runs import OpenRun, load_model
from spcnet.signals import terminate_as_interrupt
from tests.support.demo_networks import SIZE, write_network
from tests.support.videos import make_video, painted

pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio av")
av = pytest.importorskip("av", reason="PyAV is not installed: pip install av")

LIMITS = Limits(megapixels=1, megabytes=1, seconds=1)
STREET = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_network(folder / "ours", "spcnet", ood=True),
        write_network(folder / "theirs", "deeplabv3plus", seed=1, space="idd7"),
    ]


@pytest.fixture(scope="module")
def studio(runs: list[Path]) -> Studio:
    return Studio([OpenRun(run) for run in runs], limits=LIMITS, device="cpu")


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def film(path: Path, *, frames: int = 6, rate: int = 10, size: tuple[int, int] = (48, 64)) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            image = np.full((*size, 3), min(255, 30 * number), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def kinds(folder: Path) -> Iterator[tuple[str, Path]]:
    """Unusual pictures that are pictures all the same."""
    rgb = Image.fromarray(STREET)
    deep = Image.fromarray(STREET[:, :, 0].astype(np.uint16) * 257)
    palette = rgb.quantize(16)
    palette.info["transparency"] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "16 bits", saved(folder / "deep.png", deep)
    yield "inks", saved(folder / "inks.jpg", rgb.convert("CMYK"))
    yield "palette with a clear colour", saved(folder / "palette.png", palette, transparency=0)
    yield "see-through", saved(folder / "clear.webp", rgb.convert("RGBA"), lossless=True)
    yield "moving", saved(folder / "moving.gif", rgb, save_all=True, append_images=[rgb.rotate(180)])
    yield "turned", saved(folder / "turned.jpg", rgb, exif=exif)
    yield "black and white", saved(folder / "bits.png", rgb.convert("1"))
    yield "grey", saved(folder / "grey.tif", rgb.convert("L"))


def test_unusual_pictures_are_read_as_predict_reads_them(tmp_path: Path) -> None:
    for what, path in kinds(tmp_path):
        found = read_upload(path, limits=LIMITS)
        assert found.shape == ((64, 48, 3) if what == "turned" else (48, 64, 3)), what
        np.testing.assert_array_equal(found, read_rgb(path), err_msg=what)


def bomb() -> bytes:
    """A PNG of 50000×50000 pixels in some hundred bytes."""

    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(b"\0" * 100)) + part(b"IEND", b"")


def jpeg(quality: int = 90) -> bytes:
    file = io.BytesIO()
    Image.fromarray(STREET).save(file, "JPEG", quality=quality)
    return file.getvalue()


def many_scans() -> bytes:
    file = io.BytesIO()
    Image.fromarray(STREET).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    return content[:-2] + content[content.rindex(b"\xff\xda") : -2] * 200 + content[-2:]


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


HOSTILE = {
    "text": (b"this is not a picture", "no picture of a known kind"),
    "nothing": (b"", "empty"),
    "drawing": (
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "no picture of a known kind",
    ),
    "bomb": (bomb(), "megapixels"),
    "cut": (jpeg()[:400], "broken"),
    "cut in its head": (jpeg()[:20], "no picture of a known kind"),
    "one pixel": (png(1, 1), "at least 33"),
    "a strip": (png(20000, 2), "at least 33"),
    "large": (png(1100, 1000), "megapixel"),
    "heavy": (b"\xff\xd8" + b"\0" * 2**20, "at most 1"),
    "rounds": (many_scans(), "100 times"),
    "phone": (b"\0\0\0\x18ftypheic" + b"\0" * 64, "HEIC"),
    "playlist": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "no picture of a known kind"),
    "list of files": (b"ffconcat version 1.0\nfile /etc/passwd\n", "no picture of a known kind"),
    "empty film": (b"\0\0\0\x18ftypisom" + b"\0" * 64, "the video"),
    "empty matroska": (b"\x1aE\xdf\xa3" + b"\0" * 64, "the video"),
    "program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", "no picture of a known kind"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_files_get_one_line_that_names_no_path(what: str, tmp_path: Path) -> None:
    content, words = HOSTILE[what]
    path = tmp_path / "secret-name.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as told:
        read_upload(path, limits=LIMITS)
    assert "\n" not in str(told.value)
    assert "secret-name" not in str(told.value)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), end=st.integers(1, 10**6))
def test_damaged_files_are_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, end: int
) -> None:
    content = bytearray(jpeg() if place % 2 else png(64, 48))
    content[place % len(content)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: 1 + end % len(content)])
    with suppress(DataError):
        assert read_upload(path, limits=LIMITS).ndim == 3


def test_a_file_that_went_away_is_told_of(tmp_path: Path, studio: Studio) -> None:
    with pytest.raises(DataError, match="no longer there"):
        read_upload(tmp_path / "gone", limits=LIMITS)
    with pytest.raises(DataError, match="no longer there"):
        studio.photo(tmp_path / "gone")


def test_a_large_photo_is_made_smaller_in_proportion(tmp_path: Path) -> None:
    path = saved(tmp_path / "large.jpg", Image.new("RGB", (3000, 1500), (10, 200, 90)))
    found = read_photo(path, limits=Limits())
    assert found.shape[0] * found.shape[1] <= uploads.PHOTO_PIXELS
    assert found.shape[1] / found.shape[0] == pytest.approx(2, rel=0.01)
    assert np.abs(found.astype(int) - (10, 200, 90)).max() < 4
    assert fitting(STREET, 10**6) is STREET
    assert fitting(np.zeros((100, 400, 3), np.uint8), 10000).shape == (50, 200, 3)


@pytest.mark.parametrize(
    "wrong",
    [{"megapixels": 0}, {"megabytes": -1}, {"seconds": float("nan")}, {"time": float("inf")}, {"concurrency": 0}],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"--|limit"):
        Limits(**wrong)  # type: ignore[arg-type]


def test_a_film_is_known_by_its_beginning_and_thinned_to_the_frames_allowed(tmp_path: Path) -> None:
    path = film(tmp_path / "drive.mp4", frames=30, rate=10)
    assert is_film(path)
    assert not is_film(saved(tmp_path / "still.png", Image.fromarray(STREET)))
    assert read_upload(path, limits=LIMITS).shape == (48, 64, 3)
    with uploads.opened(path, limits=LIMITS) as video:
        assert uploads.thinned(video, limits=LIMITS) == 1
        times = [frame.seconds for frame in uploads.frames(video, limits=LIMITS)]
    assert times == pytest.approx(np.arange(11) / 10)
    quick = film(tmp_path / "quick.mp4", frames=2, rate=600)
    with uploads.opened(quick, limits=Limits(seconds=10)) as video:
        video.frames = 0  # it does not tell how many it has
        assert uploads.thinned(video, limits=Limits(seconds=10)) == 24


@pytest.mark.parametrize(("frames", "seconds", "expected"), [(30, 1, 11), (30, 9, 30), (600, 99, 200), (501, 30, 151)])
def test_the_frames_that_a_film_will_give_are_known_before(
    tmp_path: Path, frames: int, seconds: float, expected: int
) -> None:
    path, limits = film(tmp_path / "drive.mkv", frames=frames, rate=10), Limits(seconds=seconds)
    with uploads.opened(path, limits=limits) as video:
        assert uploads.expected(video, limits=limits) == expected
        assert sum(1 for _ in uploads.frames(video, limits=limits)) == expected


def test_a_film_with_frames_beyond_the_limit_is_refused_before_one_is_decoded(tmp_path: Path) -> None:
    path = film(tmp_path / "wide.mp4", frames=1, size=(48, 64))
    with pytest.raises(DataError, match="megapixels"):
        read_upload(path, limits=Limits(megapixels=0.001))


def test_every_style_changes_a_picture_and_none_does_not() -> None:
    image = np.random.default_rng(1).integers(60, 200, (64, 96, 3), dtype=np.uint8)
    assert styled(image, NO_STYLE, strength=1) is image
    for _, style in STYLE_CHOICES[1:]:
        found = styled(image, style, strength=1.0)
        assert found.shape == image.shape, style
        assert not np.array_equal(found, image), style
        assert about_style(style), style
    np.testing.assert_array_equal(styled(image, "corruption/fog", strength=0), image)


@pytest.mark.parametrize("style", ["weather/nope", "corruption/../x", "nope", ""])
def test_a_style_that_is_none_is_refused(style: str, studio: Studio) -> None:
    with pytest.raises(UsageError):
        studio.photo(0, style)
    with pytest.raises(UsageError):
        studio.photo(0, "weather/fog", 1.5)
    with pytest.raises(UsageError):
        studio.photo(99)
    with pytest.raises(UsageError):
        studio.predict("nobody", 0)


def test_a_network_says_the_same_as_the_predictor(studio: Studio, runs: list[Path]) -> None:
    image = studio.photo(3, "weather/rain", 0.5)
    for name, path in zip(("ours", "theirs"), runs, strict=True):
        space = studio.models[name].space
        plain = Predictor(load_model(path), space=space, size=SIZE, device="cpu", engine="torch")
        found = studio.predict(name, 3, "weather/rain", 0.5).prediction
        assert (found.class_map == plain.predict(image).class_map).mean() > 0.99


def test_strangeness_is_told_where_the_network_knows_what_is_usual(studio: Studio) -> None:
    usual = studio.predict("ours", 0).ood
    strange = studio.predict("ours", 0, "corruption/gaussian_noise", 1.0).ood
    assert usual is not None
    assert strange is not None
    assert strange.score > usual.score
    assert studio.predict("theirs", 0).ood is None


def test_what_was_seen_is_kept_and_uploads_are_told_apart_by_content(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(STREET))
    first = studio.predict("ours", path)
    monkeypatch.setattr(studio.models["ours"], "predict", None)
    assert studio.predict("ours", path) is first
    assert studio.predict("ours", saved(tmp_path / "b.png", Image.fromarray(STREET))) is first
    with pytest.raises(TypeError):
        studio.predict("ours", saved(tmp_path / "a.png", Image.fromarray(STREET[::-1].copy())))


def test_what_is_kept_stays_within_its_bytes_and_the_oldest_goes_first() -> None:
    kept, made = RecentValues(100), []

    def get(key: str, size: int = 40) -> str:
        return kept.get(key, lambda: made.append(key) or key, lambda value: size)  # type: ignore[func-returns-value]

    for key in "abacaba":
        get(key)
        assert kept.bytes <= 100
    assert made == ["a", "b", "c", "b"]
    get("huge", 1000)
    assert kept.bytes == 0


def test_networks_have_the_shortest_names_that_differ(tmp_path: Path) -> None:
    for name in ("x/seed0", "y/seed0", "z"):
        (tmp_path / name).mkdir(parents=True)
    file, other = tmp_path / "z" / "model.safetensors", tmp_path / "z" / "best.pth"
    file.touch()
    other.touch()
    assert short_names([tmp_path / "z", other]) == ["z", "best"]
    assert short_names([file, tmp_path / "x" / "seed0"]) == ["z", "seed0"]
    assert short_names([tmp_path / "x" / "seed0", tmp_path / "y" / "seed0"]) == ["x/seed0", "y/seed0"]
    assert short_names([file, file]) == ["z (1)", "z (2)"]


def test_scenes_have_the_size_of_the_largest_network_within_bounds() -> None:
    assert scene_size([(64, 128), None, (128, 256)]) == (128, 256)
    assert scene_size([None]) == (256, 512)
    height, width = scene_size([(1024, 2048)])
    assert height * width == pytest.approx(2**18, rel=0.01)
    assert width / height == pytest.approx(2, rel=0.01)


def side(**changes: Any) -> Side:
    given: dict[str, Any] = {
        "name": "ours",
        "about": "spcnet",
        "space": label_space("idd7"),
        "fractions": (0.5, 0.3, 0.2, 0, 0, 0, 0),
        "figures": {"style_weights": ((0.25, 0.75),)},
        "sources": ("a", "b"),
        "ood": None,
        "seconds": 0.05,
        "engine": "openvino",
    }
    return Side(**given | changes)


def test_names_of_networks_and_sources_are_text_and_no_markup() -> None:
    evil = "<script>alert(1)</script>"
    told = facts([side(name=evil, about=evil, sources=(evil, "b"))], note=evil) + captions(evil, evil)
    assert "<script" not in told
    assert told.count("&lt;script&gt;") >= 6


def test_facts_tell_areas_shares_strangeness_and_time() -> None:
    ood = OODScore(score=7.25, percentile=1.0, times=3.0, parts={"style": 7.0})
    told = facts([side(ood=ood), side(name="theirs", figures={})])
    for words in (
        "50 ms by openvino",
        "7.2",
        "strange",
        "all known images",
        "3.0 times",
        "25.0 %",
        "75.0 %",
        "no style layers",
        "Not found",
    ):
        assert words in told
    assert told.count("<table>") == 1
    assert (
        facts([side(), side(space=label_space("cityscapes19"), fractions=(1.0,) + (0.0,) * 18)]).count("<table>") == 2
    )


def test_shares_are_those_of_the_pixels_and_void_belongs_to_none() -> None:
    class_map = np.array([[0, 0, 1, 255]], np.uint8)
    assert class_fractions(class_map, label_space("idd7")) == (0.5, 0.25, 0, 0, 0, 0, 0)


def test_a_small_picture_is_enlarged_by_a_whole_number_without_mixing_classes() -> None:
    space = label_space("idd7")
    class_map = np.array([[0, 1], [2, 3]], np.uint8)
    found = shown(np.zeros((2, 2, 3), np.uint8), class_map, space, opacity=1, width=5)
    assert found.shape == (6, 6, 3)
    assert {tuple(color) for color in found.reshape(-1, 3)} == set(space.colors[:4])
    assert shown(STREET, None, None, opacity=1, width=1) is STREET
    assert figures.SHOWN_WIDTH >= 640


@pytest.mark.parametrize(
    "path", ["/", "/config", "/assets/index.js", "/gradio_api/queue/join", "/gradio_api/file=/tmp/x"]
)
def test_the_guard_lets_through_what_the_page_asks_for(path: str) -> None:
    assert is_needed(path)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=http://127.0.0.1/",
        "/gradio_api/file=HTTPS%3A//127.0.0.1/",
        "/gradio_api/file=//127.0.0.1/x",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/gradio_api/run/predict",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/monitoring",
        "/login",
        "/gradio_api/queue/join/../../monitoring",
    ],
)
def test_the_guard_refuses_the_rest(path: str) -> None:
    assert not is_needed(path)


def test_a_full_folder_takes_nothing_in(tmp_path: Path) -> None:
    asked = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def status(path: str, stored: int) -> Any:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        guard = Guard(app, folder=tmp_path, stored=stored)
        asyncio.run(guard({"type": "http", "path": path}, None, send))  # type: ignore[arg-type]
        assert any(name == b"content-security-policy" for name, _ in sent[0]["headers"])
        return sent[0]["status"]

    (tmp_path / "upload").write_bytes(b"0" * 100)
    assert status("/gradio_api/upload", 1000) == 200
    assert status("/gradio_api/upload", 99) == 507
    assert status("/gradio_api/queue/data", 99) == 200
    assert status("/elsewhere", 1000) == 404
    assert len(asked) == 2


def test_a_video_is_labelled_side_by_side_until_time_is_up_or_it_is_stopped(studio: Studio, tmp_path: Path) -> None:
    from spcnet.app.page import MODELS, Choice, label_video

    upload = film(tmp_path / "drive.mp4", frames=6)
    choice = Choice(str(upload), 0, "weather/fog", 1.0, MODELS, "ours", "theirs", 0.5)
    told: list[tuple[int, int]] = []
    found = label_video(studio, choice, tmp_path / "a.mp4", progress=lambda *given: told.append(given))
    assert told == [(n, 6) for n in range(1, 7)]
    with av.open(str(found.path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].sample_aspect_ratio in (None, 1)
    assert len(frames) == 6
    assert frames[0].shape == (48, 128, 3)
    assert "6 frames" in found.facts
    wide = make_video(tmp_path / "wide.mp4", frames=2, aspect=Fraction(4, 3))
    label_video(studio, choice._replace(upload=str(wide)), tmp_path / "d.mp4")
    with av.open(str(tmp_path / "d.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    hdr = painted(tmp_path / "hdr.mp4", matrix=9, tag=9, primaries=9, transfer=16)
    facts = label_video(studio, choice._replace(upload=str(hdr)), tmp_path / "e.mp4").facts
    assert "the video is HDR (PQ)" in facts
    short = label_video(studio, choice, tmp_path / "b.mp4", stopped=lambda: True)
    assert "1 frames" in short.facts
    assert "stopped" in short.facts
    hasty = Studio.__new__(Studio)
    hasty.__dict__.update(studio.__dict__, limits=Limits(time=1e-9))
    assert "seconds of work" in label_video(hasty, choice, tmp_path / "c.mp4").facts


def test_a_video_without_frames_is_told_of(studio: Studio, tmp_path: Path) -> None:
    from spcnet.app.page import MODELS, Choice, label_video

    whole = film(tmp_path / "drive.avi", frames=6).read_bytes()
    path = tmp_path / "cut.avi"
    path.write_bytes(whole[: whole.index(b"movi") + 4])
    choice = Choice(str(path), 0, NO_STYLE, 1.0, MODELS, "ours", "theirs", 0.5)
    for call in (
        lambda: label_video(studio, choice, tmp_path / "a.mp4"),
        lambda: read_upload(path, limits=LIMITS),
        lambda: label_video(studio, choice._replace(upload=None), tmp_path / "a.mp4"),
    ):
        with pytest.raises(SpcnetError) as error:
            call()
        assert "video" in str(error.value)
        assert str(tmp_path) not in str(error.value)


def test_a_second_job_of_a_visitor_ends_the_first_and_old_results_go(tmp_path: Path) -> None:
    from spcnet.app.page import KEPT_VIDEOS, Jobs

    jobs = Jobs(tmp_path)
    with jobs.job("a") as (_, first), jobs.job("b") as (_, other), jobs.job("a") as (_, second):
        assert first.is_set()
        assert not second.is_set()
        jobs.stop("a")
        assert second.is_set()
        assert not other.is_set()
    for _ in range(KEPT_VIDEOS + 3):
        with jobs.job("a") as (path, _):
            path.touch()
    assert len([*tmp_path.iterdir()]) == KEPT_VIDEOS


def test_a_taken_port_and_a_missing_package_are_one_line(
    runs: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["app", str(runs[0]), "--port", str(port)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "--port" in told
    assert main(["app", str(runs[0]), "--port", "70000"]) == 2
    assert main(["app", str(runs[0]), "--max_mb", "0"]) == 2
    assert main(["app", str(runs[0] / "nothing"), "--port", "0"]) == 1
    capsys.readouterr()
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None)
    assert main(["app", str(runs[0])]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "pip install gradio av" in told


def test_a_request_to_end_counts_as_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminate_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_it_ends_with_one_line_and_leaves_nothing(runs: list[Path], tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "spcnet", "app", str(runs[1]), "--port", "0", "--accelerator", "cpu"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[1],
    )
    try:
        assert process.stdout is not None
        watch = threading.Timer(240, process.kill)
        watch.start()
        said = process.stdout.readline()
        assert "http://127.0.0.1:" in said
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=120)
    finally:
        watch.cancel()
        process.kill()
    assert process.returncode == 130
    assert rest == ""
    assert errors.strip() == "spcnet: stopped"
    assert [*tmp_path.iterdir()] == []

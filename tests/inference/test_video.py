import csv
import json
import os
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spcnet.errors import DataError, UsageError
from spcnet.inference import video as module
from spcnet.inference.images import find_images
from spcnet.inference.results import Failure, FoundImage, Results, WrittenVideo
from spcnet.inference.video import VideoWriter, camera, is_video, open_video
from tests.inference.test_predictor import SEVEN, grey, make
from tests.inference.videos import av, make_sound, make_video


def frames_of(path, **more):
    with open_video(path) as video:
        return list(video.read(**more)), video


def shown(path):
    """Frames of a written video with what its stream says."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        told = (stream.codec_context.pix_fmt, stream.width, stream.height, stream.average_rate)
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)], told


def predict(path, out, predictor=None, **results):
    return (predictor or make()).predict_video(FoundImage(path, "x"), out, results=Results(**results))


# Reading


def test_frames_come_in_order_with_their_times_and_numbers(tmp_path):
    found, video = frames_of(make_video(tmp_path / "a.mp4"))
    assert [frame.number for frame in found] == list(range(8))
    assert [frame.seconds for frame in found] == pytest.approx([n / 10 for n in range(8)])
    assert (video.rate, video.frames, video.broken, video.live) == (10, 8, None, False)
    assert [abs(int(frame.image[24, 60].mean()) - 20 * frame.number) < 8 for frame in found] == [True] * 8


def test_every_and_limit_take_fewer_frames(tmp_path):
    path = make_video(tmp_path / "a.mp4")
    assert [frame.number for frame in frames_of(path, every=3)[0]] == [0, 3, 6]
    found, video = frames_of(path, every=2, limit=2)
    assert [frame.number for frame in found] == [0, 2]
    assert video.broken is None  # it was not cut off: enough had been seen
    with pytest.raises(UsageError, match="every is 0"):
        frames_of(path, every=0)


def test_a_video_filmed_lying_down_is_upright(tmp_path):
    lying, _ = frames_of(make_video(tmp_path / "a.mp4"))
    turned, _ = frames_of(make_video(tmp_path / "b.mp4", turned=90))
    assert turned[5].image.shape == (64, 48, 3)
    # Counterclockwise: what was to the right is on top.
    assert np.array_equal(turned[5].image, np.rot90(lying[5].image))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("text.mp4", "it is no video, or broken"),
        ("empty.mp4", "it is no video, or broken"),
        ("sound.m4a", "it has no video stream"),
        ("none.mp4", "is not there"),
        ("cut.mp4", "it is no video, or broken"),
    ],
)
def test_what_is_no_video_is_one_clear_line_and_leaves_nothing(tmp_path, name, problem):
    path = tmp_path / name
    if name == "text.mp4":
        path.write_text("hello")
    elif name == "empty.mp4":
        path.write_bytes(b"")
    elif name == "sound.m4a":
        make_sound(path)
    elif name == "cut.mp4":  # its table of contents comes last
        path.write_bytes(make_video(tmp_path / "whole.mp4").read_bytes()[:-900])
    found = predict(path, tmp_path / "out")
    assert isinstance(found, Failure)
    assert problem in found.reason
    assert str(path) in found.reason
    assert "\n" not in found.reason
    assert not (tmp_path / "out").exists()


def test_a_video_without_frames_is_one_clear_line(tmp_path):
    path = make_video(tmp_path / "a.avi", frames=0)
    found = predict(path, tmp_path / "out")
    assert isinstance(found, Failure)
    assert str(path) in found.reason
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_a_video_that_is_cut_off_gives_the_frames_before_and_says_so(tmp_path, suffix):
    codec = "libx264" if suffix == ".ts" else "mpeg4"
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    whole = make_video(tmp_path / f"w{suffix}", frames=40, options=options, codec=codec, noise=True)
    path = tmp_path / f"a{suffix}"
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = predict(path, tmp_path / "out")
    assert isinstance(found, WrittenVideo), found
    assert 5 < found.frames < 35
    assert len(shown(tmp_path / "out/x_overlay.mp4")[0]) == found.frames
    if suffix != ".ts":  # a stream does not know its length
        assert "a" + suffix in found.broken
        assert "\n" not in found.broken


def test_no_cut_of_a_file_ends_in_anything_else_than_frames_or_one_line(tmp_path):
    for suffix in (".mp4", ".mkv"):
        content = make_video(tmp_path / f"w{suffix}", options={"movflags": "faststart"} if suffix == ".mp4" else {})
        content = content.read_bytes()
        for cut in range(0, len(content), max(1, len(content) // 25)):
            path = tmp_path / f"part{suffix}"
            path.write_bytes(content[:cut])
            try:
                found, video = frames_of(path)
                assert len(found) <= 8
                assert video.broken is None or "\n" not in video.broken
            except DataError as error:
                assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


def test_damaged_bytes_in_the_middle_end_in_frames_and_no_traceback(tmp_path):
    content = bytearray(make_video(tmp_path / "w.mkv", frames=30, noise=True).read_bytes())
    dice = np.random.default_rng(1)
    for place in dice.integers(2000, len(content), 400):
        content[place] ^= 0xFF
    (tmp_path / "a.mkv").write_bytes(content)
    found = predict(tmp_path / "a.mkv", tmp_path / "out")
    assert isinstance(found, (WrittenVideo, Failure))


def test_without_pyav_it_says_what_to_install(tmp_path, monkeypatch):
    path = make_video(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"pip install av$"):
        make().predict_paths([path], tmp_path / "out")


# Writing


def test_a_written_video_keeps_size_rate_length_and_plays_everywhere(tmp_path):
    found = predict(make_video(tmp_path / "a.mp4", frames=12), tmp_path / "out")
    assert isinstance(found, WrittenVideo)
    frames, (pixels, width, height, rate) = shown(found.video_file)
    assert (pixels, width, height, rate) == ("yuv420p", 64, 48, 10)
    assert [time for time, _ in frames] == pytest.approx([n / 10 for n in range(12)], abs=1e-3)
    # Dark is class 0, and half of its colour lies over the black half.
    half = np.array(SEVEN.colors[0]) / 2
    assert np.abs(frames[3][1][20:28, 8:24].mean(axis=(0, 1)) - half).max() < 12


def test_odd_sizes_become_even(tmp_path):
    file = (tmp_path / "a.mp4").open("wb")
    with file:
        writer = VideoWriter(file, rate=Fraction(10))
        writer.write(grey(0, 255, height=35, width=17)[:, :33], 0.0)
        writer.write(grey(0, 255, height=70, width=40), 0.1)  # another size: brought to the first's
        writer.close()
    frames, (_, width, height, _) = shown(tmp_path / "a.mp4")
    assert (width, height, len(frames)) == (34, 36, 2)


def test_times_that_stand_still_go_on_in_the_written_video(tmp_path):
    with (tmp_path / "a.mp4").open("wb") as file:
        writer = VideoWriter(file, rate=Fraction(10))
        for seconds in (0.0, 0.0, 0.0, 0.5):
            writer.write(grey(0, 255, height=40), seconds)
        writer.close()
    times = [time for time, _ in shown(tmp_path / "a.mp4")[0]]
    assert times == sorted(set(times))
    assert times[-1] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("missing", [("libx264",), ("libx264", "h264", "libopenh264")])
def test_without_the_best_codec_the_next_one_writes(tmp_path, monkeypatch, missing):
    monkeypatch.setattr(module, "CODECS", tuple(name for name in module.CODECS if name not in missing))
    found = predict(make_video(tmp_path / "a.mp4"), tmp_path / "out")
    assert len(shown(found.video_file)[0]) == 8


def test_every_frame_has_a_line_and_a_class_map_where_wanted(tmp_path):
    predictor = make(source_names=("game", "toy"), batch_size=3)
    found = predict(make_video(tmp_path / "a.mp4"), tmp_path, predictor, every=2, frame_maps=True, confidence=True)
    assert sorted(path.name for path in found.classes_folder.iterdir()) == [f"00000{n}.png" for n in (0, 2, 4, 6)]
    with found.frames_file.open(newline="") as file:
        head, *lines = list(csv.reader(file))
    assert head[:4] == ["frame", "seconds", "confidence", "drivable"]
    assert head[-4:] == ["layer 1: game", "layer 1: toy", "layer 2: game", "layer 2: toy"]
    assert [line[:2] for line in lines] == [["0", "0.0"], ["2", "0.2"], ["4", "0.4"], ["6", "0.6"]]
    for line in lines:
        assert sum(map(float, line[3:10])) == pytest.approx(1, abs=1e-5)
        assert 0 < float(line[2]) <= 1
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.mean_confidence == pytest.approx(np.mean([float(line[2]) for line in lines]), abs=1e-3)
    with Image.open(found.classes_folder / "000006.png") as image:
        assert image.size == (64, 48)


def test_frames_in_batches_are_those_one_by_one(tmp_path):
    path = make_video(tmp_path / "a.mp4", frames=7)
    one = predict(path, tmp_path / "one", frame_maps=True)
    many = predict(path, tmp_path / "many", make(batch_size=3), frame_maps=True)
    assert one.shares == many.shares
    for number in range(7):
        maps = [np.asarray(Image.open(found.classes_folder / f"{number:06d}.png")) for found in (one, many)]
        assert np.array_equal(*maps)


def test_without_an_overlay_there_is_no_video(tmp_path):
    found = predict(make_video(tmp_path / "a.mp4"), tmp_path / "out", overlay=None)
    assert found.video_file is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x_frames.csv"]


def test_videos_and_images_go_through_together_into_one_index(tmp_path):
    (tmp_path / "in").mkdir()
    make_video(tmp_path / "in/a.mp4")
    make_video(tmp_path / "in/b.mkv")
    Image.fromarray(grey(0, 255)).save(tmp_path / "in/a.png")
    (tmp_path / "in/c.mp4").write_text("no video")
    seen, frames = [], []
    done = make().predict_paths(
        [tmp_path / "in"],
        tmp_path / "out",
        progress=lambda *step: seen.append(step),
        on_frame=lambda *step: frames.append(step),
    )
    assert [written.name for written in done.written] == ["a.png"]
    assert [video.name for video in done.videos] == ["a.mp4", "b"]  # a.mp4 and a.png are told apart
    assert [failure.path.name for failure in done.failures] == ["c.mp4"]
    assert [(n, total) for n, total, _ in seen] == [(n, 4) for n in range(1, 5)]
    assert frames[:8] == [(n, 8) for n in range(1, 9)]
    index = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [video["video_file"] for video in index["videos"]] == ["a.mp4_overlay.mp4", "b_overlay.mp4"]
    assert index["videos"][0]["frames"] == 8
    assert [list(layer) for layer in index["videos"][0]["style_weights"]] == [["source 1", "source 2"]] * 2


def test_the_results_of_a_video_are_no_input(tmp_path):
    make_video(tmp_path / "a.mp4")
    make_video(tmp_path / "a_overlay.mp4")
    with pytest.raises(UsageError, match=r"a_overlay\.mp4 would be overwritten"):
        make().predict_paths([tmp_path / "a.mp4", tmp_path / "a_overlay.mp4"], tmp_path)


def test_frames_too_small_for_the_network_are_one_clear_line(tmp_path):
    found = predict(make_video(tmp_path / "a.mp4", height=32), tmp_path / "out")
    assert isinstance(found, Failure)
    assert "a.mp4 has 32×64 pixels" in found.reason


# Stopping


def test_stopping_a_video_leaves_one_that_plays_and_an_index(tmp_path):
    path = make_video(tmp_path / "a.mp4", frames=20)
    late = make_video(tmp_path / "b.mp4")

    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make().predict_paths([path, late], tmp_path / "out", on_frame=stop)
    assert len(shown(tmp_path / "out/a_overlay.mp4")[0]) == 5
    assert len((tmp_path / "out/a_frames.csv").read_text().splitlines()) == 6
    (video,) = json.loads((tmp_path / "out/predictions.json").read_text())["videos"]
    assert (video["stopped"], video["frames"]) == (True, 5)
    assert not (tmp_path / "out/b_overlay.mp4").exists()


def test_a_fault_in_the_middle_leaves_no_half_video(tmp_path):
    def fail(done, total):
        if done == 5:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        make().predict_paths([make_video(tmp_path / "a.mp4")], tmp_path / "out", on_frame=fail)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, os.strerror(28))

    path = make_video(tmp_path / "a.mp4")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match=r"cannot write .*a_overlay\.mp4: No space left on device"):
        make().predict_paths([path], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_video_whose_files_cannot_be_written_is_one_failure_and_costs_no_frame(tmp_path):
    good, long = make_video(tmp_path / "good.mp4"), make_video(tmp_path / "long.mp4")
    long = long.rename(tmp_path / f"{'x' * 244}.mp4")
    tabled = make_video(tmp_path / "tabled.mp4")
    (tmp_path / "out/tabled_frames.csv").mkdir(parents=True)
    predictor = make()
    done = predictor.predict_paths([long, tabled, good], tmp_path / "out")
    assert [video.path for video in done.videos] == [good]
    assert [failure.path for failure in done.failures] == [long, tabled]
    assert "shorten the name of the input by 1 or more" in done.failures[0].reason
    assert "A folder has that name" in done.failures[1].reason
    assert len(predictor.model.seen) == done.videos[0].frames


def test_a_frame_s_map_that_cannot_be_written_is_a_failure_and_leaves_no_half_video(tmp_path):
    path = make_video(tmp_path / "a.mp4")
    (tmp_path / "out/a_classes/000003.png").mkdir(parents=True)
    done = make().predict_paths([path], tmp_path / "out", results=Results(frame_maps=True))
    assert "000003.png: Is a directory. A folder has that name" in done.failures[0].reason
    assert not (tmp_path / "out/a_overlay.mp4").exists()


def test_a_long_video_takes_no_more_memory_than_a_short_one(tmp_path, monkeypatch):
    """Frames are counted that are alive at the same time."""
    alive, most = 0, 0

    class Counted(np.ndarray):
        def __array_finalize__(self, parent):
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    upright = module._upright
    monkeypatch.setattr(module, "_upright", lambda frame: upright(frame).view(Counted))
    counts = {}
    for length in (10, 60):
        most = 0
        predict(make_video(tmp_path / f"{length}.mp4", frames=length), tmp_path / "out", make(batch_size=4))
        counts[length] = most
    assert counts[60] <= counts[10] + 2
    assert counts[60] < 40


# Webcams


def test_a_camera_that_is_not_there_is_one_clear_line(tmp_path):
    done = make().predict_paths(["webcam:77"], tmp_path / "out")
    assert "there is no camera webcam:77" in done.failures[0].reason
    assert "\n" not in done.failures[0].reason
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.json"]


def test_a_camera_runs_until_it_is_stopped_or_enough(tmp_path, monkeypatch):
    stand_in = make_video(tmp_path / "camera.mkv", frames=9)
    monkeypatch.setattr(module, "camera", lambda name: (str(stand_in), None))
    done = make(batch_size=4).predict_paths(["webcam:0"], tmp_path / "out", results=Results(limit=5))
    (video,) = done.videos
    assert (video.name, video.frames, video.broken) == ("webcam-0", 5, None)
    assert len(shown(tmp_path / "out/webcam-0_overlay.mp4")[0]) == 5


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("Linux", ("/dev/video1", "v4l2")),
        ("Darwin", ("1", "avfoundation")),
        ("Windows", ("video=1", "dshow")),
    ],
)
def test_cameras_are_called_as_each_system_does(monkeypatch, system, expected):
    monkeypatch.setattr(module.platform, "system", lambda: system)
    assert camera("1") == expected


def test_what_is_a_video_is_told_by_its_name():
    for name in ("a.MP4", "webcam:0", Path("b/c.mkv")):
        assert is_video(name), name
    for name in ("a.png", "mp4", "x.gif"):
        assert not is_video(name), name


def test_videos_are_searched_only_where_they_are_wanted(tmp_path):
    make_video(tmp_path / "a.mp4")
    Image.fromarray(grey(0)).save(tmp_path / "b.png")
    assert [found.name for found in find_images([tmp_path])] == ["b"]
    assert [found.name for found in find_images([tmp_path], videos=True)] == ["a", "b"]


@pytest.mark.parametrize(
    "playlist",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {film}\n"],
)
def test_a_playlist_does_not_open_other_files(playlist: str, tmp_path: Path) -> None:
    film = make_video(tmp_path / "film.mp4")
    path = tmp_path / "list.mp4"
    path.write_text(playlist.format(film=film.name))
    with pytest.raises(DataError, match="it is no video, or broken"), open_video(path) as video:
        list(video.read())

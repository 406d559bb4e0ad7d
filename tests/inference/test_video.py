import csv
import json
import os
import struct
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
from tests.support.predicting import SEVEN, grey, make
from tests.support.videos import av, bars, color_error, make_sound, make_video, painted, record


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
        ("text.mp4", "it is not a video, or broken"),
        ("empty.mp4", "it is not a video, or broken"),
        ("sound.m4a", "it has no video stream"),
        ("none.mp4", "is not there"),
        ("cut.mp4", "it is not a video, or broken"),
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
    assert sum(found.fractions.values()) == pytest.approx(1)
    assert found.mean_confidence == pytest.approx(np.mean([float(line[2]) for line in lines]), abs=1e-3)
    with Image.open(found.classes_folder / "000006.png") as image:
        assert image.size == (64, 48)


def test_frames_in_batches_are_those_one_by_one(tmp_path):
    path = make_video(tmp_path / "a.mp4", frames=7)
    one = predict(path, tmp_path / "one", frame_maps=True)
    many = predict(path, tmp_path / "many", make(batch_size=3), frame_maps=True)
    assert one.fractions == many.fractions
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


# How long a video is


STEADY = list(range(30))
DROPPED = [n for n in range(60) if n % 10]
NIGHT = [*range(20), *range(20, 60, 3)]  # a camera that lowers its rate in the dark
BROWSER = [0, 160, 330, 340, 680, 1300, 1340, 1500, 2700, 2710, 3000]  # milliseconds

KINDS = (("mp4", "libx264"), ("mov", "mpeg4"), ("mkv", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4"))
KINDS += (("avi", "mjpeg"), ("flv", "libx264"), ("ts", "libx264"), ("wmv", "wmv2"))


@pytest.mark.parametrize(("suffix", "codec"), KINDS)
@pytest.mark.parametrize(
    ("ticks", "more"),
    [
        (STEADY, {}),
        (DROPPED, {"tick": Fraction(1, 30)}),
        (NIGHT, {"tick": Fraction(1, 30)}),
        (BROWSER, {"tick": Fraction(1, 1000)}),
        ([0], {}),
        ([0, 50, 100], {"durations": [50, 50, 50]}),
        (STEADY, {"sound": 6}),
        ([100 + n for n in STEADY], {}),
    ],
    ids=["steady", "dropped", "night", "browser", "one", "slides", "sound", "late"],
)
def test_whole_videos_are_whole_and_their_frames_are_counted(tmp_path, suffix, codec, ticks, more):
    if codec == "mpeg4" and "tick" in more and more["tick"].denominator > 100 and suffix == "avi":
        more = {"tick": Fraction(1, 100)}
        ticks = [tick // 10 for tick in ticks]
    found, video = frames_of(record(tmp_path / f"a.{suffix}", ticks, codec=codec, **more))
    assert video.broken is None
    assert len(found) == video.frames == len(ticks)


@pytest.mark.parametrize(("suffix", "codec"), [kind for kind in KINDS if kind[0] not in ("ts", "wmv")])
@pytest.mark.parametrize("more", [{}, {"sound": 6}], ids=["silent", "sound"])
@pytest.mark.parametrize("part", [0.4, 0.8])
def test_videos_that_are_cut_off_are_called_so_by_the_last_frames_time(tmp_path, suffix, codec, more, part):
    options = {"movflags": "faststart"} if suffix in ("mp4", "mov") else {}
    path = record(tmp_path / f"a.{suffix}", NIGHT, tick=Fraction(1, 30), codec=codec, options=options, **more)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    try:
        found, video = frames_of(path)
    except DataError:
        return  # nothing of it can be read
    if len(found) == len(NIGHT):  # what is missing is sound: not all files state the length of each stream
        assert video.broken is None or suffix == "flv"
    else:
        assert f"a.{suffix}" in video.broken
        assert len(found) <= video.frames < len(NIGHT)


@pytest.mark.parametrize(
    ("suffix", "kind", "codec", "options"),
    [
        ("mkv", "matroska", "libx264", {}),
        ("webm", "webm", "libvpx", {}),
        ("flv", "flv", "libx264", {}),
        ("mp4", "mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("m4v", "mp4", "libx264", {"movflags": "dash+frag_keyframe+empty_moov"}),
    ],
)
def test_videos_that_state_no_length_are_whole(tmp_path, suffix, kind, codec, options):
    """A server or a browser that streams cannot go back to write it."""

    class Stream:
        def __init__(self):
            self.content = bytearray()

        def write(self, some):
            self.content += bytes(some)
            return len(some)

    written = Stream()
    with av.open(written, "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8))))
        container.mux(stream.encode(None))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(written.content)
    found, video = frames_of(path)
    assert (len(found), video.frames, video.broken) == (30, 30, None)


@pytest.mark.parametrize(("start", "length"), [(0, 2000), (15, 1500), (10, 1000)])
def test_what_an_edit_list_leaves_out_is_not_missing(tmp_path, start, length):
    """A phone trims a video without writing its frames again."""
    content = record(tmp_path / "a.mp4", STEADY, codec="mpeg4").read_bytes()
    edit, header = content.index(b"elst") + 12, content.index(b"mvhd") + 20
    content = content[:edit] + struct.pack(">Ii", length, start * 1024) + content[edit + 8 :]
    (tmp_path / "a.mp4").write_bytes(content[:header] + struct.pack(">I", length) + content[header + 4 :])
    found, video = frames_of(tmp_path / "a.mp4")
    assert (len(found), video.frames, video.broken) == (length // 100, length // 100, None)


@pytest.mark.parametrize(("length", "cut"), [(21, False), (30, False), (50, True)])
def test_the_last_frame_may_be_shown_as_long_as_any_other(tmp_path, length, cut):
    path = record(tmp_path / "a.avi", [0, 10, 20], codec="mjpeg")
    content = path.read_bytes()
    place = content.index(b"strh") + 40  # how many ticks the stream has
    path.write_bytes(content[:place] + struct.pack("<I", length) + content[place + 4 :])
    _, video = frames_of(path)
    assert (video.broken is not None) is cut


def test_the_rate_of_a_variable_frame_rate_is_the_mean_and_a_steady_one_its_own(tmp_path):
    for suffix, codec in (("mkv", "libx264"), ("webm", "libvpx"), ("avi", "mjpeg")):
        _, video = frames_of(record(tmp_path / f"a.{suffix}", NIGHT, tick=Fraction(1, 30), codec=codec))
        assert float(video.rate) == pytest.approx(len(NIGHT) / (NIGHT[-1] + 1) * 30, rel=0.02)
        _, video = frames_of(record(tmp_path / f"b.{suffix}", STEADY, tick=Fraction(1, 30), codec=codec))
        assert video.rate == 30


def test_no_more_frames_are_counted_than_are_wanted(tmp_path):
    path = record(tmp_path / "a.mkv", list(range(120)))
    with open_video(path, most=3) as video:
        assert (video.frames, video.rate, video.contents.complete) == (3, 10, False)
        assert video.contents.frames == 100
    with open_video(path, most=500) as video:
        assert (video.frames, video.contents.complete) == (120, True)


def test_progress_ends_at_the_number_of_frames(tmp_path):
    path = record(tmp_path / "a.avi", DROPPED, tick=Fraction(1, 30), codec="mjpeg")
    seen = []
    written = make().predict_video(FoundImage(path, "x"), tmp_path, on_frame=lambda *step: seen.append(step))
    assert written.broken is None
    assert seen == [(n, len(DROPPED)) for n in range(1, len(DROPPED) + 1)]
    del seen[:]
    make().predict_video(
        FoundImage(path, "y"), tmp_path, results=Results(every=4, limit=3), on_frame=lambda *step: seen.append(step)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


# Colours and pixels that are not square


@pytest.mark.parametrize(
    ("matrix", "tag", "full"),
    [
        (1, 1, False),
        (5, 6, False),
        (5, 5, False),
        (5, 2, False),
        (1, 1, True),
        (5, 2, True),
        (9, 9, False),
        (7, 7, False),
    ],
)
def test_colours_are_read_by_the_matrix_and_range_that_the_stream_states(tmp_path, matrix, tag, full):
    """Of those that state none, by BT.601."""
    found, video = frames_of(painted(tmp_path / "a.mp4", matrix=matrix, tag=tag, full=full))
    assert color_error(found[0].image) <= 4
    assert video.note is None


def test_a_matrix_that_cannot_be_read_is_one_clear_line(tmp_path):
    found = predict(painted(tmp_path / "a.mp4", matrix=1, tag=8), tmp_path / "out")  # YCgCo
    assert isinstance(found, Failure)
    assert "matrix 8 of H.273" in found.reason
    assert "after 0 frames" in found.reason


@pytest.mark.parametrize(
    ("primaries", "transfer", "said"), [(9, 16, "HDR (PQ)"), (9, 18, "HDR (HLG)"), (9, 14, "BT.2020")]
)
def test_a_wide_range_of_colours_is_said_to_look_paler(tmp_path, primaries, transfer, said):
    path = painted(tmp_path / "a.mp4", matrix=9, tag=9, primaries=primaries, transfer=transfer)
    done = make().predict_paths([path], tmp_path / "out")
    (video,) = done.videos
    assert said in video.note
    assert str(path) in video.note
    assert "\n" not in video.note
    assert video.broken is None
    assert json.loads((tmp_path / "out/predictions.json").read_text())["videos"][0]["note"] == video.note


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize(
    ("height", "width", "matrix"), [(64, 192, 6), (576, 192, 6), (578, 192, 1), (64, 1280, 1), (63, 191, 6)]
)
def test_written_videos_carry_the_matrix_that_they_were_made_with(tmp_path, monkeypatch, codec, height, width, matrix):
    monkeypatch.setattr(module, "CODECS", (codec,))
    path = tmp_path / "a.mp4"
    with path.open("wb") as file:
        writer = VideoWriter(file, rate=Fraction(10))
        writer.write(bars(height, width), 0)
        writer.write(bars(height, width)[::2, ::2], 0.1)  # of another size
        writer.close()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        tags = (stream.colorspace, stream.color_primaries, stream.color_trc, stream.color_range)
        for frame in container.decode(video=0):
            assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (matrix, 1, 1, 1)
            # As a player that reads no tags takes it: by its size.
            plain = frame.reformat(
                format="rgb24", src_colorspace=5 if matrix == 6 else 1, src_color_range=1
            ).to_ndarray()
            assert max(color_error(plain), color_error(frame.to_ndarray(format="rgb24"))) <= 5
    assert tags == (matrix, 1, 1, 1)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize(
    ("aspect", "turned", "expected"),
    [
        (Fraction(4, 3), 0, Fraction(4, 3)),
        (Fraction(16, 11), 90, Fraction(11, 16)),
        (Fraction(8, 9), 180, Fraction(8, 9)),
    ],
)
def test_pixels_that_are_not_square_are_predicted_as_stored_and_shown_in_their_shape(
    tmp_path, monkeypatch, codec, aspect, turned, expected
):
    path = make_video(tmp_path / "a.mp4", aspect=aspect, turned=turned)
    monkeypatch.setattr(module, "CODECS", (codec,))
    found = predict(path, tmp_path / "out")
    assert (found.height, found.width) == ((64, 48) if turned == 90 else (48, 64))
    with av.open(str(found.video_file)) as container:
        stream = container.streams.video[0]
        assert stream.sample_aspect_ratio == expected
        assert (stream.height, stream.width) == (found.height, found.width)


def test_square_pixels_stay_square(tmp_path):
    found = predict(make_video(tmp_path / "a.mp4"), tmp_path / "out")
    with av.open(str(found.video_file)) as container:
        assert container.streams.video[0].sample_aspect_ratio in (None, 1)


@pytest.mark.parametrize(
    ("version", "fits"), [("16.1.0", False), ("9.2.0", False), ("17.0.0", True), ("18.1.0rc1", True)]
)
def test_a_pyav_that_reads_wrong_colours_is_refused_in_one_line(tmp_path, monkeypatch, version, fits):
    path = make_video(tmp_path / "a.mp4")
    monkeypatch.setattr(av, "__version__", version)
    if fits:
        assert len(frames_of(path)[0]) == 8
        return
    with pytest.raises(UsageError, match=r"colour.*pip install 'av>=17'") as error, open_video(path):
        pass
    assert version in str(error.value)
    assert "\n" not in str(error.value)


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
    with pytest.raises(DataError, match="it is not a video, or broken"), open_video(path) as video:
        list(video.read())

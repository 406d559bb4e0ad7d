import csv
import errno
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from spcnet.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from spcnet.errors import DataError, UsageError
from spcnet.inference.images import IMAGE_SUFFIXES, find_images, read_rgb, search_images
from spcnet.inference.predictor import Predictor
from spcnet.inference.results import Failure, FoundImage, Results, Written
from spcnet.numerics import find_device
from tests.support.predicting import SEVEN, Shades, grey, make

SHARED = Path(__file__).parents[2] / "../shared/data"


@pytest.fixture
def photos(tmp_path):
    """A folder with photos in two folders, one of them broken, and a file that is no image."""
    folder = tmp_path / "photos"
    for name, levels in {
        "a.png": (0, 255),
        "one/b.jpg": (255, 255),
        "two/b.png": (0, 0),
        "two/C.PNG": (0, 128),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey(*levels)).save(folder / name)
    (folder / "one/broken.jpg").write_bytes((folder / "one/b.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("no image")
    return folder


# Predicting one image


def test_the_class_map_has_the_images_own_size_and_its_classes():
    prediction = make().predict(grey(0, 255, 128))
    assert prediction.class_map.dtype == np.uint8
    assert prediction.class_map.shape == (40, 60)
    assert prediction.class_map[5].tolist() == [0] * 20 + [6] * 20 + [3] * 20
    assert prediction.seconds > 0


def test_with_a_size_the_network_sees_that_and_the_scores_come_back_to_the_image():
    model = Shades()
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    prediction = Predictor(model, space=SEVEN, size=(64, 96), device="cpu").predict(image)
    assert model.seen == [(1, 3, 64, 96)]
    small = F.interpolate(torch.from_numpy(image).movedim(-1, 0)[None].float(), (64, 96), mode="bilinear")
    normal = (small.round() / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(
        3, 1, 1
    )
    logits = F.interpolate(Shades().eval()(normal).logits, (50, 70), mode="bilinear", align_corners=True)
    assert (prediction.class_map == logits.argmax(dim=1)[0].numpy()).mean() > 0.99


@pytest.mark.parametrize("channels", [0, 5])
def test_style_weights_are_those_of_the_network_for_each_layer(channels):
    model = Shades(channels=channels)
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[..., 0] = 255
    first, second = Predictor(model, space=SEVEN, device="cpu").predict(image).figures["style_weights"]
    expected = torch.tensor([1.0, 0.0]).softmax(dim=0).tolist()
    np.testing.assert_allclose(first, expected, rtol=1e-5)
    np.testing.assert_allclose(second, expected[::-1], rtol=1e-5)


def test_a_network_without_styles_gives_none():
    assert Predictor(Shades(styles=False), space=SEVEN, device="cpu").predict(grey(0, 9)).figures == {}


def test_the_network_is_put_into_evaluation_mode():
    model = Shades().train()
    Predictor(model, space=SEVEN, device="cpu")
    assert not model.training


def test_a_tiny_image_is_refused_unless_it_is_resized(tmp_path):
    tiny = grey(0, 255, height=32)
    with pytest.raises(UsageError, match="the image has 32×40 pixels: height and width must be at least 33"):
        make().predict(tiny)
    assert make(size=(64, 64)).predict(tiny).class_map.shape == (32, 40)


def test_a_size_too_small_for_the_network_is_refused():
    with pytest.raises(UsageError, match="size 32×64 is too small"):
        make(size=(32, 64))


def test_a_network_of_another_space_is_refused():
    with pytest.raises(UsageError, match="tells 5 classes apart, but the label space idd7 has 7"):
        Predictor(Shades(num_classes=5), space=SEVEN, device="cpu").predict(grey(0, 1))


def test_source_names_must_be_as_many_as_the_styles():
    with pytest.raises(UsageError, match="2 source styles, but 3 source names"):
        make(source_names=("a", "b", "c")).predict(grey(0, 1))


def test_too_little_memory_is_one_clear_line():
    class Hungry(Shades):
        def forward(self, image):
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"
            )

    with pytest.raises(DataError, match="memory does not suffice for an image of 40×40 pixels"):
        Predictor(Hungry(), space=SEVEN, device="cpu").predict(grey(0, 1))


def test_a_fault_of_the_network_is_not_taken_for_a_lack_of_memory():
    class Faulty(Shades):
        def forward(self, image):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Predictor(Faulty(), space=SEVEN, device="cpu").predict(grey(0, 1))


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(UsageError, match="there is no device"):
        find_device(name)


def test_auto_finds_a_device_that_works():
    assert torch.zeros(1, device=find_device("auto")).item() == 0


# Reading images of all kinds


def test_a_photo_is_turned_as_its_exif_says(tmp_path):
    image = Image.fromarray(grey(0, 255, height=40, width=30))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to show it upright
    image.save(tmp_path / "turned.png", exif=exif)
    rgb = read_rgb(tmp_path / "turned.png")
    assert rgb.shape == (60, 40, 3)
    assert rgb[5, 20].tolist() == [0, 0, 0]
    assert rgb[55, 20].tolist() == [255, 255, 255]


def test_grey_images_of_8_and_16_bits_look_alike(tmp_path):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "8.png")
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "16.tif")
    for name in ("8.png", "16.png", "16.tif"):
        assert np.array_equal(read_rgb(tmp_path / name), np.repeat(values[..., None], 3, axis=2)), name


def test_images_of_floats_are_taken_as_shares_or_as_bytes(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "share.tif")
    Image.fromarray(ramp * 255).save(tmp_path / "byte.tif")
    expected = np.arange(256).reshape(16, 16)
    for name in ("share.tif", "byte.tif"):
        assert np.array_equal(read_rgb(tmp_path / name)[..., 1], expected), name


def test_what_can_be_seen_through_lies_on_white():
    clear = np.zeros((2, 2, 4), dtype=np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    assert read_rgb(clear)[0].tolist() == [[10, 20, 30], [255, 255, 255]]
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    palette.putpalette([5, 6, 7, 9, 9, 9])
    palette.info["transparency"] = 1
    assert read_rgb(palette)[0].tolist() == [[5, 6, 7], [255, 255, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_a_white_image_is_white_in_every_mode(mode):
    white = Image.fromarray(np.full((4, 4, 3), 255, dtype=np.uint8)).convert(mode)
    assert (read_rgb(white) == 255).all()


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3), dtype=np.float32), np.zeros((4, 4, 2), dtype=np.uint8), np.zeros((0, 4, 3), dtype=np.uint8)],
    ids=["floats", "two channels", "empty"],
)
def test_an_array_that_is_no_image_is_refused(array):
    with pytest.raises(UsageError, match="must be uint8 and H×W×3"):
        read_rgb(array)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no image of a known kind"), (b"hello", "no image of a known kind"), (None, "truncated")],
)
def test_a_broken_file_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "x.jpg"
    if content is None:
        Image.fromarray(grey(*range(0, 250, 10))).save(path)
        content = path.read_bytes()[:700]
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_rgb(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_pixels_than_anybody_photographs_are_one_clear_line(tmp_path, monkeypatch):
    Image.fromarray(grey(0, 255)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 799)
    with pytest.raises(DataError, match=r"x\.png: it has more than 1598 pixels\. Make it smaller, or cut it"):
        read_rgb(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)  # a warning, which is none of a user's business
    assert read_rgb(tmp_path / "x.png").shape == (40, 40, 3)


def test_every_cut_of_a_file_is_an_image_or_a_clear_error(tmp_path, recwarn):
    for suffix in (".png", ".jpg", ".tif", ".bmp", ".webp"):
        whole = tmp_path / f"whole{suffix}"
        Image.fromarray(grey(0, 90, 255)).save(whole)
        content = whole.read_bytes()
        for cut in range(0, len(content), max(1, len(content) // 60)):
            part = tmp_path / f"part{suffix}"
            part.write_bytes(content[:cut])
            try:
                assert read_rgb(part).shape == (40, 60, 3)
            except DataError as error:
                assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
    assert [str(warning.message) for warning in recwarn] == []


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UsageError, match="is not there"):
        read_rgb(tmp_path / "none.png")
    with pytest.raises(UsageError, match="is a folder"):
        read_rgb(tmp_path)


# Finding images


def names(found):
    return [image.name for image in found]


def test_a_folder_is_searched_to_the_bottom_and_keeps_its_paths(photos):
    assert names(find_images([photos])) == ["a", "one/b", "one/broken", "two/C", "two/b"]


def test_a_file_is_called_by_its_stem_and_found_once(photos):
    assert names(find_images([photos / "one/b.jpg", str(photos / "one/b.jpg"), photos / "one/../one/b.jpg"])) == ["b"]


def test_globs_find_images_only_and_keep_the_paths_below_their_fixed_part(photos):
    assert names(find_images([f"{photos}/*"])) == ["a"]
    assert names(find_images([f"{photos}/*/b.*"])) == ["one/b", "two/b"]
    assert names(find_images([f"{photos}/**/*.png"])) == ["a", "two/b"]


def test_globs_from_the_working_folder_work(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert names(find_images(["*/b.*"])) == ["one/b", "two/b"]
    assert names(find_images(["."])) == ["a", "one/b", "one/broken", "two/C", "two/b"]


def test_files_of_one_name_from_two_folders_get_their_folders(photos):
    assert names(find_images([photos / "one/b.jpg", photos / "two/b.png"])) == ["b.jpg", "b.png"]
    shutil.copy(photos / "two/b.png", photos / "one/b.png")
    assert names(find_images([photos / "one/b.png", photos / "two/b.png"])) == ["one/b", "two/b"]


def test_names_that_differ_in_capitals_only_are_told_apart(tmp_path):
    for name in ("x.png", "X.jpg"):
        Image.fromarray(grey(0)).save(tmp_path / name)
    assert sorted(names(find_images([tmp_path]))) == ["X.jpg", "x.png"]


def test_no_name_leads_out_of_the_output_folder(photos):
    for image in find_images([f"{photos}/*/../a.png", f"{photos}/o*/../../photos/two/b.png"]):
        assert ".." not in Path(image.name).parts


def test_hidden_files_are_passed_over(photos):
    Image.fromarray(grey(0)).save(photos / ".hidden.png")
    (photos / ".thumbs").mkdir()
    Image.fromarray(grey(0)).save(photos / ".thumbs/x.png")
    assert names(find_images([photos])) == ["a", "one/b", "one/broken", "two/C", "two/b"]


def test_a_name_with_brackets_is_a_file_if_there_is_one(tmp_path):
    Image.fromarray(grey(0)).save(tmp_path / "a[1].png")
    assert names(find_images([tmp_path / "a[1].png"])) == ["a[1]"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "nothing to predict"),
        (["none.png"], "none.png is not there"),
        (["*.bmp"], r"\*.bmp matches no image"),
        (["empty"], "the folder empty has no images"),
    ],
)
def test_inputs_that_give_nothing_are_refused(photos, monkeypatch, inputs, message):
    monkeypatch.chdir(photos)
    (photos / "empty").mkdir()
    with pytest.raises(UsageError, match=message):
        find_images(inputs)


def test_results_are_never_searched_for_images(photos):
    make().predict_paths([photos], photos / "out")
    before = names(find_images([photos], output=photos / "out"))
    assert before == ["a", "one/b", "one/broken", "two/C", "two/b"]
    with pytest.raises(UsageError, match="is the one that is searched"):
        find_images([photos], output=photos)


def test_results_never_overwrite_an_input(photos):
    Image.fromarray(grey(0, 1)).save(photos / "a_classes.png")
    with pytest.raises(UsageError, match=r"a_classes\.png would be overwritten"):
        find_images([f"{photos}/*.png"], output=photos)


# What is left out of a search

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


def test_a_folder_of_all_kinds_is_predicted_as_far_as_it_can_be_and_the_rest_is_counted(tmp_path):
    shot = Image.fromarray(grey(0, 255))
    for name, kind in {
        "a.JPG": "JPEG", "b.gif": "GIF", "c.MPO": "JPEG", "d.avif": "AVIF", "e": "PNG", "f.Jpe": "JPEG", "g.jpg_original": "JPEG",
        "h.heic": "JPEG", "i.thm": "JPEG", ".hidden.png": "PNG", "._a.png": "PNG", "@eaDir/a.JPG/SYNOPHOTO_THUMB_M.jpg": "JPEG",
        ".thumbnails/a.png": "PNG", "k.tga": "PNG",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shot.save(tmp_path / name, format=kind)
    for name in ("IMG_1.HEIC", "IMG_2.heic", "IMG_3"):
        (tmp_path / name).write_bytes(HEIC)
    (tmp_path / "j.DNG").write_bytes(b"II*\0" + bytes(100))
    (tmp_path / "film").write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(9))
    (tmp_path / "film.ogv").write_bytes(b"OggS")
    for name in ("README", "notes.txt", "Thumbs.db", "list.json", "data.xyz"):
        (tmp_path / name).write_text("text")
    search = search_images([tmp_path], videos=True)
    assert [found.path.name for found in search.images] == [
        "a.JPG", "b.gif", "c.MPO", "d.avif", "e", "f.Jpe", "g.jpg_original", "h.heic",
    ]  # fmt: skip
    assert dict(search.left_out.kinds) == {
        ".heic": 3,
        ".dng": 1,
        ".tga": 1,
        ".ogv": 1,
        "hidden .png": 1,
        "without ending (a video by its content: name it .mp4)": 1,
    }
    assert search_images([f"{tmp_path}/**/*"], videos=True).images == search.images
    done = make().predict_paths([tmp_path], tmp_path / "out", overlay=None)
    assert (len(done.written), done.failures) == (8, [])
    assert search_images([f"{tmp_path}/[aI]*"]).left_out.text() == "3 files: 3 .heic (install pillow-heif to read them)"


def test_the_first_picture_of_several_is_read(tmp_path):
    first, second = (Image.fromarray(grey(value, value)) for value in (0, 255))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], duration=100)
    first.save(tmp_path / "b.mpo", save_all=True, append_images=[second])
    done = make().predict_paths([tmp_path], tmp_path / "out", overlay=None)
    assert [image.fractions["drivable"] for image in done.written] == [1, 1]


def test_nothing_but_what_cannot_be_read_is_refused_by_kind(tmp_path):
    (tmp_path / "a.HEIC").write_bytes(HEIC)
    for inputs in ([tmp_path], [f"{tmp_path}/*.HEIC"]):
        with pytest.raises(UsageError, match=r"1 file: 1 \.heic \(install pillow-heif to read it\) left out"):
            find_images(inputs)
    done = make().predict_paths([tmp_path / "a.HEIC"], tmp_path / "out")
    assert "pip install pillow-heif" in done.failures[0].reason
    (tmp_path / "b.jpg").write_bytes(HEIC)
    assert "pip install pillow-heif" in make().predict_paths([tmp_path / "b.jpg"], tmp_path / "out").failures[0].reason


def test_linked_folders_are_searched_each_file_once_and_circles_end(tmp_path):
    for name in ("store/frankfurt/1.png", "store/frankfurt/2.png", "val/lindau/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey(0)).save(tmp_path / name)
    for link, target in {
        "val/frankfurt": "store/frankfurt",
        "val/again": "val/lindau",
        "store/frankfurt/up": "val",
    }.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    assert sorted(found.path.resolve().name for found in find_images([tmp_path / "val"])) == ["1.png", "2.png", "3.png"]
    (tmp_path / "val/again").unlink()
    assert names(find_images([tmp_path / "val"])) == ["frankfurt/1", "frankfurt/2", "lindau/3"]
    (tmp_path / "val/lindau/3.png").unlink()
    assert names(find_images([tmp_path / "val"])) == ["frankfurt/1", "frankfurt/2"]


def test_results_are_not_searched_through_a_link_either(photos):
    make().predict_paths([photos], photos / "out")
    (photos / "link").symlink_to(photos / "out")
    (photos / "part").symlink_to(photos / "out/one")
    assert names(find_images([photos], output=photos / "out")) == ["a", "one/b", "one/broken", "two/C", "two/b"]


def test_brackets_of_a_folder_that_is_there_stand_for_themselves(photos):
    (photos / "my [set]").mkdir()
    shutil.copy(photos / "a.png", photos / "my [set]/p.png")
    assert names(find_images([f"{photos}/my [set]/*.png"])) == ["p"]


# Whole folders into files


def test_a_folder_becomes_class_maps_overlays_and_tables(photos, tmp_path):
    out = tmp_path / "out"
    seen = []
    predictor = make(source_names=("game", "toy"))
    done = predictor.predict_paths([photos], out, progress=lambda *step: seen.append(step))
    assert [w.name for w in done.written] == ["a", "one/b", "two/C", "two/b"]
    assert [(n, total) for n, total, _ in seen] == [(n, 5) for n in range(1, 6)]
    assert [type(outcome) for _, _, outcome in seen] == [Written, Written, Failure, Written, Written]

    expected = predictor.predict(photos / "two/C.PNG")
    with Image.open(out / "two/C_classes.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), expected.class_map)
        assert image.convert("RGB").getpixel((0, 0)) == SEVEN.colors[0]
    with Image.open(out / "two/C_overlay.png") as image:
        assert image.mode == "RGB"

    index = json.loads((out / "predictions.json").read_text())
    assert (index["space"], index["sources"]) == ("idd7", ["game", "toy"])
    entry = next(image for image in index["images"] if image["name"] == "two/C")
    assert entry["shares"]["drivable"] == 0.5
    assert entry["shares"]["vehicle"] == 0.5
    assert entry["shares"]["sky"] == 0
    assert (entry["height"], entry["width"]) == (40, 40)
    assert [list(layer) for layer in entry["style_weights"]] == [["game", "toy"]] * 2
    assert (entry["classes_file"], entry["overlay_file"]) == ("two/C_classes.png", "two/C_overlay.png")
    assert [failure["path"] for failure in index["failures"]] == [str(photos / "one/broken.jpg")]

    with (out / "styles.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["image", "layer", "game", "toy"]
    assert [line[:2] for line in lines[1:3]] == [["a", "1"], ["a", "2"]]
    assert len(lines) == 1 + 2 * 4
    assert float(lines[5][2]) == pytest.approx(expected.figures["style_weights"][0][0])


def test_an_unreadable_image_is_reported_in_one_line_and_the_rest_goes_on(photos, tmp_path):
    done = make().predict_paths([photos], tmp_path / "out")
    (failure,) = done.failures
    assert failure.path == photos / "one/broken.jpg"
    assert "broken.jpg" in failure.reason
    assert "\n" not in failure.reason
    assert len(done.written) == 4


def test_an_image_too_small_is_one_failure_that_names_it(photos, tmp_path):
    Image.fromarray(grey(0, height=9)).save(photos / "tiny.png")
    done = make().predict_paths([photos / "tiny.png", photos / "a.png"], tmp_path / "out")
    assert [w.name for w in done.written] == ["a"]
    assert "tiny.png has 9×20 pixels" in done.failures[0].reason


def test_a_network_that_does_not_fit_stops_at_once(photos, tmp_path):
    with pytest.raises(UsageError, match="tells 5 classes apart"):
        Predictor(Shades(num_classes=5), space=SEVEN, device="cpu").predict_paths([photos], tmp_path / "out")


def test_without_overlays_and_styles_there_are_only_class_maps(photos, tmp_path):
    out = tmp_path / "out"
    predictor = Predictor(Shades(styles=False), space=SEVEN, device="cpu")
    (written,) = predictor.predict_paths([photos / "a.png"], out, overlay=None).written
    assert written.overlay_file is None
    assert sorted(path.name for path in out.iterdir()) == ["a_classes.png", "predictions.json"]
    assert json.loads((out / "predictions.json").read_text())["images"][0]["style_weights"] is None


def test_sources_without_names_are_numbered(photos, tmp_path):
    make().predict_paths([photos / "a.png"], tmp_path / "out")
    assert (tmp_path / "out/styles.csv").read_text().splitlines()[0] == "image,layer,source 1,source 2"


@pytest.mark.parametrize("overlay", [-0.5, 2.0])
def test_an_opacity_that_makes_no_sense_is_refused_before_anything_is_written(photos, tmp_path, overlay):
    with pytest.raises(UsageError, match="opacity"):
        make().predict_paths([photos], tmp_path / "out", overlay=overlay)
    assert not (tmp_path / "out").exists()


def test_images_come_out_one_by_one(photos, tmp_path):
    outcomes = make().predict_each([FoundImage(photos / "a.png", "x"), FoundImage(photos / "a.png", "y")], tmp_path)
    assert next(outcomes).name == "x"
    assert (tmp_path / "x_classes.png").is_file()
    assert not (tmp_path / "y_classes.png").exists()


def test_a_full_disk_is_one_clear_line(photos, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match=r"cannot write .*a_classes\.png: No space left on device"):
        make().predict_paths([photos / "a.png"], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_stops_at_once_and_what_is_done_stays_listed(photos, tmp_path, monkeypatch):
    replace = os.replace

    def full(source, target):
        if "two" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match=r"No space left on device\. Make room there"):
        make().predict_paths([photos], tmp_path / "out")
    index = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [image["name"] for image in index["images"]] == ["a", "one/b"]


def test_a_name_that_is_too_long_with_our_ending_is_one_failure_and_the_rest_goes_on(photos, tmp_path):
    for name in ("x" * 243, "y" * 244, "é" * 122):
        shutil.copy(photos / "a.png", photos / f"{name}.png")
    done = make().predict_paths([photos], tmp_path / "out", overlay=0.5)
    assert sorted(image.name[:3] for image in done.written) == ["a", "one", "two", "two", "xxx"]
    assert len(done.failures) == 3  # one is broken
    reasons = {failure.path.name[0]: failure.reason for failure in done.failures}
    assert "has 256 bytes, and the file system allows 255: shorten the name of the input by 1 or more" in reasons["y"]
    assert "has 256 bytes" in reasons["é"]
    assert not [*(tmp_path / "out").glob("y*")]
    sure = make().predict_paths([photos / f"{'y' * 244}.png"], tmp_path / "out", results=Results(confidence=True))
    assert "shorten the name of the input by 4 or more" in sure.failures[0].reason
    assert len(make().predict_paths([photos / f"{'x' * 243}.png"], tmp_path / "out").written) == 1


def closed(monkeypatch, *folders):
    """Folders in which nothing may be written, for root, too."""
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in folders and access(path, mode))


def test_what_stands_in_the_way_of_one_image_stops_no_other(photos, tmp_path, monkeypatch):
    (tmp_path / "out/a_overlay.png").mkdir(parents=True)
    (tmp_path / "out/one").write_text("no folder")
    (tmp_path / "out/two").mkdir()
    closed(monkeypatch, tmp_path / "out/two")
    shutil.copy(photos / "a.png", photos / "z.png")
    done = make().predict_paths([photos], tmp_path / "out")
    assert [image.name for image in done.written] == ["z"]
    reasons = {failure.path.name: failure.reason for failure in done.failures}
    assert "A folder has that name: remove or rename it" in reasons["a.png"]
    assert f". A file {tmp_path / 'out/one'} stands where a folder is needed" in reasons["b.jpg"]
    assert "Check the permissions of the folder" in reasons["b.png"]
    assert not (tmp_path / "out/a_classes.png").exists()
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())["failures"]) == 5


def test_where_nothing_can_be_written_nothing_is_computed(photos, tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    closed(monkeypatch, tmp_path / "closed")
    for output in (tmp_path / "closed", tmp_path / "closed/out"):
        predictor = make()
        with pytest.raises(
            DataError, match=r"cannot write .*predictions\.json: Permission denied. Check the permissions"
        ):
            predictor.predict_paths([photos], output)
        assert predictor.model.seen == []


def test_an_output_folder_that_is_a_file_is_refused(photos, tmp_path):
    with pytest.raises(DataError, match="cannot write"):
        make().predict_paths([photos / "a.png"], photos / "notes.txt")


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode there")
def test_a_file_name_that_is_no_unicode_goes_through(tmp_path):
    path = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png")
    try:
        Image.fromarray(grey(0, 255)).save(path)
    except OSError:
        pytest.skip("the file system takes Unicode names only")
    done = make().predict_paths([path], tmp_path / "out")
    assert len(done.written) == 1
    assert json.loads((tmp_path / "out/predictions.json").read_text(encoding="utf-8"))["images"]


def test_real_photos_go_through(tmp_path):
    folder = SHARED / "camvid/val"
    if not folder.is_dir():
        pytest.skip("the real photos of ../shared are not here")
    inputs = sorted(folder.glob("*.jpg"))[:2]
    done = make(size=(96, 128)).predict_paths(inputs, tmp_path)
    assert [(w.height, w.width) for w in done.written] == [(360, 480)] * 2
    assert all(sum(w.fractions.values()) == pytest.approx(1) for w in done.written)


def test_every_suffix_that_is_looked_for_can_be_read(tmp_path):
    Image.init()
    assert set(IMAGE_SUFFIXES) - set(Image.registered_extensions()) == set()


def test_a_figure_that_only_one_method_tells_stands_in_every_file_under_its_name(photos, tmp_path):
    class Sureness(NamedTuple):
        sure: torch.Tensor

        def figures(self):
            return {"sureness": (self.sure,)}

    class Sure(Shades):
        def forward(self, image):
            output = super().forward(image)
            return output._replace(extras=Sureness(output.figures["style_weights"][0]))

    predictor = Predictor(Sure(), space=SEVEN, device="cpu", source_names=["game", "toy"])
    predictor.predict_paths([photos], tmp_path)
    index = json.loads((tmp_path / "predictions.json").read_text())
    for entry in index["images"]:
        assert entry["style_weights"] is None
        assert [list(layer) for layer in entry["figures"]["sureness"]] == [["game", "toy"]]
    lines = (tmp_path / "sureness.csv").read_text().splitlines()
    assert lines[0] == "image,layer,game,toy"
    assert len(lines) == 1 + len(index["images"])
    assert not (tmp_path / "styles.csv").exists()

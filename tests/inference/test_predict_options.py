"""What can be asked of predictions: batches, views, ids, confidence, engines; and the command."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from spcnet import checkpoint
from spcnet.cli import main
from spcnet.config import ModelConfig
from spcnet.errors import DataError, UsageError
from spcnet.evaluation.metrics import certainty
from spcnet.evaluation.tta import TestTimeAugmentation
from spcnet.inference.predictor import Predictor
from spcnet.inference.result_files import ResultWriter
from spcnet.inference.results import Failure, FoundImage, Results, Written
from spcnet.inference.visualize import check_ids, class_image, confidence_image, label_ids
from spcnet.label_tables import CITYSCAPES_IDS
from spcnet.labels import label_space
from spcnet.methods import METHODS, card_for
from tests.support.predicting import SEVEN, Shades, grey, make
from tests.support.videos import make_video

CITY = label_space("cityscapes19")


def segmentor(num_classes=7):
    torch.manual_seed(0)
    model = ModelConfig("mobilenet_v2", weights=None)
    return METHODS["spcnet"].build(model, num_classes=num_classes, num_domains=2).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint file."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    card = card_for(
        method="spcnet",
        model=ModelConfig("mobilenet_v2", weights=None),
        space="cityscapes19",
        classes=CITY.classes,
        domains=["game", "toy"],
        size=(64, 96),
    )
    checkpoint.write(path, segmentor(19).state_dict(), card)
    return path


def noise(height=64, width=96, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(folder, *names, height=64, width=96):
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        Image.fromarray(noise(height, width, seed)).save(folder / name)


# Batches


def test_images_of_one_size_go_through_together_and_others_for_themselves(tmp_path):
    model = Shades()
    predictor = Predictor(model, space=SEVEN, device="cpu", batch_size=2)
    images = [grey(0, 9), grey(9, 0), grey(5, 5), grey(1, 2, 3), grey(0, 0)]
    found = list(predictor.predict_many(images))
    assert [shape[0] for shape in model.seen] == [2, 1, 1, 1]
    for image, prediction in zip(images, found, strict=True):
        assert np.array_equal(prediction.class_map, make().predict(image).class_map)


def test_with_a_size_photos_of_any_size_go_through_together():
    model = Shades()
    predictor = Predictor(model, space=SEVEN, device="cpu", batch_size=3, size=(40, 60))
    found = list(predictor.predict_many([grey(0, 255), grey(0, 255, 9), grey(7, height=90)]))
    assert model.seen == [(3, 3, 40, 60)]
    assert [prediction.class_map.shape for prediction in found] == [(40, 40), (40, 60), (90, 20)]


@pytest.mark.parametrize(
    "views", [TestTimeAugmentation(), TestTimeAugmentation(window=(48, 64)), TestTimeAugmentation(flip=True)]
)
def test_a_batch_gives_what_its_images_give_one_by_one(views):
    images = [noise(seed=n) for n in range(3)]
    alone = Predictor(segmentor(), space=SEVEN, device="cpu", views=views)
    together = Predictor(segmentor(), space=SEVEN, device="cpu", views=views, batch_size=3)
    for image, prediction in zip(images, together.predict_many(images, confidence=True), strict=True):
        expected = alone.predict(image, confidence=True)
        assert (prediction.class_map == expected.class_map).mean() > 0.999
        np.testing.assert_allclose(prediction.confidence, expected.confidence, atol=1e-4)
        np.testing.assert_allclose(prediction.figures["style_weights"], expected.figures["style_weights"], atol=1e-5)


def test_files_of_different_sizes_are_never_put_into_one_batch(tmp_path):
    for name, image in (("a", grey(0, 9)), ("b", grey(0, 9, 7)), ("c", grey(9, 0, 7)), ("d", grey(9, 9))):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    model = Shades()
    predictor = Predictor(model, space=SEVEN, device="cpu", batch_size=3)
    done = predictor.predict_paths([f"{tmp_path}/*.png"], tmp_path / "out")
    assert [written.width for written in done.written] == [40, 60, 60, 40]
    assert [shape[0] for shape in model.seen] == [1, 2, 1]


def test_a_broken_image_in_a_batch_keeps_the_order(tmp_path):
    save(tmp_path / "in", "a.png", "b.png", "d.png")
    (tmp_path / "in/c.png").write_bytes(b"no image")
    done = []
    make(batch_size=3).predict_paths(
        [tmp_path / "in"], tmp_path / "out", progress=lambda n, total, outcome: done.append(outcome)
    )
    assert [type(outcome) for outcome in done] == [Written, Written, Failure, Written]
    assert [outcome.path.stem for outcome in done] == ["a", "b", "c", "d"]


def test_a_batch_too_large_for_the_memory_goes_through_one_by_one():
    class Small(Shades):
        def forward(self, image):
            if len(image) > 1:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
            return super().forward(image)

    predictor = Predictor(Small(), space=SEVEN, device="cpu", batch_size=2)
    found = list(predictor.predict_many([grey(0, 255), grey(255, 0)]))
    assert [prediction.class_map[0, 0] for prediction in found] == [0, 6]


def test_an_image_too_large_for_the_memory_does_not_cost_its_neighbours(tmp_path):
    class Choosy(Shades):
        def forward(self, image):
            if len(image) > 1 or image.mean() > 0:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
            return super().forward(image)

    for name, level in (("a", 0), ("b", 255), ("c", 0)):
        Image.fromarray(grey(level, level)).save(tmp_path / f"{name}.png")
    predictor = Predictor(Choosy(), space=SEVEN, device="cpu", batch_size=3)
    images = [FoundImage(tmp_path / f"{name}.png", name) for name in "abc"]
    outcomes = list(predictor.predict_each(images, tmp_path / "out"))
    assert [type(outcome) for outcome in outcomes] == [Written, Failure, Written]
    assert "b.png: the memory does not suffice" in outcomes[1].reason


# TestTimeAugmentation


def test_windows_see_a_large_image_at_its_own_size():
    model = Shades()
    predictor = Predictor(model, space=SEVEN, device="cpu", views=TestTimeAugmentation(window=(40, 40)), batch_size=4)
    image = grey(0, 255, 128, 60, height=90)
    assert np.array_equal(predictor.predict(image).class_map, make().predict(image).class_map)
    assert {shape[2:] for shape in model.seen} == {(40, 40)}
    assert max(shape[0] for shape in model.seen) == 4


def test_mirrored_looks_agree_with_plain_ones_where_the_network_is_symmetric():
    image = grey(0, 255, 128)
    flipped = make(views=TestTimeAugmentation(flip=True)).predict(image, confidence=True)
    plain = make().predict(image, confidence=True)
    assert np.array_equal(flipped.class_map, plain.class_map)
    # Averaged are probabilities: they are not put through a softmax again.
    np.testing.assert_allclose(flipped.confidence, plain.confidence, atol=1e-5)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (TestTimeAugmentation(window=(16, 64)), "the window is 16×64"),
        (TestTimeAugmentation(window=(64, 64), overlap=1.0), "the overlap is 1.0"),
        (TestTimeAugmentation(window=(64, 64), overlap=0.99), "the overlap is 0.99"),
        (TestTimeAugmentation(scales=()), "the scales are"),
        (TestTimeAugmentation(scales=(0.0,)), "factors above 0"),
        (TestTimeAugmentation(overlap=0.5), "--overlap and --window_weights"),
        (TestTimeAugmentation(weights="hann"), "--overlap and --window_weights"),
        (TestTimeAugmentation(window=(64, 64), weights="hann"), None),
    ],
)
def test_views_that_make_no_sense_are_refused(views, message):
    if message is None:
        make(views=views)
        return
    with pytest.raises(UsageError, match=message):
        make(views=views)


def test_an_image_too_small_for_a_scale_is_one_failure_among_the_others(tmp_path):
    save(tmp_path / "in", "a.png", "c.png", height=80)
    Image.fromarray(grey(0, 255, height=50)).save(tmp_path / "in/b.png")  # 50×40: half of it is 25×20
    found = make(views=TestTimeAugmentation(scales=(1.0, 0.5))).predict_paths([tmp_path / "in"], tmp_path / "out")
    assert [one.name for one in found.written] == ["a", "c"]
    (failure,) = found.failures
    assert "b.png has 50×40 pixels: height and width must be at least 33 at the scale 0.5" in failure.reason
    assert (tmp_path / "out/predictions.json").is_file()
    with pytest.raises(UsageError, match=r"64×64 is too small at the scale 0\.5"):
        make(size=(64, 64), views=TestTimeAugmentation(scales=(0.5,)))
    larger = make(views=TestTimeAugmentation(scales=(2.0,)))  # which makes it large enough
    assert larger.predict(grey(0, height=20)).class_map.shape == (20, 20)


def test_a_batch_without_images_is_refused():
    with pytest.raises(UsageError, match="the batch size is 0"):
        make(batch_size=0)


# Ids


def test_label_ids_are_those_of_cityscapes_and_nothing_is_0():
    classes = np.array([[*range(19), 255]], dtype=np.uint8)
    found = np.asarray(class_image(classes, CITY, ids="label"))
    assert found.tolist() == [[7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33, 0]]
    assert [CITYSCAPES_IDS[number] for number in found[0, :19]] == list(CITY.classes)
    assert class_image(classes, CITY, ids="label").mode == "L"


def test_colours_are_those_of_the_space_and_train_ids_stay():
    classes = np.array([[3, 255]], dtype=np.uint8)
    assert np.asarray(class_image(classes, CITY, ids="color")).tolist() == [[[*CITY.colors[3]], [0, 0, 0]]]
    assert np.asarray(class_image(classes, CITY)).tolist() == [[3, 255]]


def test_label_ids_of_a_space_that_cityscapes_does_not_have_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="no drivable, non-drivable"):
        label_ids(SEVEN)
    save(tmp_path / "in", "a.png")
    with pytest.raises(UsageError, match="use the ids train or color"):
        make().predict_paths([tmp_path / "in"], tmp_path / "out", results=Results(ids="label"))
    with pytest.raises(UsageError, match="unknown kind of ids 'trian'"):
        check_ids("trian", SEVEN)
    assert not (tmp_path / "out").exists()


def test_class_maps_of_files_hold_the_ids_that_were_asked_for(tmp_path):
    save(tmp_path / "in", "a.png")
    expected = make().predict(tmp_path / "in/a.png").class_map
    for ids, mode in (("train", "P"), ("color", "RGB")):
        make().predict_paths([tmp_path / "in"], tmp_path / ids, results=Results(ids=ids))
        with Image.open(tmp_path / ids / "a_classes.png") as image:
            assert image.mode == mode
            assert np.array_equal(np.asarray(image), np.asarray(class_image(expected, SEVEN, ids=ids)))
        assert json.loads((tmp_path / ids / "predictions.json").read_text())["ids"] == ids


# Confidence


@pytest.mark.parametrize("size", [(6, 8), (11, 5)])
def test_confidence_is_the_softmax_of_the_chosen_class(size):
    scores = torch.randn(5, 6, 8) * 4
    full = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=True)[0]
    expected = full.softmax(0)
    chosen = full.argmax(0)
    assert torch.allclose(certainty(scores, chosen), expected.max(0).values, atol=1e-6)


def test_confidence_holds_for_scores_that_are_large():
    scores = torch.tensor([1e4, 0.0, -1e4]).view(3, 1, 1)
    assert certainty(scores, torch.zeros(1, 1, dtype=torch.long)).item() == 1.0


def test_confidence_is_a_grey_image_with_its_mean_in_the_index(tmp_path):
    save(tmp_path / "in", "a.png")
    expected = make().predict(tmp_path / "in/a.png", confidence=True).confidence
    assert expected.dtype == np.float32
    make().predict_paths([tmp_path / "in"], tmp_path / "out", results=Results(confidence=True))
    with Image.open(tmp_path / "out/a_confidence.png") as image:
        assert image.mode == "L"
        assert np.abs(np.asarray(image) / 255 - expected).max() < 0.5 / 255 + 1e-6
    (entry,) = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert entry["mean_confidence"] == pytest.approx(expected.mean(), rel=1e-4)
    assert entry["confidence_file"] == "a_confidence.png"


def test_without_being_asked_for_there_is_no_confidence(tmp_path):
    save(tmp_path / "in", "a.png")
    assert make().predict(tmp_path / "in/a.png").confidence is None
    make().predict_paths([tmp_path / "in"], tmp_path / "out")
    (entry,) = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert entry["mean_confidence"] is None
    assert not (tmp_path / "out/a_confidence.png").exists()


def test_shares_become_grey_values_from_black_to_white():
    assert np.asarray(confidence_image(np.array([[0.0, 0.5, 1.0, 1.1]]))).tolist() == [[0, 128, 255, 255]]


def test_a_confidence_file_never_overwrites_an_input(tmp_path):
    save(tmp_path, "a.png", "a_confidence.png")
    with pytest.raises(UsageError, match=r"a_confidence\.png would be overwritten"):
        make().predict_paths([tmp_path / "a.png", tmp_path / "a_confidence.png"], tmp_path)


# Engines


def test_a_fast_predictor_says_what_the_plain_one_says(monkeypatch):
    network = segmentor()
    called = []
    monkeypatch.setattr(network, "forward", lambda image, own=network.forward: called.append(1) or own(image))
    plain = Predictor(network, space=SEVEN, device="cpu", engine="torch").predict(noise(128, 160), confidence=True)
    assert called == [1]
    fast = Predictor(segmentor(), space=SEVEN, device="cpu").predict(noise(128, 160), confidence=True)
    assert (fast.class_map == plain.class_map).mean() > 0.999
    np.testing.assert_allclose(fast.confidence, plain.confidence, atol=1e-4)


# The command


def test_the_command_takes_images_and_videos_with_all_options(trained, tmp_path, capsys):
    save(tmp_path / "in", "a.png", "b.png")
    make_video(tmp_path / "in/c.mp4", frames=6)
    out = tmp_path / "out"
    arguments = ["--ids", "label", "--confidence", "--batch_size", "2", "--every", "2", "--limit", "2", "--frame-maps"]
    arguments += ["--full_size", "--window", "[48,64]", "--window_weights", "hann", "--flip", "--scales", "[1.0,1.25]"]
    assert main(["predict", str(trained), str(tmp_path / "in"), f"--output={out}", *arguments]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "a_classes.png", "a_confidence.png", "a_overlay.png",
        "b_classes.png", "b_confidence.png", "b_overlay.png",
        "c_classes", "c_frames.csv", "c_legend.png", "c_overlay.mp4",
        "predictions.json", "styles.csv",
    ]  # fmt: skip
    assert set(np.unique(np.asarray(Image.open(out / "a_classes.png")))) <= set(range(7, 34))
    assert [path.name for path in sorted((out / "c_classes").iterdir())] == ["000000.png", "000002.png"]
    assert "2 images and 2 frames of 1 video(s)" in capsys.readouterr().out


def test_a_video_that_breaks_is_told_of_and_the_exit_code_says_so(trained, tmp_path, capsys):
    content = make_video(tmp_path / "w.mkv", frames=30, noise=True).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    out = tmp_path / "out"
    assert main(["predict", str(trained), str(tmp_path / "cut.mkv"), f"--output={out}", "--overlay=null"]) == 1
    told = capsys.readouterr().out
    assert "cut.mkv" in told
    (video,) = json.loads((out / "predictions.json").read_text())["videos"]
    assert video["frames"] > 0
    assert video["broken"] in told
    assert video["video_file"] is None


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--overlap=2", "--window=[64,64]"], 2, "the overlap is 2.0"),
        (["--window=[8,64]"], 2, "the window is 8×64"),
        (["--scales=[]"], 2, "the scales are"),
        (["--batch_size=0"], 2, "the batch size is 0"),
        (["--every=0"], 2, "every is 0"),
        (["--limit=-1"], 2, "limit -1"),
        (["--overlay=3"], 2, "opacity"),
        (["--full_size", "--size=[64,64]"], 2, "size is [64,64], and full_size leaves images at their own"),
        (["--window_weights=hann"], 2, "require --window"),
    ],
)
def test_options_that_make_no_sense_are_one_line(trained, tmp_path, capsys, options, code, message):
    save(tmp_path / "in", "a.png")
    assert main(["predict", str(trained), str(tmp_path / "in"), f"--output={tmp_path / 'out'}", *options]) == code
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told
    assert not (tmp_path / "out").exists()


def test_stopping_the_command_keeps_what_is_done(trained, tmp_path, monkeypatch, capsys):
    save(tmp_path / "in", "a.png", "b.png")
    written = ResultWriter.image

    def stop_at_b(self, image, *more):
        if image.name == "b":
            raise KeyboardInterrupt
        return written(self, image, *more)

    monkeypatch.setattr(ResultWriter, "image", stop_at_b)
    assert main(["predict", str(trained), str(tmp_path / "in"), f"--output={tmp_path / 'out'}"]) == 130
    (entry,) = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert entry["name"] == "a"


def test_results_that_cannot_be_written_end_the_command(trained, tmp_path):
    save(tmp_path / "in", "a.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write"):
        make().predict_paths([tmp_path / "in"], tmp_path / "file")
    assert main(["predict", str(trained), str(tmp_path / "in"), f"--output={tmp_path / 'file'}"]) == 1

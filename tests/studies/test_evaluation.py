"""`spcnet evaluate`: runs, weights, exported networks and folders of predictions give the numbers that they should."""

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from jaxtyping import config
from PIL import Image
from rich.console import Console

from spcnet import cli, runs
from spcnet.commands import ood as ood_command
from spcnet.commands.convert import convert
from spcnet.commands.evaluate import evaluate
from spcnet.commands.export import export as export_command
from spcnet.commands.inspect import inspect
from spcnet.commands.predict import predict
from spcnet.commands.robustness import robustness as robustness_command
from spcnet.config import DataConfig, DomainSpec, ModelConfig, OwnSet, RunConfig, TrainingConfig, as_dict
from spcnet.data.datasets import FolderSet, open_domain
from spcnet.data.fixture import write_fixture
from spcnet.data.transforms import normalise
from spcnet.errors import DataError, UsageError
from spcnet.evaluation.metrics import confusion
from spcnet.evaluation.protocols import PROTOCOLS, rein, unchanged
from spcnet.evaluation.tta import TestTimeAugmentation, augmented
from spcnet.export import export
from spcnet.export.onnx_files import FileNetwork
from spcnet.inference.results import Results
from spcnet.label_tables import CITYSCAPES_IDS
from spcnet.labels import label_space, remap
from spcnet.reports.runs import load_run
from spcnet.runs import DataOptions, OpenRun
from spcnet.studies import ood, robustness
from spcnet.studies.predictions import read_prediction
from spcnet.studies.subject import Subject
from spcnet.training import train
from tests.support.pictures import STORED, turned
from tests.support.weight_files import onnx_file, restore, torch_export_file

SIZE = (64, 128)


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cityscapes as it is downloaded, small: label ids, photos in folders of cities."""
    folder = tmp_path_factory.mktemp("city")
    write_fixture("cityscapes", folder / "cityscapes", layout="ids", images_per_split=3, size=(96, 160))
    for path in list((folder / "cityscapes").rglob("*.png")):
        path.rename(path.with_name(f"{path.parent.name}_000000_{path.name}"))  # city_sequence_frame, as they name them
    return folder / "cityscapes"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, city: Path) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train(
        RunConfig(
            method="spcnet",
            model=ModelConfig(backbone="shufflenet_v2", weights=None),
            data=DataConfig(
                sources=["streets/game"],
                targets=["cityscapes"],
                roots={"cityscapes": str(city)},
                size=SIZE,
                workers=0,
                train_scenes=4,
                test_scenes=2,
                images_per_domain=2,
            ),
            training=TrainingConfig(iterations=2, accelerator="cpu"),
            output=folder,
        ),
        console=Console(quiet=True),
    )
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the check of shapes, which takes the free sizes of a graph for no numbers."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


def own_set(city: Path) -> FolderSet:
    data = DataConfig(roots={"cityscapes": str(city)}, size=SIZE)
    found = open_domain(DomainSpec.parse("cityscapes"), data=data, space=label_space("cityscapes19"), training=False)
    assert isinstance(found, FolderSet)
    return found


@pytest.mark.slow
def test_weights_and_onnx_score_what_the_run_scores(run: Path, city: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    wanted = evaluate(run)["domains"]["cityscapes"]
    before = lines(
        run / "results.jsonl"
    )  # rounding may set a pixel apart from what training, in another layout, scored
    evaluate(run)
    assert lines(run / "results.jsonl") == before, "the same result is no second line"
    weights = tmp_path / "weights.safetensors"
    shutil.copy(run / "model.safetensors", weights)
    options: dict[str, Any] = {"targets": ["cityscapes"], "roots": {"cityscapes": str(city)}}
    found = evaluate(weights, **options)
    assert found["domains"]["cityscapes"]["confusion"] == wanted["confusion"]
    assert lines(tmp_path / "weights.safetensors.results.jsonl")[0]["domains"] == found["domains"]
    network, card = restore(run)
    for kind, pixels in (("logits", None), ("labels", "uint8")):
        file = tmp_path / f"{kind}.onnx"
        with unchecked():
            export(network, card, file, kind=kind, pixels=pixels)  # type: ignore[arg-type]
        of_file = evaluate(file, **options, output=tmp_path / "out.jsonl")["domains"]["cityscapes"]
        assert of_file["images"] == 3
        # Labels are chosen at the image's size and logits at the label's, so only the former may differ a little.
        assert of_file["miou"] == pytest.approx(wanted["miou"], abs=1e-3 if kind == "logits" else 0.05)
    assert [line["run"] for line in lines(tmp_path / "out.jsonl")] == ["logits.onnx", "labels.onnx"]


def test_weights_of_other_code_are_scored(run: Path, city: Path, tmp_path: Path) -> None:
    convert(run, tmp_path / "robustnet.pth", to="robustnet")  # whose sources have no names that a domain could have
    found = evaluate(
        tmp_path / "robustnet.pth",
        targets=["cityscapes"],
        roots={"cityscapes": str(city)},
        size=SIZE,
        protocol="spcnet",
    )
    wanted = evaluate(run)["domains"]["cityscapes"]
    assert found["domains"]["cityscapes"]["role"] == "unseen"
    assert found["domains"]["cityscapes"]["confusion"] == wanted["confusion"]


def test_a_protocol_goes_into_a_file_of_its_own(run: Path) -> None:
    before = (run / "results.jsonl").read_text()
    told = io.StringIO()
    found = evaluate(
        run, protocol="robustnet", targets=["cityscapes"], classes=True, console=Console(file=told, width=100)
    )
    assert (run / "results.jsonl").read_text() == before
    (line,) = lines(run / "protocols.jsonl")
    assert line["protocol"] == "robustnet"
    assert line["domains"]["cityscapes"]["confusion"] == found["domains"]["cityscapes"]["confusion"]
    confusion = np.array(found["domains"]["cityscapes"]["confusion"])
    with np.errstate(invalid="ignore"):
        recall = confusion.diagonal() / confusion.sum(1)
    printed = [found["domains"]["cityscapes"]["precision"][name] for name in found["classes"]]
    np.testing.assert_allclose([np.nan if value is None else value for value in printed], recall)
    assert "precision is printed as recall" in told.getvalue()
    assert "up to N-1" in told.getvalue()


def test_a_protocol_scores_other_pixels(run: Path) -> None:
    own = evaluate(run)["domains"]["cityscapes"]
    rein = evaluate(run, protocol="rein")["domains"]["cityscapes"]
    assert np.sum(rein["confusion"]) == np.sum(own["confusion"])  # the same labels
    assert rein["confusion"] != own["confusion"]  # seen at another size
    assert evaluate(run, size=(96, 160), output=run / "other.jsonl")["size"] == [96, 160]


@pytest.fixture
def few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every protocol at sizes that a test can wait for."""
    for way in (each for each in PROTOCOLS.values() if each.views is not None):
        views = way.views._replace(window=(48, 48), stride=40) if way.views.window else way.views  # type: ignore[union-attr]
        small = replace(way, prepare=unchanged, views=views)
        monkeypatch.setitem(PROTOCOLS, way.name, small)


@pytest.mark.usefixtures("few_pixels")
def test_one_model_in_all_protocols_is_one_table_and_overwrites_nothing(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    own = tmp_path / "run"
    (own / "protocols.jsonl").unlink(missing_ok=True)
    evaluate(own, protocol="rein", targets=["streets/night"])
    before, own_before = lines(own / "protocols.jsonl"), (own / "results.jsonl").read_text()
    told = io.StringIO()
    found = evaluate(own, protocol="all", targets=["cityscapes"], console=Console(file=told, width=160))["protocols"]
    assert list(found) == list(PROTOCOLS)
    written = lines(own / "protocols.jsonl")
    assert written[:1] == before
    assert [line["protocol"] for line in written[1:]] == list(PROTOCOLS)[1:]
    assert set(found["rein"]["domains"]) == {"cityscapes", "streets/night"}, "joined to what that protocol gave before"
    assert (own / "results.jsonl").read_text().startswith(own_before)
    alone = evaluate(own, protocol="vfm-full-coarse", targets=["cityscapes"], output=tmp_path / "alone.jsonl")
    coarse = alone["domains"]["cityscapes"]
    assert found["vfm-full-coarse"]["domains"]["cityscapes"]["confusion"] == coarse["confusion"]
    assert 0 <= coarse["figures"]["coarse_windows"][0][0] <= 1
    table = told.getvalue().split("mean of unseen")[1].splitlines()
    rows = {row.split()[0]: row.split()[1] for row in table if row.split() and row.split()[0] in PROTOCOLS}
    for name, record in found.items():
        assert rows[name] == f"{100 * record['domains']['cityscapes']['miou']:.1f}"
    others = {other.protocol for other in load_run(own).others}
    assert others == set(PROTOCOLS) - {"spcnet"}


def test_all_protocols_leave_size_and_views_alone_and_want_a_network(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the protocol all fixes the size.*leave out flip, size"):
        evaluate(run, protocol="all", flip=True, size=(32, 64))
    save_blank = Image.fromarray(np.zeros((8, 8), np.uint8))
    save_blank.save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"other protocols begin before the network"):
        evaluate(tmp_path, protocol="all", targets=["cityscapes"])


def test_rein_looks_through_windows_and_aligns_edges(run: Path, city: Path) -> None:
    network, card = restore(run)
    images, counts = own_set(city), torch.zeros(19, 19, dtype=torch.int64)
    look = augmented(network, TestTimeAugmentation(window=(512, 512), stride=341))
    with torch.inference_mode():
        for index in range(3):
            sample = rein(images.read(index), "cityscapes")
            assert sample.image.shape == (512, 853, 3)
            scores = look(normalise(torch.from_numpy(sample.image).movedim(2, 0)[None])).logits
            scores = F.interpolate(scores, size=sample.label.shape, mode="bilinear", align_corners=False)
            counts += confusion(scores[0].argmax(0), torch.from_numpy(sample.label).long(), num_classes=19)
    found = evaluate(run, protocol="rein", output=run / "rein.jsonl")
    assert found["domains"]["cityscapes"]["confusion"] == counts.tolist()
    assert card.space == "cityscapes19"


def test_a_file_gets_the_images_that_it_wants() -> None:
    seen: list[torch.Tensor] = []

    def program(image: torch.Tensor) -> torch.Tensor:
        seen.append(image)
        return torch.zeros(1, 5, 2, 2)

    pixels = torch.randint(256, (1, 3, 2, 2), dtype=torch.uint8)
    other = FileNetwork(program, kind="logits", pixels=None, num_classes=5, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    other(normalise(pixels))
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    torch.testing.assert_close(seen[0], (pixels.float() / 255 - mean) / std)
    FileNetwork(program, kind="logits", pixels=None, num_classes=5)(normalise(pixels))
    torch.testing.assert_close(seen[1], normalise(pixels))
    FileNetwork(program, kind="logits", pixels="uint8", num_classes=5)(normalise(pixels))
    assert torch.equal(seen[2], pixels)


@pytest.fixture
def predictions(city: Path, tmp_path: Path) -> Path:
    """Class maps that are wrong in a known way: each truth shifted by some columns, void filled up with road."""
    folder = tmp_path / "predictions"
    images = own_set(city)
    for index, pair in enumerate(images.pairs):
        label = np.roll(images.read(index).label, 7, axis=1)
        label[label == 255] = 0
        path = folder / pair.image.parent.name / f"{pair.image.stem}_classes.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(path)
    return folder


def official(city: Path, folder: Path) -> dict[str, Any]:
    """What the authors of Cityscapes' own program finds."""
    module = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    args = module.args
    args.evalInstLevelScore = False
    args.evalPixelAccuracy = True
    args.quiet = True
    args.JSONOutput = False
    args.predictionPath, args.predictionWalk = str(folder), None
    truths = sorted(str(path) for path in (city / "gtFine" / "val").rglob("*_labelIds.png"))
    with redirect_stdout(io.StringIO()):
        found: dict[str, Any] = module.evaluateImgLists(
            [module.getPrediction(args, path) for path in truths], truths, args
        )
    return found


def as_label_ids(folder: Path, target: Path) -> None:
    """Predictions as Cityscapes wants them: label ids, named after the photo."""
    ids = np.zeros(256, np.uint8)
    table = remap(CITYSCAPES_IDS, label_space("cityscapes19"), "cityscapes")
    for native, train_id in enumerate(table):
        if train_id < 19:
            ids[train_id] = native
    for path in folder.rglob("*_classes.png"):
        target.mkdir(exist_ok=True)
        name = path.name.replace("_leftImg8bit_classes", "_pred_labelIds")
        Image.fromarray(ids[np.asarray(Image.open(path))]).save(target / name)


def test_scores_are_those_of_the_official_program(
    city: Path, predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # its name before NumPy 2.4, which that program still uses
    as_label_ids(predictions, tmp_path / "ids")
    theirs = official(city, tmp_path / "ids")
    options: dict[str, Any] = {"targets": ["cityscapes"], "roots": {"cityscapes": str(city)}}
    for folder in (tmp_path / "ids", predictions):
        ours = evaluate(folder, **options)["domains"]["cityscapes"]
        for name, value in theirs["classScores"].items():
            if name in ours["iou"]:
                mine = ours["iou"][name]
                assert (mine is None and np.isnan(value)) or mine == pytest.approx(value, abs=1e-12), name
        assert sum(value is not None for value in ours["iou"].values()) >= 8
    assert ours["pixel_accuracy"] < 0.99


def test_predictions_of_spcnet_predict_score_as_the_network_does(run: Path, city: Path, tmp_path: Path) -> None:
    wanted = evaluate(run)["domains"]["cityscapes"]
    predict(run, [str(city / "leftImg8bit" / "val")], output=tmp_path / "out", accelerator="cpu")
    found = evaluate(tmp_path / "out", targets=["cityscapes"], roots={"cityscapes": str(city)})
    assert found["domains"]["cityscapes"]["confusion"] == wanted["confusion"]
    assert lines(tmp_path / "out" / "results.jsonl")[0]["method"] == "predictions"


def test_photos_that_are_turned_or_veiled_score_the_same_by_the_run_and_by_its_predictions(
    run: Path, city: Path, tmp_path: Path
) -> None:
    wanted = evaluate(run)["domains"]["cityscapes"]
    root = tmp_path / "cityscapes"
    shutil.copytree(city, root)
    photos = sorted((root / "leftImg8bit" / "val").rglob("*.png"))
    for photo, orientation in zip(photos, (3, 6, 7), strict=True):
        pixels = np.asarray(Image.open(photo))
        photo.write_bytes(turned(orientation, pixels=pixels))
        (label,) = (root / "gtFine" / "val").rglob(photo.name.replace("_leftImg8bit", "*labelIds"))
        if orientation == 7:  # of the last one the label lies on the stored picture
            Image.fromarray(np.ascontiguousarray(STORED[7](np.asarray(Image.open(label))))).save(label)

    def scores() -> list[Any]:
        options: dict[str, Any] = {"targets": ["cityscapes"], "roots": {"cityscapes": str(root)}}
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        predict(run, [str(root / "leftImg8bit" / "val")], output=tmp_path / "out", accelerator="cpu")
        found = (
            evaluate(run, output=tmp_path / "run.jsonl", **options),
            evaluate(tmp_path / "out", **options),
        )
        return [one["domains"]["cityscapes"]["confusion"] for one in found]

    assert scores() == [wanted["confusion"], wanted["confusion"]]
    image = Image.open(photos[0]).convert("RGBA")
    image.putalpha(128)
    image.save(photos[0], exif=b"")
    by_run, by_predictions = scores()
    assert by_run == by_predictions
    assert by_run != wanted["confusion"]


def test_predictions_in_the_format_of_cityscapes_are_what_its_program_wants(
    run: Path, city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    photos = str(city / "leftImg8bit" / "val")
    out = tmp_path / "out"
    assert cli.main(["predict", str(run), photos, "--output", str(out), "--format", "cityscapes"]) == 0
    assert sorted(path.name for path in out.rglob("*.png")) == [
        f"{photo.name.removesuffix('_leftImg8bit.png')}_pred_labelIds.png"
        for photo in sorted((city / "leftImg8bit" / "val").rglob("*.png"))
    ]
    theirs = official(city, out)["classScores"]
    ours = evaluate(out, targets=["cityscapes"], roots={"cityscapes": str(city)})["domains"]["cityscapes"]["iou"]
    for name, value in ours.items():
        assert value == pytest.approx(theirs[name], abs=1e-12) if value is not None else np.isnan(theirs[name])
    shutil.rmtree(out)
    predict(run, [photos], output=out, ids="label", accelerator="cpu")
    again = evaluate(out, targets=["cityscapes"], roots={"cityscapes": str(city)})["domains"]["cityscapes"]["iou"]
    assert again == ours
    Image.new("RGB", (64, 64)).save(tmp_path / "mine.png")
    with pytest.raises(UsageError, match=r"mine\.png is not named CITY_SEQUENCE_FRAME"):
        predict(run, [tmp_path / "mine.png"], output=out, format="cityscapes")
    with pytest.raises(UsageError, match="has class maps of label ids alone"):
        Results(format="cityscapes").check(label_space("cityscapes19"))


def test_colours_are_read_too(city: Path, predictions: Path, tmp_path: Path) -> None:
    space = label_space("cityscapes19")
    colors = np.array(space.colors, np.uint8)
    options: dict[str, Any] = {"targets": ["cityscapes"], "roots": {"cityscapes": str(city)}}
    wanted = evaluate(predictions, **options)["domains"]["cityscapes"]["confusion"]
    for path in list(predictions.rglob("*.png")):
        Image.fromarray(colors[np.asarray(Image.open(path))]).save(path.with_suffix(".PNG"))
        path.unlink()
    assert evaluate(predictions, **options)["domains"]["cityscapes"]["confusion"] == wanted


def broken(how: str, folder: Path) -> Iterator[str]:
    path = next(folder.rglob("*.png"))
    if how == "missing":
        path.unlink()
        yield "1 of 3 images of cityscapes have no prediction"
    elif how == "twice":
        shutil.copy(path, folder / path.name)
        yield "has 2 predictions"
    elif how == "size":
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
        yield "is 8×8 but the label of .* is 160×96: predictions must have the size"
    elif how == "void":
        Image.fromarray(np.full((96, 160), 255, np.uint8)).save(path)
        yield "has a pixel with no class, read as train ids or colours"
    elif how == "range":
        Image.fromarray(np.full((96, 160), 33, np.uint8)).save(path)
        yield "has a pixel with the class 33, read as train ids"
    else:
        path.write_bytes(b"no picture")
        yield path.name


@pytest.mark.parametrize("how", ["missing", "twice", "size", "void", "range", "broken"])
def test_a_folder_that_does_not_fit_is_refused(how: str, city: Path, predictions: Path) -> None:
    (message,) = broken(how, predictions)
    with pytest.raises(DataError, match=message):
        evaluate(predictions, targets=["cityscapes"], roots={"cityscapes": str(city)})
    assert not (predictions / "results.jsonl").exists()


def test_options_that_do_not_fit_are_refused(run: Path, predictions: Path, city: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pt2").write_bytes(torch_export_file())
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (run, {"protocol": "rein", "flip": True}, "leave out flip"),
        (run, {"protocol": "robustnet", "size": (64, 64)}, "leave out size"),
        (run, {"ids": "label"}, "--ids label is for a folder of predictions"),
        (run, {"space": "idd7"}, "--space idd7 is for a folder of predictions"),
        (run, {"protocol": "cityscape"}, "unknown protocol"),
        (predictions, {"protocol": "rein", "targets": ["cityscapes"]}, "begins before the network"),
        (
            predictions,
            {"targets": ["cityscapes"], "scales": [1.0, 2.0]},
            "scales would come before them",
        ),
        (predictions, {}, "name the domain with --targets"),
        (run / "model.safetensors", {}, "name domains with --targets"),
        (tmp_path / "x.pt2", {"targets": ["cityscapes"]}, "would be trusted with running code"),
    ]
    for model, options, message in cases:
        with pytest.raises(UsageError, match=message):
            evaluate(model, **options)
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(onnx_file())
    with pytest.raises(DataError, match="is no ONNX file that can be read"):
        evaluate(foreign, targets=["cityscapes"])
    with pytest.raises(UsageError, match="the label space is idd7: give --ids train or color"):
        read_prediction(next(predictions.rglob("*.png")), space=label_space("idd7"), ids="label")


def test_what_has_no_effect_is_refused(run: Path, predictions: Path, city: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "any.onnx").write_bytes(onnx_file())
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (run, {"overlap": 0.5}, "overlap need windows: give --window"),
        (run, {"overlap": 0.99, "window": (40, 40)}, "the overlap is 0.99"),
        (run, {"window_weights": "hann"}, "window_weights need windows"),
        (predictions, {"targets": ["cityscapes"], "size": SIZE}, "scored as they are.*leave out size"),
        (predictions, {"targets": ["cityscapes"], "devices": 2}, "leave out devices"),
        (tmp_path / "any.onnx", {"targets": ["cityscapes"], "devices": "auto"}, "leave out devices"),
    ]
    for model, options, message in cases:
        with pytest.raises(UsageError, match=message):
            evaluate(model, **options)
    with pytest.raises(DataError, match="empty holds neither a run, nor a network, nor predictions"):
        evaluate(tmp_path / "empty", targets=["cityscapes"])


def test_a_folder_with_a_network_holds_no_predictions(run: Path, city: Path, tmp_path: Path) -> None:
    shutil.copy(run / "model.safetensors", tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "teaser.png")
    found = evaluate(tmp_path, targets=["cityscapes"], roots={"cityscapes": str(city)})
    assert found["method"] == "spcnet"


def test_a_quick_look_does_not_take_the_place_of_the_runs_result(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(run, own)
    before = (own / "results.jsonl").read_text()
    told = io.StringIO()
    found = evaluate(own, limit=1, console=Console(file=told, width=200))
    assert found["domains"]["cityscapes"]["images"] == 1
    assert found["views"] == "only the first image of each domain"
    assert "views: only the first image" in told.getvalue()
    assert (own / "results.jsonl").read_text() == before
    assert lines(own / "protocols.jsonl")[-1]["domains"] == found["domains"]
    settings = (own / "config.yaml").read_text()
    (own / "config.yaml").write_text(settings.replace("  limit: 0", "  limit: 1"))
    whole = evaluate(own, limit=2)  # more than the run was set to, which is no quick look
    assert lines(own / "results.jsonl")[-1]["domains"] == whole["domains"]


def test_a_result_is_added_to_those_of_its_own_manner_whatever_lies_between(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(run, own)
    evaluate(own, flip=True)
    evaluate(own, targets=["streets/night"])
    plain, mirrored, again = lines(own / "results.jsonl")[-3:]
    assert [line["views"] for line in (plain, mirrored, again)] == [None, "mirrored", None]
    assert set(again["domains"]) == {"streets/game", "cityscapes", "streets/night"}
    scores = [again["domains"][name]["miou"] for name in ("cityscapes", "streets/night")]
    assert again["mean_unseen_miou"] == pytest.approx(sum(scores) / 2)


def test_figures_are_shown_where_they_cannot_be_written(run: Path, tmp_path: Path) -> None:
    told = io.StringIO()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        evaluate(run, output=tmp_path / "file" / "x.jsonl", console=Console(file=told, width=100))
    assert "cityscapes" in told.getvalue()
    assert "Added to" not in told.getvalue()


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """A file that describes the images of `city` as a set of one's own."""
    described = OwnSet(
        images="leftImg8bit/{split}/**/*_leftImg8bit.png",
        labels="gtFine/{split}/**/*_gtFine_labelIds.png",
        table=dict(CITYSCAPES_IDS),
    )
    path = tmp_path / "town.yaml"
    path.write_text(yaml.safe_dump({"town": as_dict(described)}))
    return path


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, which a test may add to."""
    shutil.copytree(run, tmp_path / "own")
    (tmp_path / "own" / "protocols.jsonl").unlink(missing_ok=True)
    return tmp_path / "own"


def test_a_set_of_ones_own_is_scored_after_training(
    own: Path, city: Path, town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = evaluate(own)["domains"]["cityscapes"]["confusion"]
    monkeypatch.chdir(city.parent)
    options: dict[str, Any] = {"sets": town, "targets": ["town"], "roots": {"town": "cityscapes"}}
    assert evaluate(own, **options)["domains"]["town"]["confusion"] == wanted
    noted = lines(own / "results.jsonl")[-1]["domains"]["town"]["set"]
    assert (noted["root"], noted["images"]) == (str(city), "leftImg8bit/{split}/**/*_leftImg8bit.png")
    assert noted["table"]["7"] == "road"
    (found,) = (domain.own_set for name, domain in load_run(own).final.domains.items() if name == "town")
    assert found == noted
    weights = tmp_path / "weights.safetensors"
    shutil.copy(own / "model.safetensors", weights)
    assert evaluate(weights, **options)["domains"]["town"]["confusion"] == wanted
    # A recipe that has the set in it does as well.
    town.write_text(yaml.safe_dump({"data": {"sets": yaml.safe_load(town.read_text())}}))
    predict(own, [str(city / "leftImg8bit" / "val")], output=tmp_path / "out", accelerator="cpu")
    found = evaluate(tmp_path / "out", **options)["domains"]["town"]
    assert found["confusion"] == wanted
    assert found["set"] == noted


def test_a_set_of_few_classes_leaves_the_others_out(own: Path, city: Path, town: Path) -> None:
    table = {number: name if name in ("road", "car") else "void" for number, name in CITYSCAPES_IDS.items()}
    described = yaml.safe_load(town.read_text())
    described["town"]["table"] = table
    town.write_text(yaml.safe_dump(described))
    told = io.StringIO()
    options: dict[str, Any] = {"sets": town, "targets": ["town"], "roots": {"town": str(city)}}
    found = evaluate(own, **options, console=Console(file=told, width=1000))["domains"]["town"]
    assert set(found["absent"]) == set(label_space("cityscapes19").classes) - {"road", "car"}
    confusion = np.array(found["confusion"])
    for k, name in enumerate(label_space("cityscapes19").classes):
        nowhere = confusion[k].sum() + confusion[:, k].sum() == 0
        assert (found["iou"][name] is None) == nowhere
    counted = [name for name in found["absent"] if found["iou"][name] is not None]
    assert counted, "the network takes some pixels for classes that the set does not have"
    mean = (found["iou"]["road"] + found["iou"]["car"]) / 2
    assert f"no pixel labelled {', '.join(counted)}" in told.getvalue()
    assert f"of the 2 labelled classes is {100 * mean:.1f}" in told.getvalue()


@pytest.mark.parametrize("command", ["robustness", "inspect", "ood fit", "ood evaluate", "export"])
def test_every_command_that_opens_domains_takes_sets_of_ones_own(
    command: str, own: Path, city: Path, town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opened(Exception):
        pass

    def open_it(spec: DomainSpec, **options: Any) -> Any:
        found = open_domain(spec, **options)
        if spec.dataset == "town":
            raise Opened(len(found))
        return found

    for module in (robustness, runs):
        monkeypatch.setattr(module, "open_domain", open_it)
    monkeypatch.setattr(ood.OODDetector, "read", lambda run, network: None)
    (own / "ood.json").write_text("{}")
    given: dict[str, Any] = {"sets": town, "roots": {"town": str(city)}}
    call = {
        "robustness": lambda: robustness_command([own], target="town", output=tmp_path / "card", **given),
        "inspect": lambda: inspect([own], targets=["town"], **given),
        "ood fit": lambda: ood_command.fit(own, domains=["town@val"], **given),
        "ood evaluate": lambda: ood_command.evaluate(own, targets=["town"], **given),
        "export": lambda: export_command(own, output=tmp_path / "x.onnx", score="town", **given),
    }[command]
    with pytest.raises(Opened, match="3"):
        call()


def test_named_domains_are_scored_alone_and_the_run_keeps_what_it_has(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lines(own / "results.jsonl")[-1]
    scored: list[list[str]] = []
    score = Subject.evaluate

    def noting(subject: Subject, tests: Any, *rest: Any, **options: Any) -> Any:
        scored.append(list(tests))
        return score(subject, tests, *rest, **options)

    monkeypatch.setattr(Subject, "evaluate", noting)
    told = io.StringIO()
    found = evaluate(own, targets=["streets/snow"], classes=True, console=Console(file=told, width=200))
    assert scored == [["streets/snow"]]
    after = lines(own / "results.jsonl")[-1]
    assert after["domains"] == found["domains"]
    assert {name: after["domains"][name] for name in before["domains"]} == before["domains"]
    assert after["mean_source_miou"] == before["mean_source_miou"]
    assert "partial" not in after
    assert "streets/snow alone; the figures of streets/game, cityscapes stay" in told.getvalue()
    assert told.getvalue().count("precision") == 1, "one table of classes, of what was scored"
    table = told.getvalue().partition("Scored:")[0]
    assert "streets/game" not in table
    assert "cityscapes" not in table
    final = load_run(own).final
    assert set(final.domains) == {"streets/game", "cityscapes", "streets/snow"}
    told = io.StringIO()
    both = evaluate(own, targets=["streets/snow", "streets/game"], classes=True, console=Console(file=told, width=200))
    assert scored[1:] == [["streets/snow", "streets/game"]]
    assert told.getvalue().count("precision") == 2
    assert both["domains"]["streets/game"]["role"] == "source"


def test_a_first_look_at_named_domains_is_marked_and_does_not_count(own: Path) -> None:
    whole = lines(own / "results.jsonl")[-1]
    (own / "results.jsonl").write_text(json.dumps({**whole, "iteration": 1}) + "\n")
    told = io.StringIO()
    found = evaluate(own, targets=["streets/snow"], console=Console(file=told, width=200))
    assert found["partial"] is True
    assert "streets/game, cityscapes not evaluated" in told.getvalue()
    run = load_run(own)
    assert run.final.iteration == 1
    assert [set(one.domains) for one in run.others] == [{"streets/snow"}]
    # Where the rest is scored later, it is the result of that network.
    assert "partial" not in evaluate(own)
    assert set(load_run(own).final.domains) == {"streets/game", "cityscapes", "streets/snow"}
    assert load_run(own).final.iteration == 2


def test_named_domains_are_added_to_those_of_the_same_protocol(own: Path) -> None:
    evaluate(own, protocol="robustnet", targets=["streets/game"])
    evaluate(own, protocol="robustnet", targets=["streets/snow"])
    evaluate(own, protocol="spcnet", targets=["streets/snow"], size=(80, 160))
    first, second, other = lines(own / "protocols.jsonl")
    assert second["domains"]["streets/game"] == first["domains"]["streets/game"]
    assert list(second["domains"]) == ["streets/game", "streets/snow"]
    assert second["mean_source_miou"] == first["mean_source_miou"]
    assert list(other["domains"]) == ["streets/snow"]


def test_what_sets_and_targets_cannot_mean_is_refused(own: Path, city: Path, town: Path, tmp_path: Path) -> None:
    described = yaml.safe_load(town.read_text())
    settings = yaml.safe_load((own / "config.yaml").read_text())
    before = (own / "results.jsonl").read_bytes()
    settings["data"]["sets"] = {"town": {**described["town"], "splits": ["val", "train"]}}
    settings["data"]["sources"] = ["streets/game@train"]
    (own / "config.yaml").write_text(yaml.safe_dump(settings))
    options: dict[str, Any] = {"targets": ["town"], "roots": {"town": str(city)}, "sets": town}
    with pytest.raises(UsageError, match=r"town\.yaml.* town with other splits"):
        evaluate(own, **options)
    with pytest.raises(UsageError, match=r"streets/game@train"):
        evaluate(own, targets=["streets/game@train"])
    settings["data"]["sets"] = described  # the same as in the file, which then says nothing new
    (own / "config.yaml").write_text(yaml.safe_dump(settings))
    assert OpenRun(own, DataOptions(sets=town)).data.sets.keys() == {"town"}
    town.write_text(yaml.safe_dump({"cityscapes": described["town"]}))
    with pytest.raises(UsageError, match="built-in"):
        evaluate(own, **options)
    described["town"]["table"][7] = "lane"
    (tmp_path / "lanes.yaml").write_text(yaml.safe_dump({"lanes": described["town"]}))
    with pytest.raises(UsageError, match=r"cityscapes19.*lane"):
        evaluate(own, sets=tmp_path / "lanes.yaml", targets=["lanes"], roots={"lanes": str(city)})
    assert (own / "results.jsonl").read_bytes() == before


def test_predictions_are_read_in_the_label_space_that_was_noted(city: Path, predictions: Path) -> None:
    options: dict[str, Any] = {"targets": ["cityscapes"], "roots": {"cityscapes": str(city)}}
    (predictions / "predictions.json").write_text(json.dumps({"space": "cityscapes19", "ids": "train"}))
    wanted = evaluate(predictions, **options)
    assert wanted["space"] == "cityscapes19"
    with pytest.raises(UsageError, match=r"cityscapes19.*--space is idd7"):
        evaluate(predictions, **options, space="idd7")
    for path in predictions.rglob("*.png"):
        Image.fromarray(np.minimum(np.asarray(Image.open(path)), 6)).save(path)
    (predictions / "predictions.json").write_text(json.dumps({"space": "idd7", "ids": "train"}))
    assert evaluate(predictions, **options)["space"] == "idd7"


def foreign_file(path: Path, channels: int, *, free: bool = True, **said: Any) -> Path:
    """An ONNX file that gives back its image, or so many channels of it, and says of itself what is asked for."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    shape = ["b", 3, "h", "w"] if free else [1, 3, 33, 33]
    nodes = [onnx.helper.make_node("Slice", ["image", "from", "to", "along"], ["logits"])]
    graph = onnx.helper.make_graph(
        nodes,
        "foreign",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)],
        [
            onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [1], [value])
            for name, value in (("from", 0), ("to", channels), ("along", 1))
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    about = {
        "space": "idd7",
        "classes": ["a"],
        "output": {"name": "logits"},
        "normalise": False,
        "input": {"name": "image", "type": "float32"},
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        **said,
    }
    for key, value in about.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, r"answers with logits of the shape \(4, 2, 80, 160\), and not of the 7 classes"),
        ({"channels": 3, "free": False}, r"\.onnx does not take images of 4×3×80×160"),
        ({"channels": 3, "output": "logits"}, r"\.onnx says of itself what cannot be \(output\)"),
        ({"channels": 3, "input": {"type": "int4"}, "size": [33]}, r"what cannot be \(input, size\)"),
        ({"channels": 3, "mean": [0.5], "std": [1, 0, 1]}, r"what cannot be \(mean, std\)"),
        ({"channels": 3, "space": 7}, r"what cannot be \(space\)"),
    ],
)
def test_an_onnx_file_from_elsewhere_is_one_clear_line(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = foreign_file(tmp_path / "foreign.onnx", **options)
    with pytest.raises(DataError, match=message):
        evaluate(file, targets=["streets/night"], size=(80, 160), limit=4, batch_size=4)


def test_how_many_scenes_are_scored_is_told_where_a_file_does_not_say(tmp_path: Path) -> None:
    file = foreign_file(tmp_path / "foreign.onnx", channels=3)
    message = r"does not say .* \(data\.test_scenes\): 100, the default, are scored, or --limit"
    with pytest.warns(UserWarning, match=message), pytest.raises(DataError, match="not of the 7 classes"):
        evaluate(file, targets=["streets/night"], size=(80, 160), limit=1)


def test_labels_beyond_the_classes_of_a_file_are_refused() -> None:
    network = FileNetwork(lambda image: torch.full((1, 2, 2), 5), kind="labels", pixels=None, num_classes=5)
    with pytest.raises(DataError, match="not of the 5 classes"):
        network(normalise(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)))

"""`spcnet calibrate`: what it stores and measures, and who honours the thresholds."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from spcnet import checkpoint
from spcnet.cli import main
from spcnet.commands.calibrate import calibrate
from spcnet.errors import DataError, UsageError
from spcnet.export.comparison import compare
from spcnet.export.deployment import Deployed
from spcnet.inference.predictor import Predictor
from spcnet.labels import IGNORE
from spcnet.reports.calibration import CALIBRATION_FILE, read_calibration
from spcnet.reports.page import render_page
from spcnet.reports.runs import load_run
from spcnet.runs import OpenRun
from spcnet.synthesis import streets
from tests.support.calibrated import SIZE, write_network
from tests.support.report_factory import write_run as write_reported


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_network(tmp_path_factory.mktemp("calibrated") / "run")
    calibrate(run, thresholds="auto:0.3", corruptions=["fog"], styles=[], severities=[5], varied=2, accelerator="cpu")
    return run


def test_the_card_has_temperature_and_thresholds_and_the_weights_stay(calibrated: Path, tmp_path: Path) -> None:
    plain = write_network(tmp_path / "run")
    before, after = (checkpoint.read(run / checkpoint.MODEL_FILE) for run in (plain, calibrated))
    assert before.card.calibration is None
    assert after.card.calibration is not None
    assert len(after.card.calibration.thresholds or ()) == 19
    assert after.card.calibration.temperature > 0
    assert "held-out images of streets/game" in after.card.calibration.images
    assert checkpoint.fingerprint(before.tensors) == checkpoint.fingerprint(after.tensors)


def test_a_file_without_a_calibration_is_what_it_was(tmp_path: Path) -> None:
    run = write_network(tmp_path / "run")
    content = (run / checkpoint.MODEL_FILE).read_bytes()
    assert b"calibration" not in content[:20000]


def test_versions_that_know_no_calibration_find_no_new_field_in_the_card(calibrated: Path) -> None:
    from safetensors import safe_open

    with safe_open(calibrated / checkpoint.MODEL_FILE, framework="pt") as file:
        content = json.loads(file.metadata()["spcnet"])
    assert "calibration" not in content["card"]
    assert set(content["calibration"]) == {"temperature", "thresholds", "precision", "images"}


def test_held_out_images_are_fitted_on_or_measured_never_both(calibrated: Path) -> None:
    result = read_calibration(calibrated)
    assert result is not None
    assert result["fit"]["streets/game"] == {"images": 2, "trained_on": False}
    assert result["domains"]["streets/game"]["conditions"]["clean"]["images"] == 2
    assert result["domains"]["streets/night"]["conditions"]["clean"]["images"] == 4
    assert result["domains"]["streets/night"]["conditions"]["fog 5"]["images"] == 2
    assert result["domains"]["streets/night"]["role"] == "unseen"


def test_training_images_are_named_as_such(tmp_path: Path) -> None:
    run = write_network(tmp_path / "run", method="deeplabv3plus")
    result = calibrate(run, fit_on="train", accelerator="cpu")
    assert result["fit"]["streets/toy"] == {"images": 4, "trained_on": True}
    card = OpenRun(run).card
    assert card.calibration is not None
    assert "training images" in card.calibration.images
    assert card.calibration.thresholds is None


def test_predictions_below_the_threshold_are_void(calibrated: Path) -> None:
    run = OpenRun(calibrated)
    predictor = Predictor(run.network, space=run.space, size=SIZE, device="cpu", engine="torch")
    image = streets.generate(3, style="game", size=SIZE).image
    whole = predictor.predict(image, confidence=True)
    predictor.calibrate(checkpoint.Calibration(2.0, "", None))
    softer = predictor.predict(image, confidence=True)
    assert (softer.class_map == whole.class_map).all()
    with torch.inference_mode():
        logits = predictor._forward(predictor._prepared(image)[None]).logits[0].double()
    expected = (logits / 2).softmax(0).amax(0)
    np.testing.assert_allclose(softer.confidence, expected, atol=1e-5)
    limit = float(expected.median())
    predictor.calibrate(checkpoint.Calibration(2.0, "", (limit,) * 19))
    left = predictor.predict(image)
    assert left.confidence is None
    assert ((left.class_map == IGNORE) == (softer.confidence < np.float32(limit))).all()
    assert 0.4 < (left.class_map == IGNORE).mean() < 0.6


def test_thresholds_for_other_classes_are_refused(calibrated: Path) -> None:
    run = OpenRun(calibrated)
    predictor = Predictor(run.network, space=run.space, size=SIZE, device="cpu")
    with pytest.raises(UsageError, match="thresholds of 7 classes"):
        predictor.calibrate(checkpoint.Calibration(1.0, "", (0.5,) * 7))


def test_an_exported_file_has_the_void_pixels_of_the_predictor(calibrated: Path) -> None:
    run = OpenRun(calibrated)
    image = torch.from_numpy(streets.generate(3, style="game", size=SIZE).image).permute(2, 0, 1)[None]
    deployed = Deployed(run.network, run.card, kind="labels", pixels="uint8")
    predictor = Predictor(run.network, space=run.space, size=SIZE, device="cpu", engine="torch")
    predictor.calibrate(run.card.calibration)
    with torch.no_grad():
        labels = deployed(image)[0].numpy()
    assert IGNORE in labels
    assert (labels == predictor.predict(image[0].permute(1, 2, 0).numpy()).class_map).mean() > 0.999
    (check,) = compare(deployed, deployed, [(2, *SIZE)])  # a file of the same answers is the network
    assert (check.difference, check.equal) == (0, 1)
    (check,) = compare(deployed, lambda given: deployed(given).clamp(max=0), [(2, *SIZE)])
    assert check.equal < 0.9


def test_predict_honours_the_thresholds_unless_told_otherwise(calibrated: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(streets.generate(3, style="game", size=SIZE).image).save(tmp_path / "street.png")
    call = ["predict", str(calibrated), str(tmp_path / "street.png"), "--accelerator=cpu", "--output"]
    assert main([*call, str(tmp_path / "with")]) == 0
    assert main([*call, str(tmp_path / "without"), "--thresholds=false"]) == 0
    maps = [np.asarray(Image.open(tmp_path / name / "street_classes.png")) for name in ("with", "without")]
    assert (maps[0] == IGNORE).any()
    assert not (maps[1] == IGNORE).any()
    assert (maps[0] == maps[1])[maps[0] != IGNORE].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--thresholds=0.95"], "auto:0.95"),
        (["--thresholds=auto:1.5"], "auto:0.95"),
        (["--limit=-1"], "limit is -1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    calibrated: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["calibrate", str(calibrated), "--accelerator=cpu", *options]) == 2
    assert message in capsys.readouterr().err


def test_pixels_are_scored_on_some_set(calibrated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ood", "pixels", str(calibrated), "--accelerator=cpu", "--targets=[]"]) == 2
    assert "there is no target to measure on" in capsys.readouterr().err
    assert not list(calibrated.glob("ood_pixels*"))


def test_a_broken_file_is_named(calibrated: Path, tmp_path: Path) -> None:
    shutil.copy(calibrated / CALIBRATION_FILE, tmp_path)
    (tmp_path / CALIBRATION_FILE).write_text('{"domains": {"a": 3}}')
    with pytest.raises(DataError, match="no calibration"):
        read_calibration(tmp_path)
    assert read_calibration(tmp_path / "elsewhere") is None


def test_the_page_shows_the_reliability_diagram_and_the_thresholds(calibrated: Path, tmp_path: Path) -> None:
    folder = write_reported(tmp_path / "reported")
    assert 'id="confidence"' not in render_page([load_run(folder)])
    shutil.copy(calibrated / CALIBRATION_FILE, folder)
    page = render_page([load_run(folder)])
    assert page.count('aria-label="Reliability diagram of') == 3
    assert "precision of 30 % on the sources" in page
    assert "fog 5" in page


def test_the_format_of_bravo_has_train_ids_and_sixteen_bits(calibrated: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(streets.generate(3, style="game", size=SIZE).image).save(tmp_path / "street.png")
    output = tmp_path / "out"
    call = ["predict", str(calibrated), str(tmp_path / "street.png"), "--accelerator=cpu", "--format=bravo"]
    assert main([*call, "--output", str(output)]) == 0
    assert {path.name for path in output.glob("*.png")} == {"street_pred.png", "street_conf.png"}
    classes, confidence = (Image.open(output / f"street_{end}.png") for end in ("pred", "conf"))
    assert classes.mode == "L"
    assert np.asarray(classes).max() < 19
    assert confidence.mode == "I;16"
    run = OpenRun(calibrated)
    predictor = Predictor(run.network, space=run.space, size=SIZE, device="cpu")
    predictor.calibrate(checkpoint.Calibration(run.card.calibration.temperature, ""))
    expected = predictor.predict(tmp_path / "street.png", confidence=True).confidence
    np.testing.assert_allclose(np.asarray(confidence) / 65535, expected, atol=2e-3)

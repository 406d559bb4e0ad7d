"""`spcnet ood fit` and `spcnet ood evaluate`: the detector of a run, and what its score is worth."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spcnet import checkpoint
from spcnet.cli import main
from spcnet.config import DataConfig, ModelConfig, RunConfig, as_dict
from spcnet.data.transforms import normalise
from spcnet.engine import records
from spcnet.inference.ood import OOD_FILE, OODDetector, OODScore
from spcnet.labels import label_space
from spcnet.methods import METHODS, card_for
from spcnet.runs import OpenRun
from spcnet.studies import ood
from spcnet.studies.conditions import Condition
from spcnet.studies.ood import IMAGES_FILE, RESULT_FILE
from spcnet.studies.ood_metrics import (
    OOD,
    ScoredImage,
    auroc_fpr95,
    mean_iou_of,
    prediction,
    rank_correlation,
    separation,
)
from spcnet.synthesis import streets
from tests.support.weight_files import restore

SIZE = (48, 64)
FEW = [
    "--limit=3",
    "--varied=2",
    "--corruptions=[gaussian_noise]",
    "--styles=[tilt]",
    "--severities=[5]",
    "--accelerator=cpu",
]


def write_run(folder: Path, *, method: str = "spcnet", seed: int = 0) -> Path:
    """The folder of a run whose network has random weights."""
    torch.manual_seed(seed)
    model = ModelConfig(backbone="shufflenet_v2", output_stride=32, weights=None)
    data = DataConfig(
        sources=["streets/game", "streets/toy"],
        targets=["streets/night", "streets/game+fog"],
        size=SIZE,
        train_scenes=10,
        test_scenes=3,
    )
    folder.mkdir(parents=True)
    config = RunConfig(method=method, model=model, data=data, output=folder)
    (folder / records.CONFIG_FILE).write_text(yaml.safe_dump(as_dict(config)))
    classes = label_space(data.space).classes
    network = METHODS[method].build(model, num_classes=len(classes), num_domains=2, pretrained=False)
    card = card_for(method=method, model=model, space=data.space, classes=classes, domains=data.sources, size=SIZE)
    checkpoint.write(folder / checkpoint.MODEL_FILE, network.state_dict(), card)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "first")
    assert main(["ood", "fit", str(folder), "--accelerator=cpu"]) == 0
    return folder


def test_the_network_is_shown_its_sources_as_they_were_trained_on(run):
    network, _ = restore(run)
    detector = OODDetector.read(run, network)
    assert detector.domains == ("streets/game", "streets/toy")
    assert len(detector.known) == 20


def test_a_run_gets_every_figure_and_every_image(run, capsys):
    assert main(["ood", "evaluate", str(run), *FEW]) == 0
    said = capsys.readouterr().out
    found = json.loads((run / RESULT_FILE).read_text())
    assert found["sources"] == ["streets/game", "streets/toy"]
    assert found["unseen"] == ["streets/night"]
    assert set(found["separation"]) == {"streets/night", "corrupted at 5", "weather"}
    scores = [OOD, "ood style", "ood prototypes", "base distance", "confidence", "entropy", "max logit"]
    for kind, number in (("streets/night", 3), ("corrupted at 5", 4), ("weather", 4)):
        assert list(found["separation"][kind]) == scores
        for own in found["separation"][kind].values():
            assert 0 <= own["auroc"] <= 1
            assert 0 <= own["fpr95"] <= 1
            assert own["images"] == number
    assert list(found["prediction"]) == [*scores, "chance"]
    assert len(found["groups"]) == 9
    lines = [json.loads(line) for line in (run / IMAGES_FILE).read_text().splitlines()]
    assert len(lines) == 3 * 3 + 3 * 2 * 2
    assert {(line["domain"], line["condition"], line["severity"]) for line in lines} == {
        (domain, *condition)
        for domain in ("streets/game", "streets/toy", "streets/night")
        for condition in (("clean", 0), ("gaussian_noise", 5), ("+tilt", 5))
    }
    assert "ood prototypes" in said
    assert "chance" in said


def test_what_is_usual_is_learnt_first_where_it_is_missing(run, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / OOD_FILE).rename(tmp_path / "kept")
    asked = []

    def fit(run: OpenRun, **_: object) -> None:
        asked.append(run.options.roots)
        (tmp_path / "kept").rename(run.path / OOD_FILE)

    monkeypatch.setattr(ood, "fit_ood", fit)
    assert main(["ood", "evaluate", str(other), *FEW, "--varied=0", "--limit=1", "--roots.camvid=x"]) == 0
    assert asked == [{"camvid": "x"}]
    assert len((other / IMAGES_FILE).read_text().splitlines()) == 3


def test_what_is_usual_for_another_network_is_refused(run, tmp_path, capsys):
    other = write_run(tmp_path / "other", method="deeplabv3plus")
    (other / OOD_FILE).write_bytes((run / OOD_FILE).read_bytes())
    assert main(["ood", "evaluate", str(other), *FEW]) == 1
    assert f"spcnet ood fit {other}" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ood", "fit", "{run}", "--limit=-1"], 2, "limit is -1"),
        (["ood", "fit", "{run}", "--limit=1"], 1, "2 known images"),
        (["ood", "fit", "{run}", "--domains=[streets/gane]"], 2, "Did you mean 'game'?"),
        (["ood", "fit", "{run}/nowhere"], 1, "nowhere"),
        (["ood", "evaluate", "{run}", "--varied=-1"], 2, "varied is -1"),
        (["ood", "evaluate", "{run}", "--corruptions=[fok]"], 2, "Did you mean 'fog'?"),
        (["ood", "evaluate", "{run}", "--styles=[nigth]"], 2, "Did you mean 'night'?"),
        (["ood", "evaluate", "{run}", "--severities=[6]"], 2, "severities has 6"),
    ],
)
def test_a_wrong_option_is_one_clear_line(run, capsys, arguments, code, message):
    assert main([argument.format(run=run) for argument in arguments]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=12),
    st.lists(st.integers(-5, 5), min_size=1, max_size=12),
)
@settings(deadline=None, max_examples=50)
def test_auroc_and_fpr95_are_those_of_the_definitions(known, strange):
    auroc, fpr95 = auroc_fpr95(np.array(known, float), np.array(strange, float))
    pairs = [(s > k) + 0.5 * (s == k) for s in strange for k in known]
    assert auroc == pytest.approx(np.mean(pairs))
    # The lowest bound under which 95 % of the known images pass.
    bound = min(b for b in known if np.mean([k <= b for k in known]) >= 0.95)
    assert fpr95 == pytest.approx(np.mean([s <= bound for s in strange]))


def look(score: float, miou: float, *, domain: str = "a", condition: str = "clean", severity: int = 0) -> ScoredImage:
    """An image of two classes of 100 pixels each, of which a share was found."""
    hit = round(miou * 100)
    outcome = torch.tensor([[hit, hit], [100, 100], [hit, hit]])
    own = OODScore(score, 0.0, None, {"style": score, "prototypes": score})
    return ScoredImage(domain, Condition(condition, severity), f"{score}", miou, outcome, own, {OOD: float(score)})


def test_a_score_that_knows_all_is_perfect_and_refuses_the_worst_first():
    mious = [0.05 * (1 + number) for number in range(10)]
    found = prediction([look(-miou, miou) for miou in mious])
    own = found[OOD]
    assert own["images"] == own["clean"] == pytest.approx(1)
    assert own["keep 90 %"] == pytest.approx(np.mean(mious[1:]))
    assert own["keep 50 %"] == pytest.approx(np.mean(mious[5:]))
    assert found["chance"]["keep 50 %"] == pytest.approx(np.mean(mious), abs=0.03)
    contrary = prediction([look(miou, miou) for miou in mious])[OOD]
    assert contrary["images"] == pytest.approx(-1)
    assert contrary["keep 50 %"] == pytest.approx(np.mean(mious[:5]))


def test_a_correlation_between_domains_does_not_count_within_them():
    looks = [look(0, miou, domain="good") for miou in (0.8, 0.9, 0.7)]
    looks += [look(5, miou, domain="bad") for miou in (0.1, 0.2, 0.3)]
    found = prediction(looks)[OOD]
    assert found["images"] > 0.8
    assert found["clean"] is None


def test_images_without_a_label_do_not_count():
    looks = [look(-miou, miou) for miou in (0.1, 0.5, 0.9)]
    without = look(-100, 0)._replace(miou=math.nan, outcome=torch.zeros(3, 2).long())
    assert prediction([*looks, without]) == prediction(looks)


def test_only_images_of_the_sources_as_they_are_count_as_known():
    looks = [look(0, 0.5, domain="a"), look(1, 0.5, domain="a", condition="fog", severity=3)]
    looks += [look(2, 0.5, domain="b"), look(-9, 0.5, domain="b", condition="fog", severity=3)]
    found = separation(looks, {"a"})
    assert {kind: own[OOD]["auroc"] for kind, own in found.items()} == {"corrupted at 3": 1, "b": 1}


def test_a_correlation_of_what_does_not_vary_is_none():
    assert rank_correlation([1, 1, 1], [0.1, 0.2, 0.3]) is None
    assert rank_correlation([1, 2], [0.1, 0.2]) is None
    assert rank_correlation([3, 2, 1], [0.1, 0.2, 0.3]) == pytest.approx(1)


def test_the_miou_of_images_sums_first_and_divides_last():
    first = look(0, 0.5)._replace(outcome=torch.tensor([[10, 0], [10, 0], [10, 5]]))
    second = look(0, 0.5)._replace(outcome=torch.tensor([[0, 30], [0, 40], [0, 30]]))
    assert mean_iou_of([first, second]) == pytest.approx((1 + 30 / 45) / 2)


def test_predictions_say_how_strange_an_image_is(run, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    known = streets.generate(3, style="game", size=SIZE).image
    Image.fromarray(known).save(photos / "known.png")
    Image.new("RGB", SIZE[::-1], (255, 0, 255)).save(photos / "strange.png")
    assert main(["predict", str(run), str(photos), "--output", str(tmp_path / "out"), "--accelerator=cpu"]) == 0
    told = {
        image["name"]: image["unfamiliarity"]
        for image in json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    }
    assert told["strange"]["score"] > told["known"]["score"] + 3
    assert told["strange"]["percentile"] == 1
    assert "1 of 2 images" in capsys.readouterr().out
    network, _ = restore(run)
    detector = OODDetector.read(run, network)
    with torch.inference_mode():
        plain = detector.scores(network(normalise(torch.from_numpy(known).movedim(2, 0)[None])))[0]
    assert told["known"]["score"] == pytest.approx(plain.score, abs=0.02), "also by the rewritten network"
    for options in (["--full_size"], ["--size=[64,96]"], ["--flip", "--size=[48,64]"]):
        assert main(["predict", str(run), str(photos), "--output", str(tmp_path / "other"), *options]) == 0
        images = json.loads((tmp_path / "other" / "predictions.json").read_text())["images"]
        assert all(image["unfamiliarity"] is None for image in images), "only of what it was learnt from"

"""Scores of pixels, sets with unknown objects, and `spcnet ood pixels`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spcnet.cli import main
from spcnet.commands.ood import pixels
from spcnet.config import DataConfig, DomainSpec, ModelConfig
from spcnet.data.anomalies import ANOMALY_SETS, ANOMALY_SPACE
from spcnet.data.datasets import open_domain
from spcnet.errors import UsageError
from spcnet.inference.pixel_ood import pixel_scores
from spcnet.labels import label_space
from spcnet.methods import METHODS
from spcnet.reports.calibration import unknown_objects
from spcnet.synthesis import streets
from spcnet.synthesis.streets.unknown import UNKNOWN_OBJECT
from spcnet.types import Network

SIZE = (48, 64)
FOLDERS = {
    "road_anomaly21": ("images/validation0000.jpg", "labels_masks/validation0000_labels_semantic.png"),
    "road_obstacle21": ("images/validation_1.webp", "labels_masks/validation_1_labels_semantic.png"),
    "fs_lost_found": ("images/0000.png", "labels_masks/0000.png"),
}


def built(method: str, decoder: str | None = None) -> Network:
    torch.manual_seed(0)
    options = {} if decoder is None else {"decoder": decoder}
    model = ModelConfig(backbone="shufflenet_v2", output_stride=32, weights=None, **options)
    return METHODS[method].build(model, num_classes=5, num_domains=2, pretrained=False).eval()


def test_each_score_is_its_formula_in_double_precision() -> None:
    network = built("spcnet")
    with torch.inference_mode():
        output = network(torch.randn(2, 3, *SIZE))
        scores = pixel_scores(network, output)
    logits = output.logits.double()
    p = logits.softmax(1)
    expected = {
        "max softmax": -p.amax(1),
        "max logit": -logits.amax(1),
        "energy": -logits.exp().sum(1).log(),
        "entropy": -(p * p.log()).sum(1),
    }
    assert set(scores) == {*expected, "prototypes"}
    for name, values in expected.items():
        torch.testing.assert_close(scores[name].double(), values, rtol=1e-4, atol=1e-4)
    prototypes, embedding = network.prototypes(), output.embedding
    assert prototypes is not None
    assert embedding is not None
    one = embedding[1, :, 0, 0].double()
    nearest = max(float(one @ p.double()) for p in prototypes.flatten(0, 1))
    assert float(scores["prototypes"][1, 0, 0]) == pytest.approx(1 - nearest, abs=1e-5)


def test_a_mask_head_has_rba_and_a_plain_one_has_not() -> None:
    network = built("deeplabv3plus", "mask2former")
    with torch.inference_mode():
        output = network(torch.randn(1, 3, 64, 64))
        scores = pixel_scores(network, output)
    torch.testing.assert_close(scores["rba"], -output.logits.exp().tanh().sum(1))
    plain = built("deeplabv3plus")
    with torch.inference_mode():
        assert set(pixel_scores(plain, plain(torch.randn(1, 3, 64, 64)))).isdisjoint({"rba", "prototypes"})


@pytest.mark.parametrize("index", range(4))
def test_an_unknown_object_changes_nothing_but_its_own_labels(index: int) -> None:
    without, scene = (streets.generate(index, style="overcast", unknown=unknown) for unknown in (False, True))
    assert (scene.label == UNKNOWN_OBJECT).any()
    changed = scene.label != without.label
    assert (scene.label[changed] == UNKNOWN_OBJECT).all()
    assert not (without.label == UNKNOWN_OBJECT).any()


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_set_is_opened_from_its_published_folders(name: str, tmp_path: Path) -> None:
    photo, label = (tmp_path / part for part in FOLDERS[name])
    for path in (photo, label):
        path.parent.mkdir()
    Image.new("RGB", (40, 36), (90, 90, 90)).save(photo)
    truth = np.zeros((36, 40), np.uint8)
    truth[3:9], truth[20:] = 1, 255
    Image.fromarray(truth).save(label)
    data = DataConfig(roots={name: str(tmp_path)})
    images = open_domain(DomainSpec.parse(name), data=data, space=ANOMALY_SPACE, training=False)
    assert len(images) == 1
    assert (images.read(0).label == truth).all()
    with pytest.raises(UsageError, match="cannot tell apart"):
        open_domain(DomainSpec.parse(name), data=data, space=label_space("cityscapes19"), training=False)


def test_every_set_with_unknown_objects_has_both_classes_in_its_table() -> None:
    for info in ANOMALY_SETS.values():
        assert "anomaly" in info.native.values()


def test_the_command_measures_every_score_and_refuses_other_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support.calibrated import write_network

    run = write_network(tmp_path / "run")
    result = pixels(run, targets=["streets_unknown/overcast"], limit=3, accelerator="cpu")
    domain = result["domains"]["streets_unknown/overcast"]
    assert set(domain["scores"]) == {"max softmax", "max logit", "energy", "entropy", "prototypes"}
    assert 0 < domain["anomalies"] < 0.5
    assert all(0 <= value <= 1 for figures in domain["scores"].values() for value in figures.values())
    assert main(["ood", "pixels", str(run), "--targets=[streets/night]", "--accelerator=cpu"]) == 2
    assert "no labels of unknown objects" in capsys.readouterr().err
    assert unknown_objects([]) == ""

import json
import os
import stat
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from spcnet.data.transforms import normalise
from spcnet.errors import DataError, UsageError
from spcnet.evaluation.evaluator import (
    DomainResult,
    Origin,
    evaluate,
    label_image,
    record,
    safe_name,
    save_panels,
)
from spcnet.evaluation.evaluator import merge_shards as whole_of
from spcnet.files import write_atomic
from spcnet.labels import label_space
from spcnet.types import Batch, Internals, SegOutput

K = 4


class Shades(nn.Module):
    """Scores of each class by how near a pixel's red is to it; styles are the brightness of each image."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.frozen = nn.BatchNorm2d(3)
        self.channels = channels
        self.calls = 0

    def forward(self, image):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.calls += 1
        red = image[:, :1]
        logits = -((red - torch.arange(K, device=image.device).view(1, K, 1, 1)) ** 2)
        share = image.mean(dim=(1, 2, 3)).sigmoid()
        first = torch.stack([share, 1 - share], dim=1)
        second = first.flip(1)
        if self.channels:
            first, second = (w[..., None].expand(-1, -1, self.channels) for w in (first, second))
        return SegOutput(logits=logits, extras=Internals(style_weights=(first, second)))


def domain(count, *, label_size=(6, 8), seed=0, size=(6, 8)):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, 3, *size, generator=generator) + 1
    label = torch.randint(0, K, (count, *label_size), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = 255
    return Batch(image, label, torch.zeros(count, dtype=torch.int64), tuple(f"photo {i}" for i in range(count)))


def in_batches(whole, size):
    for start in range(0, len(whole.image), size):
        part = slice(start, start + size)
        yield Batch(whole.image[part], whole.label[part], whole.domain[part], whole.name[part])


def test_every_labelled_pixel_is_counted_once_at_the_labels_size():
    whole = domain(5, label_size=(13, 21))
    result = evaluate(Shades(), in_batches(whole, 2), num_classes=K)
    with torch.inference_mode():
        logits = Shades().eval()(whole.image).logits
    prediction = F.interpolate(logits, size=(13, 21), mode="bilinear", align_corners=True).argmax(dim=1)
    for true in range(K):
        for seen in range(K):
            assert result.counts[true, seen] == ((whole.label == true) & (prediction == seen)).sum()
    assert result.images == 5
    assert result.counts.sum() == (whole.label != 255).sum()


def test_batch_size_does_not_matter():
    whole = domain(7)
    results = [evaluate(Shades(), in_batches(whole, size), num_classes=K, panels=3) for size in (1, 3, 7)]
    for other in results[1:]:
        assert torch.equal(results[0].counts, other.counts)
        np.testing.assert_allclose(results[0].figures["style_weights"], other.figures["style_weights"], rtol=1e-6)
        assert [p.name for p in results[0].panels] == [p.name for p in other.panels]


@pytest.mark.parametrize("channels", [None, 5])
def test_style_weights_are_the_mean_over_the_images_of_the_domain(channels):
    whole = domain(5)
    result = evaluate(Shades(channels), in_batches(whole, 2), num_classes=K)
    share = whole.image.mean(dim=(1, 2, 3)).sigmoid().mean().item()
    np.testing.assert_allclose(result.figures["style_weights"], [[share, 1 - share], [1 - share, share]], rtol=1e-6)


def test_a_network_without_styles_has_no_style_weights():
    def forward(image):
        return SegOutput(logits=image.repeat(1, 2, 1, 1)[:, :K])

    assert evaluate(Shades(), [domain(2)], num_classes=K, forward=forward).figures == {}


def test_every_part_of_the_model_is_left_in_its_mode():
    model = Shades().train()
    model.frozen.eval()
    evaluate(model, [domain(1)], num_classes=K)
    assert model.training
    assert not model.frozen.training


def test_the_mode_is_restored_after_an_error():
    model = Shades().train()
    broken = domain(1)
    broken.label[0, 0, 0] = 77
    with pytest.raises(DataError, match="77"):
        evaluate(model, [broken], num_classes=K)
    assert model.training


def test_the_counts_are_a_plain_tensor_wherever_they_come_from():
    result = evaluate(Shades(), [domain(1)], num_classes=K)
    assert not result.counts.is_inference()


def test_processes_that_share_a_domain_agree_with_one_that_has_it_all():
    whole = domain(6)
    alone = evaluate(Shades(), in_batches(whole, 6), num_classes=K, panels=2)
    shares = [
        evaluate(
            Shades(),
            (Batch(*(part[place : place + 1] for part in whole)) for place in places),
            num_classes=K,
            may_be_empty=True,
            panels=2,
        )
        for places in ((0, 4), (1, 5), (2,), (3,), ())
    ]
    together = whole_of(shares, panels=2)
    assert torch.equal(together.counts, alone.counts)
    assert together.images == 6
    np.testing.assert_allclose(together.figures["style_weights"], alone.figures["style_weights"], rtol=1e-6)
    assert len(together.panels) == 2
    assert torch.equal(together.outcomes, alone.outcomes)
    with pytest.raises(DataError, match="no image"):
        whole_of([shares[-1], shares[-1]], panels=0)


def test_an_empty_domain_is_refused():
    with pytest.raises(DataError, match="no image"):
        evaluate(Shades(), [], num_classes=K)


@pytest.mark.parametrize(("count", "wanted"), [(1, 4), (4, 4), (5, 4), (9, 4), (37, 4), (100, 1), (50, 7), (3, 0)])
def test_panels_are_spread_over_the_domain(count, wanted):
    result = evaluate(Shades(), in_batches(domain(count), 3), num_classes=K, panels=wanted)
    positions = [int(panel.name.split()[1]) for panel in result.panels]
    assert len(positions) == min(count, wanted)
    assert positions == sorted(set(positions))
    if wanted > 1:
        gaps = np.diff([*positions, count])
        assert positions[0] == 0
        assert gaps.max() <= 2 * max(gaps[:-1].min(initial=count), 1)


def test_a_panel_shows_the_picture_the_truth_and_the_prediction():
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = normalise(torch.from_numpy(picture).movedim(-1, 0))
    label = torch.full((1, 12, 16), 255)
    label[0, :3] = 2
    batch = Batch(image[None], label, torch.zeros(1, dtype=torch.int64), ("a",))
    (panel,) = evaluate(Shades(), [batch], num_classes=K, panels=2).panels
    assert np.array_equal(panel.image, picture)
    assert np.array_equal(panel.truth, label[0].numpy())
    assert panel.prediction.shape == (12, 16)
    assert set(np.unique(panel.prediction)) <= set(range(K))


def result_of(counts, **more):
    return DomainResult(counts=torch.tensor(counts), images=3, seconds=1.23456, **more)


SEVEN = label_space("idd7")


def seven(*diagonal):
    return torch.diag(torch.tensor(diagonal)).tolist()


def test_the_record_is_plain_json_with_null_for_what_is_not_defined():
    counts = seven(6, 5, 4, 3, 2, 0, 0)
    counts[0][5] = 2  # 'far' is seen but not there; 'sky' is nowhere
    made = record(
        {"streets/game": result_of(counts, figures={"style_weights": ((0.25, 0.75),)})},
        {"streets/game": "source"},
        space=SEVEN,
        origin=Origin("first", "spcnet", 4, 100),
    )
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    game = made["domains"]["streets/game"]
    assert game["iou"]["sky"] is None
    assert game["iou"]["far"] == 0
    assert game["iou"]["drivable"] == 6 / 8
    assert game["miou"] == pytest.approx((6 / 8 + 4) / 6)
    assert game["pixel_accuracy"] == pytest.approx(20 / 22)
    assert game["absent"] == ["far", "sky"]
    assert game["confusion"] == counts
    assert game["style_weights"] == [[0.25, 0.75]]
    assert (game["role"], game["images"]) == ("source", 3)
    assert made["mean_source_miou"] == game["miou"]
    assert made["mean_unseen_miou"] is None
    assert (made["run"], made["method"], made["seed"], made["iteration"]) == ("first", "spcnet", 4, 100)
    assert made["time"].endswith("+00:00")
    assert made["classes"][0] == "drivable"
    assert made["colors"][0] == [128, 64, 128]


def recorded(results, roles):
    return record(results, roles, space=SEVEN, origin=Origin("r", "m", 0, 0))


def test_means_are_over_the_domains_of_one_role():
    good, bad = seven(*[1] * 7), torch.ones(7, 7, dtype=torch.int64).tolist()
    made = recorded(
        {"a": result_of(good), "b": result_of(bad), "c": result_of(bad)},
        {"a": "unseen", "b": "unseen", "c": "source"},
    )
    assert made["mean_unseen_miou"] == pytest.approx((1 + 1 / 13) / 2)
    assert made["mean_source_miou"] == pytest.approx(1 / 13)


def test_a_domain_without_a_score_leaves_the_mean_undefined():
    made = recorded({"a": result_of(seven(*[1] * 7)), "b": result_of(seven(*[0] * 7))}, {"a": "unseen", "b": "unseen"})
    assert made["domains"]["b"]["miou"] is None
    assert made["domains"]["b"]["pixel_accuracy"] is None
    assert made["mean_unseen_miou"] is None


def test_a_domain_without_a_role_is_refused():
    with pytest.raises(UsageError, match="'a' has no role"):
        recorded({"a": result_of(seven(*[1] * 7))}, {})


def test_counts_of_another_space_are_refused():
    with pytest.raises(UsageError, match="scored with 2 classes, but the label space idd7 has 7"):
        recorded({"a": result_of([[1, 0], [0, 1]])}, {"a": "source"})


def test_different_domains_have_different_folders_without_slashes():
    domains = ["camvid", "idd_lite", "idd/lite", "streets/fog@val+rain", "streets/fog", "streets+fog", "streets@fog"]
    assert len({safe_name(name) for name in domains}) == len(domains)
    assert not any("/" in safe_name(name) for name in domains)
    assert safe_name("streets/night") == "streets-night"


def test_panels_are_written_as_pictures_that_keep_the_class_ids(tmp_path):
    result = evaluate(Shades(), [domain(3, label_size=(12, 16))], num_classes=K, panels=2)
    folder = save_panels(result, tmp_path, "streets/night", space=SEVEN)
    assert folder == tmp_path / "streets-night"
    assert json.loads((folder / "panels.json").read_text()) == [panel.name for panel in result.panels]
    for index, panel in enumerate(result.panels):
        with Image.open(folder / f"{index}_image.png") as image:
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), panel.image)
        for kind in ("truth", "prediction"):
            with Image.open(folder / f"{index}_{kind}.png") as image:
                assert image.mode == "P"
                assert np.array_equal(np.asarray(image), getattr(panel, kind))
    assert len(list(folder.iterdir())) == 2 * 3 + 1


def test_a_label_image_shows_the_colours_of_the_space_and_black_for_void():
    image = label_image(np.array([[0, 6, 255]], dtype=np.uint8), SEVEN)
    assert np.asarray(image.convert("RGB")).tolist() == [[[128, 64, 128], [70, 130, 180], [0, 0, 0]]]


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"cannot write .*a\.json: No space left on device") as caught:
        write_atomic(path, fail)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    write_atomic(tmp_path / "a", lambda file: file.write(b"x"))
    (tmp_path / "b").write_bytes(b"x")
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == stat.S_IMODE(os.stat(tmp_path / "b").st_mode)


def test_a_folder_that_is_a_file_is_one_clear_line(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match=r"cannot write .*out/x/a"):
        write_atomic(tmp_path / "out" / "x" / "a", lambda file: file.write(b"x"))


def test_memory_stays_flat_at_full_size_with_nineteen_classes() -> None:
    program = """
import resource, torch
from spcnet.evaluation.evaluator import evaluate
from spcnet.types import Batch, Internals, SegOutput

class Small(torch.nn.Module):
    def forward(self, image):
        return SegOutput(torch.nn.functional.avg_pool2d(image, 4)[:, torch.arange(19) % 3])

def batches(number):
    for i in range(number):
        image = torch.rand(1, 3, 1024, 2048, generator=torch.Generator().manual_seed(i))
        yield Batch(image, torch.randint(19, (1, 1024, 2048)), torch.zeros(1, dtype=torch.long), (str(i),))

for number in (3, 9):
    evaluate(Small(), batches(number), num_classes=19)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())
    # A map of 19 scores at this size has 152 MiB, the labels of six images 96.
    assert many - few < 70, f"{few} MiB after 3 images, {many} after 9 more"


def test_a_figure_that_only_one_method_tells_is_averaged_recorded_and_read_under_its_name(tmp_path):
    class Sureness(NamedTuple):
        sure: torch.Tensor

        def figures(self):
            return {"sureness": (self.sure,)}

    def forward(image):
        share = image.mean(dim=(1, 2, 3)).sigmoid()
        return Shades().eval()(image)._replace(extras=Sureness(torch.stack([share, 1 - share], dim=1)))

    given = domain(5)
    shards = [Batch(*(part[begin:end] for part in given)) for begin, end in ((0, 2), (2, 5))]
    whole = evaluate(Shades(), [given], num_classes=K, forward=forward)
    merged = whole_of([evaluate(Shades(), [shard], num_classes=K, forward=forward) for shard in shards], panels=0)
    share = float(given.image.mean(dim=(1, 2, 3)).sigmoid().double().mean())
    for result in (whole, merged):
        np.testing.assert_allclose(result.figures["sureness"], [[share, 1 - share]], rtol=1e-6)
    counts = seven(6, 5, 4, 3, 2, 0, 0)
    made = record(
        {"x": result_of(counts, figures={"sureness": ((0.5, 0.5),)})},
        {"x": "unseen"},
        space=SEVEN,
        origin=Origin("r", "sure", 0, 1),
    )
    assert made["domains"]["x"]["figures"] == {"sureness": [[0.5, 0.5]]}
    assert made["domains"]["x"]["style_weights"] is None

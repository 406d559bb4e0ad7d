"""Looking inside networks: what is collected, how it is laid out and measured, and what a run's folder then holds."""

import csv
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spcnet import checkpoint
from spcnet.cli import main
from spcnet.commands.inspect import inspect
from spcnet.config import (
    ClusteringConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OwnSet,
    RunConfig,
    StyleConfig,
    TrainingConfig,
)
from spcnet.data.datasets import Sample, SegmentationSet
from spcnet.engine import records
from spcnet.inference.embeddings import (
    Inside,
    Pixels,
    laid_out,
    likeness,
    look_inside,
    matched,
    style_gap,
    style_vectors,
    told_apart,
)
from spcnet.labels import label_space
from spcnet.methods import METHODS, card_for
from spcnet.models.heads import DECODERS
from spcnet.models.network import Segmentor
from spcnet.models.style import style_stats
from spcnet.reports import inspection as report
from spcnet.reports.inspection import read_inspection
from spcnet.studies import inspection
from spcnet.studies.inspection import Chosen
from spcnet.types import Batch

SIZE = (48, 64)
SOURCES, TARGET = ["dark", "grey"], "bright"
MODEL = ModelConfig(
    backbone="shufflenet_v2", output_stride=32, weights=None, clustering=ClusteringConfig(embedding_dim=16)
)


def build(method: str, *, seed: int = 0, domains: int = 2, style: StyleConfig | None = None) -> Segmentor:
    """A network with random weights whose style bases differ."""
    torch.manual_seed(seed)
    model = replace(MODEL, style=style or StyleConfig())
    network = METHODS[method].build(model, num_classes=19, num_domains=domains, pretrained=False)
    for layer in network.style_layers:
        layer.base_mean.normal_(0, 0.3)
        layer.base_std.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small sets of noise, one brighter than the other."""
    root = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    for brightness, name in enumerate((*SOURCES, TARGET)):
        for split in ("train", "val"):
            for kind in ("photos", "masks"):
                (root / name / kind / split).mkdir(parents=True)
            for number in range(6):
                image = rng.integers(0, 60 + 60 * brightness, (*SIZE, 3), dtype=np.uint8)
                label = rng.integers(0, 3, SIZE, dtype=np.uint8)
                Image.fromarray(image).save(root / name / "photos" / split / f"{number}.png")
                Image.fromarray(label).save(root / name / "masks" / split / f"{number}.png")
    return root


def write_run(folder: Path, method: str, photos: Path, *, seed: int = 0) -> Path:
    """A run's folder as training leaves it, as far as looking inside needs it."""
    own = OwnSet("photos/{split}/*.png", "masks/{split}/*.png", {0: "road", 1: "car", 2: "void"})
    sets = dict.fromkeys((*SOURCES, TARGET), own)
    data = DataConfig(sources=SOURCES, targets=[TARGET], root=str(photos), sets=sets, size=SIZE, workers=0)
    training = TrainingConfig(iterations=7, accelerator="cpu", precision="32-true")
    config = RunConfig(
        method=method,
        model=MODEL,
        data=data,
        training=training,
        evaluation=EvaluationConfig(batch_size=2),
        output=folder,
    )
    records.open_run(config)
    space = label_space(data.space)
    card = card_for(method=method, model=MODEL, space=space.name, classes=space.classes, domains=SOURCES, size=SIZE)
    checkpoint.write(folder / checkpoint.MODEL_FILE, build(method, seed=seed).state_dict(), card)
    return folder


def batches(*sizes: int, seed: int = 0, name: str = "image") -> list[Batch]:
    """Images of noise with labels of few classes; whatever the batches, the same images by name."""
    generator = torch.Generator().manual_seed(seed)
    num = sum(sizes)
    image = torch.randn(num, 3, *SIZE, generator=generator)
    label = torch.randint(0, 4, (num, *SIZE), generator=generator)
    label[:, :8] = 255
    ends = np.cumsum([0, *sizes])
    return [
        Batch(image[a:b], label[a:b], torch.zeros(b - a, dtype=torch.long), tuple(f"{name}{i}" for i in range(a, b)))
        for a, b in itertools.pairwise(ends)
    ]


def look(network: Segmentor, *sizes: int, pixels: int = 5) -> Inside:
    return look_inside(network, batches(*sizes), num_classes=19, pixels=pixels)


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SPC-Net that was looked into from the command line."""
    folder = write_run(tmp_path_factory.mktemp("runs") / "first", "spcnet", photos)
    assert main(["inspect", str(folder), "--limit=3", "--pixels=4", "--accelerator=cpu"]) == 0
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the figures' files, which take most of the time."""
    monkeypatch.setattr(inspection, "write_figures", lambda *_: [])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


# --- What is collected -----------------------------------------------------------------------------------------------


def test_looking_inside_changes_no_answer_and_leaves_no_hook_behind() -> None:
    network = build("spcnet")
    image = batches(2)[0].image
    before = network(image).logits
    look(network, 2)
    assert torch.equal(network(image).logits, before)
    assert not any(module._forward_hooks for module in network.modules())
    assert network.on_map is None


def test_a_network_keeps_its_mode() -> None:
    network = build("deeplabv3plus").train()
    look(network, 2)
    assert all(module.training for module in network.modules())


def test_styles_before_and_lambda_are_those_of_the_network_itself() -> None:
    network = build("spcnet")
    output = network(batches(3)[0].image)
    inside = look(network, 3)
    for view, stats, weights in zip(
        inside.styles.values(), output.extras.styles, output.extras.style_weights, strict=True
    ):
        torch.testing.assert_close(view.before, torch.cat([stats.mean, stats.std], dim=1))
        assert view.weights is not None
        torch.testing.assert_close(view.weights, weights)


def test_a_style_after_projection_is_the_weighted_sum_of_the_bases() -> None:
    network = build("spcnet")
    for view, layer in zip(look(network, 3).styles.values(), network.style_layers, strict=True):
        assert view.after is not None
        assert view.weights is not None
        mean, std = (view.weights @ style_vectors(layer.known_styles().bases)).chunk(2, dim=1)
        torch.testing.assert_close(view.after.chunk(2, dim=1)[0], mean, atol=1e-4, rtol=1e-4)
        # A channel that is the same everywhere has no deviation that could be given another size.
        live = view.before.chunk(2, dim=1)[1] > 0.05
        assert int(live.sum()) > 20
        torch.testing.assert_close(view.after.chunk(2, dim=1)[1][live], std[live], atol=1e-3, rtol=1e-3)


def test_distances_are_the_layers_own() -> None:
    network = build("spcnet")
    for view, layer in zip(look(network, 2).styles.values(), network.style_layers, strict=True):
        assert view.distance is not None
        slow = [
            [float((row - base).square().sum()) / (len(row) / 2) for base in style_vectors(layer.known_styles().bases)]
            for row in view.before
        ]
        torch.testing.assert_close(view.distance, torch.tensor(slow), atol=1e-4, rtol=1e-4)


def test_lambda_by_channel_is_averaged() -> None:
    network = build("spcnet", style=StyleConfig(channel_wise=True))
    view = look(network, 2).styles["stem"]
    assert view.weights is not None
    torch.testing.assert_close(view.weights, network(batches(2)[0].image).extras.style_weights[0].mean(dim=2))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_can_be_looked_into(method: str) -> None:
    network = build(method)
    inside = look(network, 2)
    assert tuple(inside.styles) == ("stem", "layer1")
    assert all(bool(view.before.isfinite().all()) for view in inside.styles.values())
    assert all((view.after is None) == (not network.style_layers) for view in inside.styles.values())
    torch.testing.assert_close(inside.pixels.embedding.norm(dim=1), torch.ones(len(inside.pixels.label)))


def test_without_style_layers_styles_are_those_of_the_same_places() -> None:
    network = build("deeplabv3plus")
    image = batches(2)[0].image
    stem = network.backbone.stem(image)
    inside = look(network, 2)
    torch.testing.assert_close(
        inside.styles["stem"].before[:, : stem.shape[1]], stem.mean(dim=(2, 3)), atol=1e-5, rtol=1e-4
    )
    assert inside.styles["stem"].weights is None


@pytest.mark.parametrize("decoder", sorted(DECODERS))
@pytest.mark.parametrize("method", ["deeplabv3plus", "style_projection"])
def test_every_decoder_on_a_vision_transformer_can_be_looked_into(decoder: str, method: str) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    model = ModelConfig(backbone="timm/vit_tiny_patch16_224", decoder=decoder, weights=None)
    network = METHODS[method].build(model, num_classes=19, num_domains=2, pretrained=False).eval()
    inside = look(network, 2)
    image = network.backbone.prepare(batches(2)[0].image)
    with torch.no_grad():
        embedded = network.backbone.features(image, ["embed"])["embed"]
    assert tuple(inside.styles) == network.backbone.style_places
    torch.testing.assert_close(inside.styles["embed"].before, style_vectors(style_stats(embedded)))
    assert all((view.weights is not None) == bool(network.known_styles()) for view in inside.styles.values())
    torch.testing.assert_close(inside.pixels.embedding.norm(dim=1), torch.ones(len(inside.pixels.label)))


def test_which_pixels_are_kept_does_not_depend_on_the_batches() -> None:
    network = build("spcnet")
    one, other = look(network, 4).pixels, look(network, 1, 2, 1).pixels
    assert torch.equal(one.label, other.label)
    torch.testing.assert_close(one.embedding, other.embedding, atol=1e-5, rtol=1e-4)


def test_pixels_are_balanced_and_none_is_ignored() -> None:
    inside = look(build("deeplabv3plus"), 2, pixels=6)
    assert inside.pixels.label.bincount().tolist() == [6, 6, 6, 6]


def test_pixels_come_from_all_images() -> None:
    network = build("spcnet")
    both = look(network, 2, pixels=40).pixels.embedding
    first = look(network, 1, pixels=1000).pixels.embedding
    own = torch.cdist(both, first).min(dim=1).values < 1e-5
    assert 0.2 < float(own.float().mean()) < 0.8


# --- Maps and measures -----------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 9), st.integers(2, 5), st.booleans())
def test_any_few_points_can_be_laid_out(num: int, size: int, same: bool) -> None:
    points = torch.zeros(num, size) if same else torch.randn(num, size, generator=torch.Generator().manual_seed(num))
    one, other = laid_out([points, points[:1]])
    assert one.shape == (num, 2)
    assert other.shape == (1, 2)
    assert np.isfinite(one).all()
    assert np.abs(one).max(initial=0) <= 1 + 1e-9


def test_the_same_points_are_laid_out_the_same_and_clusters_stay_apart() -> None:
    points = torch.randn(60, 20, generator=torch.Generator().manual_seed(0)) * 0.1
    points[30:] += 3
    (one,), (again,) = laid_out([points]), laid_out([points])
    assert np.array_equal(one, again)
    middles = one[:30].mean(axis=0), one[30:].mean(axis=0)
    for cluster, own, other in ((one[:30], *middles), (one[30:], *middles[::-1])):
        assert (np.linalg.norm(cluster - own, axis=1) < np.linalg.norm(cluster - other, axis=1)).all()


def test_the_gap_of_styles_is_the_mean_distance_of_domain_means() -> None:
    style = torch.tensor([[0.0, 0, 1, 1], [2, 0, 1, 1], [1, 0, 1, 3], [1, 0, 1, 3], [1, 2, 1, 1]])
    domain = torch.tensor([0, 0, 1, 1, 2])
    # Means (1,0,1,1), (1,0,1,3), (1,2,1,1): squared distances 4, 4, 8, over two channels.
    assert style_gap(style, domain) == pytest.approx((4 + 4 + 8) / 3 / 2)
    assert math.isnan(style_gap(style[:2], domain[:2]))


def test_domains_are_told_by_the_nearest_other_image() -> None:
    style = torch.tensor([[0.0, 0], [0.1, 0], [5, 0], [5.1, 0], [0.2, 0]])
    assert told_apart(style, torch.tensor([0, 0, 1, 1, 1])) == pytest.approx(4 / 5)
    assert math.isnan(told_apart(style[:1], torch.tensor([0])))


def test_matched_is_the_mean_over_classes_that_are_known() -> None:
    known = Pixels(torch.eye(3), torch.tensor([0, 1, 1]))
    pixels = Pixels(torch.eye(3)[[0, 1, 0, 2, 2]], torch.tensor([0, 0, 0, 1, 7]))
    # Of class 0 two of three, of class 1 all; class 7 is not known.
    assert matched(pixels, known) == pytest.approx((2 / 3 + 1) / 2)
    assert math.isnan(matched(pixels, Pixels(torch.empty(0, 3), torch.empty(0, dtype=torch.long))))


def test_likeness_is_that_of_slow_sums() -> None:
    prototypes = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(1))
    unit = prototypes / prototypes.norm(dim=-1, keepdim=True)
    cosine, found = likeness(prototypes)
    flat = [(k, m) for k in range(4) for m in range(3)]
    slow = torch.tensor([[float(unit[a] @ unit[b]) for b in flat] for a in flat])
    torch.testing.assert_close(cosine.float(), slow)
    within = [float(unit[k, m] @ unit[k, n]) for k in range(4) for m in range(3) for n in range(3) if m != n]
    between = [float(unit[a] @ unit[b]) for a in flat for b in flat if a[0] != b[0]]
    assert found.within == pytest.approx(sum(within) / len(within), abs=1e-5)
    assert found.between == pytest.approx(sum(between) / len(between), abs=1e-5)
    assert math.isnan(likeness(prototypes[:, :1])[1].within)


class Numbers(SegmentationSet):
    """A set whose images say their numbers."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def read(self, index: int, /) -> Sample:
        return Sample(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8), str(index))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 80))
def test_chosen_images_are_different_and_spread_from_the_first_to_the_last(length: int, wanted: int) -> None:
    chosen = Chosen(Numbers(length), wanted)
    numbers = [int(chosen.read(i).name) for i in range(len(chosen))]
    assert len(set(numbers)) == len(chosen) == min(length, wanted)
    assert len(Chosen(Numbers(length), 0)) == length
    assert numbers[0] == 0
    assert wanted == 1 or numbers[-1] == length - 1
    steps = np.diff(numbers)
    assert not len(steps) or steps.max() - steps.min() <= 1
    assert all(chosen.known[str(number)] == number for number in numbers)


# --- A run's folder --------------------------------------------------------------------------------------------------


def test_a_run_that_was_looked_into_has_record_page_figures_table_and_pictures(run: Path) -> None:
    folder = run / report.FOLDER
    figures = {f"{name}.{kind}" for name in ("styles", "weights", "pixels", "prototypes") for kind in ("png", "svg")}
    assert {path.name for path in folder.iterdir()} == {
        report.RECORD_FILE, inspection.PAGE_FILE, inspection.NEAREST_FILE, report.PICTURES, *figures,
    }  # fmt: skip
    for path in [*folder.glob("*.png"), *(folder / report.PICTURES).iterdir()]:
        with Image.open(path) as picture:
            picture.load()


def test_the_record_says_what_was_shown(run: Path) -> None:
    found = read_inspection(run)
    assert found is not None
    assert (found.run, found.method, found.backbone) == ("first", "spcnet", "shufflenet_v2")
    assert [(d.name, d.role) for d in found.domains] == [*((s, "source") for s in SOURCES), (TARGET, "unseen")]
    assert [len(found.of(domain)) for domain in range(3)] == [3, 3, 3]
    assert found.known == tuple(SOURCES)
    assert found.missing == ()
    assert max(np.bincount(np.array(found.pixels.label)[np.array(found.pixels.domain) == 0])) == 4
    assert set(found.pixels.label) == {0, 13}
    assert found.prototypes is not None
    assert len(found.prototypes.cosine) == 2 * 19


def test_the_pairs_are_unseen_images_with_their_nearest_source(run: Path) -> None:
    found = read_inspection(run)
    assert found is not None
    assert len(found.pairs) == 2
    for pair in found.pairs:
        assert found.domains[found.images[pair.image].domain].role == "unseen"
        assert found.domains[found.images[pair.nearest].domain].role == "source"
    assert found.pairs[0].distance <= found.pairs[1].distance


def test_the_table_names_each_images_nearest_style_with_distances_and_lambda(run: Path) -> None:
    with (run / report.FOLDER / inspection.NEAREST_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    for row in rows:
        for place in ("stem", "layer1"):
            distance = {name: float(row[f"{place} distance to {name}"]) for name in SOURCES}
            weight = {name: float(row[f"{place} weight of {name}"]) for name in SOURCES}
            assert (
                row[f"{place} nearest"]
                == min(distance, key=distance.__getitem__)
                == max(weight, key=weight.__getitem__)
            )
            assert sum(weight.values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.usefixtures("undrawn")
def test_looking_twice_sees_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "write_page", lambda *_: None)
    before = read_inspection(run)
    assert before is not None
    (after,) = inspect(run, limit=3, pixels=4, batch_size=2, accelerator="cpu")
    assert replace(after, environment={}) == replace(before, environment={})


@pytest.mark.parametrize(
    ("method", "told", "drawn"),
    [
        ("deeplabv3plus", ["no style layers", "no prototypes"], {"styles", "pixels"}),
        ("style_normalization", ["no λ"], {"styles", "pixels"}),
    ],
)
def test_what_a_method_does_not_have_is_said(
    method: str, told: list[str], drawn: set[str], photos: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / method, method, photos)
    (found,) = inspect(run, limit=2, pixels=2, targets=[], accelerator="cpu")
    text = " ".join(found.missing)
    assert all(words in text for words in told)
    assert drawn == {path.stem for path in (run / report.FOLDER).glob("*.svg")}
    assert found == read_inspection(run)
    assert text.split(":")[0] in (run / report.FOLDER / inspection.PAGE_FILE).read_text()


@pytest.mark.usefixtures("undrawn")
def test_one_page_shows_several_runs(run: Path, photos: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "second", "deeplabv3plus", photos, seed=1)
    page = tmp_path / "both.html"
    options = ["--limit=2", "--pixels=2", "--targets=[]", "--accelerator=cpu", f"--output={page}"]
    before = (run / report.FOLDER / report.RECORD_FILE).read_bytes()
    assert main(["inspect", str(write_run(tmp_path / "first", "spcnet", photos)), str(other), *options]) == 0
    text = page.read_text()
    assert "Inside first and second" in text
    assert (run / report.FOLDER / report.RECORD_FILE).read_bytes() == before


def test_wrong_options_and_folders_are_told_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(run), "--limit=-1"]) == 2
    assert "limit is -1" in said(capsys)
    assert main(["inspect", str(tmp_path)]) == 1
    assert "is no folder of a run" in said(capsys)
    assert main(["inspect", str(run), "--targets=[bright+fogg]"]) == 2
    assert "unknown weather style 'fogg'" in said(capsys)

"""The robustness card: what is scored, what is kept, and what is shown of it."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.text
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from spcnet import checkpoint
from spcnet.cli import main
from spcnet.commands.robustness import robustness as robustness_command
from spcnet.config import DataConfig, DomainSpec, ModelConfig
from spcnet.data.datasets import Sample, open_domain
from spcnet.data.loading import evaluation_batches
from spcnet.errors import UsageError
from spcnet.evaluation.evaluator import evaluate
from spcnet.evaluation.metrics import mean_iou
from spcnet.labels import label_space
from spcnet.methods import METHODS, card_for
from spcnet.reports import robustness as report
from spcnet.reports import robustness_page as report_page
from spcnet.reports.robustness import Card, ModelScores, Score, WorstCase, summary
from spcnet.studies import robustness
from spcnet.studies.conditions import Condition, conditions, spread
from spcnet.studies.robustness import image_score, worst_cases
from spcnet.synthesis.corruptions import CORRUPTIONS
from spcnet.synthesis.weather import WEATHER
from tests.support.weight_files import restore

SIZE = (48, 64)
FEW = ["--corruptions=[pixelate,saturate]", "--styles=[tilt]", "--severities=[1,5]", "--limit=2", "--workers=0"]


def write_model(path: Path, *, seed: int, space: str = "cityscapes19", method: str = "deeplabv3plus") -> Path:
    """A network with random weights, in a file."""
    torch.manual_seed(seed)
    model = ModelConfig(backbone="shufflenet_v2", output_stride=32, weights=None)
    classes = label_space(space).classes
    domains = ["streets/game", "streets/toy"]
    network = METHODS[method].build(model, num_classes=len(classes), num_domains=2, pretrained=False)
    card = card_for(method=method, model=model, space=space, classes=classes, domains=domains, size=SIZE)
    checkpoint.write(path, network.state_dict(), card)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [write_model(folder / f"{name}.safetensors", seed=seed) for seed, name in enumerate(("first", "second"))]


def make(models: list[Path], output: Path, *options: str) -> int:
    """The card as a user makes it."""
    given = ["--target=streets/game", f"--output={output}", "--accelerator=cpu", *FEW, *options]
    return main(["robustness", *map(str, models), *given])


def go_on(models: list[Path], output: Path, **changes: Any) -> Card:
    """The same card as `make` makes, for a program."""
    options: dict[str, Any] = {
        "corruptions": ["pixelate", "saturate"], "styles": ["tilt"], "severities": [1, 5], "limit": 2, "worst": 0
    }  # fmt: skip
    options |= {"target": "streets/game", "workers": 0, "accelerator": "cpu"}
    return robustness_command(models, output=output, **{**options, **changes})


@pytest.fixture(scope="module")
def done(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished card."""
    output = tmp_path_factory.mktemp("card") / "card"
    assert make(models, output, "--worst=2") == 0
    return output


def read(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / robustness.CARD_FILE).read_text())
    return values


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_a_card_is_figures_page_tables_heat_map_and_pictures(done: Path) -> None:
    assert {path.name for path in done.iterdir()} == {
        robustness.CARD_FILE,
        robustness.PAGE_FILE,
        robustness.TABLE_FILE,
        robustness.HEAT_FILE,
        robustness.SCORES_FILE,
        robustness.WORST_FOLDER,
    }
    card = read(done)
    assert [model["label"] for model in card["models"]] == ["first", "second"]
    assert list(card["models"][0]["scores"]) == ["clean", "pixelate", "saturate", "+tilt"]
    for case in card["worst"]:
        assert len(case["pictures"]) == 4
        for name in case["pictures"]:
            with Image.open(done / robustness.WORST_FOLDER / name) as picture:
                picture.load()


def test_clean_is_what_the_evaluator_finds(done: Path, models: list[Path]) -> None:
    data = DataConfig(size=SIZE, workers=0)
    space = label_space("cityscapes19")
    images = open_domain(DomainSpec.parse("streets/game"), data=data, space=space, training=False)

    class Chosen(type(images)):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def __len__(self) -> int:
            return 2

        def read(self, index: int, /) -> Sample:
            return images.read(spread(len(images), 2)[index])

    for model, values in zip(models, read(done)["models"], strict=True):
        batches = evaluation_batches(Chosen(), data, domain=0, batch_size=2)
        found = evaluate(restore(model)[0], batches, num_classes=len(space))
        assert values["scores"]["clean"]["0"]["miou"] == pytest.approx(mean_iou(found.counts), abs=1e-9)


def test_the_corruptions_change_scores_and_the_networks_differ(done: Path) -> None:
    first, second = (model["scores"] for model in read(done)["models"])
    assert first["clean"]["0"]["miou"] != second["clean"]["0"]["miou"]
    for name in ("pixelate", "saturate", "+tilt"):
        assert first[name]["1"]["iou"] != first[name]["5"]["iou"]


def test_a_second_call_scores_nothing_again(done: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before, card = (done / robustness.SCORES_FILE).read_bytes(), read(done)

    def refuse(*_: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(robustness.Scoring, "_evaluate", refuse)
    go_on(models, done, worst=2)
    assert (done / robustness.SCORES_FILE).read_bytes() == before
    assert read(done)["models"] == card["models"]


def test_a_card_that_was_broken_off_goes_on_and_comes_out_the_same(
    done: Path, models: list[Path], tmp_path: Path
) -> None:
    whole = (done / robustness.SCORES_FILE).read_bytes()
    (tmp_path / robustness.SCORES_FILE).write_bytes(whole[: len(whole) * 3 // 5])
    go_on(models, tmp_path, worst=2)
    assert read(tmp_path)["models"] == read(done)["models"]
    assert read(tmp_path)["worst"] == read(done)["worst"]
    lines = (tmp_path / robustness.SCORES_FILE).read_text().splitlines()
    assert sorted(lines) == sorted(whole.decode().splitlines())


def test_a_card_that_grows_scores_only_what_is_new(done: Path, models: list[Path], tmp_path: Path) -> None:
    (tmp_path / robustness.SCORES_FILE).write_bytes((done / robustness.SCORES_FILE).read_bytes())
    third = write_model(tmp_path / "third.safetensors", seed=7)
    go_on([*models, third], tmp_path, corruptions=["pixelate", "contrast"], severities=[5])
    lines = [json.loads(line) for line in (tmp_path / robustness.SCORES_FILE).read_text().splitlines()]
    known = len((done / robustness.SCORES_FILE).read_text().splitlines())
    new = sorted((line["model"], line["condition"]) for line in lines[known:])
    old = [(model, "contrast") for model in ("first", "second")]
    assert new == sorted([*old, *[("third", name) for name in ("clean", "pixelate", "contrast", "+tilt")]])


def test_other_weights_under_the_same_name_are_scored_anew(done: Path, tmp_path: Path) -> None:
    (tmp_path / robustness.SCORES_FILE).write_bytes((done / robustness.SCORES_FILE).read_bytes())
    other = write_model(tmp_path / "first.safetensors", seed=9)
    go_on([other], tmp_path, corruptions=["saturate"], severities=[5], styles=[])
    assert read(tmp_path)["models"][0]["scores"]["clean"] != read(done)["models"][0]["scores"]["clean"]


def test_blocks_and_workers_and_batches_do_not_change_a_score(
    done: Path, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robustness, "BLOCK_BYTES", 4 * SIZE[0] * SIZE[1])
    go_on(models[:1], tmp_path, workers=1, batch_size=1, corruptions=["saturate"], styles=[])
    lines = (tmp_path / robustness.SCORES_FILE).read_text().splitlines()
    assert len(lines) == 2 * 3  # two blocks, of an image each
    scores = read(done)["models"][0]["scores"]
    for name, found in read(tmp_path)["models"][0]["scores"].items():
        for severity, score in found.items():
            assert score["miou"] == pytest.approx(scores[name][severity]["miou"], abs=2e-3)


def test_each_image_is_read_once(models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    plain = robustness.open_domain

    def counted(*arguments: Any, **options: Any) -> Any:
        images = plain(*arguments, **options)
        read = images.read
        images.read = lambda index: (reads.append(index), read(index))[1]  # type: ignore[method-assign]
        return images

    monkeypatch.setattr(robustness, "open_domain", counted)
    go_on(models[:1], tmp_path, severities=[5])
    assert sorted(reads) == spread(100, 2)


# --- Conditions ------------------------------------------------------------------------------------------------------


def sample() -> Sample:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 96, 3), np.uint8)
    return Sample(image, rng.integers(0, 7, (64, 96), np.uint8), "one")


def test_a_condition_is_the_same_for_an_image_of_the_same_name() -> None:
    rain, fog = Condition("+rain", 3), Condition("fog", 3)
    for condition in (rain, fog):
        image = condition.apply(sample(), 0)[0]
        assert np.array_equal(image, condition.apply(sample(), 0)[0])
        assert not np.array_equal(image, condition.apply(sample()._replace(name="two"), 0)[0])
        assert not np.array_equal(image, condition.apply(sample(), 1)[0])


def test_labels_move_with_a_style_that_moves_pixels_and_with_nothing_else() -> None:
    for condition in conditions(severities=[5]):
        moved = not np.array_equal(condition.apply(sample(), 0)[1], sample().label)
        assert moved == (condition.name == "+tilt"), condition


def test_all_corruptions_and_styles_are_scored_by_default() -> None:
    names = {condition.name for condition in conditions()}
    assert names == {"clean", *CORRUPTIONS, *(f"+{style}" for style in WEATHER)}
    assert len(conditions()) == 1 + 5 * (len(CORRUPTIONS) + len(WEATHER))


def test_images_are_taken_from_the_whole_set() -> None:
    assert spread(5, 0) == spread(5, 9) == [0, 1, 2, 3, 4]
    assert spread(100, 4) == [12, 37, 62, 87]


def test_a_class_that_is_only_predicted_costs_an_image_nothing() -> None:
    counts = torch.tensor([[8, 1, 1], [0, 0, 0], [0, 0, 5]])
    assert image_score(counts) == pytest.approx((8 / 10 + 5 / 6) / 2)
    assert math.isnan(image_score(torch.zeros(3, 3, dtype=torch.int64)))


def test_the_worst_cases_are_of_different_families_and_images() -> None:
    clean, fog, snow, blur = Condition("clean", 0), Condition("fog", 5), Condition("snow", 5), Condition("zoom_blur", 1)
    scores = {
        ("net", clean): {"a": 0.9, "b": 0.8, "c": 0.7},
        ("net", fog): {"a": 0.1, "b": 0.1, "c": 0.6},
        ("net", snow): {"a": 0.2, "b": 0.2, "c": 0.2},
        ("net", blur): {"a": 0.2, "b": 0.3, "c": 0.7},
    }
    cases = worst_cases(scores, ["net"], [clean, fog, snow, blur], 5)
    assert [(case.condition, case.image) for case in cases] == [("fog", "a"), ("zoom_blur", "b")]
    assert (cases[0].clean, cases[0].corrupted) == ((0.9,), (0.1,))
    assert worst_cases(scores, ["net"], [clean, fog, snow, blur], 1) == cases[:1]


# --- What is shown ---------------------------------------------------------------------------------------------------


def score(value: float) -> Score:
    return Score(value, (value, math.nan), value)


VALUES = {
    "shot_noise": (0.4, 0.2),
    "fog": (0.6, 0.4),
    "snow": (0.3, 0.1),
    "spatter": (0.1, 0.1),
    "+night": (0.5, 0.3),
}
"""mIoU of a network in each condition at the severities 1 and 5."""


def card(**changes: Any) -> Card:
    """Two networks with known scores in one condition of each kind."""
    families = {"clean": "clean", "shot_noise": "noise", "fog": "weather", "snow": "weather", "spatter": "extra"}
    models = []
    for label, factor in (("plain", 1.0), ("<b>odd</b>", 0.5)):
        scores = {
            name: {s: score(factor * v) for s, v in zip((1, 5), pair, strict=True)} for name, pair in VALUES.items()
        }
        models.append(
            ModelScores(
                label,
                "isw",
                "resnet50",
                ("gtav",),
                ("night",),
                (128, 256),
                "32-true",
                {"clean": {0: score(0.8)}, **scores},
            )
        )
    made = Card(
        domain="cityscapes",
        images=3,
        space="pair",
        classes=("road", "sky"),
        colors=((128, 64, 128), (70, 130, 180)),
        families={**families, "+night": "+dark"},
        severities=(1, 5),
        models=tuple(models),
    )
    return replace(made, **changes)


def test_mpc_is_the_mean_over_corruptions_of_the_benchmark_alone() -> None:
    found = summary(card(), card().models[0])
    assert found.mpc == pytest.approx((0.3 + 0.5 + 0.2) / 3)
    assert found.rpc == pytest.approx(found.mpc / 0.8)
    assert found.families["weather"] == pytest.approx(0.35)
    assert found.families["extra"] == pytest.approx(0.1)
    assert found.families["styles"] == found.families["+dark"] == pytest.approx(0.4)


def test_a_card_without_corruptions_of_the_benchmark_has_no_mpc(tmp_path: Path) -> None:
    few = card(families={"clean": "clean", "+night": "+dark"})
    assert math.isnan(summary(few, few.models[0]).mpc)
    assert report.as_json(few)["models"][0]["summary"]["mpc"] is None
    assert "mPC" not in report.to_markdown(few)
    assert "<h1>" in report_page.render_page(few, pictures=tmp_path)


def test_the_page_needs_nothing_else_and_shows_names_as_text(tmp_path: Path) -> None:
    page = report_page.render_page(card(), pictures=tmp_path)
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<b>odd" not in page
    assert "&lt;b&gt;odd" in page


def test_a_cell_is_the_stronger_coloured_the_more_is_lost(tmp_path: Path) -> None:
    page = report_page.render_page(card(), pictures=tmp_path)
    lost = {
        key: int(page.partition(f'title="plain, {key}')[0].rpartition("--lost: ")[2].partition("%")[0])
        for key in VALUES
    }
    assert lost["fog"] < lost["+night"] < lost["spatter"] <= 82


def test_a_style_of_the_training_is_marked(tmp_path: Path) -> None:
    page = report_page.render_page(card(), pictures=tmp_path)
    assert 'class="known"' in page
    untrained = tuple(replace(model, styles=()) for model in card().models)
    assert 'class="known"' not in report_page.render_page(card(models=untrained), pictures=tmp_path)


def test_the_tables_tell_means_and_shares_of_clean() -> None:
    text = report.to_markdown(card())
    assert "| fog | 50.0 (62) | 25.0 (31) |" in text
    assert "| plain | 80.0 | 33.3 | 41.7 | 30.0 | 35.0 | 10.0 | 40.0 |" in text
    told = io.StringIO()
    Console(file=told, width=100).print(*report.render_terminal(card()))
    lines = [line.split() for line in told.getvalue().splitlines()]
    assert ["plain", "80.0", "33.3", "41.7", "30.0", "35.0", "10.0", "40.0"] in lines
    assert ["fog", "50.0", "(62)", "25.0", "(31)"] in lines


def test_a_terminal_too_narrow_for_the_families_has_a_column_for_each_network() -> None:
    told = io.StringIO()
    Console(file=told, width=40).print(*report.render_terminal(card()))
    assert "…" not in told.getvalue()
    lines = [line.split() for line in told.getvalue().splitlines()]
    assert any(line[:2] == ["mPC", "33.3"] for line in lines)


def test_the_tables_fit_a_narrow_terminal() -> None:
    groups = {"shot_noise": "noise", "glass_blur": "blur", "fog": "weather", "contrast": "digital", "spatter": "extra"}
    names = {**groups, "+night": "+dark"}
    scores = {"clean": {0: score(0.8)}, **{name: {s: score(0.4) for s in (1, 5)} for name in names}}
    labels = ("baseline-0", "spcnet-0", "isw-0", "weather_baseline", "weather_spcnet")
    models = tuple(replace(card().models[0], label=label, scores=scores) for label in labels)
    wide = card(families={"clean": "clean", **names}, models=models)
    told = io.StringIO()
    Console(file=told, width=80).print(*report.render_terminal(wide))
    lines = [line.split() for line in told.getvalue().splitlines()]
    assert ["network", *["clean", "mPC", "rPC", "noise", "blur", "weather", "digital", "extra", "styles"]] in lines
    assert sum(line[:1] == ["weather_"] and len(line) > 5 for line in lines) == 2
    assert {"baseline-0", "spcnet-0", "isw-0", "baseline", "spcnet"} <= {line[0] for line in lines if line}
    assert any(line[0] == "+night" and line[1:] == ["40.0", "(50)"] * 5 for line in lines if line)


def test_a_heat_map_is_coloured_by_what_is_lost(tmp_path: Path) -> None:
    report_page.write_heat_map(card(), tmp_path / "heat.png")
    with Image.open(tmp_path / "heat.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (pixels[..., 0] - pixels[..., 2]).max() > 100  # much is lost here and there
    axes = report_page.heat_figure(card()).axes[0]
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (5, 2)
    assert shown[1, 0] == pytest.approx(0.5 / 0.8)
    same = replace(
        card().models[0], scores={name: dict.fromkeys((0, 1, 5), score(0.8)) for name in card().models[0].scores}
    )
    inks = [text.get_color() for text in report_page.heat_figure(card(models=(card().models[0], same))).axes[0].texts]
    assert (inks[2], inks[3]) == ("black", "white")  # much is left of the first, all of the second


def test_all_letters_of_a_heat_map_lie_on_it() -> None:
    for models in (card().models[:1], card().models):
        figure = report_page.heat_figure(card(models=models))
        figure.draw_without_rendering()
        width, height = figure.get_size_inches() * figure.dpi
        texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]
        boxes = [text.get_window_extent() for text in texts]
        assert min(box.x0 for box in boxes) >= 0
        assert max(box.x1 for box in boxes) <= width
        assert max(box.y1 for box in boxes) <= height


def test_pictures_of_a_case_stand_on_the_page(done: Path) -> None:
    page = (done / robustness.PAGE_FILE).read_text()
    cases = read(done)["worst"]
    assert page.count('class="case"') == len(cases) > 0
    assert page.count("data:image/") == sum(len(case["pictures"]) for case in cases)


def test_a_missing_picture_is_one_line(tmp_path: Path) -> None:
    case = WorstCase("a", "fog", 5, (0.5, 0.5), (0.1, 0.1), ("no_image.png", "no_truth.png", "no_0.png", "no_1.png"))
    with pytest.raises(Exception, match=r"cannot read the picture .*no_image\.png"):
        report_page.render_page(card(worst=(case,)), pictures=tmp_path)


# --- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"corruptions": ["fgo"]}, "unknown corruption 'fgo'"),
        ({"styles": ["rian"]}, r"Did you mean 'rain'\?"),
        ({"severities": [6]}, "severities"),
        ({"severities": []}, "name at least one of each"),
        ({"corruptions": [], "styles": []}, "name at least one of each"),
        ({"limit": -1}, "limit is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"target": "citiscapes"}, r"Did you mean 'cityscapes'\?"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_written(
    models: list[Path], tmp_path: Path, option: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        go_on(models[:1], tmp_path / "card", **option)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "card").exists()


def test_a_wrong_option_on_the_command_line_is_one_line(
    models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(models[:1], tmp_path / "card", "--corruptions=[fgo]") == 2
    assert said(capsys).startswith("spcnet: unknown corruption 'fgo'")


def test_networks_of_different_label_spaces_are_refused(models: list[Path], tmp_path: Path) -> None:
    other = write_model(tmp_path / "other.safetensors", seed=1, space="idd7")
    with pytest.raises(UsageError, match="networks on one card must have the same"):
        go_on([models[0], other], tmp_path / "card")


def test_a_network_named_twice_is_refused(models: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="named twice"):
        go_on([models[0], models[0]], tmp_path)


def test_a_missing_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make([tmp_path / "none"], tmp_path / "card") == 1
    assert "there is no run or checkpoint" in said(capsys)

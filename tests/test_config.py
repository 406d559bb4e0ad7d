"""Settings: what makes no sense is refused by name, and what is written is read back."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spcnet.config import (
    METADATA,
    AugmentationConfig,
    ClusteringConfig,
    DataConfig,
    DomainSpec,
    EvaluationConfig,
    LossConfig,
    ModelConfig,
    OwnSet,
    Rule,
    RunConfig,
    StyleConfig,
    TrainingConfig,
    as_dict,
    decides,
    from_dict,
    kept_on_resume,
    options,
    settled,
)
from spcnet.config.table import options_page
from spcnet.errors import UsageError

BAD: list[tuple[type, str, Any, str]] = [
    (StyleConfig, "momentum", 1.5, "style.momentum is 1.5"),
    (StyleConfig, "momentum", -0.1, "style.momentum is -0.1"),
    (StyleConfig, "sharpness", 0.0, "style.sharpness is 0.0"),
    (ClusteringConfig, "embedding_dim", 0, "clustering.embedding_dim is 0"),
    (ClusteringConfig, "momentum", 2.0, "clustering.momentum is 2.0"),
    (ClusteringConfig, "temperature", 0.0, "clustering.temperature is 0.0"),
    (ClusteringConfig, "var_weight", -1.0, "clustering.var_weight is -1.0"),
    (ClusteringConfig, "dis_weight", -1.0, "clustering.dis_weight is -1.0"),
    (ModelConfig, "output_stride", 4, "model.output_stride is 4: it must be one of 8, 16, 32"),
    (ModelConfig, "auxiliary_weight", -0.4, "model.auxiliary_weight is -0.4"),
    (AugmentationConfig, "scale", (2.0, 0.5), "data.augmentation.scale is (2.0, 0.5)"),
    (AugmentationConfig, "scale", (0.0, 0.5), "data.augmentation.scale is (0.0, 0.5)"),
    (AugmentationConfig, "flip", 1.1, "data.augmentation.flip is 1.1"),
    (AugmentationConfig, "jitter", -0.1, "data.augmentation.jitter is -0.1"),
    (AugmentationConfig, "blur", (1.0, 0.5), "data.augmentation.blur is (1.0, 0.5)"),
    (DataConfig, "sources", [], "data.sources is empty"),
    (DataConfig, "sources", ["camvid", "camvid"], "data.sources names camvid twice"),
    (DataConfig, "sources", ["streets/night"], "streets/night stands in data.sources and data.targets"),
    (DataConfig, "targets", ["not a domain"], "cannot read the domain 'not a domain'"),
    (DataConfig, "size", (32, 64), "data.size is (32, 64)"),
    (DataConfig, "size", None, "data.size is null: name data.crop"),
    (DataConfig, "crop", (40, 32), "data.crop is (40, 32)"),
    (DataConfig, "images_per_domain", 0, "data.images_per_domain is 0"),
    (DataConfig, "workers", -1, "data.workers is -1"),
    (DataConfig, "train_scenes", 0, "data.train_scenes is 0"),
    (DataConfig, "test_scenes", 0, "data.test_scenes is 0"),
    (TrainingConfig, "iterations", 0, "training.iterations is 0"),
    (TrainingConfig, "log_every", 0, "training.log_every is 0"),
    (TrainingConfig, "checkpoint_every", 0, "training.checkpoint_every is 0"),
    (TrainingConfig, "evaluate_every", -1, "training.evaluate_every is -1"),
    (TrainingConfig, "learning_rate", 0.0, "training.learning_rate is 0.0"),
    (TrainingConfig, "momentum", 1.0, "training.momentum is 1.0"),
    (TrainingConfig, "weight_decay", -1.0, "training.weight_decay is -1.0"),
    (TrainingConfig, "poly_power", -1.0, "training.poly_power is -1.0"),
    (TrainingConfig, "restart", 0.0, "training.restart is 0.0"),
    (TrainingConfig, "restart_factor", 0.0, "training.restart_factor is 0.0"),
    (TrainingConfig, "restart_power", -0.5, "training.restart_power is -0.5"),
    (LossConfig, "class_weights", [1.0, 2.0], "loss.class_weights is [1.0, 2.0]: it goes with loss.weighting class"),
    (LossConfig, "terms", {}, "model.loss.terms is {}: it needs one or more of ce, focal, ohem, dice, lovasz"),
    (LossConfig, "terms", {"cee": 1}, "model.loss.terms is {'cee': 1}"),
    (LossConfig, "terms", {"dise": 1}, "each with its weight. Did you mean dice?"),
    (LossConfig, "terms", {"dice": 0.0}, "model.loss.terms.dice is 0.0: a loss weight must be a number above 0"),
    (LossConfig, "focal_gamma", 1.0, "model.loss.focal_gamma has no effect on the losses ce: leave it out"),
    (LossConfig, "ohem_least", 1.5, "model.loss.ohem_least is 1.5"),
    (LossConfig, "ohem_threshold", 0.0, "model.loss.ohem_threshold is 0.0"),
    (LossConfig, "bound", -1.0, "loss.bound is -1.0"),
    (LossConfig, "border", -1, "loss.border is -1"),
    (LossConfig, "border_until", 1.5, "loss.border_until is 1.5"),
    (EvaluationConfig, "batch_size", 0, "evaluation.batch_size is 0"),
    (EvaluationConfig, "panels", -1, "evaluation.panels is -1"),
    (EvaluationConfig, "limit", -1, "evaluation.limit is -1"),
    (AugmentationConfig, "style_probability", 1.5, "data.augmentation.style_probability is 1.5"),
    (AugmentationConfig, "style_strength", (0.5, 0.2), "data.augmentation.style_strength is (0.5, 0.2)"),
    (AugmentationConfig, "styles", ["fog", "fog"], "data.augmentation.styles names fog twice"),
    (DataConfig, "class_uniform", 1.5, "data.class_uniform is 1.5"),
    (DataConfig, "rare_class", -0.5, "data.rare_class is -0.5"),
    (DataConfig, "rare_temperature", 0.1, "data.rare_temperature is 0.1: it goes with data.rare_class"),
    (DataConfig, "rare_pixels", 100, "data.rare_pixels is 100: it goes with data.rare_class"),
    (DataConfig, "tile", 8, "data.tile is 8"),
]


@pytest.mark.parametrize(("kind", "option", "value", "message"), BAD)
def test_a_value_that_makes_no_sense_is_refused_by_name(kind: type, option: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        kind(**{option: value})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_forms_of_the_cross_entropy_are_refused_where_another_loss_takes_its_place() -> None:
    for form in ({"border": 1}, {"strict": [0]}, {"weighting": "image"}):
        with pytest.raises(UsageError, match=rf"model.loss.{next(iter(form))} has no effect on the losses ohem, dice"):
            LossConfig({"ohem": 1.0, "dice": 0.5}, **form)  # type: ignore[arg-type]


SINGLE = {"sources": ["gtav"], "pseudo_domains": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": ["gtav", "idd"], "pseudo_domains": 3}, "data.pseudo_domains is 3 with 2 sources"),
        ({"sources": ["gtav"], "pseudo_domains": 1}, "data.pseudo_domains is 1"),
        (SINGLE, "data.augmentation.styles has 0"),
        ({**SINGLE, "augmentation": AugmentationConfig(styles=["fog"])}, "data.augmentation.styles has 1"),
        (
            {**SINGLE, "augmentation": AugmentationConfig(styles=["fog", "rain"], style_probability=1.0)},
            "images without",
        ),
    ],
)
def test_pseudo_domains_that_could_stay_empty_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DataConfig(**options)


def test_pseudo_domains_that_can_be_filled_are_allowed() -> None:
    DataConfig(**SINGLE, augmentation=AugmentationConfig(styles=["fog", "rain"]))
    DataConfig(**SINGLE, pseudo_by="cluster")
    DataConfig(**SINGLE, pseudo_by="random")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "/a/*.png"}, "below the set's root"),
        ({"labels": "../b/*.png"}, "below the set's root"),
        ({"images": "a/*.png"}, r"says \{split\}"),
        ({"images": "a/{split}/*/*.png"}, "the same stars"),
        ({"images": "a/{split}.png", "labels": "b/{split}.png"}, "at least one"),
        ({"table": {}}, "table is empty"),
        ({"table": {65536: "road", -1: "car"}}, r"\[65536, -1\]"),
        ({"splits": []}, "splits is empty"),
    ],
)
def test_a_set_of_ones_own_that_cannot_be_found_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OwnSet(**{"images": "a/{split}/*.png", "labels": "b/{split}/*.png", "table": {0: "road"}} | options)


def test_an_unknown_precision_is_refused_where_nothing_checks_types() -> None:
    config = TrainingConfig()
    object.__setattr__(config, "precision", "8-bit")  # the tests' type checker would refuse it earlier
    with pytest.raises(UsageError, match=r"training\.precision is '8-bit': it must be one of 32-true, bf16-mixed"):
        config.__post_init__()


def test_the_limits_themselves_are_allowed() -> None:
    StyleConfig(momentum=0.0)
    StyleConfig(momentum=1.0)
    ClusteringConfig(var_weight=0.0, dis_weight=0.0, embedding_dim=1)
    AugmentationConfig(scale=(1.0, 1.0), flip=0.0, jitter=1.0, blur=None)
    DataConfig(size=(33, 33), workers=0, images_per_domain=1)
    TrainingConfig(iterations=1, evaluate_every=0)
    EvaluationConfig(batch_size=1, panels=0, limit=0)


CHANGED = RunConfig(
    method="deeplabv3plus",
    model=ModelConfig(
        backbone="resnet18",
        weights=None,
        style=StyleConfig(mode="substitution"),
        clustering=ClusteringConfig(ramp_up=True),
    ),
    data=DataConfig(
        sources=["camvid", "idd_lite@train"],
        targets=["cityscapes+fog"],
        roots={"camvid": "/data/camvid"},
        size=(64, 96),
        augmentation=AugmentationConfig(scale=(1.0, 1.5), blur=None, styles=["fog"], style_strength=(0.0, 0.5)),
        sets={
            "town": OwnSet("a/{split}/*.png", "b/{split}/*.png", {0: "road", 255: "void"}, ["one", "two"]),
            "park": OwnSet("a/*.png", ["b/*.png", "c/*_x.png"], {300: "car"}, ["all"], {"#00008e": "car"}),
        },
        sampling="alternating",
        on_bad_image="skip",
    ),
    training=TrainingConfig(iterations=7, devices="auto"),
    evaluation=EvaluationConfig(limit=3),
    output=Path("somewhere/else"),
)


@pytest.mark.parametrize("config", [RunConfig(), CHANGED])
def test_what_is_written_is_read_back(config: RunConfig) -> None:
    assert from_dict(RunConfig, as_dict(config)) == config
    assert from_dict(RunConfig, json.loads(json.dumps(as_dict(config)))) == config


def test_left_out_options_keep_their_defaults() -> None:
    assert from_dict(RunConfig, {}) == RunConfig()
    assert from_dict(RunConfig, {"training": {"seed": 4}}).training == TrainingConfig(seed=4)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown option momentun in StyleConfig"):
        from_dict(RunConfig, {"model": {"style": {"momentun": 0.5}}})
    with pytest.raises(UsageError, match="unknown options a, b in RunConfig"):
        from_dict(RunConfig, {"b": 1, "a": 2})


def test_a_bad_value_in_a_file_is_refused_by_name_too() -> None:
    with pytest.raises(UsageError, match=r"data\.size is \(1, 2\)"):
        from_dict(RunConfig, {"data": {"size": [1, 2]}})
    with pytest.raises(UsageError, match="TrainingConfig cannot be read"):
        from_dict(RunConfig, {"training": {"iterations": "many"}})


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().method = "other"  # type: ignore[misc]


NAME = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


@given(dataset=NAME, subset=st.none() | NAME, split=st.none() | NAME, style=st.none() | NAME)
def test_a_domain_is_read_as_it_is_written(
    dataset: str, subset: str | None, split: str | None, style: str | None
) -> None:
    spec = DomainSpec(dataset, subset, split, style)
    assert DomainSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("camvid", DomainSpec("camvid")),
        ("streets/night", DomainSpec("streets", subset="night")),
        ("idd_lite@train", DomainSpec("idd_lite", split="train")),
        ("cityscapes+fog", DomainSpec("cityscapes", style="fog")),
        ("streets/night@train+rain", DomainSpec("streets", "night", "train", "rain")),
    ],
)
def test_the_written_forms_mean_what_the_guide_says(text: str, spec: DomainSpec) -> None:
    assert DomainSpec.parse(text) == spec


@pytest.mark.parametrize("text", ["", "a b", "a/", "a@", "a+", "a@b/c", "a+b@c", "/a", "a//b", "a+b+c"])
def test_a_malformed_domain_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match=r"write SET\[/SUBSET\]\[@SPLIT\]\[\+STYLE\], for example camvid"):
        DomainSpec.parse(text)


def leaves(kind: type, prefix: str = "") -> dict[str, dataclasses.Field[Any]]:
    """Every field of a configuration and of those within it, found without the code under test."""
    found: dict[str, dataclasses.Field[Any]] = {}
    for one in dataclasses.fields(kind):
        if dataclasses.is_dataclass(one.type):
            found |= leaves(one.type, f"{prefix}{one.name}.")  # type: ignore[arg-type]
        else:
            found[prefix + one.name] = one
    return found


@pytest.mark.parametrize(("path", "one"), leaves(RunConfig).items())
def test_every_option_says_what_it_decides(path: str, one: dataclasses.Field[Any]) -> None:
    assert isinstance(one.metadata.get(METADATA), Rule), f"write {path} with option"
    assert decides(path) == one.metadata[METADATA].decides
    assert decides(path) in ("result", "schedule", "order", "place")


def test_the_page_of_all_options_says_what_their_fields_say() -> None:
    page = Path(__file__).parents[1] / "docs" / "options.md"
    assert page.read_text(encoding="utf-8") == options_page(), "write it with python -m spcnet.config.table"
    for path in options():
        assert f"| `{path.rpartition('.')[2]}` |" in page.read_text(encoding="utf-8")


def test_all_options_are_known_by_their_path() -> None:
    assert list(options()) == list(leaves(RunConfig))


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("data.root", "place"),
        ("data.roots", "place"),
        ("data.roots.gtav", "place"),
        ("logging.wandb", "place"),
        ("training.profile", "place"),
        ("training.devices", "place"),
        ("evaluation.panels", "place"),
        ("training.seed", "order"),
        ("training.iterations", "schedule"),
        ("data.sampling", "schedule"),
        ("training.precision", "result"),
        ("data.exclude", "result"),
        ("data.sets.town.images", "result"),
        ("model.of_a_later_version", "result"),
    ],
)
def test_an_option_decides_what_the_guide_says(path: str, what: str) -> None:
    assert decides(path) == what


def test_what_a_resumed_run_keeps_is_what_it_always_kept() -> None:
    schedule = {"iterations", "learning_rate", "poly_power", "restart", "restart_factor", "restart_power", "seed"}
    later = {
        "optimizer",
        "schedule",
        "min_rate",
        "warmup",
        "warmup_factor",
        "backbone_warmup",
        "backbone_factor",
        "layer_decay",
    }
    assert set(kept_on_resume("training")) == schedule | later | {"ema", "ema_start"}
    rare = {"rare_class", "rare_temperature", "rare_pixels"}
    assert set(kept_on_resume("data")) == {"sampling", "class_uniform", "train_scenes"} | rare


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate is nan"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate is inf: it must be above 0 and finite"),
        ({"training": {"seed": -1}}, "training.seed is -1"),
        ({"model": {"style": {"momentum": 1.5}}}, "model.style.momentum is 1.5: it must lie in 0..1"),
        ({"evaluation": {"scales": []}}, "evaluation.scales is []: every factor must be above 0; give at least one"),
        ({"evaluation": {"scales": [1.0, 0.0]}}, "evaluation.scales is [1.0, 0.0]"),
        (
            {"evaluation": {"window": [32, 64]}},
            "evaluation.window is (32, 64): height and width must be at least 33 pixels",
        ),
        ({"data": {"augmentation": {"blur": [1.0, 0.5]}}}, "both values must be above 0, the smaller first"),
    ],
)
def test_a_value_out_of_its_range_is_named_with_its_whole_path(values: dict[str, Any], path: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_dict(RunConfig, values)
    assert path in str(caught.value)


@pytest.mark.parametrize("text", ["cityscapes", "cityscapes,bdd100k", " cityscapes , bdd100k "])
def test_a_name_in_a_stored_configuration_is_no_list_of_letters(text: str) -> None:
    names = [name.strip() for name in text.split(",")]
    values = {"targets": text, "exclude": "a/list.txt", "augmentation": {"styles": "rain"}}
    config = from_dict(RunConfig, {"data": values, "evaluation": {"scales": 1}})
    assert config.data.targets == names
    assert config.data.exclude == ["a/list.txt"]
    assert config.data.augmentation.styles == ["rain"]
    assert config.evaluation.scales == [1.0]
    assert settled({"data": values, "of_a_later_version": {"targets": "abc"}}) == {
        "data": {"targets": names, "exclude": ["a/list.txt"], "augmentation": {"styles": ["rain"]}},
        "of_a_later_version": {"targets": "abc"},
    }


def test_numbers_that_yaml_leaves_as_text_are_numbers() -> None:
    assert from_dict(RunConfig, {"training": {"weight_decay": "5e-4"}}).training.weight_decay == 5e-4

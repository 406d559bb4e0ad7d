"""Every recipe can be started: its network can be built, and its sets, splits and styles are known."""

import dataclasses

import pytest
import torch
import yaml

from spcnet.config import DomainSpec, RunConfig, from_dict, recipes_folder
from spcnet.data.catalog import dataset
from spcnet.labels import label_space, remap
from spcnet.methods import METHODS
from spcnet.models.network import Segmentor
from spcnet.models.whitening import InstanceWhitening, SwitchableWhitening
from spcnet.runs import check_unseen
from spcnet.synthesis import weather

FOLDER = recipes_folder()
RECIPES = sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.yaml"))


def read(name: str) -> RunConfig:
    return from_dict(RunConfig, yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


def network_of(config: RunConfig) -> Segmentor:
    """Without memory or values."""
    model = dataclasses.replace(config.model, weights=None)
    with torch.device("meta"):
        return METHODS[config.method].build(
            model, num_classes=len(label_space(config.data.space)), num_domains=len(config.data.sources)
        )


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_started(name: str) -> None:
    config = read(name)
    network_of(config)
    assert config.output.parts[0] == "runs"
    assert config.expected
    check_unseen(config.data)
    for text in (*config.data.sources, *config.data.targets):
        spec = DomainSpec.parse(text)
        info = dataset(spec.dataset)
        remap(info.native, label_space(config.data.space), spec.dataset)
        assert spec.split is None or spec.split in info.splits
        assert spec.subset is None or spec.subset in info.subsets
        assert spec.style is None or spec.style in weather.WEATHER


def test_no_two_recipes_write_to_the_same_folder() -> None:
    folders = [read(name).output for name in RECIPES]
    assert len(set(folders)) == len(folders)


def kinds(name: str) -> list[str]:
    """What stands in the norm slots of a recipe's network, from the stem on."""
    found = []
    for layer in network_of(read(name)).backbone.modules():
        if isinstance(layer, InstanceWhitening):
            found.append("isw" if layer.selective else "irw" if layer.margin else "iw")
        elif isinstance(layer, SwitchableWhitening):
            found.append("sw")
        elif isinstance(layer, torch.nn.InstanceNorm2d):
            found.append("ibn" if layer.affine else "is")
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("robustnet/gtav_r50_baseline", []),
        ("robustnet/gtav_r50_ibn", ["ibn"] * 3),
        ("robustnet/gtav_r101_ibn", ["ibn"] * 4),
        ("robustnet/gtav_r101_isw", ["isw"] * 4),
        ("robustnet/cityscapes_r101_isw", ["isw"] * 3),
        ("robustnet/gtav_shufflenet_isw", ["isw"] * 3),
        ("robustnet/gtav_r50_iw", ["iw"] * 3),
        ("robustnet/cityscapes_r50_irw", ["irw"] * 3),
        ("real-small/spcnet_ibn", ["ibn"] * 3),
        ("real-small/clustering_isw", ["isw"] * 3),
    ],
)
def test_norm_slots_are_filled_as_the_name_says(name: str, expected: list[str]) -> None:
    assert kinds(name) == expected


def test_the_scripts_values_are_kept() -> None:
    """RobustNet's scripts: weight of the loss, clusters or divisor, batch, crop, steps."""
    told = {
        "gtav_r50_isw": (0.6, 3, 0),
        "gtav_r101_isw": (0.6, 3, 0),
        "cityscapes_r50_isw": (0.6, 2, 0),
        "cityscapes_r101_isw": (0.6, 2, 0),
        "gtav_shufflenet_isw": (0.8, 2, 0),
        "gtav_mobilenet_isw": (1.0, 20, 0),
        "gtav_r50_iw": (0.8, 3, 0),
        "cityscapes_r50_iw": (0.6, 3, 0),
        "gtav_r50_irw": (0.6, 3, 64),
        "cityscapes_r50_irw": (0.6, 3, 32),
    }
    for name, (weight, clusters, relax) in told.items():
        config = read(f"robustnet/{name}")
        whitening = config.model.whitening
        assert (whitening.weight, whitening.clusters, whitening.relax) == (weight, clusters, relax), name
        images = 16 if name.startswith("gtav") else 8
        assert (config.data.images_per_domain, config.data.crop, config.data.size) == (images, (768, 768), None)
        assert (config.training.iterations, config.training.learning_rate) == (40_000, 0.01)
        assert config.model.auxiliary_weight == 0.4
        epochs = (
            config.model.whitening.start * config.training.iterations * images / (12_388 if images == 16 else 2_975)
        )
        if name.endswith("isw"):
            assert epochs == pytest.approx(6, abs=0.05)


FOUNDATION = [name for name in RECIPES if name.startswith("foundation/")]


def test_recipes_of_foundation_models_say_what_was_published_and_that_it_was_not_run_here() -> None:
    for name in FOUNDATION:
        expected = read(name).expected
        assert "Not run here" in expected, name
        assert expected.startswith(("Published: ", "No published figure", "Its figure")), name
        assert "(" in expected or expected.startswith(("No published", "Its figure")), f"{name}: no source is named"


def test_every_backbone_head_adapter_and_source_of_the_field_has_a_recipe() -> None:
    configs = [read(name) for name in FOUNDATION]
    backbones = {config.model.backbone.removeprefix("timm/").partition(".")[0] for config in configs}
    for size in ("small", "base", "large"):
        assert {f"vit_{size}_patch14_dinov2", f"vit_{size}_patch16_dinov3_qkvb"} <= backbones
    assert {f"convnext_{size}" for size in ("tiny", "small", "base", "large")} | {
        "eva02_large_patch14_224"
    } <= backbones
    pairs = {(config.model.adapter.kind, config.model.adapter.start, config.model.decoder) for config in configs}
    assert {
        ("frozen", "default", "linear"),
        ("lora", "default", "conv4"),
        ("rein", "default", "mask2former"),
        ("lora", "soma", "mask2former"),
        ("full", "default", "eomt"),
    } <= pairs
    sources = {tuple(config.data.sources) for config in configs}
    assert sources == {("gtav",), ("gtav", "synthia"), ("gtav", "synthia", "urbansyn"), ("cityscapes",)}


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("g_dinov2_l_frozen_mask2former", 0),
        # Rein's 2.99 million without the two layers that make queries of its tokens: Linear(1024, 256), Linear(768, 256).
        ("g_dinov2_l_rein_mask2former", 2_990_000 - 262_400 - 196_864),
        ("g_dinov2_l_soma_mask2former", 4_900_000),
    ],
)
def test_as_many_parameters_of_the_backbone_are_trained_as_were_published(name: str, trained: int) -> None:
    network = network_of(read(f"foundation/{name}"))
    head = {id(parameter) for parameter in network.decoder.parameters()}
    found = sum(p.numel() for p in network.parameters() if p.requires_grad and id(p) not in head)
    assert found == pytest.approx(trained, rel=0.01)

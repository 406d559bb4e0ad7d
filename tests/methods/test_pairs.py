"""Methods, decoders and backbones go together: each pair of them trains, is stored, opened again and predicts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spcnet import checkpoint
from spcnet.config import FeaturesConfig, HeadConfig, ModelConfig
from spcnet.errors import UsageError
from spcnet.inference.fast import fused
from spcnet.inference.predictor import Predictor
from spcnet.labels import LabelSpace
from spcnet.methods import METHODS, rebuild
from spcnet.models.backbones import backbone_info
from spcnet.models.heads import DECODERS
from spcnet.models.heads.linear import LinearDecoder
from spcnet.models.network import Segmentor
from tests.support.training import batches, losses, pairs, settings, trainer

SPACE = LabelSpace("test", ("w", "x", "y", "z"), ((0, 0, 0), (90, 0, 0), (0, 90, 0), (0, 0, 90)), {})
TRIED = ("deeplabv3plus", "spcnet", "style_projection", "mixstyle", "isw")
DENSE = sorted(name for name, decoder in DECODERS.items() if not decoder.masks)
BACKBONES = ("resnet18", "mobilenet_v2", "timm/test_resnet", "timm/test_convnext", "timm/test_vit")
EVERY = [
    *((method, decoder, "resnet18") for method in TRIED for decoder in DENSE),
    *(("spcnet", decoder, backbone) for decoder in DENSE for backbone in BACKBONES),
    *((method, "segformer", backbone) for method in TRIED for backbone in BACKBONES),
]
"""Every method with every decoder, every decoder with every backbone, every method with every backbone."""
QUICK = [("spcnet", decoder, "resnet18") for decoder in ("segformer", "conv4")]
PAIRS = [
    pair if pair in QUICK or pair[2].startswith("timm/") else pytest.param(*pair, marks=pytest.mark.slow)
    for pair in dict.fromkeys(EVERY)
]


def model_of(decoder: str, backbone: str) -> ModelConfig:
    """Small settings of a network with an auxiliary head."""
    head = HeadConfig(channels=32) if "channels" in DECODERS[decoder].settings else HeadConfig()
    stride = None if backbone.startswith("timm/") else 16
    return ModelConfig(backbone, decoder=decoder, head=head, output_stride=stride, weights=None, auxiliary_weight=0.4)


@pytest.mark.parametrize(("method", "decoder", "backbone"), PAIRS)
def test_a_pair_trains_is_stored_opened_and_predicts(method: str, decoder: str, backbone: str, tmp_path: Path) -> None:
    model = model_of(decoder, backbone)
    config = replace(settings(tmp_path, method=method, iterations=2), model=model)
    if method == "isw" and not backbone_info(backbone).norm_slots:
        with pytest.raises(UsageError, match=rf"the method isw puts norms .*{backbone} has none: choose .*resnet18"):
            trainer(config)
        return
    run = trainer(config)
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.fit(batches(0, 2), trials=pairs)
    assert len(losses(tmp_path)) == 2
    assert all(np.isfinite(losses(tmp_path)))
    trained = run.network.eval()
    moved = {
        name.partition(".")[0] for name, value in trained.state_dict().items() if not torch.equal(value, before[name])
    }
    styled = {"styles"} if method in ("spcnet", "style_projection") else set()
    assert moved == {"backbone", "decoder", "classifier", "auxiliary"} | styled

    network = rebuild(checkpoint.read(run.finish()), "the file")
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in trained.state_dict().items())
    image = torch.randn(2, 3, 47, 71, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = trained(image).logits
        largest = float(scores.abs().max())
        torch.testing.assert_close(network(image).logits, scores, rtol=0, atol=1e-4 * largest)
        torch.testing.assert_close(fused(network)(image).logits, scores, rtol=0, atol=1e-3 * largest)
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    prediction = Predictor(network, space=SPACE, size=(48, 64), source_names=("one", "two"), device="cpu").predict(
        photo
    )
    assert prediction.class_map.shape == (40, 60)
    assert ("style_weights" in prediction.figures) == bool(styled)


# rules of the joints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["resnet18", "timm/test_vit"])
@pytest.mark.parametrize("decoder", ["segformer", "conv4"])
def test_decoders_read_the_finest_map_as_it_was_before_the_style_layer(decoder: str, backbone: str) -> None:
    torch.manual_seed(0)
    network = METHODS["spcnet"].build(model_of(decoder, backbone), num_classes=3, num_domains=2).eval()
    place = network.tapped[-1]
    assert place == network.backbone.pyramid[0]
    image = torch.randn(1, 3, 64, 96)
    read: list[tuple[Tensor, ...]] = []
    network.decoder.register_forward_pre_hook(lambda layer, given: read.append(given))
    with torch.no_grad():
        network(image)
        styles = dict(zip(network.tapped, network.styles, strict=True))

        def first_alone(at: str, feature: Tensor) -> Tensor:
            found: Tensor = styles[at](feature).feature if at in styles and at != place else feature
            return found

        prepared = network.backbone.prepare(image)
        expected = network.backbone.features(prepared, network.decoder.places, first_alone)
    torch.testing.assert_close(read[0][0], expected[place])
    assert not torch.allclose(read[0][1], expected[network.decoder.places[1]])


def test_the_auxiliary_head_reads_the_only_map_where_there_is_one() -> None:
    torch.manual_seed(0)
    one = METHODS["spcnet"].build(model_of("linear", "resnet18"), num_classes=3, num_domains=2)

    class Single(type(one.backbone)):  # type: ignore[misc]
        pyramid = ("layer4",)

    one.backbone.__class__ = Single
    one.auxiliary = nn.Conv2d(512, 3, 1)
    output = one.train()(torch.randn(2, 3, 64, 96))
    assert output.auxiliary is not None
    assert output.auxiliary.shape == (2, 3, 4, 6)


def test_conv4_has_the_maps_of_a_vision_transformer_at_their_own_size_unless_told_otherwise() -> None:
    model = model_of("conv4", "timm/test_vit")
    told = replace(model, features=FeaturesConfig(pyramid="resize"))
    plain, pyramid, other = (
        METHODS["deeplabv3plus"].build(one, num_classes=3, num_domains=1).backbone.strides
        for one in (model, told, model_of("segformer", "timm/test_vit"))
    )
    assert set(plain.values()) == {16}
    assert pyramid == other
    assert {4, 8, 16, 32} <= set(other.values())


def test_methods_that_cluster_pixels_are_refused_on_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    class Queries(LinearDecoder):
        masks = True

    monkeypatch.setitem(DECODERS, "queries", Queries)
    for method, entry in METHODS.items():
        if entry.classifier != "prototypes":
            entry.check(ModelConfig(decoder="queries"))
            continue
        with pytest.raises(
            UsageError, match=rf"the method {method} .* decoder queries classifies queries and no pixels"
        ):
            entry.check(ModelConfig(decoder="queries"))


def test_a_step_recomputed_for_its_gradients_is_the_same_with_every_decoder() -> None:
    for decoder in DENSE:
        gradients = []
        for recompute in (False, True):
            torch.manual_seed(0)
            network = METHODS["spcnet"].build(model_of(decoder, "resnet18"), num_classes=3, num_domains=2).train()
            assert isinstance(network, Segmentor)
            network.recompute = recompute
            torch.manual_seed(1)
            network(torch.randn(2, 3, 48, 64)).logits.square().mean().backward()
            gradients.append([p.grad.clone() for p in network.decoder.parameters() if p.grad is not None])
        assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))

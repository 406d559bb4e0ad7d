"""The contract that every method keeps on every backbone, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spcnet import checkpoint
from spcnet.config import ClusteringConfig, LossConfig, ModelConfig, StyleConfig
from spcnet.distributed import MicroBatchSums
from spcnet.errors import CheckpointError, DataError, UsageError
from spcnet.losses.overlap import dice_loss, lovasz_softmax
from spcnet.losses.segmentation import cross_entropy, focal_loss, frequency_weights, hard_pixel_loss
from spcnet.methods import METHODS, build_model, card_for, method_named
from spcnet.methods.base import fill
from spcnet.methods.spcnet import Observed, SPCNet
from spcnet.models.backbones import BACKBONES
from spcnet.models.network import Segmentor
from spcnet.models.whitening import SwitchableWhitening
from spcnet.numerics import device_of
from spcnet.types import IGNORE_INDEX, Batch, SegOutput, StepResult, internals_of
from tests.support.weight_files import restore

CLASSES, DOMAINS = 5, 3
LARGE = {"resnet50", "resnet101"}
"""Backbones that only SPC-Net is tried on here, for time."""


def config_of(backbone: str = "shufflenet_v2", **options: Any) -> ModelConfig:
    return ModelConfig(backbone=backbone, weights=None, **options)


def network_of(method: str, model: ModelConfig | None = None, *, seed: int = 0, domains: int = DOMAINS) -> Segmentor:
    torch.manual_seed(seed)
    return METHODS[method].build(model or config_of(), num_classes=CLASSES, num_domains=domains)


def batch_of(domains: tuple[int, ...] = (2, 0, 2), *, seed: int = 0, size: tuple[int, int] = (48, 64)) -> Batch:
    """Images in any order of domains, the second domain absent, a corner ignored."""
    dice = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (len(domains), *size), generator=dice)
    label[:, :8, :8] = IGNORE_INDEX
    image = torch.randn(len(domains), 3, *size, generator=dice)
    return Batch(image, label, torch.tensor(domains), tuple(f"image {i}" for i in range(len(domains))))


def step(
    method: str, network: Segmentor, batch: Batch, model: ModelConfig | None = None
) -> tuple[SegOutput, StepResult]:
    METHODS[method].prepare(network, batch, model or config_of())
    output = network(batch.image)
    return output, METHODS[method].losses(network, output, batch, model or config_of())


def snapshot(network: Segmentor) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(network: Segmentor, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


# contract -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "backbone"),
    [(m, b) for m in sorted(METHODS) for b in sorted(BACKBONES) if b not in LARGE or m == "spcnet"],
)
def test_every_method_trains_and_predicts_on_every_backbone(method: str, backbone: str, tmp_path: Path) -> None:
    model, batch = config_of(backbone, auxiliary_weight=0.4), batch_of()
    network, rules = network_of(method, model), METHODS[method]

    before = snapshot(network)
    output, result = step(method, network.train(), batch, model)
    assert all("running_" in name or "num_batches" in name for name in changed(network, before))
    assert output.logits.shape == (3, CLASSES, 48, 64)
    assert output.auxiliary is not None
    assert output.auxiliary.shape[:2] == (3, CLASSES)
    style, clustering = getattr(rules, "style", None), getattr(rules, "clustering", False)
    internals = internals_of(output)
    assert (internals.embedding is not None) == clustering
    assert len(internals.styles) == (0 if style is None else 2)
    assert [tuple(w.shape) for w in output.figures.get("style_weights", ())] == (
        [(3, DOMAINS)] * 2 if style in ("projection", "substitution") else []
    )
    whitens = bool(network.whitening_layers)
    assert list(result.parts) == [
        *("ce", "aux"),
        *(("var", "dis") if clustering else ()),
        *(("whitening",) if whitens else ()),
    ]
    assert all(bool(part.isfinite()) and not part.requires_grad for part in result.parts.values())

    result.loss.backward()
    untouched = {name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())}
    assert untouched == set()

    before = snapshot(network)
    rules.update(network, result, progress=0.5)
    expected = {f"styles.{i}.{kind}" for i in range(2) for kind in ("base_mean", "base_std")} if style else set()
    expected |= {"classifier.prototypes"} if clustering else set()
    assert changed(network, before) == expected
    if style:
        for layer in (0, 1):
            base = f"styles.{layer}.base_mean"
            assert torch.equal(network.state_dict()[base][1], before[base][1])  # the absent domain

    network.eval()
    before = snapshot(network)
    with torch.no_grad():
        logits = network(batch.image).logits
        again = network(batch.image)
    assert torch.equal(again.logits, logits)
    assert again.auxiliary is None
    assert changed(network, before) == set()

    card = card_for(
        method=method,
        model=model,
        space="toy",
        classes=tuple("abcde"),
        domains=["x", "y", "z"],
        size=(48, 64),
    )
    checkpoint.write(tmp_path / checkpoint.MODEL_FILE, network.state_dict(), card)
    restored, found = restore(tmp_path)
    assert found == dataclasses.replace(card, model=found.model)
    assert not restored.training
    with torch.no_grad():
        assert torch.equal(restored(batch.image).logits, logits)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_runs_in_half_precision(method: str) -> None:
    network, batch = network_of(method).train(), batch_of()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(batch.image)
    result = METHODS[method].losses(network, output, batch, config_of())
    result.loss.backward()
    METHODS[method].update(network, result, progress=0.0)
    assert result.loss.dtype == torch.float32
    assert all(bool(p.grad is not None and p.grad.isfinite().all()) for p in network.parameters())
    assert all(value.dtype == torch.float32 for value in network.state_dict().values() if value.is_floating_point())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_single_image_trains(method: str) -> None:
    network = network_of(method).train()
    _, result = step(method, network, batch_of((1,), size=(33, 37)))
    result.loss.backward()
    METHODS[method].update(network, result, progress=0.0)
    assert all(bool(value.isfinite().all()) for value in network.state_dict().values())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_batch_without_labels_costs_nothing_and_moves_no_prototype(method: str) -> None:
    network = network_of(method).train()
    batch = batch_of()
    batch = batch._replace(label=torch.full_like(batch.label, IGNORE_INDEX))
    _, result = step(method, network, batch)
    whitening = result.parts.pop("whitening", torch.zeros(()))  # the one loss that needs no label
    torch.testing.assert_close(result.loss.detach(), 0.6 * whitening, rtol=1e-6, atol=0)
    assert all(float(part) == 0 for part in result.parts.values())
    result.loss.backward()
    if not whitening:
        assert all(p.grad is None or not bool(p.grad.any()) for p in network.parameters())
    assert any(p.grad is not None for p in network.parameters())
    before = snapshot(network)
    METHODS[method].update(network, result, progress=0.0)
    if network.prototype_head is not None:
        torch.testing.assert_close(network.prototype_head.prototypes, before["classifier.prototypes"])


# property -------------------------------------------------------------------------------------------------------------


def test_batch_order_does_not_matter() -> None:
    batch, order = batch_of((2, 0, 2, 1)), torch.tensor([3, 1, 0, 2])
    shuffled = Batch(batch.image[order], batch.label[order], batch.domain[order], tuple(batch.name[i] for i in order))
    networks = [network_of("spcnet").double().eval() for _ in range(2)]
    losses = []
    for network, given in zip(networks, (batch, shuffled), strict=True):
        _, result = step("spcnet", network, given._replace(image=given.image.double()))
        METHODS["spcnet"].update(network, result, progress=0.0)
        losses.append(result.loss.detach())
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-12)
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(value, networks[1].state_dict()[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_batch_in_parts_has_the_losses_and_gradients_of_the_whole(method: str) -> None:
    """Also where a part lacks a domain, classes, or every label; losses with all their terms."""
    # MixStyle mixes images of one part.
    model = config_of(auxiliary_weight=0.4, settings={"probability": 0.0} if method == "mixstyle" else {})
    batch = batch_of((2, 0, 2, 1))
    batch = batch._replace(image=batch.image.double(), label=batch.label.clone())
    batch.label[3] = IGNORE_INDEX
    batch.label[0, :20] = 1
    parts = [Batch(*(part[begin:end] for part in batch)) for begin, end in ((0, 1), (1, 3), (3, 4))]  # type: ignore[arg-type]

    def network() -> Segmentor:
        torch.manual_seed(0)
        made = METHODS[method].build(model, num_classes=CLASSES, num_domains=DOMAINS).double().train()
        for layer in made.modules():
            if isinstance(layer, (torch.nn.modules.batchnorm._BatchNorm, torch.nn.Dropout2d, SwitchableWhitening)):
                layer.eval()
        for layer in made.whitening_layers:
            layer.mask.fill_(True).triu_(1)
        return made

    whole, parted = network(), network()
    _, expected = step(method, whole, batch, model)
    expected.loss.backward()
    sums = MicroBatchSums()
    for part in parts:
        sums.begin()
        METHODS[method].losses(parted, parted(part.image), part, model, reduce=sums)
    sums.close()
    for part in parts:
        sums.begin()
        result = METHODS[method].losses(parted, parted(part.image), part, model, reduce=sums)
        result.loss.backward()
        torch.testing.assert_close(result.loss, expected.loss, rtol=0, atol=1e-10)
    assert result.parts.keys() == expected.parts.keys()
    for name, value in parted.named_parameters():
        torch.testing.assert_close(value.grad, whole.get_parameter(name).grad, rtol=0, atol=1e-9, msg=name)
    assert any(bool(value.grad.any()) for value in parted.parameters() if value.grad is not None)
    if isinstance(result.extras, Observed) and result.extras.classes is not None:
        for found, value in zip(result.extras.classes, expected.extras.classes, strict=True):
            torch.testing.assert_close(found, value, rtol=0, atol=1e-9)


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    model = config_of(clustering=ClusteringConfig(var_weight=0.7, dis_weight=0.3), auxiliary_weight=0.4)
    _, result = step("spcnet", network_of("spcnet", model).train(), batch_of(), model)
    parts = result.parts
    expected = parts["ce"] + 0.4 * parts["aux"] + 0.7 * parts["var"] + 0.3 * parts["dis"]
    torch.testing.assert_close(result.loss.detach(), expected)
    assert all(float(part) > 0 for part in parts.values())


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (
            LossConfig(weighting="class", class_weights=[1.0, 2.0, 3.0, 4.0, 5.0][:CLASSES]),
            lambda logits, label: cross_entropy(logits, label, weight=torch.arange(1.0, CLASSES + 1)),
        ),
        (
            LossConfig(weighting="image", bound=2.0, border=1, strict=[1]),
            lambda logits, label: cross_entropy(
                logits,
                label,
                weight=frequency_weights(label, CLASSES, bound=2.0),
                per_image=True,
                border=1,
                strict=[1],
            ),
        ),
        (
            LossConfig(weighting="batch"),
            lambda logits, label: cross_entropy(logits, label, weight=frequency_weights(label, CLASSES, batch=True)),
        ),
        (LossConfig(border=2, border_until=0.5), cross_entropy),
    ],
)
def test_loss_settings_reach_the_loss(loss: LossConfig, expected: Any) -> None:
    model, batch = config_of(loss=loss), batch_of()
    batch.label[0, 10:] = IGNORE_INDEX  # so that a mean over the images is not one over the pixels
    network = network_of("deeplabv3plus", model).train()
    output = network(batch.image)
    result = METHODS["deeplabv3plus"].losses(network, output, batch, model, progress=0.5)
    torch.testing.assert_close(result.parts["ce"], expected(output.logits, batch.label).detach())
    plain = cross_entropy(output.logits, batch.label).detach()
    before = METHODS["deeplabv3plus"].losses(network, output, batch, model, progress=0.49).parts["ce"]
    assert not torch.isclose(before, plain, rtol=1e-4)


@pytest.mark.parametrize("method", ["deeplabv3plus", "spcnet"])
def test_further_losses_stand_beside_the_cross_entropy_or_in_its_place(method: str) -> None:
    options = {"focal_gamma": 1.0, "ohem_threshold": 0.2, "ohem_least": 0.1}
    terms = {"focal": 0.5, "ohem": 2.0, "dice": 0.25, "lovasz": 3.0}
    for model in (
        config_of(loss=LossConfig({"ce": 1.0, **terms}, **options), auxiliary_weight=0.4),
        config_of(loss=LossConfig(terms, **options), auxiliary_weight=0.4),
    ):
        network, batch = network_of(method, model).train(), batch_of()
        output, result = step(method, network, batch, model)
        expected = {
            "ce": cross_entropy(output.logits, batch.label),
            "focal": focal_loss(output.logits, batch.label, gamma=1.0),
            "ohem": hard_pixel_loss(output.logits, batch.label, threshold=0.2, least=0.1),
            "dice": dice_loss(output.logits, batch.label),
            "lovasz": lovasz_softmax(output.logits, batch.label),
        }
        names = [*model.loss.terms, "aux"]
        assert list(result.parts)[: len(names)] == names
        total = sum(value * model.loss.terms.get(name, 0) for name, value in expected.items())
        weights = {"aux": 0.4, "var": model.clustering.var_weight, "dis": model.clustering.dis_weight}
        rest = sum(result.parts[name] * weight for name, weight in weights.items() if name in result.parts)
        torch.testing.assert_close(result.loss, total + rest)


def test_fixed_weights_count_for_the_auxiliary_head_too_and_the_others_do_not() -> None:
    found = {}
    for loss in (
        LossConfig(),
        LossConfig(weighting="class", class_weights=[9.0] + [1.0] * (CLASSES - 1)),
        LossConfig(weighting="image", border=1),
    ):
        torch.manual_seed(0)
        model = config_of(loss=loss, auxiliary_weight=0.4)
        network = network_of("deeplabv3plus", model).eval()
        torch.manual_seed(1)
        found[loss.weighting] = step("deeplabv3plus", network.train(), batch_of(), model)[1].parts["aux"]
    assert found["image"] == found["none"] != found["class"]


def test_loss_settings_that_do_not_fit_the_classes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"loss.class_weights is not given, and RobustNet has 19 weights"):
        network_of("deeplabv3plus", config_of(loss=LossConfig(weighting="class")))
    with pytest.raises(UsageError, match=r"loss.class_weights has 2 weights"):
        network_of("deeplabv3plus", config_of(loss=LossConfig(weighting="class", class_weights=[1.0, 2.0])))
    with pytest.raises(UsageError, match=rf"loss.strict names the classes \[{CLASSES}\]"):
        network_of("deeplabv3plus", config_of(loss=LossConfig(strict=[0, CLASSES])))


def test_style_settings_reach_the_layers() -> None:
    style = StyleConfig(mode="substitution", distance="kl", channel_wise=True, momentum=0.5, sharpness=3.0)
    layer = network_of("spcnet", config_of(style=style)).style_layers[1]
    assert (layer.mode, layer.distance, layer.channel_wise) == ("substitution", "kl", True)
    assert (layer.momentum, layer.sharpness) == (0.5, 3.0)
    clustering = ClusteringConfig(embedding_dim=32, momentum=0.5, ramp_up=True)
    head = network_of("spcnet", config_of(clustering=clustering)).prototype_head
    assert head is not None
    assert head.prototypes.shape == (CLASSES, DOMAINS, 32)
    assert (head.momentum, head.ramp) == (0.5, True)


def test_further_options_reach_a_network_that_is_built_by_names() -> None:
    network = build_model(
        "spcnet", backbone="shufflenet_v2", options={"style": {"distance": "kl"}, "clustering": {"embedding_dim": 32}}
    )
    assert network.style_layers[0].distance == "kl"
    assert network.prototype_head is not None
    assert network.prototype_head.prototypes.shape == (19, 2, 32)
    with pytest.raises(UsageError, match="unknown option stile"):
        build_model("spcnet", options={"stile": {}})


def test_each_method_is_named_and_explained() -> None:
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary
        assert method.paper
    assert device_of(network_of("deeplabv3plus")) == torch.device("cpu")


# refusals -------------------------------------------------------------------------------------------------------------


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown method 'spcnt'.* Did you mean 'spcnet'\?"):
        build_model("spcnt")
    with pytest.raises(UsageError, match=r"unknown method 'deeplab'.* Did you mean 'deeplabv3plus'\?"):
        method_named("deeplab")
    with pytest.raises(UsageError, match=r"unknown backbone 'resnet_50'.* Did you mean 'resnet50'\?"):
        build_model("spcnet", backbone="resnet_50")
    with pytest.raises(UsageError, match="it must be one of 8, 16, 32"):
        build_model("spcnet", output_stride=12)


@pytest.mark.parametrize(("classes", "domains"), [(1, 2), (5, 0)])
def test_too_few_classes_or_domains_are_refused(classes: int, domains: int) -> None:
    with pytest.raises(UsageError, match="a network needs at least two classes and one source domain"):
        build_model("spcnet", num_classes=classes, num_domains=domains)


def test_a_style_mode_is_refused_where_there_are_no_style_layers() -> None:
    with pytest.raises(UsageError, match=r"model\.style\.mode is 'projection', but the method semantic_clustering has"):
        network_of("semantic_clustering", config_of(style=StyleConfig(mode="projection")))


def test_many_images_with_labels_of_no_class_are_counted_by_name() -> None:
    batch = batch_of((0, 1, 2, 0, 1))
    batch.label[:, 0, 0] = CLASSES
    with pytest.raises(DataError, match=r"^image 0, image 1, image 2 have the labels \[5\]"):
        step("deeplabv3plus", network_of("deeplabv3plus").eval(), batch)


@pytest.mark.parametrize("value", [CLASSES, -1, 254])
@pytest.mark.parametrize("method", ["deeplabv3plus", "spcnet"])
def test_a_label_of_no_class_is_refused_with_the_images_name(method: str, value: int) -> None:
    batch = batch_of()
    batch.label[1, 20, 30] = value
    with pytest.raises(DataError) as caught:
        step(method, network_of(method).eval(), batch)
    assert f"image 1 has the labels [{value}]" in str(caught.value)
    assert "a label is 0..4, or 255 for a pixel to ignore" in str(caught.value)


@pytest.mark.parametrize("domain", [DOMAINS, -1])
@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if isinstance(m, SPCNet)])
def test_a_domain_out_of_range_is_refused_before_anything_is_learnt(method: str, domain: int) -> None:
    with pytest.raises(UsageError, match=r"the network knows the domains 0\.\.2"):
        step(method, network_of(method).eval(), batch_of((0, domain)))


def test_a_network_without_bases_takes_any_domain() -> None:
    step("deeplabv3plus", network_of("deeplabv3plus").eval(), batch_of((0, 99)))


# checkpoints of other networks ----------------------------------------------------------------------------------------


def test_a_checkpoint_of_other_numbers_says_which() -> None:
    for method, ours, theirs, message in (
        ("spcnet", (5, 3), (7, 3), "trained with 7 classes, the network has 5: build it with 7"),
        ("spcnet", (5, 3), (5, 2), "trained with 2 source domains, the network has 3: build it with 2"),
        ("style_projection", (5, 3), (5, 2), "trained with 2 source domains, the network has 3: build it with 2"),
        ("deeplabv3plus", (5, 3), (7, 3), "trained with 7 classes, the network has 5: build it with 7"),
    ):
        networks = [
            build_model(method, backbone="shufflenet_v2", num_classes=k, num_domains=m) for k, m in (ours, theirs)
        ]
        before = snapshot(networks[0])
        with pytest.raises(CheckpointError) as caught:
            fill(networks[0], networks[1].state_dict(), "the file")
        assert message in str(caught.value)
        assert changed(networks[0], before) == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("decoder.reduce_deep.0.weight"), r"lacks 1 tensors \(decoder\.reduce_deep\.0\.weight\)"),
        (lambda s: s.update(extra=torch.ones(1)), r"has 1 unexpected tensors \(extra\)"),
        (lambda s: s.update({"decoder.reduce_deep.0.weight": torch.ones(1)}), r"has 1 tensors in another shape"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("styles")], r"lacks 4 tensors \(.*, …\): it was trained"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Any, message: str) -> None:
    network = network_of("spcnet")
    state = dict(network.state_dict())
    change(state)
    with pytest.raises(CheckpointError, match=message):
        fill(network, state, "the file")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("method", "spcnt", "unknown method 'spcnt'"),
        ("model", {"backbone": "vgg"}, "unknown backbone 'vgg'"),
        ("model", {"backbon": "resnet18"}, "unknown option backbon in ModelConfig"),
        ("classes", ("only",), "a network needs at least two classes"),
        ("domains", (), "a network needs at least two classes and one source domain"),
    ],
)
def test_a_checkpoint_that_names_what_there_is_not_cannot_be_built(
    tmp_path: Path, field: str, value: Any, message: str
) -> None:
    card = card_for(
        method="deeplabv3plus", model=config_of(), space="toy", classes=("a", "b"), domains=["x"], size=(48, 64)
    )
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, {"a": torch.ones(1)}, dataclasses.replace(card, **{field: value}))
    with pytest.raises(CheckpointError, match="cannot be built: ") as caught:
        restore(path)
    assert message in str(caught.value)


def test_every_backbone_is_listed_with_a_summary() -> None:
    assert set(BACKBONES) > LARGE
    assert all(info.summary for info in BACKBONES.values())


def test_norms_join_any_method() -> None:
    network = METHODS["spcnet"].build(
        ModelConfig("resnet18", weights=None, norms=[0, 0, 4, 0, 0, 0, 0]), num_classes=3, num_domains=2
    )
    assert len(network.style_layers) == 2
    assert any(name.startswith("backbone.stem.1.") and "running" not in name for name in network.state_dict())
    assert not any(name == "backbone.stem.1.running_mean" for name in network.state_dict())

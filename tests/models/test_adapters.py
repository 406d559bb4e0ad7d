"""What of a backbone is trained: low-rank updates against their formulas, merging, Rein's tokens, names of layers."""

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from spcnet.config import AdapterConfig
from spcnet.errors import UsageError
from spcnet.methods import build_model
from spcnet.models.adapters import LoRA, Rein, adapt, base_tensors, has_updates, merge
from spcnet.models.adapters.lora import adapt_layer, last_pivots, merge_layer, smallest_triplets
from spcnet.models.network import Segmentor
from tests.support.transformers import DEPTH, WIDTH, TinyTransformer, tiny_transformer

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "qkv": (lambda: nn.Linear(8, 24), (2, 5, 8)),
    "wide": (lambda: nn.Linear(6, 10, bias=False), (3, 6)),
    "convolution": (lambda: nn.Conv2d(6, 8, 3, stride=2, padding=2, dilation=2), (2, 6, 9, 7)),
    "reflected": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=False), (2, 4, 5, 5)),
    "grouped": (lambda: nn.Conv2d(8, 16, 3, padding=1, groups=4), (2, 8, 6, 6)),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), (2, 8, 6, 6)),
}
STARTS = ("default", "soma", "qr")
CNN = {"kind": "lora", "rank": 4, "targets": ["conv1", "conv2"]}


def made(name: str) -> tuple[nn.Module, Tensor]:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    return make().double(), torch.randn(shape, dtype=torch.double)


def disturbed(module: nn.Module) -> nn.Module:
    """Updates that are not what they started as."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.endswith(("lora_a", "lora_b")):
                value += 0.1 * torch.randn_like(value)
    return module


def network(backbone: str = "resnet18", *, method: str = "spcnet", **adapter: Any) -> Segmentor:
    torch.manual_seed(0)
    return build_model(method, backbone=backbone, num_classes=4, options={"adapter": adapter}).double()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", LAYERS)
def test_an_adapted_layer_begins_as_the_pretrained_one(name: str, start: Any) -> None:
    layer, given = made(name)
    before, weight = layer(given), layer.weight.detach().clone()
    adapt_layer(name, layer, rank=2, scaling=0.7, start=start)
    assert isinstance(layer, LoRA)
    torch.testing.assert_close(layer(given), before, rtol=0, atol=1e-13)
    torch.testing.assert_close(layer.weight, weight, rtol=0, atol=1e-14)
    trained = {key for key, value in layer.named_parameters() if value.requires_grad}
    assert trained - {"bias"} == {"lora_a", "lora_b"}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", LAYERS)
def test_an_adapted_layer_is_one_of_the_weights_w_plus_s_b_a_and_merges_into_it(name: str, start: Any) -> None:
    layer, given = made(name)
    plain = copy.deepcopy(layer)
    adapt_layer(name, layer, rank=2, scaling=0.7, start=start)
    disturbed(layer)
    a, b, base = (value.detach().numpy() for value in (layer.lora_a, layer.lora_b, layer.base))
    parts = 3 if (name, start) == ("qkv", "soma") else 1
    pairs = zip(np.split(b, parts), np.split(a, parts), strict=True)
    update = np.concatenate([each_b @ each_a for each_b, each_a in pairs])
    plain.weight.data = torch.from_numpy(base + 0.7 * update.reshape(base.shape))
    torch.testing.assert_close(layer(given), plain(given), rtol=0, atol=1e-13)
    merge_layer(layer)
    assert type(layer) is type(plain)
    assert layer.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(layer.weight, plain.weight, rtol=0, atol=1e-15)
    torch.testing.assert_close(layer(given), plain(given), rtol=0, atol=1e-14)


def test_gradients_of_an_update_beside_the_layer_are_those_of_the_summed_weights() -> None:
    for name in ("qkv", "convolution"):
        layer, given = made(name)
        adapt_layer(name, layer, rank=2, start="soma")
        disturbed(layer)
        found = []
        for beside in (True, False):
            layer.beside = beside
            layer.zero_grad()
            layer(given).square().sum().backward()
            assert layer.base.grad is None
            found.append((layer.lora_a.grad.clone(), layer.lora_b.grad.clone()))
        torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_soma_starts_from_the_smallest_singular_triplets(shape: tuple[int, int]) -> None:
    weight = np.random.default_rng(0).normal(size=shape)
    values = np.linalg.svd(weight, compute_uv=False)
    b, a = (factor.numpy() for factor in smallest_triplets(torch.from_numpy(weight), 2))
    # U_r S_r V_rᵀ is what is left of W when the largest triplets are taken out, and both factors have √S_r.
    u, s, v = np.linalg.svd(weight, full_matrices=False)
    np.testing.assert_allclose(b @ a, weight - (u[:, :-2] * s[:-2]) @ v[:-2], atol=1e-13)
    np.testing.assert_allclose(b.T @ b, np.diag(values[-2:]), atol=1e-13)
    np.testing.assert_allclose(a @ a.T, np.diag(values[-2:]), atol=1e-13)


def test_a_fused_qkv_is_decomposed_layer_by_layer_and_a_plain_update_is_not() -> None:
    layer, _ = made("qkv")
    weight = layer.weight.detach().clone()
    adapt_layer("blocks.0.attn.qkv", layer, rank=2, start="soma")
    assert (layer.lora_b.shape, layer.lora_a.shape) == ((24, 2), (6, 8))
    for part in range(3):
        single = smallest_triplets(weight[8 * part : 8 * part + 8], 2)
        torch.testing.assert_close(layer.lora_b[8 * part : 8 * part + 8], single.b)
        torch.testing.assert_close(layer.lora_a[2 * part : 2 * part + 2], single.a)
    for start in ("default", "qr"):
        layer, _ = made("qkv")
        adapt_layer("blocks.0.attn.qkv", layer, rank=2, start=start)
        assert layer.lora_a.shape == (2, 8)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_the_qr_start_takes_the_last_columns_of_q_and_selects_their_pivots(shape: tuple[int, int]) -> None:
    weight = np.random.default_rng(0).normal(size=shape)
    b, a = (factor.numpy() for factor in last_pivots(torch.from_numpy(weight), 2))
    np.testing.assert_allclose(b.T @ b, np.eye(2), atol=1e-13)
    assert ((a == 0) | (a == 1)).all()
    assert a.sum(1).tolist() == [1, 1]
    # What is left of the selected inputs' columns once all columns that were chosen before are taken out lies in B.
    pivots = scipy.linalg.qr(weight, pivoting=True)[2][: min(shape)]
    earlier, chosen = weight[:, pivots[:-2]], weight[:, pivots[-2:]]
    assert a.argmax(1).tolist() == pivots[-2:].tolist()
    rest = chosen - earlier @ np.linalg.lstsq(earlier, chosen, rcond=None)[0]
    np.testing.assert_allclose(b @ (b.T @ rest), rest, atol=1e-12)


@pytest.mark.parametrize("start", STARTS)
def test_a_checkpoint_fills_an_update_that_was_never_decomposed(start: Any) -> None:
    layer, given = made("qkv")
    empty = copy.deepcopy(layer)
    adapt_layer("qkv", layer, rank=2, start=start)
    disturbed(layer)
    nn.init.zeros_(empty.weight)
    adapt_layer("qkv", empty, rank=2, start=start, pretrained=False)
    assert not empty.lora_a.any()
    empty.load_state_dict(layer.state_dict())
    torch.testing.assert_close(empty(given), layer(given), rtol=0, atol=0)


@pytest.mark.parametrize("start", ["soma", "qr"])
def test_the_base_is_the_pretrained_weight_less_the_update_of_the_start(start: Any) -> None:
    layer, _ = made("convolution")
    weight = layer.weight.detach().clone()
    adapt_layer("convolution", layer, rank=2, start=start)
    disturbed(layer)
    torch.testing.assert_close(weight - layer.update(layer.start_b, layer.start_a), layer.base, rtol=0, atol=0)


def test_dropout_is_before_the_update_and_in_training_alone() -> None:
    layer, given = made("wide")
    adapt_layer("wide", layer, rank=2, dropout=0.5)
    disturbed(layer)
    layer.train()
    torch.manual_seed(3)
    dropped = nn.functional.dropout(given, 0.5)
    torch.manual_seed(3)
    expected = given @ layer.base.T + dropped @ layer.lora_a.T @ layer.lora_b.T
    torch.testing.assert_close(layer(given), expected)
    with pytest.raises(UsageError, match=r"model.adapter.dropout is 0.5, but a block .* reads the weights"):
        _ = layer.weight
    layer.eval()
    torch.testing.assert_close(layer(given), given @ layer.weight.T)
    grouped, _ = made("grouped")
    with pytest.raises(UsageError, match="x is a Conv2d of 4 groups, whose update is added to its weights"):
        adapt_layer("x", grouped, rank=2, dropout=0.5)


def test_layers_of_timm_that_prepare_their_weights_are_adapted_through_them() -> None:
    from timm.layers import StdConv2d

    torch.manual_seed(0)
    layer = StdConv2d(4, 6, 3, padding=1).double()
    given, plain = torch.randn(2, 4, 6, 6).double(), copy.deepcopy(layer)
    adapt_layer("conv", layer, rank=2, start="soma")
    torch.testing.assert_close(layer(given), plain(given), rtol=0, atol=1e-12)
    disturbed(layer)
    plain.weight.data = layer.weight.detach()
    torch.testing.assert_close(layer(given), plain(given), rtol=0, atol=1e-13)


def test_a_rank_above_that_of_a_layer_is_refused() -> None:
    layer, _ = made("depthwise")
    with pytest.raises(UsageError, match=r"model.adapter.rank is 9, but stem.0 has a rank of 8 at most"):
        adapt_layer("stem.0", layer, rank=9)


# The backbone ---------------------------------------------------------------------------------------------------------


def adapted(**config: Any) -> TinyTransformer:
    backbone = tiny_transformer()
    assert adapt(backbone, AdapterConfig(**{"rank": 2, **config} if config["kind"] != "frozen" else config)) is None
    return backbone


def trained(module: nn.Module) -> set[str]:
    return {name for name, value in module.named_parameters() if value.requires_grad}


def test_the_default_targets_are_the_linear_layers_of_timms_blocks() -> None:
    backbone = adapted(kind="lora")
    layers = {f"blocks.{n}.{layer}" for n in range(DEPTH) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert {name for name, module in backbone.named_modules() if isinstance(module, LoRA)} == layers
    new = {"scales.0.weight", "scales.0.bias", "scales.1.weight", "scales.1.bias"}
    assert trained(backbone) == new | {f"{name}.lora_{factor}" for name in layers for factor in "ab"}


def test_patterns_first_block_and_biases_choose_what_is_trained() -> None:
    backbone = adapted(kind="lora", targets=["qkv", "blocks.*.mlp.fc?"], first_block=2, biases=True)
    chosen = {name for name, module in backbone.named_modules() if isinstance(module, LoRA)}
    assert chosen == {f"blocks.{n}.{layer}" for n in (2, 3) for layer in ("attn.qkv", "mlp.fc1", "mlp.fc2")}
    assert {name for name in trained(backbone) if name.endswith("bias") and name.startswith("blocks")} == {
        f"{name}.bias" for name in chosen
    }
    assert {n for n, m in adapted(kind="lora", targets=["embed"]).named_modules() if isinstance(m, LoRA)} == {"embed"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"targets": ["attn.qvk"]}, r"model.adapter.targets has 'attn.qvk', and no .* nearest blocks\.\*\.attn\.qkv"),
        ({"targets": ["fc1", "norm1"]}, r"targets has 'norm1'.* nearest "),
        ({"first_block": 4}, r"model.adapter.first_block is 4: the blocks or stages of this backbone are 0..3"),
        ({"targets": ["embed"], "first_block": 1}, "'embed', and all 1 such layers lie before block 1"),
        ({"rank": 13}, "model.adapter.rank is 13, but blocks.0.attn.qkv has a rank of 12 at most"),
    ],
)
def test_what_matches_nothing_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        adapt(tiny_transformer(), AdapterConfig(kind="lora", **config))


def test_the_message_for_a_cnn_has_its_names() -> None:
    with pytest.raises(UsageError, match=r"'attn.qkv'.* nearest .*layer1\.\*\.conv2"):
        network(kind="lora")


@pytest.mark.parametrize("kind", ["frozen", "lora", "rein"])
def test_the_pretrained_part_stays_in_evaluation_and_the_rest_is_trained(kind: Any) -> None:
    model = network(**(CNN if kind == "lora" else {"kind": kind}))
    model.train()
    backbone = model.backbone
    modes = {type(module).__name__ for module in backbone.modules() if module.training}
    assert modes == ({"LoRAConv2d"} if kind == "lora" else set())
    assert model.decoder.training
    image = torch.randn(2, 3, 64, 64).double()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    model(image).logits.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert {name.rpartition(".")[2] for name, value in backbone.named_parameters() if value.grad is not None} == (
        {"lora_a", "lora_b"} if kind == "lora" else set()
    )
    assert all(
        value.grad is not None for name, value in model.named_parameters() if name.startswith(("decoder", "rein"))
    )
    assert not model.eval().decoder.training


def test_parts_that_no_pretrained_weights_have_are_trained_in_training_mode() -> None:
    backbone = adapted(kind="frozen").train()
    assert trained(backbone) == {"scales.0.weight", "scales.0.bias", "scales.1.weight", "scales.1.bias"}
    assert backbone.scales.training
    assert backbone.scales[1].training
    assert not any(module.training for module in backbone.blocks.modules())
    image = torch.randn(1, 3, 32, 32).double()
    first, second = (backbone.features(image, ["block3"])["block3"] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)  # no dropout


def test_the_base_of_an_adapted_backbone_is_all_that_training_leaves() -> None:
    backbone = adapted(kind="lora", start="soma", biases=True)
    rest = backbone.state_dict().keys() - base_tensors(backbone)
    ends = {name.rpartition(".")[2] for name in rest if name.startswith("blocks.0.attn.qkv")}
    assert ends == {"lora_a", "lora_b", "start_a", "start_b", "bias"}
    assert {name for name in rest if not name.startswith("blocks")} == {
        name for name in backbone.state_dict() if name.startswith("scales")
    }
    cnn = network(kind="frozen").backbone
    assert base_tensors(cnn) == cnn.state_dict().keys()


def test_everything_is_trained_by_default_and_the_network_is_the_one_of_before() -> None:
    torch.manual_seed(0)
    plain = build_model("spcnet", backbone="resnet18", num_classes=4).double()
    full = network(kind="full")
    assert all(torch.equal(value, full.state_dict()[name]) for name, value in plain.state_dict().items())
    assert all(value.requires_grad for value in full.parameters())
    assert all(module.training for module in full.train().modules())
    assert merge(full) is full


@pytest.mark.parametrize("start", STARTS)
def test_a_merged_network_has_the_keys_of_a_plain_one_and_answers_alike(start: Any) -> None:
    model = disturbed(network(start=start, **CNN)).eval()
    merged = merge(model)
    plain = network(kind="full").eval()
    assert merged.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(merged.state_dict())
    image = torch.randn(1, 3, 49, 65).double()
    with torch.no_grad():
        torch.testing.assert_close(merged(image).logits, model(image).logits, rtol=0, atol=1e-11)
        torch.testing.assert_close(merged(image).logits, plain(image).logits, rtol=0, atol=0)
    assert has_updates(model)
    assert not has_updates(merged)
    assert all(value.requires_grad for value in merged.parameters())
    assert merged.train().backbone.layer1[0].bn1.training
    with torch.no_grad():
        next(iter(merged.parameters())).zero_()
    assert next(iter(model.parameters())).any()


def test_merged_scores_in_single_precision_differ_by_rounding() -> None:
    model = disturbed(network(start="soma", **CNN)).float().eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, merged = model(image).logits, merge(model)(image).logits
    assert float((found - merged).abs().max() / found.abs().max()) < 1e-4


@pytest.mark.parametrize("kind", ["frozen", "lora", "rein"])
def test_recomputing_changes_neither_scores_nor_gradients(kind: str) -> None:
    model = disturbed(network(**(CNN if kind == "lora" else {"kind": kind}))).train()
    image = torch.randn(2, 3, 49, 64).double()
    found = []
    for recompute in (False, True):
        model.recompute = recompute
        model.zero_grad()
        torch.manual_seed(0)
        logits = model(image).logits
        logits.square().mean().backward()
        grads = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        found.append((logits.detach(), grads))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_compiled_layers_and_tokens_have_the_gradients_of_plain_ones() -> None:
    program = """
import torch
from torch import nn
from spcnet.models.adapters import Rein
from spcnet.models.adapters.lora import adapt_layer

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2)
        self.qkv, self.rein = nn.Linear(8, 12), Rein({"block0": 8}, tokens=3, rank=2)
        for name, start in (("first", "default"), ("second", "qr"), ("qkv", "soma")):
            adapt_layer(name, getattr(self, name), rank=2, start=start)
        nn.init.normal_(self.first.lora_b)

    def forward(self, image):
        feature = self.rein("block0", self.second(self.first(image)))
        return self.qkv(feature.flatten(2).transpose(1, 2))

torch.manual_seed(0)
model, image, found = Network().double(), torch.randn(2, 3, 9, 9).double(), []
for run in (model, torch.compile(model, fullgraph=True)):
    model.zero_grad()
    run(image).square().mean().backward()
    found.append({name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None})
torch.testing.assert_close(*found, rtol=1e-8, atol=1e-10)
print(len(found[0]))
"""
    # In a process without the checks of shapes that the tests put around every function, where nothing can be traced.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 6 + 3 + 7  # two factors and a bias each; tokens, two layers, a scale


def test_lora_parameters_count_as_backbone_and_tokens_as_embeddings() -> None:
    model = network(**CNN)
    depths = model.depths()
    assert depths["backbone.layer3.0.conv1.lora_a"] == depths["backbone.layer3.0.conv1.base"] == 3
    assert not model.embeddings()
    model = network(kind="rein", tokens=5)
    assert not any(name.startswith("rein") for name in model.depths())
    assert model.embeddings() == {f"rein.{name}.{number}" for name in ("a", "b", "scales") for number in range(4)}
    assert trained(model.backbone) == set()


# Rein -----------------------------------------------------------------------------------------------------------------


def refined(rein: Rein, number: int, feature: Tensor) -> Tensor:
    """The formula, cell by cell and token by token."""
    place = rein.places[number]
    group = rein.shared[place]
    tokens = rein.a[number] @ rein.b[number]
    result = torch.empty_like(feature)
    for image in range(len(feature)):
        for row in range(feature.shape[2]):
            for column in range(feature.shape[3]):
                cell = feature[image, :, row, column]
                scores = [math.exp(float(cell @ token) / math.sqrt(len(cell))) for token in tokens]
                found = torch.zeros_like(cell)
                for score, token in list(zip(scores, tokens, strict=True))[1:]:
                    found += score / sum(scores) * rein.token_layers[group](token)
                change = rein.feature_layers[group](found + cell)
                result[image, :, row, column] = cell + rein.scales[group] * change
    return result


def test_rein_refines_as_its_formula_says() -> None:
    torch.manual_seed(0)
    rein = Rein({"one": 6, "two": 4, "three": 6}, tokens=5, rank=3).double()
    with torch.no_grad():
        for value in rein.parameters():
            value += torch.randn_like(value)
        for number, (place, channels) in enumerate({"one": 6, "two": 4, "three": 6}.items()):
            feature = torch.randn(2, channels, 3, 2).double()
            torch.testing.assert_close(rein(place, feature), refined(rein, number, feature), rtol=1e-12, atol=1e-12)
        elsewhere = torch.randn(1, 9, 2, 2)
        assert rein("stem", elsewhere) is elsewhere
    assert rein.shared == {"one": 0, "two": 1, "three": 0}
    assert len(rein.token_layers) == len(rein.scales) == 2


def test_rein_starts_as_published() -> None:
    torch.manual_seed(0)
    rein = Rein({"block0": 64}, tokens=100, rank=16)
    bound = math.sqrt(6 / (3 * 16 * 16 + math.sqrt(16 * 64)))
    for value in (rein.a[0], rein.b[0]):
        assert 0.95 * bound < float(value.detach().abs().max()) <= bound
    assert (rein.a[0].shape, rein.b[0].shape) == ((100, 16), (16, 64))
    assert float(rein.scales[0].detach()) == pytest.approx(0.001)
    weight = rein.token_layers[0].weight
    assert 0.95 / 8 < float(weight.detach().abs().max()) <= 1 / 8  # Kaiming-uniform with a = √5: within 1/√C


def test_rein_stands_behind_each_block_from_the_first_and_before_the_taps() -> None:
    backbone = tiny_transformer()
    rein = adapt(backbone, AdapterConfig(kind="rein", tokens=4, first_block=1))
    assert rein is not None
    assert rein.places == ("block1", "block2", "block3")
    assert rein.shared == dict.fromkeys(rein.places, 0)
    rein = rein.double()
    image, seen = torch.randn(1, 3, 32, 32).double(), {}

    def tap(place: str, feature: Tensor) -> Tensor:
        seen[place] = rein(place, feature)
        return seen[place]

    with torch.no_grad():
        maps = backbone.eval().features(image, ["block2"], tap)
        plain = backbone.features(image, ["block0", "block1"])
        torch.testing.assert_close(seen["block1"], rein("block1", plain["block1"]))
    assert maps["block2"] is seen["block2"]
    assert maps["block2"].shape == (1, WIDTH, 4, 4)


def test_tokens_cannot_be_merged() -> None:
    with pytest.raises(UsageError, match="Rein's tokens depend on the image and cannot be merged"):
        merge(network(kind="rein"))


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank": 4}, "model.adapter.rank is 4, but the adapter full has no settings"),
        (
            {"kind": "frozen", "start": "soma"},
            "model.adapter.start is soma, but the adapter frozen has the settings save_base",
        ),
        (
            {"kind": "rein", "alpha": 2.0},
            "model.adapter.alpha is 2.0, but the adapter rein has the settings rank, first_block",
        ),
        ({"kind": "lora", "tokens": 4}, "model.adapter.tokens is 4"),
        ({"kind": "lora", "targets": []}, r"model.adapter.targets is \[\]: .* or choose model.adapter.kind frozen"),
        ({"kind": "full", "save_base": False}, "model.adapter.save_base is False"),
    ],
)
def test_settings_that_a_kind_would_ignore_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AdapterConfig(**config)


def test_norms_cannot_be_replaced_in_a_backbone_that_is_not_trained_whole() -> None:
    with pytest.raises(
        UsageError, match=r"model.adapter.kind is frozen, but the method isw .* has to be trained whole"
    ):
        network(method="isw", kind="frozen")

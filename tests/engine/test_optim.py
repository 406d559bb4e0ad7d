"""Groups of parameters, one step of AdamW by hand, and memory that is known by the place in the network."""

from collections.abc import Iterator
from typing import Any

import pytest
import timm
import timm.optim
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from spcnet.config import TrainingConfig
from spcnet.engine.optim import make_optimizer, memory_size, pack, set_schedule, unpack
from spcnet.errors import CheckpointError, UsageError
from spcnet.types import Network


class Transformer(Network):
    """A small ViT of timm with a head, whose depths are timm's own layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = VisionTransformer(
            img_size=32, patch_size=16, embed_dim=16, depth=3, num_heads=2, num_classes=0, init_values=0.1
        )
        self.head = nn.Sequential(nn.Conv2d(16, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1))
        self.query = nn.Parameter(torch.randn(5, 16))

    def depths(self) -> dict[str, int]:
        """0 for the embedding, then a number a block; the final norm is of the last."""
        found = {}
        for name, _ in self.backbone.named_parameters():
            block = int(name.split(".")[1]) if name.startswith("blocks.") else 2 if name.startswith("norm") else -1
            found[f"backbone.{name}"] = block + 1
        return found

    def embeddings(self) -> set[str]:
        """Tokens, positions and queries."""
        return {"query", *(f"backbone.{name}" for name in self.backbone.no_weight_decay())}


def made(network: Network, **settings: Any) -> torch.optim.Optimizer:
    config = TrainingConfig(iterations=10, **settings)
    optimizer = make_optimizer([{"params": list(network.parameters())}], network, config)
    set_schedule(optimizer, 0, config)
    return optimizer


def by_name(network: Network, optimizer: torch.optim.Optimizer, what: str) -> dict[str, float]:
    """A value of its group for each parameter that is trained."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {names[p]: group[what] for group in optimizer.param_groups for p in group["params"]}


def test_the_rate_that_is_made_for_sgd_is_told_with_adamw() -> None:
    with pytest.warns(UserWarning, match=r"learning_rate 0\.01, the default, which is for sgd: adamw takes about 1e-4"):
        made(Transformer(), optimizer="adamw")


def test_by_default_there_is_one_group_in_the_networks_order() -> None:
    network = Transformer()
    optimizer = made(network)
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert all(one is other for one, other in zip(group["params"], network.parameters(), strict=True))
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.9, 5e-4)


def test_adamw_decays_what_timm_decays() -> None:
    network = Transformer()
    found = by_name(network, made(network, optimizer="adamw", weight_decay=0.05), "weight_decay")
    theirs = timm.optim.param_groups_weight_decay(network, 0.05, no_weight_decay_list=network.embeddings())
    names = {parameter: name for name, parameter in network.named_parameters()}
    expected = {names[p]: group["weight_decay"] for group in theirs for p in group["params"]}
    assert found == expected
    assert {found[name] for name in ("query", "backbone.pos_embed", "backbone.cls_token", "head.1.weight")} == {0}
    assert found["backbone.blocks.0.ls1.gamma"] == found["head.0.bias"] == 0
    assert found["head.0.weight"] == found["backbone.blocks.2.mlp.fc1.weight"] == 0.05


def test_norms_and_biases_of_any_shape_are_not_decayed() -> None:
    class Odd(Network):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.plain = nn.LayerNorm((4, 3, 3)), nn.Linear(3, 2, bias=False)
            self.table_bias = nn.Parameter(torch.zeros(7, 2))

    network = Odd()
    found = by_name(network, made(network, optimizer="adamw"), "weight_decay")
    assert found == {"norm.weight": 0, "norm.bias": 0, "table_bias": 0, "plain.weight": 5e-4}


@pytest.mark.parametrize(("optimizer", "choice"), [("sgd", False), ("adamw", True)])
def test_what_is_decayed_can_be_chosen_against_the_optimisers_habit(optimizer: str, choice: bool) -> None:
    network = Transformer()
    found = by_name(network, made(network, optimizer=optimizer, decay_all=choice, weight_decay=0.1), "weight_decay")
    assert set(found.values()) == ({0.1} if choice else {0, 0.1})
    assert found["head.0.bias"] == (0.1 if choice else 0)


def test_layer_decay_is_timms_and_the_head_keeps_its_rate() -> None:
    network = Transformer()
    found = by_name(network, made(network, layer_decay=0.8, backbone_factor=0.5, learning_rate=0.1), "lr")
    theirs = timm.optim.param_groups_layer_decay(network.backbone, 0.05, layer_decay=0.8)
    names = {parameter: f"backbone.{name}" for name, parameter in network.backbone.named_parameters()}
    scales = {names[p]: group["lr_scale"] for group in theirs for p in group["params"]}
    deepest = scales["backbone.blocks.2.attn.qkv.weight"]  # which timm puts below the layer of its own head
    for name, scale in scales.items():
        if not name.startswith("backbone.norm"):
            assert found[name] == pytest.approx(0.1 * 0.5 * scale / deepest), name
    assert found["backbone.patch_embed.proj.weight"] == pytest.approx(0.1 * 0.5 * 0.8**3)
    assert {found[name] for name in found if not name.startswith("backbone.")} == {0.1}


def test_the_backbone_has_a_warm_up_of_its_own() -> None:
    network, config = Transformer(), TrainingConfig(iterations=10, backbone_warmup=(2, 2), backbone_factor=0.1)
    optimizer = make_optimizer([{"params": list(network.parameters())}], network, config)
    rates = []
    for iteration in range(5):
        set_schedule(optimizer, iteration, config)
        found = by_name(network, optimizer, "lr")
        rates.append((found["backbone.cls_token"], found["query"]))
    assert [rate for rate, _ in rates[:2]] == [0, 0]
    assert rates[2][0] == pytest.approx(0.01 * 0.1 * 1e-6)
    assert rates[4] == pytest.approx((0.01 * 0.1, 0.01 * 0.6**0.9))


def test_only_what_requires_a_gradient_is_in_the_optimiser() -> None:
    network = Transformer()
    network.backbone.requires_grad_(False)
    found = by_name(network, made(network, optimizer="adamw"), "lr")
    assert set(found) == {"query", *(f"head.{name}" for name, _ in network.head.named_parameters())}
    for name, value in (("backbone_factor", 0.1), ("layer_decay", 0.5), ("backbone_warmup", (1, 1))):
        with pytest.raises(UsageError, match=rf"training.{name} is .*, but no parameter of the backbone is trained"):
            made(network, **{name: value})
    network.requires_grad_(False)
    with pytest.raises(UsageError, match=r"no parameter of the network is trained: choose another model.adapter.kind"):
        made(network)


def test_groups_of_a_method_keep_what_they_say_and_are_divided_further() -> None:
    network = Transformer()
    config = TrainingConfig(
        iterations=10, optimizer="adamw", weight_decay=0.1, weight_decay_end=0.02, backbone_factor=0.5
    )
    groups = [
        {"params": list(network.head.parameters()), "rate_factor": 10.0, "weight_decay": 0.7},
        {"params": [*network.backbone.parameters(), network.query], "betas": (0.5, 0.6)},
    ]
    optimizer = make_optimizer(groups, network, config)
    set_schedule(optimizer, 5, config)
    rate = 0.01 * 0.5**0.9
    rates, decays = (by_name(network, optimizer, what) for what in ("lr", "weight_decay"))
    assert (rates["head.0.weight"], decays["head.0.weight"]) == (pytest.approx(10 * rate), 0.7)
    assert (rates["head.0.bias"], decays["head.0.bias"]) == (pytest.approx(10 * rate), 0.0)
    block = "backbone.blocks.1.mlp.fc1.weight"
    assert (rates[block], decays[block]) == (pytest.approx(0.5 * rate), pytest.approx(0.06))
    assert (rates["query"], decays["query"]) == (pytest.approx(rate), 0.0)
    assert {group["betas"] for group in optimizer.param_groups if "backbone" in str(group["places"])} <= {(0.5, 0.6)}
    assert by_name(network, optimizer, "betas")[block] == (0.5, 0.6)
    assert by_name(network, optimizer, "betas")["head.0.weight"] == (0.9, 0.999)


def steps(network: Network, number: int) -> Iterator[list[Tensor | None]]:
    """Gradients of some steps, the same each time."""
    for step in range(number):
        random = torch.Generator().manual_seed(step)
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random, dtype=parameter.dtype)
        yield [parameter.grad for parameter in network.parameters()]


def test_steps_of_adamw_are_those_of_the_formula() -> None:
    """Loshchilov and Hutter (ICLR 2019), Algorithm 2, with the rate and the decay of each parameter."""
    network = Transformer().double()
    config = TrainingConfig(
        iterations=6, optimizer="adamw", learning_rate=0.01, weight_decay=0.1, weight_decay_end=0.0, warmup=2,
        betas=(0.8, 0.9), backbone_factor=0.3, layer_decay=0.7, schedule="cosine",
    )  # fmt: skip
    optimizer = make_optimizer([{"params": list(network.parameters())}], network, config)
    expected = {name: p.detach().clone() for name, p in network.named_parameters()}
    mean, square = ({name: torch.zeros_like(p) for name, p in expected.items()} for _ in range(2))
    rates = [0.01 * (1e-6 + (1 - 1e-6) * t / 2) if t < 2 else 0.005 * (1 + torch.cos(torch.tensor(torch.pi * (t - 2) / 4)).item()) for t in range(4)]  # fmt: skip
    depths, undecayed = network.depths(), network.embeddings()
    for t, gradients in enumerate(steps(network, 4)):
        set_schedule(optimizer, t, config)
        optimizer.step()
        decay = 0.05 * (1 + torch.cos(torch.tensor(torch.pi * t / 6, dtype=torch.double)).item())
        for (name, w), g in zip(expected.items(), gradients, strict=True):
            assert g is not None
            rate = rates[t] * (0.3 * 0.7 ** (3 - depths[name]) if name in depths else 1)
            mean[name] = 0.8 * mean[name] + 0.2 * g
            square[name] = 0.9 * square[name] + 0.1 * g**2
            m, v = mean[name] / (1 - 0.8 ** (t + 1)), square[name] / (1 - 0.9 ** (t + 1))
            own = 0 if w.ndim <= 1 or name in undecayed else decay
            expected[name] = w - rate * own * w - rate * m / (v.sqrt() + 1e-8)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_memory_is_known_by_the_place_in_the_network_however_it_is_grouped(optimizer: str) -> None:
    network = Transformer()
    one = made(network, optimizer=optimizer, layer_decay=0.7)
    for _ in steps(network, 2):
        one.step()
    packed = pack(one)
    other = made(network, optimizer=optimizer, decay_all=optimizer == "adamw")
    assert len(other.param_groups) != len(one.param_groups)
    unpack(other, packed)
    for parameter in network.parameters():
        assert one.state[parameter].keys() == other.state[parameter].keys()
        for name, value in one.state[parameter].items():
            assert torch.equal(value, other.state[parameter][name])
    again = pack(other)
    assert again.keys() == packed.keys()
    sizes = [value.numel() for key, value in packed.items() if not key.endswith(".step")]
    numbers = sum(p.numel() for p in network.parameters())
    assert sum(sizes) == numbers * memory_size(TrainingConfig(optimizer=optimizer))  # type: ignore[arg-type]


@pytest.mark.parametrize(("wrote", "reads"), [("sgd", "adamw"), ("adamw", "sgd")])
def test_the_memory_of_another_optimiser_is_refused(wrote: str, reads: str) -> None:
    network = Transformer()
    one, other = made(network, optimizer=wrote), made(network, optimizer=reads)
    for _ in steps(network, 1):
        one.step()
    with pytest.raises(CheckpointError, match="optimiser is another one or belongs to another network"):
        unpack(other, pack(one))


def test_sgd_without_momentum_remembers_nothing() -> None:
    network = Transformer()
    optimizer = made(network, momentum=0.0)
    for _ in steps(network, 1):
        optimizer.step()
    assert pack(optimizer) == {}
    assert memory_size(TrainingConfig(momentum=0.0)) == 0

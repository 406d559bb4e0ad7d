"""The prototype head against the reference's numbers, and how its prototypes move."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn

from spcnet.losses.clustering import class_sums, compactness_loss, discrimination_loss, image_sums, labels_at
from spcnet.losses.segmentation import cross_entropy
from spcnet.models.heads.base import resize
from spcnet.models.heads.prototypes import PrototypeHead, embed, prototype_logits, ramp_up
from spcnet.types import ClassSums
from tests import golden
from tests.support.devices import mixed, near, rounded


def agree(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def norm_of(weight: Tensor, bias: Tensor) -> nn.LayerNorm:
    norm = nn.LayerNorm(len(weight)).to(weight)
    norm.weight.data, norm.bias.data = weight, bias
    return norm


def head_of(prototypes: Tensor, *, momentum: float = 0.999, ramp: bool = False) -> PrototypeHead:
    classes, domains, dim = prototypes.shape
    head = PrototypeHead(classes, domains, in_channels=4, embedding_dim=dim, momentum=momentum, ramp=ramp).to(
        prototypes
    )
    head.prototypes.copy_(prototypes)
    return head


def random_sums(seed: int, device: str, *, classes: int = 3, domains: int = 2, dim: int = 5) -> ClassSums:
    dice = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 3, (classes, domains), generator=dice).double()
    total = torch.randn(classes, domains, dim, generator=dice, dtype=torch.double) * (pixels > 0)[..., None]
    return ClassSums(total.to(device), pixels.to(device), torch.zeros_like(pixels, device=device))


# golden ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", golden.files("proto_head_*.npz"))
def test_scores_and_their_gradients_agree_with_the_reference(file: str, device: str) -> None:
    told, said = golden.load(file, device), golden.settings(file)
    feature, unit = told["feat"].requires_grad_(), F.normalize(told["protos"], dim=-1).requires_grad_()
    embedding_norm, score_norm = norm_of(told["ln1_w"], told["ln1_b"]), norm_of(told["ln2_w"], told["ln2_b"])
    agree(unit.detach(), told["protos_unit__f64"])
    embedding = embed(feature, embedding_norm)
    agree(embedding.detach().flatten(0, 2), told["emb_out__f64"])
    logits = resize(prototype_logits(embedding, unit, score_norm), tuple(said["image_size"]), align_corners=True)
    agree(logits.detach(), told["logits__f64"])
    loss = cross_entropy(logits, told["gt"])
    agree(loss.detach(), told["seg_loss__f64"])
    wanted = {
        "g_feat_seg": feature,
        "g_ln1_w_seg": embedding_norm.weight,
        "g_ln1_b_seg": embedding_norm.bias,
        "g_ln2_w_seg": score_norm.weight,
        "g_ln2_b_seg": score_norm.bias,
        "g_protos_seg": unit,
    }
    for name, gradient in zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True):
        agree(gradient, told[f"{name}__f64"])


@pytest.mark.parametrize("file", golden.files("proto_head_*.npz"))
def test_losses_behind_the_head_agree_with_the_reference(file: str, device: str) -> None:
    told, said = golden.load(file, device), golden.settings(file)
    feature = told["feat"].requires_grad_()
    label = labels_at(told["gt"], tuple(said["feature_size"]))
    assert torch.equal(label, told["gt_small"])
    # The reference's forward scales the bases to unit length in place before it learns from the batch.
    head = head_of(told["protos_unit__f64"], momentum=said["momentum"])
    pixels = embed(feature, norm_of(told["ln1_w"], told["ln1_b"])).flatten(1, 2)
    domain = torch.arange(said["N"], device=device) // said["images_per_source"]
    sums = image_sums(pixels, label.flatten(1), domain, head.unit_prototypes)
    classes = class_sums(sums, domain, num_domains=said["M"])
    var = compactness_loss(classes)
    dis = discrimination_loss(classes, head.unit_prototypes, temperature=said["temperature"])
    for name, loss in (("var", var), ("dis", dis)):
        agree(loss.detach(), told[f"{name}_loss__f64"])
        (gradient,) = torch.autograd.grad(loss, feature, retain_graph=True)
        agree(gradient, told[f"g_feat_{name}__f64"])
    head.update(classes)
    agree(head.prototypes, told["protos_after__f64"])


@pytest.mark.parametrize("file", golden.files("proto_learn_*.npz"))
def test_prototypes_move_as_the_references_do(file: str, device: str) -> None:
    told, said = golden.load(file, device), golden.settings(file)
    head = head_of(told["protos"], momentum=said["momentum"], ramp=said["rampup"])
    domain = torch.arange(said["N"], device=device) // said["images_per_source"]
    classes = class_sums(image_sums(told["emb"], told["labels"], domain, told["protos"]), domain, num_domains=said["M"])
    head.update(classes, progress=said["iteration"] / said["max_iteration"])
    agree(head.prototypes, told["protos_after__f64"])


def test_the_ramp_up_agrees_with_the_reference() -> None:
    told = golden.load("proto_rampup_table.npz")
    for iteration, value in zip(told["momentum_table_iter"], told["momentum_table_value"], strict=True):
        assert ramp_up(float(iteration) / 40_000) == pytest.approx(float(value), abs=1e-12)


# property -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_forward_does_not_change_the_head(training: bool, device: str) -> None:
    head = PrototypeHead(3, 2, in_channels=4, embedding_dim=5).to(device).train(training)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    feature = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)).to(device)
    assert torch.equal(head(feature).scores, head(feature).scores)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_the_score_of_a_class_is_that_of_its_nearest_prototype(device: str) -> None:
    dice = torch.Generator().manual_seed(0)
    prototypes = F.normalize(torch.randn(4, 3, 5, generator=dice), dim=-1).to(device)
    norm = nn.LayerNorm(4).to(device)
    for k in range(4):
        for m in range(3):
            scores = prototype_logits(prototypes[k, m].view(1, 1, 1, 5), prototypes, norm)
            assert scores.flatten().argmax() == k


def test_embeddings_and_fresh_prototypes_have_unit_length(device: str) -> None:
    head = PrototypeHead(3, 2, in_channels=4, embedding_dim=5).to(device)
    embedding = head(10 * torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)).to(device)).embedding
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2, 3, 3, device=device))
    torch.testing.assert_close(head.prototypes.norm(dim=-1), torch.ones(3, 2, device=device))


@pytest.mark.parametrize("at_a_time", [1, 7, 1000])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_embedding_part_by_part_equals_the_three_steps(
    at_a_time: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr("spcnet.models.heads.prototypes.pixels_at_a_time", lambda device: at_a_time)
    torch.manual_seed(0)
    norm = nn.LayerNorm(6).double().to(device)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    # Of unit length an entry is about 0.4: the norm's eps must count on that scale and not on the input's.
    feature = (1e-3 * torch.randn(2, 6, 3, 5).double().to(device)).contiguous(memory_format=layout).requires_grad_()
    pixels = F.normalize(feature.permute(0, 2, 3, 1), dim=-1)
    plain = F.normalize(norm(pixels), dim=-1)
    ours = embed(feature, norm)
    agree(ours, plain)
    upstream = torch.randn_like(plain)
    leaves = [feature, norm.weight, norm.bias]
    for mine, theirs in zip(
        torch.autograd.grad(ours, leaves, upstream), torch.autograd.grad(plain, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        agree(embed(feature, norm), plain)


def test_an_empty_pixel_has_a_finite_embedding_and_gradient(device: str) -> None:
    feature = torch.zeros(1, 4, 2, 2, device=device, requires_grad=True)
    norm = nn.LayerNorm(4).to(device)
    embed(feature, norm).sum().backward()
    assert feature.grad is not None
    assert bool(feature.grad.isfinite().all())


def test_prototypes_of_any_length_give_the_same_scores(device: str) -> None:
    head = PrototypeHead(3, 2, in_channels=4, embedding_dim=5).to(device).double()
    feature = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0)).to(device).double()
    before = head(feature).scores
    head.prototypes.mul_(7)
    torch.testing.assert_close(head(feature).scores, before, rtol=0, atol=1e-12)


def test_half_precision_embeddings_are_computed_in_single(device: str) -> None:
    head = PrototypeHead(3, 2, in_channels=4, embedding_dim=5).to(device)
    with torch.autocast(device, torch.bfloat16):
        result = head(torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0)).to(device))
    assert result.embedding.dtype == result.scores.dtype == torch.float32


def test_in_each_precision_the_head_and_its_update_are_those_of_double(device: str, dtype: torch.dtype) -> None:
    dice = torch.Generator().manual_seed(0)
    exact = head_of(
        F.normalize(torch.randn(3, 2, 5, generator=dice, dtype=torch.double), dim=-1).to(device), momentum=0.5
    )
    head = head_of(exact.prototypes.float(), momentum=0.5)
    head.load_state_dict({name: value.float() for name, value in exact.state_dict().items()})
    feature, same = rounded(torch.randn(2, 4, 3, 3, generator=dice, dtype=torch.double).to(device), dtype)
    label, domain = torch.randint(0, 3, (2, 9), generator=dice).to(device), torch.tensor([1, 0], device=device)
    found: list[Tensor] = []
    for layer, given_feature in ((head, feature), (exact, same)):
        with mixed(device, dtype if layer is head else torch.float32):
            result = layer(given_feature)
            pixels = result.embedding.flatten(2).transpose(1, 2)
            sums = image_sums(pixels, label, domain, layer.unit_prototypes)
            layer.update(class_sums(sums, domain, num_domains=2))
        found += [result.embedding, result.scores, layer.prototypes]
    for ours, theirs in zip(found[:3], found[3:], strict=True):
        assert ours.dtype == torch.float32
        near(ours, theirs, dtype, within=16)


@examples(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), momentum=st.sampled_from([0.0, 0.5, 0.999, 1.0]))
def test_update_is_the_formula_and_absent_classes_stay(seed: int, momentum: float, device: str) -> None:
    dice = torch.Generator().manual_seed(seed)
    old = F.normalize(torch.randn(3, 2, 5, generator=dice, dtype=torch.double), dim=-1).to(device)
    classes, head = random_sums(seed, device), head_of(old, momentum=momentum)
    head.update(classes)
    for k in range(3):
        for m in range(2):
            expected = old[k, m]
            if classes.pixels[k, m] > 0:
                mean = classes.total[k, m] / classes.pixels[k, m]
                moved = momentum * old[k, m] + (1 - momentum) * mean / mean.norm()
                expected = moved / moved.norm()
            torch.testing.assert_close(head.prototypes[k, m], expected, rtol=0, atol=1e-12)


def test_the_ramp_up_uses_the_share_of_the_run(device: str) -> None:
    old, classes = F.normalize(torch.ones(3, 2, 5).double(), dim=-1).to(device), random_sums(3, device)
    moved = []
    for progress in (0.0, 0.5, 1.0):
        head = head_of(old, ramp=True)
        head.update(classes, progress=progress)
        moved.append(float((head.prototypes - old).norm()))
    assert moved[0] > moved[1] > 100 * moved[2]
    assert ramp_up(-1.0) == ramp_up(0.0)
    assert ramp_up(2.0) == 1.0

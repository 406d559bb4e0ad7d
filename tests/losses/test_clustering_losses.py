"""The clustering losses against the reference's numbers and against a plain loop over classes and domains."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor

from spcnet.losses.clustering import class_sums, compactness_loss, discrimination_loss, image_sums, labels_at
from spcnet.types import IGNORE_INDEX, ClassSums
from tests import golden
from tests.support.devices import mixed, near, rounded


def losses(
    embedding: Tensor, label: Tensor, domain: Tensor, prototypes: Tensor, *, temperature: float = 0.1
) -> tuple[Tensor, Tensor, ClassSums]:
    sums = image_sums(embedding, label, domain, prototypes)
    classes = class_sums(sums, domain, num_domains=prototypes.shape[1])
    var = compactness_loss(classes)
    return var, discrimination_loss(classes, prototypes, temperature=temperature), classes


def losses_by_loop(
    embedding: Tensor, label: Tensor, domain: Tensor, prototypes: Tensor, *, temperature: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Eq. 9-11 word for word."""
    num_classes, num_domains, _ = prototypes.shape
    var = dis = 0 * embedding.sum()
    for k in range(num_classes):
        for m in range(num_domains):
            pixels = embedding[(label == k) & (domain == m)[:, None]]
            if not len(pixels):
                continue
            var = var + ((1 - pixels @ prototypes[k, m]) ** 2).mean()
            mean = pixels.mean(0) / pixels.mean(0).norm()
            positive = torch.stack([mean @ prototypes[k, n] for n in range(num_domains)]).mean()
            negatives = [mean @ prototypes[j, n] for j in range(num_classes) if j != k for n in range(num_domains)]
            scores = torch.stack([positive, *negatives]) / temperature
            dis = dis - scores.log_softmax(0)[0]
    return var / (num_classes * num_domains), dis / (num_classes * num_domains)


def random_case(
    seed: int, device: str, *, classes: int, domains: int, images: int, pixels: int = 11, dim: int = 6
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings, labels with absent classes and ignored pixels, domains in any order, prototypes."""
    dice = torch.Generator().manual_seed(seed)
    embedding = F.normalize(torch.randn(images, pixels, dim, generator=dice, dtype=torch.double), dim=-1)
    label = torch.randint(0, classes + 1, (images, pixels), generator=dice)
    label[label == classes] = IGNORE_INDEX
    label[label == int(torch.randint(0, classes, (), generator=dice))] = 0
    domain = torch.randint(0, domains, (images,), generator=dice)
    prototypes = F.normalize(torch.randn(classes, domains, dim, generator=dice, dtype=torch.double), dim=-1)
    embedding, label, domain, prototypes = (part.to(device) for part in (embedding, label, domain, prototypes))
    return embedding.requires_grad_(), label, domain, prototypes


def agree(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("file", golden.files("proto_learn_*.npz"))
def test_losses_and_gradients_agree_with_the_reference(file: str, device: str) -> None:
    told, said = golden.load(file, device), golden.settings(file)
    embedding, domain = (
        told["emb"].requires_grad_(),
        torch.arange(said["N"], device=device) // said["images_per_source"],
    )
    var, dis, _ = losses(embedding, told["labels"], domain, told["protos"], temperature=said["temperature"])
    for name, loss in (("var", var), ("dis", dis)):
        agree(loss.detach(), told[f"{name}_loss__f64"])
        (gradient,) = torch.autograd.grad(loss, embedding, retain_graph=True)
        agree(gradient, told[f"g_{name}__f64"])


@examples(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 7),
    domains=st.integers(1, 4),
    images=st.integers(1, 6),
    temperature=st.sampled_from([0.1, 1.0]),
)
def test_losses_and_gradients_equal_the_plain_loop(
    seed: int, classes: int, domains: int, images: int, temperature: float, device: str
) -> None:
    case = random_case(seed, device, classes=classes, domains=domains, images=images)
    ours = losses(*case, temperature=temperature)[:2]
    for mine, slow in zip(ours, losses_by_loop(*case, temperature=temperature), strict=True):
        torch.testing.assert_close(mine, slow, rtol=0, atol=1e-11)
        (gradient,) = torch.autograd.grad(mine, case[0], retain_graph=True)
        (expected,) = torch.autograd.grad(slow, case[0], retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-11)


def test_the_gradient_of_many_pixels_is_written_in_parts_without_a_seam(device: str) -> None:
    case = random_case(0, device, classes=3, domains=2, images=3, pixels=700)
    (gradient,) = torch.autograd.grad(sum(losses(*case)[:2]), case[0])
    (expected,) = torch.autograd.grad(sum(losses_by_loop(*case)), case[0])
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_sums_count_every_labelled_pixel_once(device: str) -> None:
    embedding, label, domain, prototypes = random_case(1, device, classes=4, domains=3, images=5)
    classes = losses(embedding, label, domain, prototypes)[2]
    assert classes.pixels.sum() == (label != IGNORE_INDEX).sum()
    torch.testing.assert_close(classes.total.sum((0, 1)), embedding[label != IGNORE_INDEX].sum(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ignored", [IGNORE_INDEX, -1, 4])
def test_labels_of_no_class_take_no_part(ignored: int, device: str) -> None:
    embedding, label, domain, prototypes = random_case(2, device, classes=4, domains=2, images=3)
    expected = losses(embedding, label, domain, prototypes)
    found = losses(embedding, torch.where(label == IGNORE_INDEX, ignored, label), domain, prototypes)
    for ours, theirs in zip(found[:2], expected[:2], strict=True):  # a GPU adds in any order
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0 if device == "cpu" else 1e-12)
    (gradient,) = torch.autograd.grad(found[0] + found[1], embedding)
    assert bool((gradient[label == IGNORE_INDEX] == 0).all())


@examples(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_batch_order_does_not_matter(seed: int, device: str) -> None:
    embedding, label, domain, prototypes = random_case(seed, device, classes=4, domains=3, images=5)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed)).to(device)
    one = losses(embedding, label, domain, prototypes)
    other = losses(embedding[order], label[order], domain[order], prototypes)
    for ours, theirs in zip((*one[:2], *one[2]), (*other[:2], *other[2]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_batch_without_labels_costs_nothing_and_stays_in_the_graph(device: str) -> None:
    embedding, label, domain, prototypes = random_case(3, device, classes=4, domains=2, images=3)
    for loss in losses(embedding, torch.full_like(label, IGNORE_INDEX), domain, prototypes)[:2]:
        assert float(loss.detach()) == 0
        (gradient,) = torch.autograd.grad(loss, embedding, retain_graph=True)
        assert torch.equal(gradient, torch.zeros_like(embedding))


def test_prototypes_get_no_gradient(device: str) -> None:
    embedding, label, domain, prototypes = random_case(4, device, classes=4, domains=2, images=3)
    prototypes.requires_grad_()
    var, dis, _ = losses(embedding, label, domain, prototypes)
    assert torch.autograd.grad(var + dis, prototypes, allow_unused=True) == (None,)


@pytest.mark.parametrize("which", [0, 1])
def test_gradients_are_those_of_the_values(which: int, device: str) -> None:
    embedding, label, domain, prototypes = random_case(5, device, classes=3, domains=2, images=2, pixels=5, dim=4)
    assert torch.autograd.gradcheck(lambda e: losses(e, label, domain, prototypes)[which], embedding, nondet_tol=1e-12)


def test_under_autocast_the_sums_keep_single_precision(device: str) -> None:
    embedding, label, domain, prototypes = random_case(6, device, classes=3, domains=2, images=2)
    single = embedding.detach().float().requires_grad_()
    with torch.autocast(device, torch.bfloat16):
        sums = image_sums(single, label, domain, prototypes.float())
    exact = image_sums(embedding, label, domain, prototypes)
    for single_sum, value in zip(sums, exact, strict=True):
        torch.testing.assert_close(single_sum.double(), value, rtol=1e-5, atol=1e-5)
    sums.distance.sum().backward()
    assert single.grad is not None


def test_in_each_precision_the_losses_and_gradients_are_those_of_double(device: str, dtype: torch.dtype) -> None:
    exact, label, domain, prototypes = random_case(7, device, classes=4, domains=2, images=3)
    embedding, same = rounded(exact, dtype)
    with mixed(device, dtype):
        found = losses(embedding, label, domain, prototypes.float())[:2]
    for ours, theirs in zip(found, losses(same, label, domain, prototypes)[:2], strict=True):
        assert ours.dtype == torch.float32
        near(ours, theirs, torch.float32, within=64)
        near(
            *(torch.autograd.grad(loss, x, retain_graph=True)[0] for loss, x in ((ours, embedding), (theirs, same))),
            dtype,
            within=64,
        )


def test_labels_are_brought_to_another_size_by_nearest_neighbour(device: str) -> None:
    label = torch.arange(12, device=device).reshape(1, 3, 4)
    assert labels_at(label, (2, 2)).tolist() == [[[0, 2], [4, 6]]]
    assert torch.equal(labels_at(label, (3, 4)), label)
    assert labels_at(torch.full((1, 5, 5), IGNORE_INDEX, device=device), (2, 3)).unique().tolist() == [IGNORE_INDEX]

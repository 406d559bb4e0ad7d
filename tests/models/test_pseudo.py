"""Pseudo-domains by clustering: every base gets its share, nothing depends on a batch's declared domains."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from spcnet import checkpoint
from spcnet.config import ModelConfig
from spcnet.errors import UsageError
from spcnet.methods import METHODS, card_for
from spcnet.models.network import Segmentor
from spcnet.models.pseudo import StyleClusters
from spcnet.types import Batch, StyleStats
from tests.support.weight_files import restore

DOMAINS, CHANNELS = 5, 8
MODEL = ModelConfig(backbone="shufflenet_v2", weights=None)


def styles_of(groups: Tensor, *, seed: int) -> StyleStats:
    """Statistics around one place for each group."""
    dice = torch.Generator().manual_seed(seed)
    places = 3 * torch.randn(16, CHANNELS, generator=torch.Generator().manual_seed(99))
    noise = 0.1 * torch.randn(len(groups), CHANNELS, generator=dice)
    return StyleStats(places[groups] + noise, 1 + 0.1 * torch.rand(len(groups), CHANNELS, generator=dice))


def learn(groups: list[Tensor]) -> tuple[StyleClusters, list[Tensor]]:
    clusters, found = StyleClusters(DOMAINS, CHANNELS), []
    for step, group in enumerate(groups):
        stats = styles_of(group, seed=step)
        found.append(clusters(stats))
        clusters.update(stats, found[-1])
    return clusters, found


@pytest.mark.parametrize("kinds", [1, 3, DOMAINS, 9])
def test_every_base_gets_images_whatever_they_are(kinds: int) -> None:
    """Also where there are fewer kinds of style than bases, and where all images are of one kind."""
    dice = torch.Generator().manual_seed(1)
    clusters, found = learn([torch.randint(0, kinds, (4,), generator=dice) for _ in range(600)])
    assert len(torch.cat(found[: 2 * DOMAINS]).unique()) == DOMAINS
    for first in (200, 400):
        late = torch.cat(found[first : first + 200]).bincount(minlength=DOMAINS)
        assert late.min() >= 2
    assert clusters.share.min() > 0
    assert clusters.mean.isfinite().all()
    assert (clusters.std > 0).all()


def test_images_of_one_style_end_up_in_one_base() -> None:
    dice = torch.Generator().manual_seed(2)
    groups = [torch.randint(0, DOMAINS, (4,), generator=dice) for _ in range(600)]
    _, found = learn(groups)
    pairs = torch.stack([torch.cat(groups[400:]), torch.cat(found[400:])])
    table = torch.zeros(DOMAINS, DOMAINS).index_put_(tuple(pairs), torch.ones(pairs.shape[1]), accumulate=True)
    assert table.max(dim=1).values.sum() / table.sum() > 0.99
    assert len(set(table.argmax(dim=1).tolist())) == DOMAINS


def test_identical_images_leave_no_centre_undefined() -> None:
    clusters = StyleClusters(DOMAINS, CHANNELS)
    stats = StyleStats(torch.ones(4, CHANNELS), torch.zeros(4, CHANNELS))
    seen = set()
    for _ in range(300):
        domain = clusters(stats)
        clusters.update(stats, domain)
        seen |= set(domain.tolist())
    assert seen == set(range(DOMAINS))
    assert all(value.isfinite().all() for value in clusters.state_dict().values())


def test_a_dead_centre_starts_again_at_the_image_that_is_served_worst() -> None:
    clusters = StyleClusters(DOMAINS, CHANNELS)
    clusters.share.copy_(torch.tensor([0.3, 0.3, 0.4, 0.01, 0.1]))
    stats = StyleStats(torch.tensor([0.0, 5.0, 0.1])[:, None].expand(3, CHANNELS), torch.ones(3, CHANNELS))
    domain = clusters(stats)
    assert domain[1] == 3
    assert 3 not in domain[[0, 2]]
    clusters.update(stats, domain)
    assert torch.equal(clusters.mean[3], stats.mean[1])
    assert clusters.waiting is None


def test_a_dead_centre_starts_again_where_many_images_are_rather_than_at_a_stray_one() -> None:
    clusters = StyleClusters(3, CHANNELS)
    clusters.mean[1] = 10
    clusters.share.copy_(torch.tensor([0.95, 0.05, 0.0]))
    stats = StyleStats(torch.tensor([1.0, 11.5])[:, None].expand(2, CHANNELS), torch.ones(2, CHANNELS))
    assert clusters(stats).tolist() == [2, 1]


def test_a_centre_that_was_never_filled_attracts_nothing() -> None:
    """It lies where it was made, mean 0 and deviation 1, which is the place of no image."""
    clusters = StyleClusters(3, CHANNELS)
    clusters.mean[0] = 5
    clusters.share.copy_(torch.tensor([1.0, 0.0, 0.0]))
    stats = StyleStats(torch.zeros(4, CHANNELS), torch.ones(4, CHANNELS))
    assert clusters(stats).tolist() == [1, 0, 0, 0]


def test_asking_changes_nothing() -> None:
    clusters, _ = learn([torch.tensor([0, 1, 2, 3])] * 20)
    before = {name: value.clone() for name, value in clusters.state_dict().items()}
    stats = styles_of(torch.tensor([3, 0]), seed=5)
    assert torch.equal(clusters(stats), clusters(stats))
    assert all(torch.equal(value, before[name]) for name, value in clusters.state_dict().items())


def test_two_processes_that_sum_equal_one() -> None:
    whole, half = (learn([torch.tensor([0, 1, 2, 3])] * 20)[0].double() for _ in range(2))
    stats, domain = styles_of(torch.tensor([0, 1, 1, 4]), seed=7), torch.tensor([0, 1, 1, 4])
    stats = StyleStats(stats.mean.double(), stats.std.double())
    whole.update(stats, domain)
    sums: list[Tensor] = []
    learn([torch.tensor([0, 1, 2, 3])] * 20)[0].double().update(
        StyleStats(stats.mean[2:], stats.std[2:]), domain[2:], reduce=lambda t: sums.append(t) or t
    )
    half.update(StyleStats(stats.mean[:2], stats.std[:2]), domain[:2], reduce=lambda t: t + sums[0])
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(half.state_dict()[name], value, rtol=1e-12, atol=1e-12)


def network_of(method: str) -> Segmentor:
    torch.manual_seed(0)
    return METHODS[method].build(MODEL, num_classes=4, num_domains=DOMAINS, cluster_domains=True)


def batch_of(domain: int) -> Batch:
    dice = torch.Generator().manual_seed(3)
    image, label = torch.randn(6, 3, 48, 64, generator=dice), torch.randint(0, 4, (6, 48, 64), generator=dice)
    return Batch(image, label, torch.full((6,), domain), tuple("abcdef"))


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.styled])
def test_what_the_batch_says_of_domains_does_not_count(method: str) -> None:
    states = []
    for domain in (0, 3):
        network, batch = network_of(method), batch_of(domain)
        torch.manual_seed(1)
        result = METHODS[method].losses(network, network(batch.image), batch, MODEL)
        METHODS[method].update(network, result, progress=0.5)
        assert result.extras.domain is not None
        states.append(network.state_dict())
    assert states[0]["clusters.share"].sum() > 0
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_method_without_style_layers_cannot_cluster() -> None:
    for name in ("deeplabv3plus", "semantic_clustering"):
        with pytest.raises(UsageError, match="style layers"):
            network_of(name)


def test_a_network_with_clusters_is_restored(tmp_path: Path) -> None:
    network = network_of("spcnet")
    network.clusters.share.fill_(0.25)  # type: ignore[union-attr]
    card = card_for(
        method="spcnet",
        model=MODEL,
        space="idd7",
        classes=("a", "b", "c", "d"),
        domains=[f"x#{i}" for i in range(DOMAINS)],
        size=(48, 64),
    )
    checkpoint.write(tmp_path / "model.safetensors", network.state_dict(), card, {"iteration": 0})
    found, _ = restore(tmp_path / "model.safetensors")
    assert found.clusters is not None
    assert torch.equal(found.clusters.share, torch.full((DOMAINS,), 0.25))

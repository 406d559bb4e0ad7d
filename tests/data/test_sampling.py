"""Which images each training batch has."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spcnet.data.centroids import Centres
from spcnet.data.sampling import RareClasses, Shard, Stream, TrainingSampler, rare_classes


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 40), seed=st.integers(0, 2**40), epoch=st.integers(0, 5), domain=st.integers(0, 3))
def test_an_epoch_shows_every_image_once(length: int, seed: int, epoch: int, domain: int) -> None:
    stream = Stream([length], seed=seed, first=domain)
    draws = [stream.draw(epoch * length + i) for i in range(length)]
    assert sorted(d.image for d in draws) == list(range(length))
    assert len({d.seed for d in draws}) == length
    assert {d.domain for d in draws} == {domain}


def test_each_epoch_domain_and_seed_has_its_own_order() -> None:
    def order(domain: int, epoch: int, seed: int) -> tuple[int, ...]:
        stream = Stream([30], seed=seed, first=domain)
        return tuple(stream.draw(epoch * 30 + i).image for i in range(30))

    orders = {order(domain, epoch, seed) for domain in (0, 1) for epoch in (0, 1) for seed in (0, 1)}
    assert len(orders) == 8
    assert tuple(range(30)) not in orders


def test_processes_that_train_together_share_an_epoch_between_them() -> None:
    stream = Stream([20], seed=0)
    ranks = [list(TrainingSampler([stream], images=2, iterations=range(5), shard=Shard(rank, 2))) for rank in (0, 1)]
    images = [d.image for iteration in zip(*ranks, strict=True) for draws in iteration for d in draws]
    assert sorted(images) == list(range(20))


def test_two_processes_draw_together_what_one_with_twice_the_batch_draws() -> None:
    stream = Stream([20], seed=0)
    alone = list(TrainingSampler([stream], images=4, iterations=range(5)))
    ranks = [list(TrainingSampler([stream], images=2, iterations=range(5), shard=Shard(rank, 2))) for rank in (0, 1)]
    assert alone == [first + second for first, second in zip(*ranks, strict=True)]


def centres(*places: tuple[int, int]) -> Centres:
    """Image and class of each; all in the middle."""
    image, label = np.array(places).reshape(-1, 2).T
    half = np.full(len(places), 0.5, np.float32)
    return Centres(image.astype(np.int32), label.astype(np.uint8), half, half, np.ones(len(places), np.int32))


def test_a_rare_class_is_drawn_as_often_as_a_common_one() -> None:
    known = centres(*((i, 0) for i in range(100)), *((i, 1) for i in range(50)), (42, 2))
    stream = Stream([100], seed=0, centres=[known], num_classes=5, share=0.5)
    drawn = [stream.draw(i) for i in range(100 * 20)]
    with_class = [d.image for d in drawn if d.centre is not None]
    # Classes 0, 1 and 2 of five get a tenth each; the two that no image shows leave theirs to random images.
    assert len(with_class) == 600
    assert 200 <= with_class.count(42) <= 200 + 20
    assert len({d.seed for d in drawn}) == 2000
    rest = Counter(d.image for d in drawn if d.centre is None)
    assert len(rest) == 100
    assert max(rest.values()) <= 20


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    num_classes=st.integers(1, 25),
    share=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
def test_over_the_epochs_each_class_gets_its_share(
    lengths: list[int], num_classes: int, share: float, seed: int
) -> None:
    known = [centres(*((i, k) for i in range(length) for k in range(num_classes))) for length in lengths]
    # The class of a draw is told by its row.
    known = [one._replace(row=(one.label / 100).astype(np.float32)) for one in known]
    stream = Stream(lengths, seed=seed, centres=known, num_classes=num_classes, share=share)
    length, epochs = sum(lengths), 6
    drawn = [stream.draw(i) for i in range(length * epochs)]
    counts = Counter(round(d.centre[0] * 100) for d in drawn if d.centre)
    dealt = int(epochs * length * share)
    assert sum(counts.values()) == dealt
    assert all(dealt // num_classes <= counts[k] <= dealt // num_classes + 1 for k in range(num_classes))
    assert all(0 <= d.image < lengths[d.domain] for d in drawn)


def test_a_draw_does_not_depend_on_those_before_it() -> None:
    def stream() -> Stream:
        return Stream([9], seed=1, centres=[centres((3, 0), (4, 0), (8, 1))], num_classes=2, share=0.6)

    one = stream()
    in_order = [one.draw(i) for i in range(40)]
    assert [stream().draw(i) for i in reversed(range(40))] == in_order[::-1]


@pytest.mark.parametrize("alternate", [False, True])
def test_all_parts_of_all_processes_hold_what_one_process_draws_at_once(alternate: bool) -> None:
    streams = [Stream([7], seed=3, first=0), Stream([5], seed=3, first=1)]
    whole = list(TrainingSampler(streams, images=6, iterations=range(1, 4), alternate=alternate))
    found: list[list[Draw]] = [[] for _ in whole]
    for rank in range(2):
        own = TrainingSampler(
            streams, images=1, parts=3, iterations=range(1, 4), alternate=alternate, shard=Shard(rank, 2)
        )
        assert len(own) == len(list(own)) == 9
        for number, part in enumerate(own):
            found[number // 3] += part
    for mine, expected in zip(found, whole, strict=True):
        assert sorted(mine) == sorted(expected)


def with_pixels(*known: tuple[int, int, int]) -> Centres:
    """Image, class and number of pixels of each."""
    plain = centres(*((image, label) for image, label, _ in known))
    return plain._replace(pixels=np.array([pixels for *_, pixels in known], np.int32))


def test_rare_classes_are_drawn_by_the_softmax_of_their_rarity() -> None:
    # Of 1000 pixels: class 0 has 600 in two tiles of an image, 1 has 300, 2 has 90, 3 has 10 but in no image more than 8.
    known = with_pixels((0, 0, 400), (0, 0, 200), (1, 1, 150), (2, 1, 150), (2, 2, 90), (3, 3, 8), (4, 3, 2))
    rare = RareClasses(1.0, 0.3, 8)
    probability, showing = rare_classes(known, 6, 5, rare)
    weights = np.exp((1 - np.array([0.6, 0.3, 0.09])) / 0.3)
    np.testing.assert_allclose(probability, [*weights / weights.sum(), 0, 0])
    assert [images.tolist() for images in showing] == [[0], [1, 2], [2], [], []]
    stream = Stream([6], seed=0, centres=[known], num_classes=5, rare=rare)
    drawn = [stream.draw(i) for i in range(3000)]
    counts = Counter(d.show for d in drawn)
    for label in range(3):
        assert abs(counts[label] / 3000 - probability[label]) < 4 * (0.25 / 3000) ** 0.5
    assert all(d.show is not None and d.image in showing[d.show] and d.centre is None for d in drawn)
    assert Counter(d.image for d in drawn if d.show == 1)[1] == pytest.approx(counts[1] / 2, rel=0.2)


def test_only_a_fraction_of_the_draws_is_for_rare_classes_and_a_cold_softmax_stays_finite() -> None:
    known = with_pixels((0, 0, 100_000), (1, 1, 5))
    stream = Stream([10], seed=0, centres=[known], num_classes=3, rare=RareClasses(0.25, 1e-4, 1))
    drawn = [stream.draw(i) for i in range(400)]
    assert Counter(d.show for d in drawn) == {None: 300, 1: 100}
    assert {d.image for d in drawn if d.show is None} == set(range(10))
    fresh = Stream([10], seed=0, centres=[known], num_classes=3, rare=RareClasses(0.25, 1e-4, 1))
    assert fresh.draw(277) == drawn[277]


def test_where_no_image_shows_enough_of_a_class_images_are_drawn_as_without() -> None:
    known = with_pixels((0, 0, 5), (1, 1, 5))
    stream = Stream([10], seed=0, centres=[known], num_classes=3, rare=RareClasses(1.0, 0.01, 100))
    assert sorted(stream.draw(i).image for i in range(10)) == list(range(10))

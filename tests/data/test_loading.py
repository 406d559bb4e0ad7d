import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from spcnet.config import AugmentationConfig, DataConfig
from spcnet.data.datasets import Sample, SegmentationSet
from spcnet.data.loading import BalancedSampler, draw, evaluation_batches, photometric_trials, training_batches
from spcnet.data.transforms import evaluation_transform, normalise
from spcnet.errors import DataError
from spcnet.types import IGNORE_INDEX, Batch


class Pictures(SegmentationSet):
    """Images that show their own number, some with labels of another size, one perhaps broken."""

    def __init__(self, title: str, count: int, *, wide: tuple[int, ...] = (), broken: int | None = None) -> None:
        self.title = title
        self.count = count
        self.wide = wide
        self.broken = broken

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, /) -> Sample:
        if index == self.broken:
            raise DataError(f"{self.title}/{index}.png is damaged")
        size = (40, 90) if index in self.wide else (40, 60)
        rng = np.random.default_rng(index)
        image = rng.integers(0, 200, (*size, 3), dtype=np.uint8)
        return Sample(image, np.full(size, index % 19, np.uint8), f"{self.title}{index}")


DATA = DataConfig(size=(36, 48), images_per_domain=3, workers=0)
SETS = [Pictures("a", 7), Pictures("b", 20), Pictures("c", 2)]


def same(one: Batch, other: Batch) -> bool:
    return (
        torch.equal(one.image, other.image)
        and torch.equal(one.label, other.label)
        and torch.equal(one.domain, other.domain)
        and one.name == other.name
    )


def test_a_batch_has_the_shapes_and_types_that_the_network_takes() -> None:
    (batch,) = training_batches(SETS, DATA, seed=0, iterations=1)
    assert batch.image.shape == (9, 3, 36, 48)
    assert batch.label.shape == (9, 36, 48)
    assert (batch.image.dtype, batch.label.dtype, batch.domain.dtype) == (torch.float32, torch.int64, torch.int64)
    assert type(batch.image) is type(batch.label) is torch.Tensor
    assert batch.image.min() < -1  # normalised, not 0..1


def test_every_batch_has_the_same_number_of_images_of_each_domain() -> None:
    for batch in training_batches(SETS, DATA, seed=0, iterations=8):
        assert batch.domain.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert [name[0] for name in batch.name] == list("aaabbbccc")


def test_image_label_and_name_belong_together() -> None:
    for batch in training_batches(SETS, DATA, seed=0, iterations=5):
        for label, name in zip(batch.label, batch.name, strict=True):
            assert set(label.unique().tolist()) <= {int(name[1:]) % 19, IGNORE_INDEX}


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 40), seed=st.integers(0, 2**40), epoch=st.integers(0, 5), domain=st.integers(0, 3))
def test_an_epoch_shows_every_image_once(length: int, seed: int, epoch: int, domain: int) -> None:
    draws = [draw(domain, epoch * length + i, length=length, seed=seed) for i in range(length)]
    assert sorted(d.image for d in draws) == list(range(length))
    assert len({d.seed for d in draws}) == length
    assert {d.domain for d in draws} == {domain}


def test_each_epoch_domain_and_seed_has_its_own_order() -> None:
    def order(domain: int, epoch: int, seed: int) -> tuple[int, ...]:
        return tuple(draw(domain, epoch * 30 + i, length=30, seed=seed).image for i in range(30))

    orders = {order(domain, epoch, seed) for domain in (0, 1) for epoch in (0, 1) for seed in (0, 1)}
    assert len(orders) == 8
    assert tuple(range(30)) not in orders


def test_images_of_sets_of_unequal_size_come_equally_often_within_each_set() -> None:
    seen = Counter(name for batch in training_batches(SETS, DATA, seed=0, iterations=14) for name in batch.name)
    # 14 iterations with 3 images are 6 epochs of 7 images, 2.1 of 20 and 21 of 2.
    assert {seen[f"a{i}"] for i in range(7)} == {6}
    assert {seen[f"b{i}"] for i in range(20)} == {2, 3}
    assert {seen[f"c{i}"] for i in range(2)} == {21}


def test_the_same_image_is_augmented_anew_each_time() -> None:
    batches = list(training_batches([Pictures("a", 1)], DATA, seed=0, iterations=4))
    images = [image for batch in batches for image in batch.image]
    assert len({image.numpy().tobytes() for image in images}) == 12


def test_a_run_resumed_at_any_iteration_sees_the_same_batches() -> None:
    whole = list(training_batches(SETS, DATA, seed=3, iterations=6))
    for start in (1, 4):
        torch.manual_seed(start)  # the state of the random numbers is another one
        rest = list(training_batches(SETS, DATA, seed=3, iterations=6, start=start))
        assert len(rest) == 6 - start
        assert all(same(one, other) for one, other in zip(whole[start:], rest, strict=True))


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short = list(training_batches(SETS, DATA, seed=0, iterations=2))
    long = list(training_batches(SETS, DATA, seed=0, iterations=4))
    assert all(same(one, other) for one, other in zip(short, long[:2], strict=True))


def test_the_number_of_workers_changes_nothing() -> None:
    alone = list(training_batches(SETS, DATA, seed=0, iterations=4))
    helped = list(training_batches(SETS, replace(DATA, workers=2), seed=0, iterations=4))
    assert all(same(one, other) for one, other in zip(alone, helped, strict=True))


def test_another_seed_gives_other_batches() -> None:
    one, other = (next(iter(training_batches(SETS, DATA, seed=seed, iterations=1))) for seed in (0, 1))
    assert not torch.equal(one.image, other.image)


def test_loading_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(training_batches(SETS, DATA, seed=0, iterations=2))
    list(evaluation_batches(SETS[0], DATA, domain=0, batch_size=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_that_train_together_share_an_epoch_between_them() -> None:
    plan = {"images_per_domain": 2, "seed": 0, "iterations": 5}
    ranks = [list(BalancedSampler([20], rank=rank, world_size=2, **plan)) for rank in (0, 1)]
    images = [d.image for iteration in zip(*ranks, strict=True) for draws in iteration for d in draws]
    assert sorted(images) == list(range(20))


def test_two_processes_draw_together_what_one_with_twice_the_batch_draws() -> None:
    plan = {"seed": 0, "iterations": 5}
    alone = list(BalancedSampler([20], images_per_domain=4, **plan))
    ranks = [list(BalancedSampler([20], images_per_domain=2, rank=rank, world_size=2, **plan)) for rank in (0, 1)]
    assert alone == [first + second for first, second in zip(*ranks, strict=True)]


def test_the_number_of_batches_is_known() -> None:
    assert len(training_batches(SETS, DATA, seed=0, iterations=10, start=4)) == 6
    assert len(training_batches(SETS, DATA, seed=0, iterations=10, start=10)) == 0
    assert list(training_batches(SETS, DATA, seed=0, iterations=10, start=12)) == []


def test_pairs_are_an_altered_image_and_its_original() -> None:
    trials = [list(batches) for batches in photometric_trials(SETS, DATA, seed=0, trials=2, pairs=7)]
    assert [[len(batch.image) for batch in batches] for batches in trials] == [[6, 6, 2], [6, 6, 2]]
    first = trials[0][0]
    assert first.domain.tolist() == [0, 0, 1, 1, 2, 2]
    assert first.name[0] == f"{first.name[1]} altered"
    (plain,) = (sample for sample in map(SETS[0].read, range(7)) if sample.name == first.name[1])
    original = evaluation_transform(DATA)(tv_tensors.Image(torch.from_numpy(plain.image).permute(2, 0, 1)))
    torch.testing.assert_close(first.image[1], normalise(original), rtol=0, atol=0)
    assert not torch.equal(first.image[0], first.image[1])
    assert bool((first.label == IGNORE_INDEX).all())


def test_pairs_repeat_and_each_trial_has_its_own() -> None:
    def taken(seed: int, **options: int) -> list[tuple[str, ...]]:
        trials = photometric_trials(SETS, DATA, seed=seed, trials=2, pairs=6, **options)
        return [tuple(name for batch in batches for name in batch.name) for batches in trials]

    assert taken(0) == taken(0) != taken(1)
    assert taken(0)[0] != taken(0)[1]
    shares = [taken(0, rank=rank, world_size=2) for rank in range(2)]
    for trial in range(2):
        assert sorted(shares[0][trial] + shares[1][trial]) == sorted(taken(0)[trial])


def test_a_broken_image_of_a_pair_is_told_of() -> None:
    with pytest.raises(DataError, match=r"x/0\.png is damaged"):
        [list(batches) for batches in photometric_trials([Pictures("x", 1, broken=0)], DATA, seed=0, trials=1, pairs=1)]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_shows_each_image_once_and_in_order(workers: int) -> None:
    batches = list(evaluation_batches(Pictures("a", 11), replace(DATA, workers=workers), domain=4, batch_size=4))
    assert [len(batch.name) for batch in batches] == [4, 4, 3]
    assert [name for batch in batches for name in batch.name] == [f"a{i}" for i in range(11)]
    assert {d for batch in batches for d in batch.domain.tolist()} == {4}


def test_evaluation_resizes_the_image_but_not_the_label() -> None:
    (batch,) = evaluation_batches(Pictures("a", 2), DATA, domain=0, batch_size=4)
    assert batch.image.shape == (2, 3, 36, 48)
    assert batch.label.shape == (2, 40, 60)
    assert batch.label.unique().tolist() == [0, 1]
    assert batch.label.dtype == torch.int64


def test_evaluation_does_not_augment() -> None:
    data = replace(DATA, size=(40, 60), augmentation=AugmentationConfig(flip=1, jitter=1))
    pictures = Pictures("a", 1)
    (batch,) = evaluation_batches(pictures, data, domain=0, batch_size=1)
    image = torch.from_numpy(pictures.read(0).image).permute(2, 0, 1)
    assert torch.equal(batch.image[0], normalise(image))


def test_labels_of_one_batch_have_one_size() -> None:
    pictures = Pictures("a", 9, wide=(2, 3, 7))
    batches = list(evaluation_batches(pictures, DATA, domain=0, batch_size=4))
    assert [batch.name for batch in batches] == [("a0", "a1"), ("a2", "a3"), ("a4", "a5", "a6"), ("a7",), ("a8",)]
    assert [batch.label.shape[2] for batch in batches] == [60, 90, 60, 90, 60]


@pytest.mark.parametrize(("limit", "count"), [(0, 5), (3, 3), (9, 5)])
def test_a_limit_keeps_the_first_images(limit: int, count: int) -> None:
    batches = evaluation_batches(Pictures("a", 5), DATA, domain=0, batch_size=2, limit=limit)
    assert [name for batch in batches for name in batch.name] == [f"a{i}" for i in range(count)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("training", [True, False])
def test_a_broken_file_stops_the_run_with_its_own_one_line(workers: int, training: bool) -> None:
    pictures, data = Pictures("a", 3, broken=1), replace(DATA, workers=workers)
    batches = (
        training_batches([pictures], data, seed=0, iterations=5)
        if training
        else evaluation_batches(pictures, data, domain=0, batch_size=2)
    )
    with pytest.raises(DataError) as caught:
        list(batches)
    assert type(caught.value) is DataError
    assert str(caught.value) == "a/1.png is damaged"


def test_what_goes_to_the_workers_can_be_sent_there() -> None:
    # On macOS and Windows, and in newer Pythons on Linux, workers do not inherit but receive the data set.
    loader = training_batches(SETS, DATA, seed=0, iterations=1)
    pickle.loads(pickle.dumps((loader.dataset, loader.batch_sampler, loader.collate_fn)))


def test_images_of_their_own_sizes_are_cut_for_training_and_whole_elsewhere() -> None:
    data = replace(DATA, size=None, crop=(34, 38))
    wide = [Pictures("a", 5, wide=(1, 2)), Pictures("b", 3, wide=(0,))]
    for batch in training_batches(wide, data, seed=0, iterations=3):
        assert batch.image.shape == (6, 3, 34, 38)
    widths = [batch.image.shape[3] for batch in evaluation_batches(wide[0], data, domain=0, batch_size=4)]
    assert widths == [60, 90, 60]
    (trial,) = photometric_trials(wide, data, seed=0, trials=1, pairs=12)
    pairs = list(trial)
    assert len(pairs) == 12
    assert {(len(batch.image), batch.image.shape[3]) for batch in pairs} == {(2, 60), (2, 90)}

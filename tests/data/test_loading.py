import gc
import pickle
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spcnet.config import AugmentationConfig, DataConfig
from spcnet.data import transforms
from spcnet.data.datasets import FolderSet, Sample, SegmentationSet, WeatherSet
from spcnet.data.folders import Pair
from spcnet.data.loading import evaluation_batches, photometric_trials, training_batches
from spcnet.data.sampling import Draw, Shard, Stream, TrainingSampler
from spcnet.data.transforms import denormalise, evaluation_transform, normalise
from spcnet.errors import DataError, UsageError
from spcnet.types import IGNORE_INDEX, Batch


class Pictures(SegmentationSet):
    """Images that show their own number, some with labels of another size, one perhaps broken."""

    def __init__(
        self, title: str, count: int, *, wide: tuple[int, ...] = (), broken: int | tuple[int, ...] = ()
    ) -> None:
        self.title = title
        self.count = count
        self.wide = wide
        self.broken = (broken,) if isinstance(broken, int) else broken

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, /) -> Sample:
        if index in self.broken:
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
    (batch,) = training_batches(SETS, DATA, seed=0, iterations=range(1))
    assert batch.image.shape == (9, 3, 36, 48)
    assert batch.label.shape == (9, 36, 48)
    assert (batch.image.dtype, batch.label.dtype, batch.domain.dtype) == (torch.float32, torch.int64, torch.int64)
    assert type(batch.image) is type(batch.label) is torch.Tensor
    assert batch.image.min() < -1  # normalised, not 0..1


def test_every_batch_has_the_same_number_of_images_of_each_domain() -> None:
    for batch in training_batches(SETS, DATA, seed=0, iterations=range(8)):
        assert batch.domain.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert [name[0] for name in batch.name] == list("aaabbbccc")


def test_image_label_and_name_belong_together() -> None:
    for batch in training_batches(SETS, DATA, seed=0, iterations=range(5)):
        for label, name in zip(batch.label, batch.name, strict=True):
            assert set(label.unique().tolist()) <= {int(name[1:]) % 19, IGNORE_INDEX}


def test_images_of_sets_of_unequal_size_come_equally_often_within_each_set() -> None:
    seen = Counter(name for batch in training_batches(SETS, DATA, seed=0, iterations=range(14)) for name in batch.name)
    # 14 iterations with 3 images are 6 epochs of 7 images, 2.1 of 20 and 21 of 2.
    assert {seen[f"a{i}"] for i in range(7)} == {6}
    assert {seen[f"b{i}"] for i in range(20)} == {2, 3}
    assert {seen[f"c{i}"] for i in range(2)} == {21}


def test_the_same_image_is_augmented_anew_each_time() -> None:
    batches = list(training_batches([Pictures("a", 1)], DATA, seed=0, iterations=range(4)))
    images = [image for batch in batches for image in batch.image]
    assert len({image.numpy().tobytes() for image in images}) == 12


def test_a_run_resumed_at_any_iteration_sees_the_same_batches() -> None:
    whole = list(training_batches(SETS, DATA, seed=3, iterations=range(6)))
    for start in (1, 4):
        torch.manual_seed(start)  # the state of the random numbers is another one
        rest = list(training_batches(SETS, DATA, seed=3, iterations=range(start, 6)))
        assert len(rest) == 6 - start
        assert all(same(one, other) for one, other in zip(whole[start:], rest, strict=True))


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short = list(training_batches(SETS, DATA, seed=0, iterations=range(2)))
    long = list(training_batches(SETS, DATA, seed=0, iterations=range(4)))
    assert all(same(one, other) for one, other in zip(short, long[:2], strict=True))


def test_the_number_of_workers_changes_nothing() -> None:
    alone = list(training_batches(SETS, DATA, seed=0, iterations=range(4)))
    helped = list(training_batches(SETS, replace(DATA, workers=2), seed=0, iterations=range(4)))
    assert all(same(one, other) for one, other in zip(alone, helped, strict=True))


def test_another_seed_gives_other_batches() -> None:
    one, other = (next(iter(training_batches(SETS, DATA, seed=seed, iterations=range(1)))) for seed in (0, 1))
    assert not torch.equal(one.image, other.image)


def test_loading_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(training_batches(SETS, DATA, seed=0, iterations=range(2)))
    list(evaluation_batches(SETS[0], DATA, domain=0, batch_size=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_number_of_batches_is_known() -> None:
    assert len(training_batches(SETS, DATA, seed=0, iterations=range(4, 10))) == 6
    assert len(training_batches(SETS, DATA, seed=0, iterations=range(10, 10))) == 0
    assert list(training_batches(SETS, DATA, seed=0, iterations=range(12, 10))) == []


def test_pairs_are_an_altered_image_and_its_original() -> None:
    trials = [list(batches) for batches in photometric_trials(SETS, DATA, seed=0, trials=2, pairs=7)]
    assert [[len(batch.image) for batch in batches] for batches in trials] == [[6, 6, 2], [6, 6, 2]]
    first = trials[0][0]
    assert first.domain.tolist() == [0, 0, 1, 1, 2, 2]
    assert first.name[0] == f"{first.name[1]} altered"
    (plain,) = (sample for sample in map(SETS[0].read, range(7)) if sample.name == first.name[1])
    original = evaluation_transform(DATA)(torch.from_numpy(plain.image).permute(2, 0, 1))
    torch.testing.assert_close(first.image[1], normalise(original), rtol=0, atol=0)
    assert not torch.equal(first.image[0], first.image[1])
    assert bool((first.label == IGNORE_INDEX).all())


def test_pairs_repeat_and_each_trial_has_its_own() -> None:
    def taken(seed: int, **options: int) -> list[tuple[str, ...]]:
        trials = photometric_trials(SETS, DATA, seed=seed, trials=2, pairs=6, **options)
        return [tuple(name for batch in batches for name in batch.name) for batches in trials]

    assert taken(0) == taken(0) != taken(1)
    assert taken(0)[0] != taken(0)[1]
    shares = [taken(0, shard=Shard(rank, 2)) for rank in range(2)]
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
        training_batches([pictures], data, seed=0, iterations=range(5))
        if training
        else evaluation_batches(pictures, data, domain=0, batch_size=2)
    )
    with pytest.raises(DataError) as caught:
        list(batches)
    assert type(caught.value) is DataError
    assert str(caught.value) == "a/1.png is damaged"


def test_what_goes_to_the_workers_can_be_sent_there() -> None:
    # On macOS and Windows, and in newer Pythons on Linux, workers do not inherit but receive the data set.
    loader = training_batches(SETS, DATA, seed=0, iterations=range(1))
    pickle.loads(pickle.dumps((loader.dataset, loader.batch_sampler, loader.collate_fn)))


def test_images_of_their_own_sizes_are_cut_for_training_and_whole_elsewhere() -> None:
    data = replace(DATA, size=None, crop=(34, 38))
    wide = [Pictures("a", 5, wide=(1, 2)), Pictures("b", 3, wide=(0,))]
    for batch in training_batches(wide, data, seed=0, iterations=range(3)):
        assert batch.image.shape == (6, 3, 34, 38)
    widths = [batch.image.shape[3] for batch in evaluation_batches(wide[0], data, domain=0, batch_size=4)]
    assert widths == [60, 90, 60]
    (trial,) = photometric_trials(wide, data, seed=0, trials=1, pairs=12)
    pairs = list(trial)
    assert len(pairs) == 12
    assert {(len(batch.image), batch.image.shape[3]) for batch in pairs} == {(2, 60), (2, 90)}


def draws(streams: list[Stream], count: int, **options: Any) -> list[list[Draw]]:
    return list(TrainingSampler(streams, iterations=range(count), **options))


def test_joined_sources_come_in_proportion_and_each_image_once_an_epoch() -> None:
    data = replace(DATA, sampling="proportional", sources=["a/x", "b/x", "c/x"])
    batches = list(training_batches(SETS, data, seed=0, iterations=range(29)))  # 29 images in all, 9 in a batch
    assert {len(batch.name) for batch in batches} == {9}
    assert set(Counter(name for batch in batches for name in batch.name).values()) == {9}
    for batch in batches:
        assert [name[0] for name in batch.name] == ["abc"[domain] for domain in batch.domain.tolist()]
    ranks = [
        [d for one in draws([Stream([7, 20, 2], seed=0)], 29, images=1, shard=Shard(r, 2)) for d in one] for r in (0, 1)
    ]
    assert len({d[:2] for rank in ranks for d in rank[:14]}) == 28


def test_alternating_sources_have_a_batch_each_in_turn() -> None:
    data = replace(DATA, sampling="alternating")
    batches = list(training_batches(SETS, data, seed=0, iterations=range(7)))
    assert [batch.domain.tolist() for batch in batches] == [[i % 3] * 3 for i in range(7)]
    balanced = list(training_batches(SETS, DATA, seed=0, iterations=range(3)))
    for iteration, batch in enumerate(batches):
        turn, source = divmod(iteration, 3)
        assert batch.name == balanced[turn].name[3 * source : 3 * source + 3]


@pytest.mark.parametrize("sampling", ["proportional", "alternating"])
def test_however_sources_are_sampled_a_resumed_run_sees_the_same(sampling: Any) -> None:
    data = replace(DATA, sampling=sampling)
    whole = list(training_batches(SETS, data, seed=3, iterations=range(6)))
    rest = list(training_batches(SETS, replace(data, workers=2), seed=3, iterations=range(4, 6)))
    assert all(same(one, other) for one, other in zip(whole[4:], rest, strict=True))


def test_class_uniform_crops_show_the_rare_class() -> None:
    class Spotted(Pictures):
        """A single pixel-sized spot of class 18 in the corner of one image in ten."""

        def read(self, index: int, /) -> Sample:
            label = np.zeros((200, 300), np.uint8)
            if index % 10 == 0:
                label[190:194, 290:294] = 18
            return Sample(np.zeros((200, 300, 3), np.uint8), label, f"s{index}")

    data = replace(DATA, size=None, crop=(40, 40), class_uniform=1.0, images_per_domain=19)
    steps: list[tuple[int, int]] = []
    loader = training_batches(
        [Spotted("s", 20)], data, seed=0, iterations=range(20), on_progress=lambda *step: steps.append(step)
    )
    assert steps[-1] == (20, 20)
    shown = sum(int((label == 18).any()) for batch in loader for label in batch.label)
    # A nineteenth of the draws are of class 18, of 380; by chance a crop shows it in one of some 300.
    assert 18 <= shown <= 26


def test_crops_for_a_rare_class_show_half_of_the_pixels() -> None:
    class Striped(Pictures):
        """Class 18 on the right edge of one image in ten, 200×12 pixels."""

        def read(self, index: int, /) -> Sample:
            label = np.zeros((200, 300), np.uint8)
            if index % 10 == 0:
                label[:, 288:] = 18
            return Sample(np.zeros((200, 300, 3), np.uint8), label, f"s{index}")

    data = replace(DATA, size=None, crop=(60, 60), rare_class=1.0, rare_pixels=400, images_per_domain=8)
    data = replace(data, augmentation=replace(data.augmentation, scale=(1.0, 1.0)))
    loader = training_batches([Striped("s", 20)], data, seed=0, iterations=range(10))
    pixels = [int((label == 18).sum()) for batch in loader for label in batch.label]
    # Every draw is for the rare class; a crop reaches far enough to the right with a chance of one in 24, within ten tries of a third.
    assert sum(number > 200 for number in pixels) > 15
    plain = training_batches(
        [Striped("s", 20)], replace(data, rare_class=0.0, rare_pixels=3000), seed=0, iterations=range(10)
    )
    assert sum(int((label == 18).sum()) > 200 for batch in plain for label in batch.label) < 5


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_skipped_and_told_of(workers: int) -> None:
    data = replace(DATA, workers=workers, on_bad_image="skip", images_per_domain=4)
    loader = training_batches([Pictures("a", 8, broken=(2, 3)), Pictures("b", 4)], data, seed=0, iterations=range(4))
    assert loader.skipped == {}
    whole = list(
        training_batches(
            [Pictures("a", 8), Pictures("b", 4)], replace(DATA, images_per_domain=4), seed=0, iterations=range(4)
        )
    )
    for batch, plain in zip(loader, whole, strict=True):
        for name, wanted, image, original in zip(batch.name, plain.name, batch.image, plain.image, strict=True):
            assert name == ("a4" if wanted in {"a2", "a3"} else wanted)
            assert torch.equal(image, original) or wanted in {"a2", "a3"}
    assert loader.skipped == {"image 2": "a/2.png is damaged", "image 3": "a/3.png is damaged"}


def test_where_nothing_can_be_read_the_run_stops() -> None:
    data = replace(DATA, on_bad_image="skip")
    with pytest.raises(DataError, match=r"none of the 2 images of a source can be read; of image \d: a/\d.png is dam"):
        list(training_batches([Pictures("a", 2, broken=(0, 1))], data, seed=0, iterations=range(1)))
    (trial,) = photometric_trials([Pictures("a", 3, broken=1)], data, seed=0, trials=1, pairs=3)
    assert sum(len(batch.name) for batch in trial) == 6
    assert trial.skipped == {"image 1": "a/1.png is damaged"}


def test_an_unreadable_image_is_called_by_its_name(tmp_path: Path) -> None:
    pairs = [Pair(f"street{i}", tmp_path / f"{i}.png", tmp_path / f"{i}_label.png") for i in range(2)]
    for path in pairs[0][1:]:
        Image.fromarray(np.zeros((50, 60), np.uint8)).convert("RGB" if path == pairs[0].image else "L").save(path)
    folder = WeatherSet(FolderSet(pairs, table=np.arange(256, dtype=np.uint8)), "fog", seed=0)
    data = replace(DATA, on_bad_image="skip")
    loader = training_batches([folder], data, seed=0, iterations=range(1))
    assert {name for batch in loader for name in batch.name} == {"street0"}
    assert list(loader.skipped) == ["street1"]
    told: list[tuple[str, str]] = []
    batches = evaluation_batches(folder, data, domain=0, batch_size=4, on_skip=lambda *what: told.append(what))
    assert [batch.name for batch in batches] == [("street0",)]
    assert told == list(loader.skipped.items())


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_out_only_what_it_may(workers: int) -> None:
    pictures, data = Pictures("a", 5, broken=1), replace(DATA, workers=workers, on_bad_image="skip")
    told: list[tuple[str, str]] = []
    found = list(evaluation_batches(pictures, data, domain=0, batch_size=2, on_skip=lambda *what: told.append(what)))
    assert [batch.name for batch in found] == [("a0", "a2"), ("a3", "a4")]
    assert told == [("image 1", "a/1.png is damaged")]
    for unwatched, on_skip in ((data, None), (replace(data, on_bad_image="stop"), lambda *what: told.append(what))):
        with pytest.raises(DataError, match="is damaged"):
            list(evaluation_batches(pictures, unwatched, domain=0, batch_size=2, on_skip=on_skip))
    assert len(told) == 1


def test_a_run_that_stops_at_a_broken_file_ends_at_once() -> None:
    batches = training_batches([Pictures("a", 2, broken=(0, 1))], replace(DATA, workers=2), seed=0, iterations=range(9))
    with pytest.raises(DataError):
        list(batches)
    start = time.perf_counter()
    del batches
    gc.collect()
    assert time.perf_counter() - start < 4  # and does not wait for workers that nobody told


PSEUDO = replace(DATA, sources=["a/x"], images_per_domain=30)


def pseudo(by: Any, count: int = 3, **augmentation: Any) -> DataConfig:
    return replace(PSEUDO, augmentation=AugmentationConfig(**augmentation), pseudo_domains=count, pseudo_by=by)


def test_domains_by_style_are_the_styles_and_the_images_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    styles = ["night", "fog", "snow"]

    def paint(image, label, style, **options):
        return np.full_like(image, 60 * (1 + styles.index(style))), label

    monkeypatch.setattr(transforms, "apply_weather_pair", paint)
    data = pseudo("style", styles=styles, scale=(1, 1), jitter=0, blur=None)
    (batch,) = training_batches([Pictures("a", 30)], data, seed=0, iterations=range(1))
    found = denormalise(batch.image)
    seen = set()
    for image, domain in zip(found, batch.domain.tolist(), strict=True):
        style = int(image[0, 0, 0]) // 60 if bool((image == image[0, 0, 0]).all()) else 0
        assert domain == (1 + (style - 1) % 2 if style else 0)
        seen.add(style)
    assert seen == {0, 1, 2, 3}


def test_domains_by_chance_are_a_fixed_division_of_the_images() -> None:
    data = pseudo("random", 4)
    parts: dict[str, set[int]] = {}
    for batch in training_batches([Pictures("a", 10)], data, seed=0, iterations=range(3)):
        for name, domain in zip(batch.name, batch.domain.tolist(), strict=True):
            parts.setdefault(name, set()).add(domain)
    assert all(len(domains) == 1 for domains in parts.values())
    assert sorted(Counter(next(iter(domains)) for domains in parts.values()).values()) == [2, 2, 3, 3]
    other = training_batches([Pictures("a", 10)], data, seed=1, iterations=range(1))
    assert any(parts[n] != {d} for batch in other for n, d in zip(batch.name, batch.domain.tolist(), strict=True))
    with pytest.raises(UsageError, match=r"data\.pseudo_domains is 4, but the source has 3 images"):
        training_batches([Pictures("a", 3)], data, seed=0, iterations=range(1))


def test_domains_by_cluster_are_left_to_the_network() -> None:
    (batch,) = training_batches([Pictures("a", 10)], pseudo("cluster"), seed=0, iterations=range(1))
    assert set(batch.domain.tolist()) == {0}

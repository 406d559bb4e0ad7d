"""OODDetector: known and strange images, and the file in between."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from spcnet.config import DataConfig, DomainSpec, ModelConfig
from spcnet.data.datasets import open_domain
from spcnet.data.transforms import normalise
from spcnet.errors import DataError
from spcnet.inference.ood import (
    OLD_OOD_FILE,
    OOD_FILE,
    OODDetector,
    StyleSpace,
    nearest_classes,
    signals,
)
from spcnet.labels import label_space
from spcnet.methods import METHODS
from spcnet.models.network import Segmentor
from spcnet.synthesis.corruptions import corrupt
from spcnet.types import Internals, SegOutput, StyleStats

SIZE = (48, 64)
DOMAINS = ["streets/game", "streets/toy"]
PARTS = {"style": {"style"}, "prototypes": {"prototypes"}, "both": {"style", "prototypes"}, "none": {"confidence"}}


def build(method: str = "spcnet", *, seed: int = 0) -> Segmentor:
    torch.manual_seed(seed)
    model = ModelConfig(backbone="shufflenet_v2", output_stride=32, weights=None)
    return METHODS[method].build(model, num_classes=19, num_domains=2, pretrained=False).eval()


def streets(domain: str, number: int, *, split: str) -> list[np.ndarray]:
    data = DataConfig(size=SIZE, train_scenes=number, test_scenes=number)
    plain = open_domain(DomainSpec.parse(f"{domain}@{split}"), data=data, space=label_space(data.space), training=True)
    return [plain.read(index).image for index in range(number)]


@torch.no_grad()
def look(network: Segmentor, images: list[np.ndarray]) -> SegOutput:
    return network(normalise(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)))


def fitted(network: Segmentor, known: list[list[np.ndarray]]) -> OODDetector:
    outputs = [(look(network, images), torch.full((len(images),), m)) for m, images in enumerate(known)]
    return OODDetector.fit(network, outputs, domains=DOMAINS)


def values(detector: OODDetector, output: SegOutput) -> Tensor:
    return torch.tensor([score.score for score in detector.scores(output)])


def painted(domain: int, number: int, *, seed: int) -> list[np.ndarray]:
    """Fields of soft colours, in a light and a contrast of the domain; cheaper than streets."""
    rng = np.random.default_rng([domain, seed])
    found = []
    for _ in range(number):
        small = rng.normal(100 + 50 * domain, 30 + 20 * domain, (6, 8, 3)).clip(0, 255).astype(np.uint8)
        found.append(np.asarray(Image.fromarray(small).resize(SIZE[::-1], Image.Resampling.BILINEAR)))
    return found


@pytest.fixture(scope="module")
def known() -> list[list[np.ndarray]]:
    return [painted(domain, 40, seed=0) for domain in (0, 1)]


@pytest.fixture(scope="module")
def fresh() -> list[np.ndarray]:
    return [image for domain in (0, 1) for image in painted(domain, 6, seed=1)]


@pytest.fixture(scope="module")
def network() -> Segmentor:
    return build()


@pytest.fixture(scope="module")
def detector(network: Segmentor, known: list[list[np.ndarray]]) -> OODDetector:
    return fitted(network, known)


def imagined(styles: Tensor, network: Segmentor) -> SegOutput:
    """An output of a network of styles alone, whose images have these styles in both layers."""
    layers = []
    for layer in network.style_layers:
        channels = layer.base_mean.shape[1]
        layers.append(StyleStats(styles[:, :channels].float(), styles[:, channels : 2 * channels].float()))
    return SegOutput(logits=torch.zeros(len(styles), 19, 33, 33), extras=Internals(styles=tuple(layers)))


def draw(number: int, seed: int) -> Tensor:
    """Styles that scatter by far more along some directions than along others."""
    mixing = torch.randn(512, 512, generator=torch.Generator().manual_seed(7)) * torch.linspace(0.01, 1, 512)
    return torch.randn(number, 512, generator=torch.Generator().manual_seed(seed)) @ mixing.T / 20 + 3


def test_images_of_the_sources_that_were_not_shown_are_usual(detector, network, fresh):
    scores = detector.scores(look(network, fresh))
    assert abs(np.median([score.score for score in scores])) < 1.5
    assert 0.1 < np.mean([score.percentile for score in scores]) < 0.9
    assert 0.7 < np.median([score.times for score in scores]) < 1.5


def test_what_was_not_shown_is_measured_as_what_was():
    network = build("style_projection")
    shares = []
    for seed in range(5):
        given_ = [(imagined(draw(60, seed), network), torch.zeros(60, dtype=torch.long))]
        detector = OODDetector.fit(network, given_, domains=["one"])
        shares += [score.percentile for score in detector.scores(imagined(draw(40, 100 + seed), network))]
    assert 0.4 < np.mean(shares) < 0.65
    assert np.mean(np.array(shares) >= 0.95) < 0.2


def test_the_score_grows_with_the_shift_of_generated_streets(network):
    detector = fitted(network, [streets("streets/game", 20, split="train")])
    fresh = streets("streets/game", 4, split="test")
    clean = float(values(detector, look(network, fresh)).mean())
    for corruption in ("gaussian_noise", "contrast"):
        means = [clean]
        for severity in (1, 3, 5):
            shifted = [corrupt(image, corruption, severity=severity, seed=0) for image in fresh]
            means.append(float(values(detector, look(network, shifted)).mean()))
        assert means == sorted(means)
        assert means[-1] > clean + 2


def test_an_image_whose_style_is_a_domains_own_scores_lowest(detector, network, fresh):
    output = look(network, fresh[:1])
    parts = []
    for space in detector.spaces:
        centre = torch.from_numpy(space.centres[1])[None].float()
        parts.append(StyleStats(*centre.tensor_split(2, dim=1)))
    ideal = detector.scores(output._replace(extras=output.extras._replace(styles=tuple(parts))))[0]
    assert ideal.parts["style"] < min(r.parts["style"] for r in detector.scores(look(network, fresh)))
    assert ideal.times < 0.01

    @given(st.integers(0, 2**32 - 1), st.floats(1e-3, 10))
    @settings(deadline=None, max_examples=20)
    def elsewhere(seed: int, size: float) -> None:
        dice = torch.Generator().manual_seed(seed)
        moved = tuple(
            StyleStats(
                stats.mean + size * torch.randn(stats.mean.shape, generator=dice),
                stats.std + size * torch.rand(stats.std.shape, generator=dice),
            )
            for stats in parts
        )
        assert detector.scores(output._replace(extras=output.extras._replace(styles=moved)))[0].score > ideal.score

    elsewhere()


def test_the_base_distance_of_an_image_with_a_bases_statistics_is_zero(network, fresh):
    output = look(network, fresh[:2])
    styles = tuple(
        StyleStats(layer.base_mean[[0, 1]].clone(), layer.base_std[[0, 1]].clone()) for layer in network.style_layers
    )
    assert signals(network, output._replace(extras=output.extras._replace(styles=styles))).distance.abs().max() < 1e-9
    assert signals(network, output).distance.min() > 0


def test_the_distance_is_that_of_mahalanobis_to_the_nearest_centre():
    rng = np.random.default_rng(0)
    styles = torch.from_numpy(rng.normal(size=(60, 24)) @ rng.normal(size=(24, 24)))
    domain = torch.arange(60) % 3
    space = StyleSpace.fit(styles, domain)
    beside = np.eye(24) - space.axes.T @ space.axes
    inverse = space.axes.T @ np.diag(1 / space.variance) @ space.axes + beside / space.noise
    expected = []
    for style in styles.numpy():
        left = [(style - centre) / space.scale for centre in space.centres]
        expected.append(min(np.sqrt(r @ inverse @ r / 24) for r in left))
    np.testing.assert_allclose(space.distance(styles), expected, rtol=1e-9)


def test_the_nearest_classes_are_those_of_the_slow_formula():
    torch.manual_seed(0)
    embedding = torch.nn.functional.normalize(torch.randn(2, 8, 3, 4), dim=1)
    prototypes = torch.nn.functional.normalize(torch.randn(5, 2, 8), dim=2)
    best, second = nearest_classes(embedding, prototypes)
    for b in range(2):
        found = []
        for i in range(3):
            for j in range(4):
                classes = [max(float(embedding[b, :, i, j] @ p) for p in own) for own in prototypes]
                found.append(sorted(classes)[-2:])
        low, high = np.mean(found, axis=0)
        assert float(best[b]) == pytest.approx(high, abs=1e-6)
        assert float(second[b]) == pytest.approx(low, abs=1e-6)


def test_signals_are_those_of_the_definitions(network, fresh):
    output = look(network, fresh)
    found = signals(network, output)
    best, second = nearest_classes(output.extras.embedding, network.prototype_head.unit_prototypes)
    torch.testing.assert_close(found.similarity, best.double())
    torch.testing.assert_close(found.margin, (best - second).double())
    shares = output.logits[:, :, ::4, ::4].double().softmax(1)
    torch.testing.assert_close(found.confidence, shares.amax(1).mean((1, 2)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.entropy, -(shares * shares.log()).sum(1).mean((1, 2)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.max_logit, output.logits[:, :, ::4, ::4].amax(1).mean((1, 2)).double())


def test_the_batch_makes_no_difference(detector, network, fresh):
    together = values(detector, look(network, fresh))
    alone = torch.cat([values(detector, look(network, [image])) for image in fresh])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


def test_half_precision_changes_the_score_by_little(detector, network, fresh):
    single = values(detector, look(network, fresh))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = look(network, fresh)
        half = values(detector, output)
    assert (single - half).abs().max() < 0.5
    assert (single - half).abs().mean() < 0.15


def test_neither_the_network_nor_its_output_is_changed(detector, network, fresh):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    output = look(network, fresh)
    copies = [output.logits.clone(), output.extras.embedding.clone(), *(s.mean.clone() for s in output.extras.styles)]
    detector.scores(output)
    torch.testing.assert_close(
        [output.logits, output.extras.embedding, *(s.mean for s in output.extras.styles)], copies
    )
    torch.testing.assert_close(dict(network.state_dict()), before)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_a_score_from_what_it_has(method, known, fresh):
    network = build(method)
    detector = fitted(network, known)
    scores = detector.scores(look(network, fresh))
    kind = {(True, True): "both", (True, False): "style", (False, True): "prototypes", (False, False): "none"}
    expected = PARTS[kind[bool(network.style_layers), network.prototype_head is not None]]
    assert all(set(score.parts) == expected for score in scores)
    assert np.isfinite([score.score for score in scores]).all()
    assert all((score.times is not None) == bool(network.style_layers) for score in scores)


def strange_images() -> Iterator[np.ndarray]:
    for value in (0, 255):
        yield np.full((*SIZE, 3), value, np.uint8)
    yield np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize("method", ["spcnet", "deeplabv3plus"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_a_score_is_always_a_number(method, value, known):
    network = build(method)
    detector = fitted(network, known)
    output = look(network, list(strange_images()))
    assert values(detector, output).isfinite().all()
    broken = output._replace(logits=torch.full_like(output.logits, value))
    if method == "spcnet":
        embedding = torch.full_like(output.extras.embedding, value)
        styles = tuple(StyleStats(torch.full_like(s.mean, value), s.std) for s in output.extras.styles)
        broken = broken._replace(extras=Internals(embedding=embedding, styles=styles))
    for score in detector.scores(broken):
        assert np.isfinite([score.score, score.times or 0, score.percentile, *score.parts.values()]).all()
        if method == "spcnet":
            assert score.percentile == 1
            assert score.parts["style"] > 100


def test_what_was_written_is_read_back_as_it_was(detector, network, fresh, tmp_path):
    file = detector.write(tmp_path)
    assert file == tmp_path / OOD_FILE
    output = look(network, fresh)
    again = OODDetector.read(tmp_path, network)
    assert again.scores(output) == detector.scores(output)
    assert again.domains == tuple(DOMAINS)
    assert OODDetector.read(tmp_path / "model.safetensors", network).scores(output) == detector.scores(output)


def test_the_file_of_an_earlier_version_is_read_until_there_is_a_new_one(detector, network, fresh, tmp_path):
    detector.write(tmp_path).rename(tmp_path / OLD_OOD_FILE)
    output = look(network, fresh)
    assert OODDetector.read(tmp_path, network).scores(output) == detector.scores(output)
    assert detector.write(tmp_path) == tmp_path / OOD_FILE
    (tmp_path / OLD_OOD_FILE).write_text("broken")
    assert OODDetector.read(tmp_path, network).scores(output) == detector.scores(output)


def test_without_the_file_the_command_that_makes_it_is_told(network, tmp_path):
    with pytest.raises(DataError, match=rf"spcnet ood fit {tmp_path}"):
        OODDetector.read(tmp_path, network)


def test_the_file_of_another_network_is_refused(detector, tmp_path):
    detector.write(tmp_path)
    with pytest.raises(DataError, match="other weights"):
        OODDetector.read(tmp_path, build(seed=1))


def test_a_network_trained_on_is_another_one(detector, network, tmp_path):
    detector.write(tmp_path)
    other = build()
    OODDetector.read(tmp_path, other)
    with torch.no_grad():
        next(other.parameters())[0] += 1e-6
    with pytest.raises(DataError, match="other weights"):
        OODDetector.read(tmp_path, other)


def damages() -> dict[str, object]:
    def without(name: str) -> object:
        return lambda content: {key: value for key, value in content.items() if key != name}

    def first_space(**changes: object) -> object:
        return lambda content: {**content, "spaces": [{**content["spaces"][0], **changes}, content["spaces"][1]]}

    return {
        "a list": lambda content: [],
        "no format": without("format"),
        "no network": without("network"),
        "no layers": without("spaces"),
        "one layer": lambda content: {**content, "spaces": content["spaces"][:1]},
        "another format": lambda content: {**content, "format": 99},
        "texts for numbers": lambda content: {**content, "known": ["a"]},
        "not numbers": lambda content: {**content, "known": [float("nan")]},
        "no known": lambda content: {**content, "known": []},
        "no scatter": lambda content: {**content, "total": {"mean": 0, "std": 0}},
        "no noise": first_space(noise=0),
        "a narrow scale": first_space(scale=[1.0]),
        "no figures": lambda content: {**content, "usual": {}},
        "figures of another": lambda content: {**content, "usual": {"confidence": {"mean": 0, "std": 1}}},
    }


@pytest.mark.parametrize("damage", damages())
def test_a_damaged_file_is_one_clear_line(detector, network, tmp_path, damage):
    file = detector.write(tmp_path)
    file.write_text(json.dumps(damages()[damage](json.loads(file.read_text()))))
    with pytest.raises(DataError, match="spcnet ood fit") as error:
        OODDetector.read(tmp_path, network)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_file_of_something_else_is_one_clear_line(network, tmp_path, content):
    (tmp_path / OOD_FILE).write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        OODDetector.read(tmp_path, network)


def test_too_few_images_are_refused(network, known):
    with pytest.raises(DataError, match="3 known images"):
        OODDetector.fit(network, [(look(network, known[0][:3]), torch.zeros(3, dtype=torch.long))], domains=["one"])


@pytest.mark.parametrize("few", [0, 1, 2])
def test_a_domain_of_a_few_images_and_a_single_domain_are_enough(network, known, few):
    outputs = look(network, known[0])
    domain = torch.zeros(len(known[0]), dtype=torch.long)
    domain[len(domain) - few :] = 1
    detector = OODDetector.fit(network, [(outputs, domain)], domains=DOMAINS)
    assert values(detector, outputs).isfinite().all()


def test_a_damaged_network_is_refused(known):
    network = build()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="not finite"):
        fitted(network, known)


def test_images_that_are_all_alike_are_no_division_by_zero(network, known):
    same = [[images[0]] * 20 for images in known]
    assert values(fitted(network, same), look(network, known[0])).isfinite().all()

"""What is told of a run: true figures, each step once, on every board, and nothing of it changes what is learnt."""

import gzip
import io
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from spcnet.cli import main, parse
from spcnet.config import LoggingConfig, ModelConfig, RunConfig, TrainingConfig, from_dict
from spcnet.engine import observer as observing
from spcnet.engine import profiling, progress, records
from spcnet.engine.devices import make_fabric
from spcnet.engine.observer import Observer
from spcnet.engine.trackers import TRACKERS_FILE, check_installed
from spcnet.engine.trainer import Trainer
from spcnet.errors import DataError, UsageError
from spcnet.methods import METHODS, card_for
from spcnet.methods.spcnet import Observed
from spcnet.models.network import Segmentor
from spcnet.models.style import style_distance
from spcnet.numerics import peak_memory
from spcnet.types import IMAGENET_MEAN, IMAGENET_STD, Batch, SegOutput, StepResult, StyleStats, internals_of
from tests.support.disk import files_of_at_most

CLASSES, COLORS = 4, [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
DOMAINS = ["game", "toy"]


def run_config(output: Path, *, iterations: int = 6, profile: int = 0, **logging: Any) -> RunConfig:
    output.mkdir(parents=True, exist_ok=True)
    return RunConfig(
        model=ModelConfig(backbone="shufflenet_v2", output_stride=32, weights=None),
        training=TrainingConfig(
            iterations=iterations, log_every=1, checkpoint_every=100, accelerator="cpu", profile=profile
        ),
        logging=LoggingConfig(**logging),
        output=output,
    )


@pytest.fixture(scope="module")
def network() -> Segmentor:
    config = ModelConfig(backbone="shufflenet_v2", output_stride=32, weights=None)
    torch.manual_seed(0)
    return METHODS["spcnet"].build(config, num_classes=CLASSES, num_domains=2)


def batch(seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (4, 4, 1), generator=random).repeat_interleave(12, 1).expand(4, 48, 64)
    image = torch.randn(4, 3, 48, 64, generator=random)
    return Batch(image, label.contiguous(), torch.tensor([0, 0, 1, 1]), ("a", "b", "c", "d"))


def result(loss: float = 1.0) -> StepResult:
    return StepResult(torch.tensor(loss), {"ce": torch.tensor(loss / 2)})


def observed(output: SegOutput, domain: Tensor | None = None) -> StepResult:
    """A step whose images have the styles of an output."""
    domain = torch.tensor([0, 0, 1, 1]) if domain is None else domain
    return result()._replace(extras=Observed(domain, internals_of(output).styles))


def stripes(image: Tensor) -> Tensor:
    """A prediction that one can recognise: class 2 everywhere, 3 in the first column."""
    found = torch.full((len(image), *image.shape[2:]), 2)
    found[:, :, 0] = 3
    return found


def board(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    found.Reload()
    return found


def fitted(config: RunConfig, *, start: int = 0, end: int | None = None) -> Trainer:
    """A run that goes from one iteration to another."""
    method = METHODS[config.method]
    torch.manual_seed(0)
    network = method.build(config.model, num_classes=CLASSES, num_domains=2)
    card = card_for(
        method=config.method, model=config.model, space="test", classes=tuple("wxyz"), domains=DOMAINS, size=(48, 64)
    )
    trainer = Trainer(config, method, network, card, make_fabric(config.training))
    if start:
        trainer.resume()
    observer = Observer(config, method, network, start=trainer.iteration, domains=DOMAINS, colors=COLORS)
    trainer.fit((batch(i) for i in range(start, end or config.training.iterations)), observer=observer)
    observer.close()
    return trainer


# The figures


def test_a_line_of_the_log_has_the_waiting_and_the_memory_beside_what_it_had(
    network: Segmentor, tmp_path: Path
) -> None:
    observer = Observer(run_config(tmp_path), METHODS["spcnet"], network)
    told = []
    for number, _ in enumerate(observer.timed([[batch()], [batch(), batch()], [batch()]])):
        told.append(observer.write(number + 1, result(number), {"learning_rate": 0.01}))
    observer.close()
    lines = records.read_lines(tmp_path / records.TRAIN_FILE)
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    assert lines[2]["loss"] == 2
    assert lines[2]["parts"] == {"ce": 1}
    assert lines[2]["learning_rate"] == 0.01
    assert set(lines[0]) == {
        *("iteration", "loss", "parts", "learning_rate", "seconds", "images_per_second", "data_wait", "memory")
    }
    assert lines[0]["images_per_second"] == 0
    assert "images_per_second" not in told[0]  # nothing to say after one step
    assert list(told[2]) == ["loss", "ce", "rate", "images_per_second", "data_wait", "memory"]
    # From the first line to the third: the two batches of four in parts, and one.
    between = lines[2]["seconds"] - lines[0]["seconds"]
    assert lines[2]["images_per_second"] == pytest.approx(12 / between, rel=0.5, abs=100)


def test_waiting_for_data_is_told_as_a_share_of_the_time_since_the_line_before(
    network: Segmentor, tmp_path: Path
) -> None:
    def slow() -> Iterator[Sequence[Batch]]:
        for seconds in (0.09, 0.0):
            time.sleep(seconds)
            yield [batch()]

    observer, shares = Observer(run_config(tmp_path), METHODS["spcnet"], network), []
    for number, _ in enumerate(observer.timed(slow())):
        time.sleep(0.03)
        shares.append(observer.write(number + 1, result(), {"learning_rate": 0.01})["data_wait"])
    observer.close()
    assert 0.5 < shares[0] < 0.95
    assert shares[1] < 0.2


def test_the_memory_is_that_of_the_process() -> None:
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(64 * 2**18)
    after = peak_memory(torch.device("cpu"))
    assert 50 < before <= after < 2**20
    assert after >= 64
    del held


def test_only_the_process_that_is_asked_to_writes(network: Segmentor, tmp_path: Path) -> None:
    observer = Observer(
        run_config(tmp_path, every=1, profile=2), METHODS["spcnet"], network, enabled=False, colors=COLORS
    )
    for parts in observer.timed([[batch()], [batch()]]):
        observer.look(1, parts, result(), stripes)
        assert observer.write(1, result(), {"learning_rate": 0.01})["loss"] == 1
    observer.results({"iteration": 1, "domains": {}, "mean_source_miou": 0.5, "mean_unseen_miou": None})
    observer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_of_in_one_line(network: Segmentor, tmp_path: Path) -> None:
    config = run_config(tmp_path)
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write .*tensorboard .*check the folder's permissions"):
        Observer(config, METHODS["spcnet"], network)


def test_a_board_that_no_longer_fits_is_told_of_in_one_line_and_no_traceback_of_its_thread(
    network: Segmentor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    monkeypatch.setattr(observing, "_told_before", shown.append)
    observer = Observer(run_config(tmp_path, every=1), METHODS["spcnet"], network, colors=COLORS)
    with (
        files_of_at_most(1000),
        pytest.raises(DataError, match=r"cannot write .*tensorboard \(File too large\)") as told,
    ):
        observer.look(1, [batch()], result(), stripes)
    assert "\n" not in str(told.value)
    observer.close()
    assert shown == []
    other = threading.Thread(target=lambda: 1 / 0)
    other.start()
    other.join()
    assert [failure.exc_type for failure in shown] == [ZeroDivisionError]


# The progress


FIGURES = {
    **dict.fromkeys(("loss", "ce", "var", "dis", "aux", "whitening"), 12.345),
    "rate": 0.00998765,
    "images_per_second": 1234.5,
    "data_wait": 0.034,
    "memory": 65536.0,
}


def test_a_terminal_of_80_columns_shows_the_bar_and_every_figure() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with progress.bar(console, 40_000, 0, "train style_substitution") as show:
        show(39_999, FIGURES)
    assert isinstance(console.file, io.StringIO)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", console.file.getvalue()).replace("\r", "\n")
    lines = [line.rstrip() for line in text.split("\n")]
    assert max(map(len, lines)) <= 80
    (head,) = {line for line in lines if line.startswith("train style_substitution") and "39999/40000" in line}
    assert " left " in head
    shown = " ".join(lines)
    for piece in ("loss 12.345", "whitening 12.345", "rate 0.009988", "1234.5 images/s", "3 % waiting for data"):
        assert piece in shown
    assert "65536 MiB" in shown


def test_elsewhere_lines_of_80_columns_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    console = Console(file=io.StringIO(), force_terminal=False, width=80)
    with progress.bar(console, 40_000, 39_000, "train spcnet") as show:
        show(39_500, FIGURES)
        show(39_501, {})  # nothing new
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert re.match(r"train spcnet 39500/40000, \d+ s, \d+ s left  loss 12.345", lines[0])
    assert all(line.startswith("  ") for line in lines[1:])
    assert "3 % waiting for data  65536 MiB" in console.file.getvalue()
    assert len(lines) <= 4


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text("abc ", min_size=1, max_size=12).filter(lambda t: t.strip() == t and "  " not in t), max_size=9),
    st.integers(16, 80),
)
def test_no_figure_is_broken_over_two_lines(pieces: list[str], width: int) -> None:
    lines = progress._filled(pieces, width)
    assert all(len(line) <= width for line in lines)
    assert [piece for line in lines for piece in re.split(" {2,}", line.strip()) if piece] == pieces


# TensorBoard


def test_the_board_shows_styles_prototypes_and_samples_every_so_often(network: Segmentor, tmp_path: Path) -> None:
    observer = Observer(
        run_config(tmp_path, every=2, iterations=5), METHODS["spcnet"], network, domains=DOMAINS, colors=COLORS
    )
    for number, parts in enumerate(observer.timed([batch(n)] for n in range(5))):
        observer.look(number + 1, parts, observed(network(parts[0].image)), stripes)
        observer.write(number + 1, result(), {"learning_rate": 0.1})
    observer.close()
    found = board(tmp_path)
    assert [event.step for event in found.Images("samples")] == [2, 4, 5]  # and after the last
    for layer in (1, 2):
        for name in ("own", *DOMAINS):
            histograms = found.Histograms(f"style_weights/{layer}/{name}")
            assert [event.step for event in histograms] == [2, 4, 5]
            # Those of the steps since the last look: four images each; λ of the one base is 1 - λ of the other.
            assert [event.histogram_value.num for event in histograms] == [8, 8, 4]
            assert 0 <= histograms[0].histogram_value.min <= histograms[0].histogram_value.max <= 1
        assert {f"style_weights/{layer}/own_mean", f"style_bases/{layer}/distance"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Scalars("loss/ce")] == [1, 2, 3, 4, 5]
    assert {"loss", "rate", "speed/data_wait", "speed/memory", "speed/images_per_second"} <= set(
        found.Tags()["scalars"]
    )


def test_the_own_style_weight_is_that_of_the_image_s_domain(network: Segmentor, tmp_path: Path) -> None:
    observer = Observer(run_config(tmp_path, every=1), METHODS["spcnet"], network)
    output = network(batch().image)
    observer.look(1, [batch()], observed(output), stripes)
    observer.close()
    for layer, weight in enumerate(internals_of(output).style_weights, start=1):
        (event,) = board(tmp_path).Scalars(f"style_weights/{layer}/own_mean")
        assert event.value == pytest.approx(float((weight[0, 0] + weight[1, 0] + weight[2, 1] + weight[3, 1]) / 4))


def test_similarities_and_distances_are_those_of_the_slow_formulas(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = METHODS["spcnet"].build(
        ModelConfig(backbone="shufflenet_v2", output_stride=32, weights=None), num_classes=3, num_domains=3
    )
    assert network.prototype_head is not None
    for layer in network.style_layers:
        layer.base_mean.normal_()
        layer.base_std.uniform_(0.5, 2)
    network.prototype_head.prototypes.add_(0.05)
    observer = Observer(run_config(tmp_path, every=1), METHODS["spcnet"], network)
    observer.look(1, [], result(), stripes)
    observer.close()
    found = board(tmp_path)
    p = network.prototype_head.unit_prototypes
    own = [float(p[k, m] @ p[k, n]) for k in range(3) for m in range(3) for n in range(3) if m != n]
    other = [
        max(float(p[k, m] @ p[j, n]) for m in range(3) for j in range(3) if j != k for n in range(3)) for k in range(3)
    ]
    assert found.Scalars("prototypes/own_mean")[0].value == pytest.approx(np.mean(own), abs=1e-5)
    assert found.Scalars("prototypes/nearest_other_mean")[0].value == pytest.approx(np.mean(other), abs=1e-5)
    assert found.Images("prototypes/cosines")[0].width == 9
    for place, layer in enumerate(network.style_layers, start=1):
        between = style_distance(StyleStats(layer.base_mean, layer.base_std), layer.base_mean, layer.base_std).mean(2)
        pairs = [float(between[m, n]) for m in range(3) for n in range(m)]
        assert found.Scalars(f"style_bases/{place}/distance")[0].value == pytest.approx(np.mean(pairs), rel=1e-5)


def test_a_sample_is_image_truth_and_prediction_of_two_domains(network: Segmentor, tmp_path: Path) -> None:
    observer = Observer(run_config(tmp_path, every=1), METHODS["spcnet"], network, colors=COLORS)
    given = batch()
    given.label[0, 0, 0] = 255
    observer.look(1, [given], result(), stripes)
    observer.close()
    (event,) = board(tmp_path).Images("samples")
    picture = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))
    assert picture.shape == (2 * 48, 3 * 64, 3)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for row, number in enumerate((0, 2)):  # the first of each domain
        photo, truth, found = np.split(picture[48 * row : 48 * (row + 1)], 3, axis=1)
        expected = ((given.image[number] * std + mean).clamp(0, 1) * 255).permute(1, 2, 0).numpy()
        assert np.abs(photo - expected).max() <= 0.51
        label = given.label[number].numpy()
        assert (truth[label < CLASSES] == np.array(COLORS)[label[label < CLASSES]]).all()
        assert (truth[label == 255] == 0).all()
        assert (found[:, 0] == COLORS[3]).all()
        assert (found[:, 1:] == COLORS[2]).all()


def test_large_images_are_thinned_out(network: Segmentor, tmp_path: Path) -> None:
    observer = Observer(run_config(tmp_path, every=1), METHODS["spcnet"], network, colors=COLORS)
    large = Batch(torch.zeros(1, 3, 400, 900), torch.zeros(1, 400, 900).long(), torch.tensor([0]), ("a",))
    observer.look(1, [large], result(), stripes)
    observer.close()
    (event,) = board(tmp_path).Images("samples")
    assert (event.height, event.width) == (134, 900)


@pytest.mark.parametrize("method", ["deeplabv3plus", "isw", "semantic_clustering", "style_normalization"])
def test_methods_that_lack_styles_or_prototypes_are_watched_all_the_same(method: str, tmp_path: Path) -> None:
    model = ModelConfig(backbone="shufflenet_v2", output_stride=32, weights=None)
    network = METHODS[method].build(model, num_classes=CLASSES, num_domains=1)
    observer = Observer(run_config(tmp_path, every=1), METHODS[method], network, colors=COLORS)
    made = observed(network(batch().image), torch.zeros(4).long())
    observer.look(1, [batch()], made, stripes)
    observer.close()
    assert "samples" in board(tmp_path).Tags()["images"]


def test_watching_changes_nothing_of_what_is_learnt(tmp_path: Path) -> None:
    watched = fitted(run_config(tmp_path / "watched", every=1, profile=1, iterations=2))
    alone = fitted(run_config(tmp_path / "alone", every=0, iterations=2))
    first, second = (records.read_lines(run.config.output / records.TRAIN_FILE) for run in (watched, alone))
    assert [line["loss"] for line in first] == [line["loss"] for line in second]
    one, two = watched.network.state_dict(), alone.network.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in two)
    assert one.keys() == two.keys()
    assert "samples" in board(tmp_path / "watched").Tags()["images"]
    assert not board(tmp_path / "alone").Tags()["images"]


def test_a_killed_run_that_goes_on_tells_no_step_twice(tmp_path: Path) -> None:
    config = run_config(tmp_path, every=1, iterations=4)
    config = replace(config, training=replace(config.training, checkpoint_every=2))
    fitted(config, end=3)  # dies after 3; the checkpoint is of 2
    # Events are read in the order of the files' names, which begin with the second they were made in.
    for path in (tmp_path / "tensorboard").iterdir():
        path.rename(path.with_name(path.name.replace("tfevents.", "tfevents.0", 1)))
    fitted(config, start=2)
    found, steps = board(tmp_path), [1, 2, 3, 4]
    assert [event.step for event in found.Scalars("loss")] == steps
    assert [event.step for event in found.Images("samples")] == steps
    assert [event.step for event in found.Histograms("style_weights/1/own")] == steps
    assert [line["iteration"] for line in records.read_lines(tmp_path / records.TRAIN_FILE)] == steps


def test_what_a_killed_process_had_logged_is_on_the_disk(network: Segmentor, tmp_path: Path) -> None:
    observer = Observer(run_config(tmp_path, every=1), METHODS["spcnet"], network, colors=COLORS)
    observer.look(1, [batch()], result(), stripes)
    observer.write(1, result(), {"learning_rate": 0.1})
    found = board(tmp_path)  # before it is closed
    assert [event.step for event in found.Scalars("loss")] == [1]
    assert [event.step for event in found.Images("samples")] == [1]
    observer.close()


# Tracking servers


class Server:
    """Stands for both packages and what they talk to: runs by name, each with its steps and values."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.open: str | None = None
        self.down = False

    class Error(Exception):
        """What either raises."""

    def begin(self, run: str | None, **details: Any) -> str:
        assert self.open is None, "two runs at once"
        if self.down:
            raise self.Error("no\nanswer")
        self.open = run or f"run{len(self.runs)}"
        self.runs.setdefault(self.open, {"log": [], "params": {}, "ended": 0})
        self.runs[self.open].update(details)
        return self.open

    def log(self, values: Mapping[str, float], step: int) -> None:
        assert self.open is not None
        if self.down:
            raise self.Error("no answer")
        assert all(isinstance(value, (int, float)) for value in values.values())
        self.runs[self.open]["log"].append((step, dict(values)))

    def end(self) -> None:
        assert self.open is not None
        self.runs[self.open]["ended"] += 1
        self.open = None

    def steps(self, run: str) -> list[int]:
        return [step for step, values in self.runs[run]["log"] if "loss" in values]


class FakeWandb(ModuleType):
    def __init__(self, server: Server) -> None:
        super().__init__("wandb")
        self.server, self.Error = server, Server.Error

    def init(self, **options: Any) -> Any:
        server = self.server
        assert options["resume"] == "allow"
        name = server.begin(options["id"], project=options["project"], params=options["config"], name=options["name"])

        class Run:
            id = name

            @property
            def step(self) -> int:
                return max((step for step, _ in server.runs[name]["log"]), default=-1) + 1

            def log(self, values: Mapping[str, float], step: int) -> None:
                last = max((done for done, _ in server.runs[name]["log"]), default=-1)
                assert step >= last, "refused"
                server.log(values, step)

            def finish(self) -> None:
                server.end()

        return Run()


class FakeMlflow(ModuleType):
    def __init__(self, server: Server) -> None:
        super().__init__("mlflow")
        self.server, self.MlflowException, self.address = server, Server.Error, ""

    def set_tracking_uri(self, address: str) -> None:
        self.address = address

    def start_run(self, *, run_id: str | None, run_name: str) -> Any:
        name = self.server.begin(run_id, address=self.address, name=run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def log_params(self, values: Mapping[str, str]) -> None:
        assert self.server.open is not None
        assert len(values) <= 100
        known = self.server.runs[self.server.open]["params"]
        assert not set(values) & set(known), "parameters cannot be changed"
        known.update(values)

    def log_metrics(self, values: Mapping[str, float], *, step: int) -> None:
        assert all(re.fullmatch(r"[\w\-. /]+", name) for name in values)
        self.server.log(values, step)

    def MlflowClient(self) -> Any:
        def history(run: str, name: str) -> list[Any]:
            return [SimpleNamespace(step=s) for s, values in self.server.runs[run]["log"] if name in values]

        return SimpleNamespace(get_metric_history=history)

    def end_run(self) -> None:
        self.server.end()


FAKES = {"wandb": FakeWandb, "mlflow": FakeMlflow}


@pytest.fixture(params=["wandb", "mlflow"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str, monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    monkeypatch.setitem(sys.modules, kind, FAKES[kind](found))
    return found


def test_a_server_gets_settings_figures_and_results(
    kind: str, server: Server, network: Segmentor, tmp_path: Path
) -> None:
    observer = Observer(
        run_config(tmp_path / "mine", every=1, **{kind: "here"}), METHODS["spcnet"], network, colors=COLORS
    )
    observer.look(1, [batch()], result(), stripes)
    observer.write(1, result(), {"learning_rate": 0.01})
    domains = {"a+fog": {"miou": 0.25}, "b": {"miou": None}}
    observer.results({"iteration": 1, "domains": domains, "mean_source_miou": None, "mean_unseen_miou": 0.25})
    observer.close()
    ((_, run),) = server.runs.items()
    assert run["name"] == "mine"
    assert run["ended"] == 1
    assert run.get("project", run.get("address")) == "here"
    assert {step for step, _ in run["log"]} <= {1, 2}
    values = {name: value for _, logged in run["log"] for name, value in logged.items()}
    assert values["loss"] == 1
    assert values["loss/ce"] == 0.5
    assert values["rate"] == 0.01
    assert values["miou/a+fog" if kind == "wandb" else "miou/a_fog"] == 0.25
    assert values["miou/mean unseen"] == 0.25
    assert "miou/b" not in values
    assert {"prototypes/own_mean", "style_bases/1/distance", "speed/memory"} <= values.keys()
    params = run["params"]
    assert (params["training"]["iterations"] if kind == "wandb" else int(params["training.iterations"])) == 6


def test_a_resumed_run_goes_on_on_the_server_and_repeats_no_step(
    kind: str, server: Server, network: Segmentor, tmp_path: Path
) -> None:
    config = run_config(tmp_path, **{kind: "here"})
    for start, end in ((0, 5), (3, 6)):  # it died after 5, and its last checkpoint is of 3
        observer = Observer(config, METHODS["spcnet"], network, start=start)
        for iteration in range(start, end):
            observer.write(iteration + 1, result(), {"learning_rate": 0.01})
        observer.close()
        assert json.loads((tmp_path / TRACKERS_FILE).read_text()) == {kind: {"where": "here", "run": "run0"}}
        config = replace(config, training=replace(config.training, accelerator="auto"))
    assert list(server.runs) == ["run0"]
    assert server.steps("run0") == [1, 2, 3, 4, 5, 6]
    assert server.runs["run0"]["ended"] == 2


def test_results_of_an_old_iteration_reach_the_server_after_a_resume(
    kind: str, server: Server, network: Segmentor, tmp_path: Path
) -> None:
    config = run_config(tmp_path, **{kind: "here"})
    first = Observer(config, METHODS["spcnet"], network)
    first.write(6, result(), {"learning_rate": 0.01})
    first.close()  # stopped while it was tested
    second = Observer(config, METHODS["spcnet"], network, start=6)
    second.results({"iteration": 6, "domains": {}, "mean_source_miou": 0.5, "mean_unseen_miou": None})
    second.close()
    assert any("miou/mean source" in values for _, values in server.runs["run0"]["log"])


def test_another_project_is_another_run(kind: str, server: Server, network: Segmentor, tmp_path: Path) -> None:
    for where in ("here", "there"):
        Observer(run_config(tmp_path, **{kind: where}), METHODS["spcnet"], network).close()
    assert list(server.runs) == ["run0", "run1"]


def test_a_server_that_goes_down_does_not_end_the_training(kind: str, server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    config = run_config(tmp_path, **{kind: "here"})
    network = METHODS["deeplabv3plus"].build(config.model, num_classes=CLASSES, num_domains=1)
    observer = Observer(config, METHODS["spcnet"], network, say=said.append)
    for iteration in (1, 2, 3):
        server.down = iteration > 1
        observer.write(iteration, result(), {"learning_rate": 0.01})
    observer.close()
    assert said == [f"{kind} gets nothing more of this run: no answer"]
    assert len(records.read_lines(tmp_path / records.TRAIN_FILE)) == 3


def test_a_server_that_does_not_answer_at_the_beginning_is_told_of(
    kind: str, server: Server, network: Segmentor, tmp_path: Path
) -> None:
    server.down = True
    with pytest.raises(DataError, match=rf"does not begin a run .*logging.{kind} 'here' \(no answer\): .*leave the op"):
        Observer(run_config(tmp_path, **{kind: "here"}), METHODS["spcnet"], network)


def test_a_missing_package_is_told_of_with_the_remedy(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    check_installed(LoggingConfig())
    with pytest.raises(UsageError, match=rf"the package {kind} is not installed: pip install {kind},"):
        check_installed(LoggingConfig(**{kind: "here"}))
    assert main(["train", f"--logging.{kind}=here", f"--output={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"pip install {kind}," in line
    assert not (tmp_path / "run").exists()


# The profile


def trace(run: Path) -> list[dict[str, Any]]:
    found = json.loads(gzip.decompress((run / profiling.PROFILE_FOLDER / profiling.TRACE_FILE).read_bytes()))
    events: list[dict[str, Any]] = found["traceEvents"]
    return events


def names(events: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(event.get("name")) for event in events if event.get("ph") == "X"]


@pytest.mark.parametrize(("iterations", "asked", "recorded"), [(9, 2, 2), (2, 5, 2), (3, 2, 2)])
def test_a_profile_records_so_many_steps(
    iterations: int, asked: int, recorded: int, network: Segmentor, tmp_path: Path
) -> None:
    said: list[str] = []
    config = run_config(tmp_path, iterations=iterations, profile=asked)
    observer = Observer(config, METHODS["spcnet"], network, say=said.append)
    for _ in observer.timed([batch()] for _ in range(iterations)):
        torch.ones(64, 64) @ torch.ones(64, 64)
    observer.close()
    found = names(trace(tmp_path))
    assert len({name for name in found if name.startswith("ProfilerStep")}) == recorded
    assert found.count("aten::mm") == recorded
    assert found.count("wait for data") >= recorded
    (table,) = said
    assert "aten::mm" in table
    assert "trace.json.gz" in table
    assert max(len(line) for line in table.splitlines()[:-1]) <= 80
    assert (tmp_path / profiling.PROFILE_FOLDER / profiling.TABLE_FILE).read_text().startswith(f"{recorded} steps")


def test_an_interrupted_run_still_writes_the_steps_it_recorded(network: Segmentor, tmp_path: Path) -> None:
    observer = Observer(run_config(tmp_path, iterations=100, profile=50), METHODS["spcnet"], network)
    for number, _ in enumerate(observer.timed([batch()] for _ in range(100))):
        torch.ones(4, 4) @ torch.ones(4, 4)
        if number == 8:
            break
    observer.close()
    assert names(trace(tmp_path)).count("aten::mm") == 4


def test_a_trace_that_cannot_be_written_is_told_of_in_one_line(tmp_path: Path) -> None:
    profile = profiling.Profile(tmp_path, steps=1, left=1, device=torch.device("cpu"), say=print)
    torch.nn.functional.conv2d(torch.zeros(1, 3, 9, 9), torch.zeros(8, 3, 3, 3))
    with (
        files_of_at_most(100),
        pytest.raises(DataError, match=r"folder for temporary files \(only a part was.*or name") as told,
    ):
        profile.step()
    assert "\n" not in str(told.value)


def test_without_the_option_nothing_is_profiled(network: Segmentor, tmp_path: Path) -> None:
    observer = Observer(run_config(tmp_path), METHODS["spcnet"], network)
    assert len(list(observer.timed([[batch()]]))) == 1
    observer.close()
    assert not (tmp_path / profiling.PROFILE_FOLDER).exists()


def test_profile_may_stand_alone_on_the_command_line() -> None:
    for words, steps in (("--profile", 10), ("--profile --resume", 10), ("--profile 3", 3), ("--profile=3", 3)):
        arguments = parse(["train", *words.split()]).arguments
        assert arguments["config"].training.profile == steps
        assert arguments["resume"] is ("--resume" in words)


# The settings


@pytest.mark.parametrize(
    ("kind", "option", "value", "message"),
    [
        (LoggingConfig, "every", -1, "logging.every is -1"),
        (LoggingConfig, "wandb", " ", "logging.wandb is empty"),
        (LoggingConfig, "mlflow", "", "logging.mlflow is empty"),
        (TrainingConfig, "profile", -2, "training.profile is -2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: type, option: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        kind(**{option: value})


def test_a_run_of_before_has_the_default_settings() -> None:
    assert from_dict(RunConfig, {"method": "spcnet"}).logging == LoggingConfig()

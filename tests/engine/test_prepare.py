"""Compiled or recomputed, a run is the same run: losses, gradients, statistics, and the names in its files."""

import multiprocessing
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from spcnet import checkpoint
from spcnet.cli import parse
from spcnet.config import ModelConfig, Precision, RunConfig, TrainingConfig, WhiteningConfig
from spcnet.cost import kept_for_backward
from spcnet.engine import prepare as preparing
from spcnet.engine.prepare import prepare
from spcnet.errors import UsageError
from spcnet.methods import METHODS, build_model
from spcnet.models.network import Segmentor
from spcnet.models.recompute import buffers_kept, recomputed
from spcnet.models.whitening import SwitchableWhitening
from spcnet.types import SegOutput, internals_of
from tests.support.demo_networks import shortened
from tests.support.training import batches, losses, pairs, settings, trainer
from tests.support.weight_files import restore

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
COMMON = {"iterations": 2, "log_every": 1, "accelerator": "cpu"}


def build(method: str, *, training: bool = True, backbone: str = "resnet18") -> Segmentor:
    torch.manual_seed(0)
    model = ModelConfig(backbone, weights=None, auxiliary_weight=0.4)
    return METHODS[method].build(model, num_classes=4, num_domains=2).train(training)


def test_batch_norms_that_do_not_exist_cannot_be_frozen() -> None:
    network = build_model("deeplabv3plus", backbone="timm/test_vit", output_stride=None, options={"decoder": "conv4"})
    with pytest.raises(UsageError, match="freeze_batchnorm is true, but the network has no batch norms: leave it out"):
        prepare(network, TrainingConfig(freeze_batchnorm=True), device=CPU)


@pytest.fixture(scope="module")
def alone() -> Iterator[Executor]:
    """A process without the checks of shapes that the tests put around every function, where nothing can be traced."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        yield executor


def traced(method: str, training: bool) -> tuple[int, int]:
    """Graphs of two forwards, and the number of whitened features."""
    torch._dynamo.reset()
    network, counter = shortened(build(method)).train(training), CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    with torch.set_grad_enabled(training):
        for _ in range(2):
            found: SegOutput = compiled(torch.randn(2, 3, 48, 64))
    assert all(layer.listener is None for layer in network.whitening_layers)
    return counter.frame_count, len(internals_of(found).whitened)


def quick(method: str, training: bool) -> bool:
    # The training of isw is traced below, in a run.
    return method == "spcnet" or (method == "deeplabv3plus" and training)


@pytest.mark.parametrize(
    ("method", "training"),
    [
        pytest.param(name, training, marks=[] if quick(name, training) else pytest.mark.slow)
        for name in sorted(METHODS)
        for training in (True, False)
    ],
)
def test_the_forward_is_one_graph(method: str, training: bool, alone: Executor) -> None:
    whitens = training and method in ("isw", "irw", "iw")
    assert alone.submit(traced, method, training).result() == (1, 3 if whitens else 0)


def traced_and_recomputed(method: str) -> tuple[int, int]:
    """Whitened features, and batches that a batch norm counted in one forward and backward."""
    torch._dynamo.reset()
    network = shortened(build(method))
    network.recompute = True
    found: SegOutput = torch.compile(network, backend="aot_eager", fullgraph=True)(torch.randn(2, 3, 48, 64))
    found.logits.sum().backward()  # type: ignore[no-untyped-call]
    return len(internals_of(found).whitened), int(network.state_dict()["decoder.reduce_fine.1.num_batches_tracked"])


@pytest.mark.slow
def test_a_recomputed_forward_is_one_graph_too(alone: Executor) -> None:
    assert alone.submit(traced_and_recomputed, "isw").result() == (3, 1)


def run(output: Path, *, method: str = "spcnet", **training: object) -> RunConfig:
    config = settings(output, method=method, iterations=3, precision="64-true", **training)
    model = replace(
        config.model, backbone="resnet18", auxiliary_weight=0.4, whitening=WhiteningConfig(start=0.5, clusters=2)
    )
    return replace(config, model=model)


def compiled_run(output: Path, method: str) -> int:
    """A run that is traced into one graph and leaves the operations to PyTorch, which is quick; counts the graphs."""
    torch._dynamo.reset()
    counter = CompileCounter()

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        found: Callable[..., object] = counter(graph, inputs)  # Fabric copies what is no function
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "check_compiler", lambda device: None)
        patch.setattr(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True))
        found = trainer(run(output, method=method, compile=True, evaluate_every=2))

        def score(iteration: int) -> None:
            # As runs are scored: the network itself, at sizes that no training image has.
            for side in (40, 56):
                found.network.eval()(torch.zeros(1, 3, side, 40, dtype=torch.double))

        found.fit(batches(0, 3), trials=pairs, on_evaluate=score)
        found.finish()
    return counter.frame_count


@pytest.mark.slow
@pytest.mark.parametrize("method", ["isw", "spcnet"])
def test_compiled_or_recomputed_a_run_is_the_same_run(method: str, tmp_path: Path, alone: Executor) -> None:
    compiled = alone.submit(compiled_run, tmp_path / "compiled", method)
    for name in ("plain", "recomputed"):
        found = trainer(run(tmp_path / name, method=method, activation_checkpointing=name == "recomputed"))
        found.fit(batches(0, 3), trials=pairs)
        found.finish()
    assert compiled.result() == 1
    tensors, _, _ = checkpoint.read(tmp_path / "plain" / checkpoint.LATEST_FILE)
    for name in ("compiled", "recomputed"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "plain"), rel=1e-9)
        other, _, _ = checkpoint.read(tmp_path / name / checkpoint.LATEST_FILE)
        assert other.keys() == tensors.keys()
        for key, value in tensors.items():
            torch.testing.assert_close(other[key], value, rtol=1e-7, atol=1e-9, msg=key)
        restore(tmp_path / name)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_compiled_code_has_the_losses_of_a_plain_run(tmp_path: Path, alone: Executor) -> None:
    for on in (False, True):
        config = run(tmp_path / str(on), compile=on)
        # No auxiliary head: the masks of its dropout are others in compiled code.
        config = replace(config, model=replace(config.model, auxiliary_weight=0.0))
        alone.submit(fit, config).result()
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=1e-6)


def fit(config: RunConfig) -> None:
    torch._dynamo.reset()
    trainer(config).fit(batches(0, 3))


def test_a_missing_compiler_is_told_of_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    with pytest.raises(UsageError, match=r"training.compile is true.*fails for cpu.*install a C\+\+ compiler") as told:
        prepare(build("deeplabv3plus"), TrainingConfig(compile=True), device=CPU)
    assert "\n" not in str(told.value)


def test_the_command_line_takes_compile_without_a_value() -> None:
    for given in (["--compile"], ["--compile", "--seed", "3"], ["--compile", "true"]):
        assert parse(["train", *given]).arguments["config"].training.compile is True
    assert parse(["train"]).arguments["config"].training.compile is False


class Step(NamedTuple):
    """What a training step makes of a network."""

    loss: Tensor
    parts: dict[str, Tensor]
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def step(network: Segmentor, method: str, *, recompute: bool) -> Step:
    called = prepare(network, TrainingConfig(activation_checkpointing=recompute), device=CPU)
    for layer in network.whitening_layers:
        layer.mask.fill_(True).triu_(1)  # as if all had been selected
    (batch,) = batches(0, 1)
    model = ModelConfig("resnet18", weights=None, auxiliary_weight=0.4)
    torch.manual_seed(7)
    result = METHODS[method].losses(network, called(batch.image.double()), batch, model)
    result.loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return Step(result.loss.detach(), result.parts, gradients, dict(network.named_buffers()))


@pytest.mark.parametrize(
    ("method", "backbone"), [("isw", "resnet18"), ("spcnet", "mobilenet_v2"), ("sw", "shufflenet_v2")]
)
def test_recomputing_changes_neither_losses_nor_gradients_nor_statistics(method: str, backbone: str) -> None:
    plain, again = (
        step(build(method, backbone=backbone).double(), method, recompute=recompute) for recompute in (False, True)
    )
    torch.testing.assert_close(again.loss, plain.loss, rtol=1e-10, atol=0)
    assert again.parts.keys() == plain.parts.keys()
    assert again.gradients.keys() == plain.gradients.keys()
    for name, value in plain.gradients.items():
        torch.testing.assert_close(again.gradients[name], value, rtol=1e-10, atol=1e-10, msg=name)
    for name, value in plain.buffers.items():
        assert torch.equal(again.buffers[name], value), name
    assert int(again.buffers["decoder.reduce_fine.1.num_batches_tracked"]) == 1


def test_recomputing_keeps_a_third_of_the_bytes() -> None:
    network = build_model("deeplabv3plus", backbone="resnet50")
    kept = []
    for network.recompute in (False, True):
        kept.append(kept_for_backward(network, (384, 384)))
    assert kept[1] < kept[0] / 3


def test_what_layers_write_into_their_buffers_is_forgotten() -> None:
    layers = nn.Sequential(nn.BatchNorm2d(16), SwitchableWhitening(16)).train()
    feature = torch.randn(2, 16, 5, 5) + 3
    before = {name: value.clone() for name, value in layers.named_buffers()}
    with buffers_kept(layers):
        kept = layers(feature)
    assert all(torch.equal(value, before[name]) for name, value in layers.named_buffers())
    torch.testing.assert_close(layers(feature), kept)
    assert not any(torch.equal(value, before[name]) for name, value in layers.named_buffers())


def test_nothing_is_recomputed_without_a_gradient() -> None:
    calls: list[int] = []

    class Part(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            calls.append(1)
            return value.square()

    with torch.no_grad():
        recomputed(Part(), torch.ones(1, requires_grad=True))
    assert len(calls) == 1
    recomputed(Part(), torch.ones(1, requires_grad=True)).backward()
    assert len(calls) == 3


def test_the_check_for_a_compiler_is_made_for_compiled_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(preparing, "check_compiler", asked.append)
    network = build("deeplabv3plus")
    assert prepare(network, TrainingConfig(), device=CPU) is network
    assert not asked
    assert prepare(network, TrainingConfig(compile=True), device=CPU) is not network
    assert asked == [CPU]


def test_half_precision_with_a_loss_scale_is_for_gpus(tmp_path: Path) -> None:
    config = replace(settings(tmp_path), training=TrainingConfig(**COMMON, precision="16-mixed"))
    with pytest.raises(UsageError, match="precision is 16-mixed, which the processor does not compute"):
        trainer(config)


@pytest.mark.parametrize("precision", [one for one in get_args(Precision) if one != "16-mixed"])
def test_every_precision_trains_and_keeps_what_it_learned_in_at_least_single(precision: str, tmp_path: Path) -> None:
    config = replace(settings(tmp_path, iterations=2), training=TrainingConfig(**COMMON, precision=precision))  # type: ignore[arg-type]
    found = trainer(config)
    found.fit(batches(0, 2))
    wanted = torch.float64 if precision == "64-true" else torch.float32
    held = (value for value in found.network.state_dict().values() if value.is_floating_point())
    assert {value.dtype for value in held} == {wanted}
    # Of eight seeds of this untrained network, bfloat16 moves the first loss by 1.5 % on average, and 3.9 % at most.
    bound = 0.06 if precision == "bf16-mixed" else 0.01
    plain = replace(config, output=tmp_path / "plain", training=TrainingConfig(**COMMON))
    trainer(plain).fit(batches(0, 2))
    assert losses(tmp_path)[0] == pytest.approx(losses(plain.output)[0], rel=bound)
    assert len(losses(tmp_path)) == 2  # finite, or the run had ended


@pytest.mark.slow
def test_the_benchmark_for_gpus_runs_small_on_a_processor() -> None:
    program = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--size", "small"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    for word in ("Commit", "| fp32, contiguous |", "9.98", "| ISW | bf16, channels-last, compiled |", "bind it"):
        assert word in done.stdout
    assert "not measured" not in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_says_that_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    runpy.run_path(str(ROOT / "benchmarks" / "gpu.py"), run_name="__main__")
    assert capsys.readouterr().out == "not measured: no GPU\n"

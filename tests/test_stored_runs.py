"""Runs that version 0.1.0 left (`tests/fixtures/v0.1.0`) open, predict, score and go on as they did there.

To the bit on a processor and PyTorch like those that wrote them, and to rounding on others, which add up in another order.
"""

import hashlib
import json
import lzma
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import torch

from spcnet import checkpoint
from spcnet.cli import main
from spcnet.data.transforms import normalise
from spcnet.inference.ood import OODDetector
from spcnet.synthesis.streets import generate
from tests.support.weight_files import restore

STORED = Path(__file__).parent / "fixtures" / "v0.1.0"
METHODS = ("isw", "spcnet")
LATEST, MODEL = "checkpoint.safetensors", "model.safetensors"


def expected(method: str) -> dict[str, Any]:
    return dict(json.loads((STORED / f"{method}.json").read_text()))


def rounds_alike(stored: dict[str, Any]) -> bool:
    """Whether this machine computes the bits of the one that wrote the fixture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    processor = f"{names[0] if names else ''}, {torch.backends.cpu.get_cpu_capability()}"
    return (processor, torch.__version__.split("+")[0]) == (stored["processor"], stored["torch"])


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both runs, unpacked once for all test processes: copy before you change."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "v0.1.0"
    with filelock.FileLock(f"{folder}.lock"):
        for method in METHODS:
            if not (folder / method).is_dir():
                with lzma.open(STORED / f"{method}.tar.xz") as packed, tarfile.open(fileobj=packed) as archive:
                    archive.extractall(folder / f"{method}.part", filter="data")
                (folder / f"{method}.part").rename(folder / method)
    return folder


@pytest.fixture
def image() -> torch.Tensor:
    street = generate(5, style="night", seed=3, size=(48, 64)).image
    return normalise(torch.from_numpy(street.copy()).permute(2, 0, 1)[None])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("source", ["run", "weight file"])
@pytest.mark.parametrize("method", METHODS)
def test_a_stored_run_and_its_weight_file_predict_what_they_did(
    method: str, source: str, unpacked: Path, tmp_path: Path, image: torch.Tensor
) -> None:
    path = unpacked / method
    if source == "weight file":
        path = Path(shutil.copy(path / MODEL, tmp_path / "alone.safetensors"))
    network, card = restore(path)
    stored = expected(method)
    assert (card.method, len(card.classes), list(card.domains), list(card.size or ())) == tuple(stored["card"].values())
    with torch.no_grad():
        logits = network(image).logits.numpy()
    every_eighth = np.frombuffer(bytes.fromhex(stored["logits"]["every_eighth"]), np.float32).reshape(-1, 6, 8)
    np.testing.assert_allclose(logits[0, :, ::8, ::8], every_eighth, rtol=1e-4, atol=1e-4)
    if rounds_alike(stored):
        assert hashlib.sha256(logits.tobytes()).hexdigest() == stored["logits"]["sha256"]


@pytest.mark.parametrize("method", METHODS)
def test_a_stored_run_goes_on_as_it_did(method: str, unpacked: Path, tmp_path: Path) -> None:
    """From the checkpoint before the last, of iteration 38 of 40; the last is what must come out."""
    run = tmp_path / "run"
    shutil.copytree(unpacked / method, run, ignore=shutil.ignore_patterns(LATEST, MODEL, "results.jsonl"))
    assert main(["train", f"--config={run}/config.yaml", f"--output={run}", "--resume"]) == 0
    stored = expected(method)
    losses = [record["loss"] for record in lines(run / "train.jsonl")]
    assert len(losses) == 40
    # One step multiplies what rounding left by some hundred.
    assert losses[-2:] == pytest.approx(stored["losses"], rel=1e-3)
    tensors, before = (checkpoint.read_all(folder / LATEST)[0] for folder in (run, unpacked / method))
    assert tensors.keys() == before.keys()
    assert lines(run / "results.jsonl")[-1]["iteration"] == 40
    if rounds_alike(stored):
        assert losses[-2:] == stored["losses"]
        assert checkpoint.fingerprint(tensors) == stored["fingerprint"]


@pytest.mark.parametrize("method", METHODS)
def test_a_stored_run_scores_what_it_did_and_is_reported(method: str, unpacked: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(unpacked / method, run, ignore=shutil.ignore_patterns("checkpoint.*", "results.jsonl"))
    assert main(["evaluate", str(run), "--devices=1"]) == 0
    before, after = (lines(folder / "results.jsonl")[-1]["domains"] for folder in (unpacked / method, run))
    assert before.keys() == after.keys()
    for name, domain in before.items():
        pixels = np.sum(domain["confusion"])
        differing = np.abs(np.subtract(after[name]["confusion"], domain["confusion"])).sum()
        assert differing <= (0 if rounds_alike(expected(method)) else 0.01 * pixels), name
    # The run as it was stored, with the results that version 0.1.0 wrote.
    shutil.copy(unpacked / method / "results.jsonl", run)
    assert main(["report", str(run), f"--output={tmp_path}/report.html"]) == 0
    assert f"{100 * lines(run / 'results.jsonl')[-1]['mean_unseen_miou']:.1f}" in (tmp_path / "report.html").read_text()


def test_the_ood_file_of_a_stored_run_is_read(unpacked: Path, image: torch.Tensor) -> None:
    network, _ = restore(unpacked / "spcnet")
    with torch.no_grad():
        reading = OODDetector.read(unpacked / "spcnet", network).scores(network(image))[0]
    stored = expected("spcnet")["ood"]
    assert reading.parts == pytest.approx(stored["parts"], rel=1e-3)
    assert (reading.score, reading.percentile, reading.times) == pytest.approx(
        (stored["score"], stored["percentile"], stored["times"]), rel=1e-3
    )

"""To add a method, as CONTRIBUTING says: one module and one line in the registry, and the package as it is trains it."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from spcnet.config import ModelConfig
from spcnet.errors import UsageError
from spcnet.methods import METHODS, method_named
from tests.support import tiny
from tests.support.weight_files import restore

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The guide's method, in a file of its own, and its line in the registry."""
    section = GUIDE.read_text().split("### A method", 1)[1].split("\n##", 1)[0]
    (source,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    path = tmp_path / "toy.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("toy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "toy", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(METHODS, module.CONFIDENT.name, module.CONFIDENT)
    return module.CONFIDENT.name


def test_the_guide_s_method_trains_is_scored_and_opened(toy: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert tiny.train(run, f"--method={toy}", "--model.settings.weight=0.5", "--logging.every=1") == 0
    lines = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    for line in lines:
        assert line["loss"] == pytest.approx(line["parts"]["ce"] + 0.5 * line["parts"]["entropy"], rel=1e-5)
    (record,) = (json.loads(line) for line in (run / "results.jsonl").read_text().splitlines())
    assert record["method"] == toy
    assert all(domain["images"] == 2 for domain in record["domains"].values())
    network, card = restore(run)
    assert card.model["settings"] == {"weight": 0.5}
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 48, 64)).logits.shape[2:] == (48, 64)


def test_its_settings_are_checked(toy: str) -> None:
    with pytest.raises(UsageError, match=r"model\.settings\.weight is -1"):
        method_named(toy).check(ModelConfig(settings={"weight": -1.0}))

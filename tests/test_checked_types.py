"""While testing, types and shapes are checked at every call of the package, but for the drawing of streets, which is checked here."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

import spcnet
from spcnet.models.style import style_weights
from spcnet.synthesis import streets
from tests.conftest import CHECKER, checked_modules

ROOT = Path(__file__).parents[1]


def test_a_wrong_shape_is_noticed() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        style_weights(torch.zeros(2))


def test_every_module_but_those_that_draw_streets_is_checked() -> None:
    checked = checked_modules()
    modules = [module.name for module in pkgutil.walk_packages(spcnet.__path__, "spcnet.") if not module.ispkg]
    left_out = [name for name in modules if not any(f"{name}.".startswith(f"{one}.") for one in checked)]
    assert len(modules) > 100
    assert left_out
    assert all(name.startswith("spcnet.synthesis.streets.") or name == "spcnet.__main__" for name in left_out), left_out


DRAW = f"""
import jaxtyping
jaxtyping.install_import_hook("spcnet.synthesis.streets", {CHECKER!r})
from spcnet.synthesis import streets
for number, style in enumerate(streets.STYLES):
    streets.generate(number, style=style, size=(64, 128))
try:
    streets.generate("one", style="game")
except jaxtyping.TypeCheckError:
    print("checked")
"""


@pytest.mark.slow
def test_streets_are_drawn_with_the_types_they_declare() -> None:
    assert len(streets.STYLES) >= 8
    done = subprocess.run([sys.executable, "-c", DRAW], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "checked", done.stderr

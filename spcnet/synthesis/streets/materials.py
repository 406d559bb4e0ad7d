"""What the things of a street are made of: each material's surface texture; colours come from a style's palette."""

import csv
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Material:
    """The surface of a material, the same in every style that draws textures."""

    texture: str
    """Name of a layer in `textures.LAYERS`."""
    metres: float
    """Side length of one tile of that texture in the world."""
    strength: float
    """How much the texture varies the brightness (fraction of the albedo per standard deviation)."""
    wet: float
    """How much the surface mirrors when it rains, 0..1."""


_ROWS = csv.DictReader(files(__package__).joinpath("materials.csv").read_text("utf-8").splitlines())
MATERIALS: dict[str, Material] = {
    row["name"]: Material(row["texture"], float(row["metres"]), float(row["strength"]), float(row["wet"]))
    for row in _ROWS
}
"""Every material by name; the order gives its number."""

NUMBER: dict[str, int] = {name: number for number, name in enumerate(MATERIALS)}
"""Number of each material, as the parts of a drawing hold it."""

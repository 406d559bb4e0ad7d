"""What the things of a street are made of: each material's surface texture; colours come from a style's palette."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Material:
    """The surface of a material, the same in every style that draws textures."""

    texture: str = "plain"
    """Name of a layer in `textures.LAYERS`."""
    metres: float = 4.0
    """Side length of one tile of that texture in the world."""
    strength: float = 0.05
    """How much the texture varies the brightness (share of the albedo per standard deviation)."""
    wet: float = 0.0
    """How much the surface mirrors when it rains, 0..1."""


MATERIALS: dict[str, Material] = {
    "sky": Material(strength=0.0),
    # ground
    "asphalt": Material("grain", 5.0, 0.10, wet=0.7),
    "patch": Material("grain", 4.0, 0.11, wet=0.6),
    "track": Material("grain", 6.0, 0.10, wet=0.8),
    "cobble": Material("cobble", 3.0, 0.13, wet=0.5),
    "marking": Material("grain", 3.0, 0.09, wet=0.5),
    "marking_yellow": Material("grain", 3.0, 0.09, wet=0.5),
    "bike_lane": Material("grain", 5.0, 0.08, wet=0.6),
    "manhole": Material("cobble", 1.0, 0.1, wet=0.5),
    "rail": Material("plain", 4.0, 0.05, wet=0.5),
    "pavement": Material("slabs", 4.0, 0.10, wet=0.4),
    "kerb": Material("grain", 3.0, 0.07, wet=0.3),
    "gutter": Material("grain", 3.0, 0.08, wet=0.7),
    "grass": Material("grass", 3.0, 0.17),
    "dirt": Material("smooth", 6.0, 0.13, wet=0.2),
    # buildings
    "plaster": Material("streaks", 9.0, 0.055),
    "brick": Material("brick", 2.4, 0.12),
    "stone": Material("blocks", 6.0, 0.09),
    "concrete": Material("streaks", 12.0, 0.08),
    "cladding": Material("planks", 6.0, 0.06),
    "curtain": Material("smooth", 30.0, 0.12),
    "window": Material("smooth", 7.0, 0.30),
    "frame": Material("plain", 4.0, 0.04),
    "door": Material("plain", 4.0, 0.08),
    "shop": Material("clutter", 5.0, 0.40),
    "shop_sign": Material("clutter", 4.0, 0.16),
    "awning": Material("planks", 4.0, 0.08),
    "trim": Material("streaks", 8.0, 0.06),
    "balcony": Material("planks", 3.0, 0.12),
    "roof": Material("tiles", 5.0, 0.10),
    "far_building": Material("clutter", 60.0, 0.12),
    # barriers
    "wall": Material("blocks", 4.0, 0.13),
    "wall_brick": Material("brick", 2.4, 0.13),
    "wall_concrete": Material("streaks", 7.0, 0.11),
    "cap": Material("grain", 4.0, 0.06),
    "fence_metal": Material("plain", 3.0, 0.05),
    "fence_wood": Material("planks", 3.0, 0.12),
    "guardrail": Material("plain", 3.0, 0.06),
    # plants
    "foliage": Material("leaf", 2.6, 0.19),
    "far_foliage": Material("leaf", 40.0, 0.13),
    "bark": Material("planks", 1.5, 0.16),
    # street furniture
    "pole": Material("streaks", 2.0, 0.05),
    "signal": Material("plain", 2.0, 0.04),
    "lamp_red": Material(strength=0.0),
    "lamp_amber": Material(strength=0.0),
    "lamp_green": Material(strength=0.0),
    "lamp_off": Material(strength=0.0),
    "street_lamp": Material(strength=0.0),
    "sign_white": Material("plain", 2.0, 0.04),
    "sign_red": Material("plain", 2.0, 0.04),
    "sign_blue": Material("plain", 2.0, 0.04),
    "sign_yellow": Material("plain", 2.0, 0.04),
    "sign_green": Material("plain", 2.0, 0.04),
    "sign_ink": Material("plain", 2.0, 0.04),
    "sign_back": Material("plain", 2.0, 0.05),
    "bin": Material("plain", 2.0, 0.08),
    # vehicles
    "paint": Material("gloss", 5.0, 0.10),
    "glass": Material("smooth", 3.0, 0.28),
    "tyre": Material("plain", 1.0, 0.08),
    "hub": Material("plain", 1.0, 0.08),
    "trimming": Material("plain", 2.0, 0.06),
    "headlamp": Material("plain", 1.0, 0.05),
    "taillamp": Material("plain", 1.0, 0.05),
    "plate": Material("plain", 1.0, 0.05),
    "cargo": Material("planks", 6.0, 0.06),
    "bus_paint": Material("gloss", 8.0, 0.07),
    "tram_paint": Material("gloss", 8.0, 0.07),
    "livery": Material("gloss", 8.0, 0.07),
    "display": Material(strength=0.0),
    "bonnet": Material("gloss", 4.0, 0.10),
    # people
    "skin": Material("plain", 1.0, 0.05),
    "hair": Material("plain", 1.0, 0.08),
    "top": Material("smooth", 1.2, 0.11),
    "bottom": Material("smooth", 1.2, 0.10),
    "shoe": Material("plain", 1.0, 0.06),
    "bag": Material("smooth", 1.0, 0.10),
    "helmet": Material("plain", 1.0, 0.06),
    "cycle": Material("plain", 1.0, 0.05),
    "motor": Material("gloss", 1.5, 0.12),
}
"""Every material by name; the order gives its number."""

NUMBER: dict[str, int] = {name: number for number, name in enumerate(MATERIALS)}
"""Number of each material, as the parts of a drawing hold it."""

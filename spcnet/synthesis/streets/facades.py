"""Upright walls along the street: buildings of several kinds, garden walls, and fences."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spcnet.label_tables import CITYSCAPES_TRAIN_IDS
from spcnet.synthesis.streets.canvas import SEE_THROUGH, Canvas, Ints, Point, clip_near, plane
from spcnet.synthesis.streets.dice import Dice

CLASS: dict[str, int] = {name: number for number, name in CITYSCAPES_TRAIN_IDS.items()}
"""Train id of each class by name."""
WINDOW_KINDS = 7
"""Different windows in one building: some dark, some with curtains, some lit at night."""


PLAIN_FROM = 45.0
"""Distance in metres from which on walls and fences are drawn without their bars and stones."""


@dataclass(frozen=True)
class Building:
    """The look of one house, the same on all its faces."""

    kind: str
    floors: int
    ground_floor: float
    """Height of the ground floor in metres."""
    storey: float
    bay: float
    """Width of one window axis in metres."""
    window: Point
    """Fraction of a bay's width and of a storey's height that a window takes."""
    wall: int
    base: int
    trim: int
    frame: int
    windows: tuple[int, ...]
    shop: int
    sign: int
    door: int
    awning: int
    roof: int
    shops: bool
    bands: bool
    mullion: bool
    balconies: int
    pitch: float
    """Height of a pitched roof; 0 for a flat one."""

    @property
    def height(self) -> float:
        """Height of the eaves in metres."""
        return self.ground_floor + self.floors * self.storey + 0.5


@dataclass(frozen=True)
class _Recipe:
    walls: tuple[str, ...]
    floors: tuple[int, int]
    storey: Point
    bay: Point
    window: tuple[Point, Point]
    shops: float = 0.0
    bands: float = 0.2
    balconies: float = 0.0
    pitched: float = 0.0
    mullion: float = 0.6


BUILDINGS: dict[str, _Recipe] = {
    "townhouse": _Recipe(("plaster", "plaster", "brick", "stone"), (2, 5), (2.9, 3.7), (2.2, 3.4), ((0.34, 0.5), (0.48, 0.62)), 0.55, 0.5, 0.12, 0.6),
    "brick_house": _Recipe(("brick",), (1, 3), (2.7, 3.1), (2.4, 3.6), ((0.35, 0.6), (0.42, 0.55)), 0.35, 0.15, 0.0, 0.75),
    "cottage": _Recipe(("plaster", "brick", "stone"), (0, 1), (2.6, 3.0), (2.6, 4.0), ((0.35, 0.55), (0.42, 0.5)), 0.05, 0.1, 0.0, 0.95),
    "block": _Recipe(("concrete", "plaster", "cladding"), (3, 9), (2.7, 3.1), (2.6, 4.2), ((0.45, 0.75), (0.42, 0.58)), 0.25, 0.3, 0.5, 0.1, 0.5),
    "office": _Recipe(("concrete", "cladding", "stone", "curtain"), (3, 12), (3.1, 3.8), (1.6, 3.2), ((0.7, 0.92), (0.5, 0.82)), 0.3, 0.6, 0.0, 0.0, 0.3),
    "hall": _Recipe(("cladding", "concrete", "brick"), (0, 1), (3.4, 4.6), (4.0, 7.0), ((0.3, 0.75), (0.2, 0.4)), 0.2, 0.4, 0.0, 0.2),
    "bazaar": _Recipe(("plaster", "concrete", "plaster"), (1, 3), (2.8, 3.4), (2.4, 3.8), ((0.35, 0.7), (0.4, 0.6)), 0.95, 0.5, 0.45, 0.05),
    "monument": _Recipe(("stone",), (1, 3), (3.8, 5.0), (2.8, 4.4), ((0.28, 0.42), (0.6, 0.75)), 0.1, 0.9, 0.0, 0.7),
}  # fmt: skip
"""Kinds of building, and within what bounds each varies."""


def design(canvas: Canvas, dice: Dice, kind: str) -> Callable[[float, tuple[float, float, float]], Building]:
    """Decide how a building looks; the result enters its parts for one face, given the face's plane."""
    recipe = BUILDINGS[kind]
    floors = dice.whole(*recipe.floors)
    storey = dice.between(*recipe.storey)
    bay = dice.between(*recipe.bay)
    window = (dice.between(*recipe.window[0]), dice.between(*recipe.window[1]))
    wall = dice.pick(recipe.walls)
    shops = dice.chance(recipe.shops)
    bands, mullion = dice.chance(recipe.bands), dice.chance(recipe.mullion)
    balconies = dice.whole(2, 3) if dice.chance(recipe.balconies) else 0
    pitch = dice.between(1.6, 4.0) if dice.chance(recipe.pitched) else 0.0
    ground_floor = dice.between(3.2, 4.4) if shops or kind in ("office", "monument") else storey
    based = dice.chance(0.45)
    picks = [dice.random() for _ in range(10)]
    panes = [dice.random() for _ in range(WINDOW_KINDS)]

    def face(distance: float, normal: tuple[float, float, float]) -> Building:
        def part(material: str, pick: float, shade: float = 1.0) -> int:
            return canvas.part(CLASS["building"], material, pick, normal=normal, distance=distance, shade=shade)

        body = part(wall, picks[0])
        return Building(
            kind, floors, ground_floor, storey, bay, window, body,
            base=part("stone" if wall != "stone" else "concrete", picks[1], 0.85) if based else body,
            trim=part("trim", picks[2]), frame=part("frame", picks[3]),
            windows=tuple(part("window", pane) for pane in panes),
            shop=part("shop", picks[4]), sign=part("shop_sign", picks[5]), door=part("door", picks[6]),
            awning=part("awning", picks[7]), roof=part("roof", picks[8]),
            shops=shops, bands=bands, mullion=mullion, balconies=balconies, pitch=pitch,
        )  # fmt: skip

    return face


def facade_cells(house: Building, length: float, dice: Dice) -> tuple[Ints, list[float], list[float]]:
    """The grid of a facade: cells (rows from the bottom up), heights between rows, distances between columns."""
    bays = max(1, round(length / house.bay))
    bay = length / bays
    glass = bay * house.window[0]
    margin = (bay - glass) / 2
    rim = min(0.09, glass * 0.1)
    middle = 0.05 if house.mullion and glass > 0.8 else 0.0
    # Across one bay: wall, frame, glass, mullion, glass, frame, wall.
    steps = np.array([margin - rim, rim, glass / 2 - middle, 2 * middle, glass / 2 - middle, rim, margin - rim])
    columns = np.concatenate(([0.0], np.cumsum(np.tile(np.maximum(steps, 1e-3), bays))))
    columns *= length / columns[-1]
    cells = []
    edges = [0.0]

    def row(height: float, content: Ints) -> None:
        cells.append(content)
        edges.append(edges[-1] + height)

    def across(*seven: int) -> Ints:
        return np.tile(np.array(seven, dtype=np.int32), bays)

    wall = across(*(house.wall,) * 7)
    for content, height in _ground_rows(house, bays, dice):
        row(height, content)
    rows_of_glass = house.storey * house.window[1]
    sill = (house.storey - rows_of_glass) * 0.55
    glassy = across(house.wall, house.frame, 0, house.frame if middle else 0, 0, house.frame, house.wall)
    framed = across(house.wall, *(house.frame,) * 5, house.wall)
    belt = np.full_like(wall, house.trim) if house.bands else wall
    ledge = across(house.wall, *(house.trim,) * 5, house.wall) if house.bands else framed
    rail = wall
    if house.balconies:
        rail = np.where(np.repeat(np.arange(bays) % house.balconies == 0, 7), house.awning, wall).astype(np.int32)
    panes = np.array(house.windows, dtype=np.int32)[(dice.array(max(house.floors, 1), bays) * WINDOW_KINDS).astype(int)]
    for floor in range(house.floors):
        glass_row = np.where(glassy == 0, np.repeat(panes[floor], 7), glassy)
        row(0.22, belt)
        row(max(sill - 0.32, 0.05), rail if floor else wall)
        row(0.1, ledge)
        row(rows_of_glass * 0.68, glass_row)
        row(0.06 if house.mullion else 0.01, framed if house.mullion else glass_row)
        row(rows_of_glass * 0.32, glass_row)
        row(0.07, framed)
        row(max(house.storey - rows_of_glass - sill - 0.13, 0.05), wall)
    row(0.5, np.full_like(wall, house.trim))
    return np.stack(cells), edges, columns.tolist()


def _ground_rows(house: Building, bays: int, dice: Dice) -> list[tuple[Ints, float]]:
    """The ground floor: a shop front with a sign and perhaps an awning, or windows and doors on a plinth."""
    height = house.ground_floor

    def tile(*sevens: tuple[int, ...]) -> Ints:
        return np.array(sevens, dtype=np.int32).reshape(-1)

    if house.shops:
        front = (house.base, house.frame, house.shop, house.frame, house.shop, house.frame, house.base)
        entry = (house.base, house.frame, house.door, house.door, house.shop, house.frame, house.base)
        wide = (house.shop, house.frame, house.shop, house.shop, house.shop, house.frame, house.shop)
        usual = wide if dice.chance(0.6) else front
        fronts = tile(*(entry if dice.chance(0.25) else usual for _ in range(bays)))
        plinth = np.where(fronts == house.shop, house.base, fronts).astype(np.int32)
        sign = np.full(bays * 7, house.sign, dtype=np.int32)
        top = np.full(bays * 7, house.awning, dtype=np.int32) if dice.chance(0.4) else fronts
        base = np.full_like(sign, house.base)
        return [(plinth, 0.45), (fronts, height - 1.75), (top, 0.45), (sign, 0.75), (base, 0.35)]
    door_at = dice.whole(0, max(0, bays - 1))
    window = (house.base, house.frame, house.windows[0], house.frame, house.windows[1], house.frame, house.base)
    entry = (house.base, house.frame, house.door, house.door, house.door, house.frame, house.base)
    closed = (house.base,) * 7
    low = tile(*(entry if b == door_at else closed for b in range(bays)))
    glassy = tile(*(entry if b == door_at else window for b in range(bays)))
    sill = min(1.1, height * 0.35)
    pane = height * 0.42
    return [(low, sill), (glassy, pane), (np.full_like(low, house.base), height - sill - pane)]


def building(canvas: Canvas, dice: Dice, kind: str, start: Point, end: Point, outward: Point, depth: float) -> None:
    """Draw a building: the end face that looks at the camera, its roof, then the facade along the street.

    Args:
        canvas: drawn on.
        dice: source of chance.
        kind: name in `BUILDINGS`.
        start: nearer end of the facade on the ground, (x, z).
        end: farther end.
        outward: unit vector from the street into the building.
        depth: how far the building reaches from the street, in metres.
    """
    canvas.begin()
    face = design(canvas, dice, kind)
    back = (start[0] + outward[0] * depth, start[1] + outward[1] * depth)
    blank = dice.chance(0.5)
    for a, b in ((start, back), (start, end)):
        _, normal, distance, length = plane(a, b)
        if abs(distance) < 0.05 or length < 0.5:
            continue
        if not canvas.in_view(a, b):
            continue
        house = face(distance, normal)
        if b is end or not (blank and min(a[1], b[1]) > 1.0):
            cells, rows, columns = facade_cells(house, length, dice)
            canvas.panel(a, b, cells, rows, columns, kind=CLASS["building"])
        else:
            canvas.quad(a, b, house.height, house.wall)
        if b is end and house.pitch:
            _roof(canvas, house, start, end, outward, depth)
        elif house.pitch:
            _gable(canvas, house, a, b)


def _gable(canvas: Canvas, house: Building, start: Point, back: Point) -> None:
    if min(start[1], back[1]) < 1.0:
        return
    project = canvas.camera.project
    ridge = ((start[0] + back[0]) / 2, (start[1] + back[1]) / 2)
    eaves, top = house.height, house.height + house.pitch
    corners = ((start, eaves), (ridge, top), (back, eaves))
    canvas.polygon([project(x, y, z) for (x, z), y in corners], house.wall)


def _roof(canvas: Canvas, house: Building, start: Point, end: Point, outward: Point, depth: float) -> None:
    """The slope of the roof that faces the street."""
    near = clip_near(start, end, nearest=0.6)
    project, half = canvas.camera.project, depth / 2
    eave, top = house.height - 0.1, house.height + house.pitch
    ridge = [(x + outward[0] * half, z + outward[1] * half) for x, z in (end, near)]
    if min(z for _, z in ridge) < 0.5:
        return
    slope = math.atan2(house.pitch, half)
    normal = (-outward[0] * math.sin(slope), math.cos(slope), -outward[1] * math.sin(slope))
    distance = normal[0] * near[0] + normal[1] * (eave - canvas.camera.eye) + normal[2] * near[1]
    if distance > -0.05:
        return
    part = canvas.part(CLASS["building"], "roof", canvas.rows[house.roof][2], normal=normal, distance=distance)
    corners = ((near, eave), (end, eave), (ridge[0], top), (ridge[1], top))
    canvas.polygon([project(x, y, z) for (x, z), y in corners], part)


def wall(canvas: Canvas, dice: Dice, start: Point, end: Point) -> None:
    """A garden or retaining wall with a cap and perhaps pillars."""
    canvas.begin()
    _, normal, distance, length = plane(start, end)
    material, pick = dice.pick(("wall", "wall_brick", "wall_concrete", "wall_concrete")), dice.random()
    face = canvas.part(CLASS["wall"], material, pick, normal=normal, distance=distance)
    cap = canvas.part(CLASS["wall"], "cap", pick, normal=normal, distance=distance)
    dark = canvas.part(CLASS["wall"], material, pick, normal=normal, distance=distance, shade=0.72)
    height = dice.between(0.9, 3.2)
    bays = max(1, round(length / dice.between(2.5, 5.0))) if dice.chance(0.5) else 1
    bay = length / bays
    if start[1] > PLAIN_FROM:
        canvas.quad(start, end, height, face)
        return
    columns = [0.0] + [edge for b in range(bays) for edge in (b * bay + bay - 0.3, (b + 1) * bay)]
    lower = np.array([face, dark] * bays, dtype=np.int32)
    cells = np.stack((np.full_like(lower, dark), lower, np.full_like(lower, cap)))
    canvas.panel(start, end, cells, [0.0, 0.25, height - 0.12, height], columns, kind=CLASS["wall"])


def fence(canvas: Canvas, dice: Dice, start: Point, end: Point) -> None:
    """A fence: boards, iron bars, wire mesh or a guard rail; what is seen through it counts as fence."""
    canvas.begin()
    _, normal, distance, length = plane(start, end)
    kind = dice.pick(("boards", "bars", "bars", "mesh", "rail"))
    material = "fence_wood" if kind == "boards" else "guardrail" if kind == "rail" else "fence_metal"
    pick = dice.random()
    bar = canvas.part(CLASS["fence"], material, pick, normal=normal, distance=distance)
    post = canvas.part(CLASS["fence"], material, pick, normal=normal, distance=distance, shade=0.8)
    height = dice.between(0.9, 2.1)
    if start[1] > PLAIN_FROM:
        canvas.quad(start, end, height, bar)
        return
    spacing, thick = {"boards": (0.16, 0.025), "rail": (2.2, 0.12), "bars": (0.13, 0.03), "mesh": (2.4, 0.07)}[kind]
    columns = _bars(length, spacing, thick)

    def row(first: int, second: int) -> Ints:
        """Two parts in turns, between the edges of the columns."""
        return np.resize(np.array([first, second], dtype=np.int32), len(columns) - 1)

    if kind == "boards":
        rows = [0.0, 0.15, 0.3, height * 0.6, height * 0.6 + 0.1, height]
        plank, solid = row(bar, post), row(bar, bar)
        cells = [row(bar, SEE_THROUGH), solid, plank, solid, plank]
    elif kind == "rail":
        rows = [0.0, 0.42, 0.56, 0.62, 0.78]
        cells = [row(0, post), row(bar, bar), row(post, post), row(bar, bar)]
    elif kind == "bars":
        rows = [0.0, 0.1, 0.16, height - 0.16, height - 0.1, height]
        veil, solid = row(SEE_THROUGH, bar), row(post, post)
        cells = [veil, solid, veil, solid, veil]
    else:
        wires = max(2, round(height / 0.3))
        rows = [0.0] + [y for w in range(wires) for y in (height * (w + 1) / wires - 0.05, height * (w + 1) / wires)]
        cells = [row(SEE_THROUGH, bar), row(post, post)] * wires
    canvas.panel(start, end, np.stack(cells), rows, columns, kind=CLASS["fence"])


def _bars(length: float, spacing: float, thick: float) -> list[float]:
    """Edges of gaps and bars in turn."""
    count = max(1, round(length / spacing))
    step = length / count
    return [0.0] + [edge for b in range(count) for edge in (b * step + step - thick, (b + 1) * step)]

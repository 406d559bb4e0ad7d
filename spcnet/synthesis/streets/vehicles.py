"""Cars, vans, trucks, buses and trams as small solids of flat faces, seen from any side.

A vehicle's body is a side profile drawn out to its width; lamps, glass, wheels and plates are faces laid on it. A
template holds all faces in metres around the middle of the vehicle's foot: x to the front, y up, z to the right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from spcnet.synthesis.streets.canvas import NEAR, SCALE, Canvas, Caster, Light, Point, foot
from spcnet.synthesis.streets.dice import Dice
from spcnet.synthesis.streets.facades import CLASS

Triple = tuple[float, float, float]
LAMPS = {"headlamp": "head", "taillamp": "tail", "display": "display"}
"""Materials that shine when it is dark, and as what."""
OFF = 0.1
"""Pick of a lamp that is switched off."""


@dataclass(frozen=True)
class Face:
    """A flat polygon of a vehicle."""

    corners: tuple[Triple, ...]
    material: str
    layer: int
    """Faces of a higher layer cover those of a lower one."""
    shade: float = 1.0
    detail: bool = False
    """Left out where the vehicle is only a few pixels tall."""
    normal: Triple | None = None
    """Given where the corners' own normal is not what decides whether the face is seen."""


@dataclass(frozen=True)
class Template:
    """All faces of one kind of vehicle, ready to be turned and projected at once."""

    faces: tuple[Face, ...]
    vertices: npt.NDArray[np.float64]
    starts: tuple[int, ...]
    normals: npt.NDArray[np.float64]
    centres: npt.NDArray[np.float64]
    layers: npt.NDArray[np.intp]
    details: npt.NDArray[np.bool_]
    """Faces that are left out where the vehicle is small."""
    length: float
    width: float
    height: float


def _normal(corners: Sequence[Triple]) -> npt.NDArray[np.float64]:
    points = np.array(corners)
    total = np.zeros(3)
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        total += np.cross(a, b)
    return total / max(float(np.linalg.norm(total)), 1e-9)


def _template(faces: Sequence[Face]) -> Template:
    vertices = np.concatenate([np.array(face.corners) for face in faces])
    starts = np.cumsum([0] + [len(face.corners) for face in faces])
    normals = np.stack([_normal(f.corners) if f.normal is None else np.array(f.normal) for f in faces])
    centres = np.stack([np.array(f.corners).mean(axis=0) for f in faces])
    size = vertices.max(axis=0) - vertices.min(axis=0)
    return Template(
        tuple(faces), vertices, tuple(starts.tolist()), normals, centres, np.array([f.layer for f in faces]),
        np.array([f.detail and f.material not in LAMPS for f in faces]), float(size[0]), float(size[2]),
        float(vertices[:, 1].max()),
    )  # fmt: skip


def _prism(
    profile: Sequence[Point], low: float, high: float, materials: Sequence[str], side: str, layer: int
) -> list[Face]:
    """A profile (x, y), listed from the rear bottom up and over to the front bottom, drawn out to a width.

    Args:
        profile: corners in the side view.
        low: half width at the lowest corner.
        high: half width at the highest corner.
        materials: of the strip between each corner and the next.
        side: material of both sides.
        layer: of all the faces.
    """
    ys = [y for _, y in profile]
    bottom, top = min(ys), max(ys)

    def half(y: float) -> float:
        return low + (high - low) * (y - bottom) / (top - bottom)

    faces = [Face(tuple((x, y, half(y)) for x, y in reversed(profile)), side, layer, 0.97)]
    faces.append(Face(tuple((x, y, -half(y)) for x, y in profile), side, layer, 0.97))
    for (x0, y0), (x1, y1), material in zip(profile, profile[1:], materials, strict=False):
        a, b = half(y0), half(y1)
        faces.append(Face(((x0, y0, -a), (x0, y0, a), (x1, y1, b), (x1, y1, -b)), material, layer))
    return [_outward(face, profile) for face in faces]


def _outward(face: Face, profile: Sequence[Point]) -> Face:
    """The face with its corners in the order that makes its normal point away from the body."""
    middle = np.array([np.mean([x for x, _ in profile]), np.mean([y for _, y in profile]), 0.0])
    if float(_normal(face.corners) @ (np.array(face.corners).mean(axis=0) - middle)) >= 0:
        return face
    return Face(tuple(reversed(face.corners)), face.material, face.layer, face.shade, face.detail, face.normal)


def _patch(plane: str, at: float, a: Point, b: Point, material: str, layer: int) -> Face:
    """A rectangle on the front ('front'), back ('back'), or a side ('left', 'right'), from corner a to corner b.

    Coordinates are (right, up) on front and back, and (ahead, up) on the sides.
    """
    (u0, v0), (u1, v1) = a, b
    ring = ((u0, v0), (u1, v0), (u1, v1), (u0, v1))
    if plane in ("front", "back"):
        sign = 1.0 if plane == "front" else -1.0
        return Face(tuple((at, v, u) for u, v in ring), material, layer, 1.0, True, (sign, 0.0, 0.0))
    sign = 1.0 if plane == "right" else -1.0
    return Face(tuple((u, v, at) for u, v in ring), material, layer, 1.0, True, (0.0, 0.0, sign))


def _both_sides(half: float, a: Point, b: Point, material: str, layer: int) -> list[Face]:
    """A rectangle on the left and on the right side, from corner a to corner b (ahead, up)."""
    return [_patch("left", -half, a, b, material, layer), _patch("right", half, a, b, material, layer)]


def _dark(ring: Sequence[Triple], material: str, shade: float, *, towards: Triple) -> Face:
    """A face of the dark space below a vehicle."""
    return Face(tuple(ring), material, 0, shade, False, towards)


def _wheels(ahead: Sequence[float], half: float, radius: float) -> list[Face]:
    """Wheels on both sides, each an arch, a tyre and a hub."""
    faces = []
    for side in (-1.0, 1.0):
        for x in ahead:
            rims = ((1.14, "trimming", 4, 0.0), (1.0, "tyre", 5, 0.01), (0.62, "hub", 6, 0.02))
            for scale, material, layer, push in rims:
                ring = tuple(
                    (x + radius * scale * math.cos(t), radius + radius * scale * math.sin(t), side * (half + push))
                    for t in (2 * math.pi * i / 12 for i in range(12))
                )
                faces.append(Face(ring, material, layer, 1.0, scale != 1.0, (0.0, 0.0, side)))
    return faces


def _car(
    length: float, width: float, body: Sequence[Point], cabin: Sequence[Point], wheels: Point, radius: float = 0.32,
    *, split: float = 0.5,
) -> Template:  # fmt: skip
    """A car from its body profile (rear bottom → front bottom) and cabin profile (rear base → front base)."""
    h, paint = width / 2, "paint"
    base = min(y for _, y in body)
    faces = _underside(length, h, base)
    faces += _prism(body, h * 0.97, h, [paint] * (len(body) - 1), paint, 1)
    belt, roof = cabin[0][1], max(y for _, y in cabin)
    top = h * 0.76
    strips = ["paint"] * (len(cabin) - 1)
    faces += _prism(cabin, h * 0.96, top, strips, paint, 2)

    def half(y: float) -> float:
        return h * 0.96 + (top - h * 0.96) * (y - belt) / (roof - belt)

    for (x0, y0), (x1, y1) in (cabin[0:2], cabin[-2:]):
        lift = 0.06
        g0, g1 = y0 + (y1 - y0) * lift, y1 - (y1 - y0) * 0.08
        e0, e1 = x0 + (x1 - x0) * lift, x1 - (x1 - x0) * 0.08
        pane = Face(((e0, g0, -half(g0) * 0.93), (e0, g0, half(g0) * 0.93), (e1, g1, half(g1) * 0.9), (e1, g1, -half(g1) * 0.9)), "glass", 3)  # fmt: skip
        faces.append(_outward(pane, cabin))
    (rx0, _), (rx1, _), (fx1, _), (fx0, _) = cabin[0], cabin[1], cabin[-2], cabin[-1]
    low, high = belt + 0.04, roof - 0.07

    def along(s: float, y: float) -> float:
        """How far ahead the side of the cabin is, a fraction s of the way from its rear to its front edge."""
        up = (y - belt) / (roof - belt)
        back, fore = rx0 + (rx1 - rx0) * up, fx0 + (fx1 - fx0) * up
        return back + s * (fore - back)

    for side in (-1.0, 1.0):
        for a, b in ((0.03, split - 0.015), (split + 0.015, 0.97)):
            ring = tuple(
                (along(s, y), y, side * half(y) * 1.002) for s, y in ((a, low), (b, low), (b, high), (a, high))
            )
            faces.append(Face(ring, "glass", 3, 1.0, False, (0.0, 0.0, side)))
        faces += _side_trimming(side, h, length, base, belt, along(split, belt), fx0)
    faces += _front_and_back(body, h, base)
    faces += _wheels(wheels, h, radius)
    return _template(faces)


def _underside(length: float, h: float, base: float) -> list[Face]:
    """The dark space between the wheels, seen from each side."""

    def ring(x0: float, x1: float, z0: float, z1: float, low: float, high: float) -> list[Triple]:
        return [(x0, high, z0), (x1, high, z1), (x1, low, z1), (x0, low, z0)]

    faces = []
    for s in (-1.0, 1.0):
        x, z = length * 0.47, s * h * 0.9
        faces.append(_dark(ring(-x, x, z, z, 0.12, base + 0.1), "tyre", 0.5, towards=(0.0, 0.0, s)))
    for s in (-1.0, 1.0):
        x, z = s * length * 0.46, h * 0.85
        faces.append(_dark(ring(x, x, -z, z, 0.05, base + 0.05), "tyre", 0.5, towards=(s, 0.0, 0.0)))
    return faces


def _side_trimming(
    side: float, h: float, length: float, base: float, belt: float, door: float, front: float
) -> list[Face]:
    """Seams of the doors, sill and mirror of one side (-1 left, 1 right)."""
    place = ("left" if side < 0 else "right", side * h * 1.001)
    faces = [_patch(*place, (x - 0.015, base + 0.15), (x + 0.015, belt), "trimming", 3) for x in (door, front - 0.1)]
    faces.append(_patch(*place, (-length * 0.33, base), (length * 0.33, base + 0.09), "trimming", 3))
    # A mirror stands before the car where its side is seen, and else shows only past the car's outline.
    ear = tuple(
        (front - 0.12, belt + y, side * (h + out)) for out, y in ((0, 0.02), (0.17, 0.02), (0.17, 0.18), (0, 0.18))
    )
    for layer, towards in ((6, (0.0, 0.0, side)), (0, (-1.0, 0.0, 0.0)), (0, (1.0, 0.0, 0.0))):
        faces.append(Face(ear, "trimming", layer, 1.0, True, towards))
    return faces


def _front_and_back(body: Sequence[Point], h: float, base: float) -> list[Face]:
    """Lamps, bumpers, grille and plates at both ends."""
    rear, front = min(x for x, _ in body), max(x for x, _ in body)
    deck_r = max(y for x, y in body if x < rear + 0.25)
    deck_f = max(y for x, y in body if x > front - 0.3)
    faces = []
    for s in (-1.0, 1.0):
        low, high = deck_r - 0.27, deck_r - 0.06
        faces.append(_patch("back", rear - 0.01, (s * h * 0.95, low), (s * h * 0.62, high), "taillamp", 7))
        low, high = deck_f - 0.22, deck_f - 0.06
        faces.append(_patch("front", front + 0.01, (s * h * 0.93, low), (s * h * 0.55, high), "headlamp", 7))
    return [
        *faces,
        _patch("back", rear - 0.012, (-h * 0.95, base + 0.02), (h * 0.95, base + 0.2), "trimming", 6),
        _patch("back", rear - 0.015, (-0.26, base + 0.26), (0.26, base + 0.38), "plate", 7),
        _patch("front", front + 0.012, (-h * 0.85, base + 0.02), (h * 0.85, base + 0.17), "trimming", 6),
        _patch("front", front + 0.012, (-h * 0.5, deck_f - 0.2), (h * 0.5, deck_f - 0.09), "trimming", 6),
        _patch("front", front + 0.015, (-0.26, base + 0.17), (0.26, base + 0.28), "plate", 7),
    ]


def _box(
    length: float,
    width: float,
    bottom: float,
    top: float,
    material: str,
    *,
    at: float = 0.0,
    slant: float = 0.0,
    layer: int = 1,
) -> list[Face]:
    """A box of a vehicle around x = `at`; `slant` lays the top of its front back by so much."""
    rear, front = at - length / 2, at + length / 2
    middle = bottom + (top - bottom) * 0.45
    profile = [(rear, bottom), (rear, top), (front - slant, top), (front, middle), (front, bottom)]
    return _prism(profile, width / 2, width / 2 * 0.98, [material] * 4, material, layer)


def _band(
    length: float,
    h: float,
    low: float,
    high: float,
    panes: int,
    *,
    at: float = 0.0,
    material: str = "glass",
    gap: float = 0.12,
) -> list[Face]:
    """A row of windows along both sides."""
    pitch, rear = length / panes, at - length / 2
    return [
        face
        for i in range(panes)
        for face in _both_sides(
            h + 0.005, (rear + i * pitch + gap / 2, low), (rear + (i + 1) * pitch - gap / 2, high), material, 3
        )
    ]


def _ends(
    front: float, rear: float, h: float, low: float, high: float, lamp: float, *, rear_glass: bool = True
) -> list[Face]:
    """Windscreen, rear window, lamps, bumpers and plates of a box-shaped vehicle."""
    faces = [_patch("front", front + 0.01, (-h * 0.92, low), (h * 0.92, high), "glass", 3)]
    if rear_glass:
        faces.append(_patch("back", rear - 0.01, (-h * 0.8, low + 0.25), (h * 0.8, high), "glass", 3))
    for s in (-1.0, 1.0):
        faces.append(_patch("front", front + 0.02, (s * h * 0.92, lamp), (s * h * 0.6, lamp + 0.22), "headlamp", 7))
        faces.append(_patch("back", rear - 0.02, (s * h * 0.95, lamp), (s * h * 0.78, lamp + 0.4), "taillamp", 7))
    return [
        *faces,
        _patch("front", front + 0.015, (-h, lamp - 0.4), (h, lamp - 0.05), "trimming", 6),
        _patch("back", rear - 0.015, (-h, lamp - 0.4), (h, lamp - 0.08), "trimming", 6),
        _patch("back", rear - 0.02, (-0.26, lamp), (0.26, lamp + 0.13), "plate", 7),
    ]


def _truck(cargo: float, tall: float) -> Template:
    """A lorry: cab in front, a box or a tilt behind."""
    h, cab = 1.25, 2.0
    length = cargo + cab + 0.25
    front, rear = length / 2, -length / 2
    faces = _box(cargo, 2 * h, 1.0, tall, "cargo", at=rear + cargo / 2)
    faces += _box(cab, 2.3, 0.55, min(2.9, tall - 0.2), "paint", at=front - cab / 2, slant=0.25)
    low, up, z = 0.45, 1.02, 0.9
    x0, x1 = rear + 0.1, front - 0.4
    faces += [
        _dark(
            ((x0, low, s * z), (x1, low, s * z), (x1, up, s * z), (x0, up, s * z)), "trimming", 0.6, towards=(0, 0, s)
        )
        for s in (-1.0, 1.0)
    ]
    x0 = rear + 0.05
    faces.append(_dark(((x0, low, -z), (x0, low, z), (x0, up, z), (x0, up, -z)), "trimming", 0.6, towards=(-1, 0, 0)))
    high = min(2.9, tall - 0.2)
    faces += _ends(front, rear, 1.15, 1.55, high - 0.25, 0.72, rear_glass=False)
    faces += [_patch("back", rear - 0.012, (-0.02, 1.1), (0.02, tall - 0.1), "trimming", 4)]
    faces += _band(cab * 0.6, 1.16, 1.6, high - 0.35, 1, at=front - cab * 0.45)
    faces += _band(cargo * 0.8, h, tall * 0.55, tall * 0.8, 1, at=rear + cargo / 2, material="livery")
    axles = (front - 0.9, rear + 1.1) if cargo < 5 else (front - 0.9, rear + 0.9, rear + 2.0)
    return _template(faces + _wheels(axles, 1.2, 0.48))


def _bus(length: float, tall: float, panes: int) -> Template:
    """A city bus or coach."""
    h = 1.27
    front, rear = length / 2, -length / 2
    faces = _box(length, 2 * h, 0.35, tall, "bus_paint", slant=0.18)
    faces += _band(length * 0.94, h, 1.3, tall - 0.55, panes, gap=0.1)
    faces += _both_sides(h + 0.004, (rear + 0.05, 0.7), (front - 0.1, 1.0), "livery", 2)
    faces += [_patch("right", h + 0.01, (x, 0.42), (x + 1.1, tall - 0.6), "glass", 4) for x in (front - 1.7, -0.6)]
    faces += _both_sides(h + 0.004, (rear, 0.3), (front, 0.5), "trimming", 2)
    faces += _ends(front, rear, h, 1.15, tall - 0.5, 0.62)
    faces += [_patch("front", front + 0.02, (-h * 0.8, tall - 0.45), (h * 0.8, tall - 0.12), "display", 4)]
    faces += [_patch("back", rear - 0.02, (-h * 0.5, 1.15), (h * 0.5, 1.45), "livery", 4)]
    return _template(faces + _wheels((front - 2.4, rear + 2.8), h, 0.48))


def _tram(length: float, sections: int) -> Template:
    """A tram: sections with dark joints between, large windows, a bright face."""
    h, tall = 1.2, 3.4
    front, rear = length / 2, -length / 2
    faces = []
    piece = length / sections
    for s in range(sections):
        slant, at = 0.5 if s == sections - 1 else 0.0, rear + (s + 0.5) * piece
        faces += _box(piece - (0.25 if sections > 1 else 0.0), 2 * h, 0.25, tall, "tram_paint", at=at, slant=slant)
        faces += _band(piece - 0.9, h, 1.2, 2.75, max(3, round(piece / 1.5)), at=at)
        faces += _both_sides(h + 0.01, (at - 0.7, 0.35), (at + 0.7, 2.75), "glass", 4)
    faces += _box(length - 1.0, 2 * h * 0.85, 0.3, tall - 0.1, "trimming", layer=0)
    faces += _both_sides(h + 0.004, (rear, 0.25), (front, 0.75), "livery", 2)
    faces += _both_sides(h + 0.004, (rear, 2.9), (front - 0.4, 3.1), "livery", 2)
    faces += _ends(front, rear, h, 1.15, 2.7, 0.6)
    for end, x, s in (("front", front, 1), ("back", rear, -1)):
        faces.append(_patch(end, x + s * 0.03, (-h * 0.7, 2.8), (h * 0.7, 3.15), "display", 4))
        faces.append(_patch(end, x + s * 0.004, (-h, 0.3), (h, 0.95), "livery", 3))
    return _template(faces)


@lru_cache(maxsize=1)
def models() -> dict[str, tuple[str, Template, float]]:
    """Every model by name: class, template, and how often it comes among its class."""
    hatch_body = [(-1.98, 0.25), (-2.0, 0.5), (-1.92, 0.92), (1.05, 0.95), (1.85, 0.78), (2.0, 0.5), (1.97, 0.24)]
    hatch_cabin = [(-1.88, 0.9), (-1.45, 1.45), (0.1, 1.48), (1.1, 0.93)]
    sedan_body = [
        (-2.25, 0.25),
        (-2.28, 0.55),
        (-2.2, 0.95),
        (-1.5, 0.97),
        (1.05, 0.95),
        (2.1, 0.78),
        (2.25, 0.5),
        (2.22, 0.23),
    ]
    sedan_cabin = [(-1.65, 0.95), (-0.95, 1.42), (0.15, 1.44), (1.1, 0.93)]
    estate_cabin = [(-2.1, 0.93), (-1.75, 1.44), (0.15, 1.48), (1.15, 0.93)]
    suv_body = [(-2.2, 0.35), (-2.25, 0.65), (-2.15, 1.08), (1.1, 1.1), (2.05, 0.98), (2.2, 0.6), (2.17, 0.33)]
    suv_cabin = [(-2.1, 1.05), (-1.8, 1.68), (0.1, 1.74), (1.15, 1.08)]
    small_body = [(-1.68, 0.25), (-1.7, 0.5), (-1.65, 0.92), (0.95, 0.95), (1.6, 0.82), (1.72, 0.5), (1.7, 0.24)]
    small_cabin = [(-1.62, 0.9), (-1.35, 1.5), (0.2, 1.52), (1.0, 0.93)]
    van_body = [(-2.4, 0.3), (-2.42, 0.6), (-2.4, 1.1), (1.5, 1.12), (2.3, 0.95), (2.42, 0.6), (2.4, 0.3)]
    van_cabin = [(-2.4, 1.05), (-2.3, 1.95), (0.75, 1.98), (1.6, 1.1)]
    return {
        "hatchback": ("car", _car(4.0, 1.76, hatch_body, hatch_cabin, (-1.25, 1.28)), 3.0),
        "small": ("car", _car(3.4, 1.62, small_body, small_cabin, (-1.1, 1.1), 0.29), 1.6),
        "sedan": ("car", _car(4.5, 1.8, sedan_body, sedan_cabin, (-1.35, 1.4)), 2.4),
        "estate": ("car", _car(4.5, 1.8, sedan_body, estate_cabin, (-1.35, 1.4)), 1.6),
        "suv": ("car", _car(4.4, 1.88, suv_body, suv_cabin, (-1.35, 1.4), 0.37), 1.8),
        "van": ("car", _car(4.8, 1.92, van_body, van_cabin, (-1.5, 1.55), 0.34, split=0.62), 1.2),
        "lorry": ("truck", _truck(5.5, 3.5), 2.0),
        "box_truck": ("truck", _truck(3.9, 2.9), 1.5),
        "heavy": ("truck", _truck(8.5, 3.9), 1.0),
        "city_bus": ("bus", _bus(11.5, 3.1, 7), 2.0),
        "coach": ("bus", _bus(10.5, 3.4, 6), 1.0),
        "minibus": ("bus", _bus(7.2, 2.7, 4), 1.0),
        "tram": ("train", _tram(20.0, 2), 1.5),
        "short_tram": ("train", _tram(13.0, 1), 1.0),
    }


def vehicle(canvas: Canvas, dice: Dice, kind: str, x: float, z: float, yaw: float, *, parked: bool = False) -> bool:
    """Draw a vehicle of a class with its middle at (x, z); yaw 0 shows its rear. False if it stands too near.

    The lamps of a parked vehicle are off.
    """
    name = dice.weighted({n: weight for n, (k, _, weight) in models().items() if k == kind})
    template = models()[name][1]
    stretch = np.array([dice.between(0.94, 1.06), dice.between(0.95, 1.05), dice.between(0.96, 1.04)])
    picks = {
        material: dice.random() for material in ("paint", "glass", "cargo", "bus_paint", "tram_paint", "livery", "hub")
    }
    if parked:
        picks |= dict.fromkeys(LAMPS, OFF)
    return draw(canvas, template, CLASS[kind], stretch, picks, x, z, yaw)


def extent(kind: str) -> float:
    """Half the length in metres of the longest vehicle of a class."""
    return max(t.length for k, t, _ in models().values() if k == kind) / 2


def draw(
    canvas: Canvas,
    template: Template,
    kind: int,
    stretch: npt.NDArray[np.float64],
    picks: dict[str, float],
    x: float,
    z: float,
    yaw: float,
) -> bool:
    """Turn, place, project and paint a template; False, and nothing drawn, if a corner lies too near the camera."""
    sin, cos = math.sin(yaw), math.cos(yaw)
    turn = np.array([[sin, 0.0, cos], [0.0, 1.0, 0.0], [cos, 0.0, -sin]])
    points = (template.vertices * stretch) @ turn.T + (x, 0.0, z)
    if points[:, 2].min() < NEAR + 0.3:
        return False
    camera = canvas.camera
    seen = camera.project_all(points)
    if seen[:, 0].max() < 0 or seen[:, 0].min() > camera.width:
        return False
    normals = template.normals @ turn.T
    centres = (template.centres * stretch) @ turn.T + (x, -camera.eye, z)
    facing = -(normals * centres).sum(axis=1)
    distances = (centres**2).sum(axis=1)
    canvas.begin()
    small = template.height * camera.focal / z < 11 * SCALE
    # Layers of faces from the inside out, within each from far to near.
    order = np.lexsort((-distances, template.layers))
    shown = (facing > 0.01) & ~(template.details & small)
    corners, directions, depths = list(map(tuple, seen.tolist())), normals.tolist(), facing.tolist()
    starts = template.starts
    for i in order[shown[order]].tolist():
        face = template.faces[i]
        normal, pick = tuple(directions[i]), picks.get(face.material, 0.5)
        part = canvas.part(kind, face.material, pick, normal=normal, distance=-depths[i], shade=face.shade)
        ring = corners[starts[i] : starts[i + 1]]
        canvas.polygon(ring, part)
        if face.material in LAMPS and picks.get(face.material) != OFF:
            centre = (sum(p[0] for p in ring) / len(ring), sum(p[1] for p in ring) / len(ring))
            where = centres[i].tolist()
            canvas.lights.append(Light(LAMPS[face.material], where[0], where[1] + camera.eye, where[2], centre, part))
    half_length, half_width = template.length / 2 * float(stretch[0]), template.width / 2 * float(stretch[2])
    canvas.casters.append(Caster(foot(x, z, yaw, half_length, half_width), template.height * 0.9, lift=0.15))
    return True

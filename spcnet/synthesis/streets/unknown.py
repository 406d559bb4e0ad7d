"""Objects on the road that no class names, for tests of what a network does with them: a sofa, a boar, a lost load."""

from functools import partial
from itertools import product

import numpy as np

from spcnet.synthesis.streets.canvas import Canvas
from spcnet.synthesis.streets.dice import Dice
from spcnet.synthesis.streets.scene import Plan, Stage
from spcnet.synthesis.streets.things import Stand

UNKNOWN_OBJECT = 19
"""What their pixels have in the place of a train id."""
OBJECTS = {"sofa": 1.0, "boar": 1.0, "load": 1.0}
"""Each object with how often it comes."""
_FACES = {"top": 1.1, "ahead": 0.85, "behind": 0.85, "left": 0.7, "right": 0.95}
"""Sides of a box that may be seen, with their brightness."""

Extent = tuple[float, float]


def place_unknown(stage: Stage, canvas: Canvas, dice: Dice, plan: Plan) -> None:
    """Put one or two unknown objects onto the road, 6 to 22 m ahead."""
    for _ in range(dice.whole(1, 2)):
        z = dice.between(6, 22)
        x, _ = plan.at(dice.between(-plan.left.road + 1, plan.right.road - 1), z)
        kind, yaw = dice.weighted(OBJECTS), dice.between(-np.pi, np.pi)
        draw = {"sofa": _sofa, "boar": _boar, "load": _load}[kind]
        stage.add(z, partial(draw, canvas, dice, Stand(canvas, x, z, yaw)))


def _box(stand: Stand, material: str, pick: float, ahead: Extent, right: Extent, up: Extent) -> None:
    """A box from one extent to the other along each axis of the stand, in metres; the far faces first."""
    corners = {
        "top": [
            (a, r, up[1]) for a, r in zip((ahead[0], ahead[1], ahead[1], ahead[0]), np.repeat(right, 2), strict=True)
        ],
        **{
            name: [(a, r, u) for (a, r), u in zip((ends[0], ends[0], ends[1], ends[1]), (*up, *up[::-1]), strict=True)]
            for name, ends in (
                ("ahead", list(product(ahead[1:], right))),
                ("behind", list(product(ahead[:1], right))),
                ("left", list(product(ahead, right[:1]))),
                ("right", list(product(ahead, right[1:]))),
            )
        },
    }
    sin, cos = np.sin(stand.yaw), np.cos(stand.yaw)

    def depth(name: str) -> float:
        return float(np.mean([a * cos - r * sin for a, r, _ in corners[name]]))

    for name in (*sorted(set(corners) - {"top"}, key=depth, reverse=True), "top"):
        part = stand.part(UNKNOWN_OBJECT, material, pick, _FACES[name])
        stand.canvas.polygon([stand.at(a, float(r), u) for a, r, u in corners[name]], part)


def _sofa(canvas: Canvas, dice: Dice, stand: Stand) -> None:
    canvas.begin()
    pick, half = dice.random(), dice.between(0.7, 1.1)
    boxes = [
        ((-0.45, -0.2), (-half, half), (0.08, 0.85)),
        ((-0.45, 0.45), (-half, -half + 0.2), (0.08, 0.62)),
        ((-0.45, 0.45), (half - 0.2, half), (0.08, 0.62)),
        ((-0.2, 0.45), (-half + 0.2, half - 0.2), (0.08, 0.42)),
    ]
    sin, cos = np.sin(stand.yaw), np.cos(stand.yaw)
    for ahead, right, up in sorted(boxes, key=lambda box: -(np.mean(box[0]) * cos - np.mean(box[1]) * sin)):
        _box(stand, "bag", pick, ahead, right, up)
    stand.casts(0.45, half, 0.7)


def _boar(canvas: Canvas, dice: Dice, stand: Stand) -> None:
    canvas.begin()
    size, pick = dice.between(0.8, 1.2), dice.random()
    body, dark = (stand.part(UNKNOWN_OBJECT, "hair", pick, shade) for shade in (1.0, 0.7))
    for ahead, right in product((-0.4, 0.35), (-0.13, 0.13)):
        legs = [stand.at(ahead * size, right * size, up * size) for up in (0.45, 0.0)]
        canvas.line(legs, dark, 0.11 * size * stand.k)
    # The body is a row of discs from the rump over the high shoulders to the snout.
    for ahead, up, radius in (
        (-0.5, 0.52, 0.26), (-0.2, 0.56, 0.31), (0.1, 0.6, 0.34), (0.35, 0.6, 0.31), (0.6, 0.5, 0.22), (0.8, 0.4, 0.12)
    ):  # fmt: skip
        canvas.disc(stand.at(ahead * size, 0.0, up * size), radius * size * stand.k, body)
    stand.casts(0.8 * size, 0.3 * size, 0.8 * size)


def _load(canvas: Canvas, dice: Dice, stand: Stand) -> None:
    canvas.begin()
    up = 0.0
    half = dice.between(0.3, 0.6)
    for _ in range(dice.whole(1, 3)):
        height, shift = dice.between(0.25, 0.6), dice.between(-0.1, 0.1)
        _box(stand, "cargo", dice.random(), (-half, half), (shift - half, shift + half), (up, up + height))
        up, half = up + height, 0.9 * half
    stand.casts(half, half, up)

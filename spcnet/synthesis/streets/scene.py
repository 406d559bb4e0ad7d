"""The plan of a street, and what is put where: ground first, then everything upright from far to near."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from spcnet.labels import IGNORE
from spcnet.synthesis.streets import facades, things, vehicles
from spcnet.synthesis.streets.canvas import SCALE, Camera, Canvas, Point
from spcnet.synthesis.streets.dice import Dice
from spcnet.synthesis.streets.facades import CLASS

FAR = 220.0
"""How far the ground is drawn in metres."""
RIGHT, AWAY, LEFT, TOWARDS = np.pi / 2, 0.0, -np.pi / 2, np.pi


@dataclass(frozen=True)
class Setting:
    """A kind of neighbourhood: what lines the street, and how much is going on."""

    blocks: dict[str, float]
    """What stands along the street, and how often."""
    buildings: tuple[str, ...]
    pavement: tuple[float, float]
    """Width of the sidewalk in metres."""
    verge: float
    """How often a strip of grass or trees lies between road and sidewalk."""
    lanes: tuple[int, int]
    parking: float
    trees: float
    """How often a side has a row of street trees."""
    people: tuple[int, int]
    setback: tuple[float, float] = (0.0, 0.6)
    """Distance from the sidewalk to the front of the houses."""


SETTINGS: dict[str, tuple[float, Setting]] = {
    "city": (3.0, Setting({"house": 12, "gap": 0.7, "park": 0.5, "wall": 0.8, "fence": 0.6}, ("townhouse", "townhouse", "block", "office", "monument", "brick_house"), (2.2, 5.0), 0.15, (1, 2), 0.65, 0.4, (3, 12))),
    "residential": (2.6, Setting({"house": 5, "garden": 4, "wall": 1.6, "fence": 1.8, "hedge": 1.6, "gap": 0.4}, ("cottage", "brick_house", "townhouse", "block"), (1.5, 2.8), 0.35, (1, 1), 0.75, 0.35, (1, 6), (0.3, 5.0))),
    "avenue": (2.4, Setting({"park": 5, "house": 4, "garden": 1.5, "wall": 1.0, "fence": 1.8, "hedge": 1.0, "gap": 0.5}, ("office", "block", "townhouse", "hall"), (2.0, 4.0), 0.8, (1, 3), 0.3, 0.85, (1, 6), (1.0, 9.0))),
    "outskirts": (1.4, Setting({"park": 5, "wall": 2.2, "fence": 3.2, "hall": 2.4, "garden": 1.0, "gap": 1.5}, ("hall", "block", "cottage"), (1.2, 2.5), 0.6, (1, 2), 0.15, 0.35, (0, 4), (2.0, 12.0))),
    "bazaar": (1.6, Setting({"house": 9, "wall": 1.4, "fence": 1.0, "gap": 1.0, "park": 1.2, "garden": 0.6}, ("bazaar", "bazaar", "block", "cottage"), (0.8, 2.6), 0.2, (1, 2), 0.35, 0.25, (4, 14), (0.0, 2.5))),
    "old_town": (1.0, Setting({"house": 12, "gap": 0.4, "wall": 0.8, "park": 0.4}, ("townhouse", "monument", "townhouse", "brick_house"), (1.2, 3.5), 0.05, (1, 1), 0.35, 0.12, (5, 15))),
}  # fmt: skip
"""Kinds of neighbourhood with how often each comes."""


@dataclass(frozen=True)
class Side:
    """One side of the street, as distances from the middle line of the camera's lane, outwards positive."""

    sign: int
    road: float
    """Edge of the road."""
    parking: bool
    verge: float
    """Width of the strip between road and sidewalk."""
    pavement: float
    """Width of the sidewalk."""
    grassy: bool
    """The strip is grass (else it is paved)."""

    @property
    def walk(self) -> float:
        """Where the sidewalk begins."""
        return self.road + self.verge

    @property
    def front(self) -> float:
        """Where the sidewalk ends."""
        return self.walk + self.pavement


@dataclass(frozen=True)
class Plan:
    """Where everything of a street lies, before anything is drawn."""

    name: str
    setting: Setting
    camera: Camera
    yaw: float
    bend: float
    """Curvature of the street in 1/m."""
    lanes_ahead: int
    lanes_against: int
    lane: float
    """Width of a lane."""
    shift: float
    """How far right of the middle of its lane the camera is."""
    left: Side
    right: Side
    crossing: Point | None
    """Nearer and farther edge of a crossing street."""
    zebra: float | None
    """Near edge of a zebra crossing."""
    track: float | None
    """Offset of the middle of a tram track."""

    def middle(self, z: float) -> float:
        """Where the middle of the camera's lane is at depth z."""
        return self.yaw * z + 0.5 * self.bend * z * min(z, 2 * 60.0) - self.shift

    def at(self, offset: float, z: float) -> Point:
        """The point at an offset from the middle of the camera's lane."""
        return self.middle(z) + offset, z

    def heading(self, z: float) -> float:
        """Direction of the street at depth z in radians."""
        return float(np.arctan(self.yaw + self.bend * z))


def make_plan(dice: Dice, height: int, width: int) -> Plan:
    """Decide the geometry of a street for an image of the given size."""
    name = dice.weighted({n: weight for n, (weight, _) in SETTINGS.items()})
    setting = SETTINGS[name][1]
    span = max(width, 1.5 * height) * SCALE
    camera = Camera(
        height * SCALE,
        width * SCALE,
        focal=span * dice.between(0.72, 1.12),
        centre=width * SCALE * dice.between(0.45, 0.55),
        horizon=height * SCALE * dice.between(0.36, 0.54),
        eye=dice.between(1.2, 1.7) if dice.chance(0.88) else dice.between(1.8, 2.6),
        mirror=1 if dice.chance(0.6) else -1,
    )
    lane = dice.between(2.9, 3.7)
    ahead, against = dice.whole(*setting.lanes), dice.whole(*setting.lanes)
    if dice.chance(0.15):
        against = 0
    sides = []
    for sign, lanes in ((-1, against), (1, ahead - 1)):
        parking = dice.chance(setting.parking)
        edge = (0.5 + lanes) * lane + dice.between(0.0, 0.5) + (2.3 if parking else 0.0)
        verge = dice.between(1.0, 4.0) if dice.chance(setting.verge) else 0.0
        sides.append(Side(sign, edge, parking, verge, dice.between(*setting.pavement) + 0.5, dice.chance(0.6)))
    curved = dice.chance(0.55)
    crossing = None
    if dice.chance(0.38):
        near = dice.between(7.0, 34.0)
        crossing = (near, near + dice.between(7.0, 13.0))
    zebra = dice.between(6.0, 24.0) if dice.chance(0.18) else None
    if crossing and dice.chance(0.45):
        zebra = crossing[0] - 4.0
    track = None
    if name in ("city", "avenue", "old_town", "bazaar", "residential") and dice.chance(0.24):
        track = -lane * dice.between(0.9, 1.2) if against else 0.0
    return Plan(
        name, setting, camera,
        yaw=dice.between(-0.09, 0.09) if dice.chance(0.75) else dice.between(-0.3, 0.3),
        bend=dice.between(-1, 1) / 140 if curved else 0.0,
        lanes_ahead=ahead, lanes_against=against, lane=lane, shift=dice.between(-0.5, 0.5),
        left=sides[0], right=sides[1], crossing=crossing, zebra=zebra, track=track,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ ground


class Ground:
    """Draws strips and marks on the ground along the street."""

    def __init__(self, canvas: Canvas, plan: Plan) -> None:
        self.canvas, self.plan = canvas, plan
        camera = canvas.camera
        below = max(camera.height - camera.horizon, camera.height * 0.1)
        self.near = max(0.5, 0.9 * camera.focal * camera.eye / below)
        self.zs = np.geomspace(self.near, FAR, 26)
        self.k = camera.focal / self.zs
        self.middles = np.array([plan.middle(z) for z in self.zs.tolist()])
        self.v = (camera.horizon + camera.eye * self.k).tolist()

    def _edge(self, offset: float) -> list[float]:
        camera = self.canvas.camera
        return (camera.centre + camera.mirror * (self.middles + offset) * self.k).tolist()  # type: ignore[no-any-return]

    def strip(self, low: float, high: float, part: int) -> None:
        """A band along the whole street between two offsets."""
        left = list(zip(self._edge(low), self.v, strict=True))
        right = list(zip(self._edge(high), self.v, strict=True))
        self.canvas.polygon(left + right[::-1], part)

    def mark(self, low: float, high: float, near: float, far: float, part: int) -> None:
        """A band between two offsets and two depths."""
        near = max(near, self.near)
        if far <= near:
            return
        at, project = self.plan.at, self.canvas.camera.project
        steps = 2 if far - near < 8 else 5
        zs = [near + (far - near) * i / (steps - 1) for i in range(steps)]
        ring = [project(at(low, z)[0], 0.0, z) for z in zs] + [project(at(high, z)[0], 0.0, z) for z in reversed(zs)]
        self.canvas.polygon(ring, part)

    def across(self, near: float, far: float, part: int) -> None:
        """A band from one edge of the world to the other between two depths."""
        self.mark(-300.0, 300.0, near, far, part)


def draw_ground(canvas: Canvas, dice: Dice, plan: Plan) -> Ground:
    """Lay out grass, sidewalks, kerbs, road, crossing street, tracks and markings."""
    ground, camera = Ground(canvas, plan), canvas.camera
    canvas.begin()
    part = canvas.ground
    urban = plan.name in ("city", "old_town", "bazaar") and dice.chance(0.75)
    dusty = plan.name in ("bazaar", "outskirts") and dice.chance(0.5)
    slab, stone = ("cobble" if plan.name == "old_town" and dice.chance(0.6) else "pavement"), dice.random()
    soil = "dirt" if dusty else "grass"
    base = part(CLASS["sidewalk"], slab, stone) if urban else part(CLASS["terrain"], soil, dice.random())
    canvas.draw.rectangle((0, camera.horizon + 0.5, camera.width, camera.height), fill=base)
    tone = dice.random()
    surface = "cobble" if plan.name == "old_town" and dice.chance(0.5) else "asphalt"
    kerb_tone, kerbs = dice.random(), not (dusty and dice.chance(0.6))
    for side in (plan.left, plan.right):
        s = side.sign
        canvas.begin()
        ground.strip(s * side.road, s * side.front, part(CLASS["sidewalk"], slab, stone))
        if side.verge:
            kind, cover = ("terrain", soil) if side.grassy else ("sidewalk", slab)
            ground.strip(s * (side.road + 0.15), s * side.walk, part(CLASS[kind], cover, dice.random()))
        if kerbs:
            ground.strip(s * side.road, s * (side.road + 0.16), part(CLASS["sidewalk"], "kerb", kerb_tone))
        if dice.chance(0.1) and not urban:
            ground.strip(s * side.road, s * side.front, part(CLASS["terrain"], soil, dice.random()))
    canvas.begin()
    road = part(CLASS["road"], surface, tone)
    ground.strip(-plan.left.road, plan.right.road, road)
    if plan.crossing:
        ground.across(*plan.crossing, road)
    for side in (plan.left, plan.right):
        s = side.sign
        if kerbs and not plan.crossing:
            ground.strip(s * (side.road - 0.22), s * side.road, part(CLASS["road"], "gutter", tone))
        if side.parking and dice.chance(0.5):
            bay = part(CLASS["road"], dice.pick(("cobble", "patch", "asphalt")), dice.random())
            ground.strip(s * (side.road - 2.2), s * (side.road - 0.2), bay)
            if plan.crossing:
                ground.across(*plan.crossing, road)
    _wear(ground, dice, plan, tone)
    if surface == "asphalt" or dice.chance(0.3):
        _markings(ground, dice, plan)
    if plan.track is not None:
        rail = part(CLASS["road"], "rail", dice.random())
        if dice.chance(0.3):
            bed = part(CLASS["road"], dice.pick(("cobble", "patch")), tone)
            ground.strip(plan.track - 1.25, plan.track + 1.25, bed)
        for offset in (-0.72, 0.72):
            ground.strip(plan.track + offset - 0.05, plan.track + offset + 0.05, rail)
    return ground


def _wear(ground: Ground, dice: Dice, plan: Plan, tone: float) -> None:
    """What use does to a road: wheel tracks, mended patches, seams, manholes."""
    part, kind = ground.canvas.ground, CLASS["road"]
    shade = dice.between(0.9, 1.06)
    worn = part(kind, "track", tone, shade)
    if dice.chance(0.6):
        for centre in (0.0, -plan.lane)[: 1 + (plan.lanes_against > 0)]:
            for wheel in (-0.75, 0.75):
                ground.strip(centre + wheel - 0.28, centre + wheel + 0.28, worn)
    for _ in range(dice.whole(0, 4)):
        near, left = dice.between(3, 35), dice.between(-plan.left.road, plan.right.road - 1)
        mended = part(kind, "patch", dice.random(), dice.between(0.85, 1.08))
        ground.mark(left, min(left + dice.between(0.6, 3), plan.right.road), near, near + dice.between(1, 14), mended)
    for _ in range(dice.whole(0, 3)):
        near, left = dice.between(4, 25), dice.between(-plan.left.road, plan.right.road - 0.7)
        ground.mark(left, left + 0.65, near, near + 0.65, part(kind, "manhole", dice.random()))


def _markings(ground: Ground, dice: Dice, plan: Plan) -> None:
    """Lines between and beside lanes, arrows, a stop line, a zebra crossing, a cycle lane."""
    part, kind, lane = ground.canvas.ground, CLASS["road"], plan.lane
    fresh = dice.between(0.72, 1.05)
    if dice.chance(0.12):
        ground.mark(plan.right.road - 1.9, plan.right.road - 0.3, 0, 60, part(kind, "bike_lane", dice.random()))
    white = part(kind, "marking", dice.random(), fresh)
    centre = part(kind, "marking_yellow", 0.5, fresh) if dice.chance(0.12) else white
    if plan.name == "residential" and dice.chance(0.45):
        return
    period, share = dice.pick(((9.0, 0.33), (12.0, 0.5), (6.0, 0.5), (4.0, 0.5)))
    start = dice.between(0, period)
    breaks = plan.crossing or (1e9, 1e9)

    def dashes(offset: float, part: int, thick: float) -> None:
        z = start
        while z < 75:
            far = z + period * share
            if far < breaks[0] - 2 or z > breaks[1] + 1:
                ground.mark(offset - thick, offset + thick, z, far, part)
            z += period

    def whole(offset: float, part: int, thick: float) -> None:
        ground.mark(offset - thick, offset + thick, 0, min(breaks[0] - 2, 18), part)
        ground.mark(offset - thick, offset + thick, 18, min(breaks[0] - 2, 90), part)
        ground.mark(offset - thick, offset + thick, breaks[1] + 1, 90, part)

    thick = dice.between(0.05, 0.1)
    if plan.lanes_against:
        solid = dice.chance(0.25)
        (whole if solid else dashes)(-lane / 2, centre, thick)
        if solid and dice.chance(0.4):
            whole(-lane / 2 - 0.3, centre, thick)
    for i in range(plan.lanes_against - 1):
        dashes(-lane * (1.5 + i), white, thick)
    for i in range(plan.lanes_ahead - 1):
        dashes(lane * (0.5 + i), white, thick)
    for side in (plan.left, plan.right):
        if dice.chance(0.35):
            whole(side.sign * (side.road - (2.4 if side.parking else 0.35)), white, 0.07)
    low, high = -plan.left.road, plan.right.road
    if plan.crossing:
        ground.mark(-lane / 2, high - 0.3, plan.crossing[0] - 1.6, plan.crossing[0] - 1.2, white)
    if plan.zebra is not None:
        stripe, x = dice.between(0.4, 0.55), low + 0.3
        while x + stripe < high:
            ground.mark(x, x + stripe, plan.zebra, plan.zebra + 3.0, white)
            x += 2 * stripe
    elif dice.chance(0.3):
        near = dice.between(6, 20)
        ground.mark(-0.08, 0.08, near, near + 3.0, white)
        at, project = plan.at, ground.canvas.camera.project
        if near > ground.near:
            tip = [(at(o, z)[0], z) for o, z in ((-0.35, near + 2.6), (0.0, near + 4.2), (0.35, near + 2.6))]
            ground.canvas.polygon([project(x, 0.0, z) for x, z in tip], white)


# ------------------------------------------------------------------------------------------------ upright things

Draw = Callable[[], object]


@dataclass
class Stage:
    """What is to be drawn upright, each with how far away it is."""

    items: list[tuple[float, Draw]]

    def add(self, distance: float, draw: Draw) -> None:
        """Have something drawn before everything nearer."""
        self.items.append((distance, draw))

    def play(self) -> None:
        """Draw all from far to near."""
        for _, draw in sorted(self.items, key=lambda item: -item[0]):
            draw()


def draw_backdrop(canvas: Canvas, dice: Dice, plan: Plan) -> None:
    """What closes the view: far roofs, tree lines and hills just above the horizon."""
    camera = canvas.camera
    width, horizon = camera.width, camera.horizon
    unit = camera.focal / FAR
    for _ in range(dice.whole(1, 3)):
        canvas.begin()
        distance = FAR * dice.between(0.9, 1.6)
        if dice.chance(0.5):
            part = canvas.part(CLASS["vegetation"], "far_foliage", dice.random(), distance=-distance)
            tall = dice.between(4, 13) * unit
            points = [(width * i / 32, horizon - tall * dice.between(0.6, 1.1)) for i in range(33)]
            canvas.polygon([(-1, horizon + 2 * unit), *points, (width + 1, horizon + 2 * unit)], part)
        else:
            x = -40 * unit * dice.random()
            while x < width:
                wide, tall = dice.between(10, 40) * unit, dice.between(6, 26) * unit
                part = canvas.part(CLASS["building"], "far_building", dice.random(), distance=-distance)
                canvas.draw.rectangle((x, horizon - tall, x + wide, horizon + 2 * unit), fill=part)
                x += wide * dice.between(0.9, 1.6)


def line_street(stage: Stage, canvas: Canvas, dice: Dice, plan: Plan, side: Side) -> None:
    """Fill one side of the street with blocks: houses, gardens, parks, walls, fences, gaps."""
    z = -2.0 + dice.between(-6, 0)
    setting = plan.setting
    attached = dice.pick(setting.buildings)
    while z < 100:
        block = dice.weighted(setting.blocks)
        length = dice.between(*{"house": (7, 18), "gap": (6, 16)}.get(block, (12, 34)))
        far = z + length
        if plan.crossing and far > plan.crossing[0] - 4 and z < plan.crossing[1] + 4:
            if z < plan.crossing[0] - 10:
                far = plan.crossing[0] - 4
            else:
                z = max(z, plan.crossing[1] + 4)
                far = z + length
        if dice.chance(0.35):
            attached = dice.pick(setting.buildings)
        _block(stage, canvas, dice, plan, side, block, attached, (z, far))
        z = far
    # The street ends in a house or in trees, so that one never looks past its end.
    if dice.chance(0.6):
        end = plan.at(side.sign * 1.0, 106.0)
        outer = (end[0] + side.sign * 40.0, 106.0)
        kind = dice.pick(setting.buildings)
        stage.add(115, lambda: facades.building(canvas, dice, kind, end, outer, (0.0, 1.0), 10))


def _block(
    stage: Stage, canvas: Canvas, dice: Dice, plan: Plan, side: Side, block: str, attached: str, reach: Point
) -> None:
    s = side.sign
    near, far = reach
    if far < 2.0:
        return
    edge = side.front

    def at(offset: float, z: float) -> Point:
        return plan.at(s * offset, z)

    def upright(draw: Callable[[Canvas, Dice, Point, Point], None], offset: float) -> None:
        # Long walls are cut so that they follow a bend.
        pieces = 3 if plan.bend and far - near > 12 else 1
        for i in range(pieces):
            a, b = near + (far - near) * i / pieces, near + (far - near) * (i + 1) / pieces
            if b > 1.0:
                seed = Dice(*key)
                stage.add(b, partial(draw, canvas, seed, at(offset, a), at(offset, b)))

    key = (int(dice.random() * 2**31), 7)
    setback = dice.between(*plan.setting.setback)
    house = "hall" if block == "hall" else attached
    if block in ("house", "garden", "hall"):
        if block != "house":
            setback = max(setback, dice.between(3.0, 9.0))
        gap = dice.between(1.5, 5.0) if block != "house" or (plan.name == "residential" and dice.chance(0.5)) else 0.0
        start, end = at(edge + setback, near + gap), at(edge + setback, far)
        if end[1] > 2.0:
            heading = plan.heading((near + far) / 2)
            outward = (s * float(np.cos(heading)), -s * float(np.sin(heading)))
            depth = dice.between(8, 14)
            stage.add(far + setback * 0.01, lambda: facades.building(canvas, dice, house, start, end, outward, depth))
    if block == "garden" or (setback > 2.5 and dice.chance(0.6)):
        border = dice.pick((facades.wall, facades.fence, facades.fence, None))
        if border:
            upright(border, edge)
        for _ in range(dice.whole(1, 3)):
            place = at(edge + dice.between(0.8, max(setback, 1.5)), dice.between(max(near, 2.5), far))
            _plant(stage, canvas, dice, place, bush=0.65)
    elif block == "wall":
        upright(facades.wall, edge + 0.1)
    elif block == "fence":
        upright(facades.fence, edge + 0.1)
    _grounds(stage, canvas, dice, plan, side, block, reach)


def _grounds(stage: Stage, canvas: Canvas, dice: Dice, plan: Plan, side: Side, block: str, reach: Point) -> None:
    """What stands behind walls and fences, in parks and along hedges."""
    s, edge = side.sign, side.front
    near, far = reach

    def at(offset: float, z: float) -> Point:
        return plan.at(s * offset, z)

    if block in ("wall", "fence", "park", "hedge"):
        thick = {"park": 5, "hedge": 4}.get(block, 3)
        for _ in range(round((far - max(near, 1.5)) / 24 * thick) + 1):
            place = at(edge + dice.between(1.0, 12.0), dice.between(max(near, 2.5), far))
            _plant(stage, canvas, dice, place, bush=0.4)
        if dice.chance(0.5):
            place = at(edge + dice.between(14, 25), far + 1)
            start, end = at(edge + 16, near), at(edge + 16, far)
            kind = dice.pick(plan.setting.buildings)
            if end[1] > 2:
                stage.add(far + 1, lambda: facades.building(canvas, dice, kind, start, end, (float(s), 0.0), 10))
    if block == "hedge":
        step = dice.between(1.3, 2.2)
        z = max(near, 2.2)
        while z < min(far, 45):
            _plant(stage, canvas, dice, at(edge + 0.6, z), bush=1.0)
            z += step * (1 + z / 25)


def _plant(stage: Stage, canvas: Canvas, dice: Dice, place: Point, *, bush: float) -> None:
    x, z = place
    if z < 2.2:
        return
    draw = things.bush if dice.chance(bush) else things.tree
    if draw is things.tree and z < 4.5:
        return
    stage.add(z, lambda: draw(canvas, dice, x, z))


Furniture = Callable[[Canvas, Dice, float, float, int], None]
POSTS: tuple[tuple[Furniture, float, tuple[float, float], tuple[float, float]], ...] = (
    # what, how often on a side, distance between two, distance from the road
    (things.lamp_post, 0.8, (18, 34), (0.4, 1.1)),
    (things.utility_pole, 0.25, (22, 40), (0.5, 1.6)),
    (things.traffic_sign, 0.75, (9, 30), (0.4, 1.3)),
    (things.bollard, 0.22, (1.6, 3.0), (0.25, 0.4)),
    (things.litter_bin, 0.4, (12, 40), (0.8, 2.2)),
)
"""Furniture that stands along the kerb."""


def furnish(stage: Stage, canvas: Canvas, dice: Dice, plan: Plan, side: Side) -> None:
    """Street trees, lamps, signs, bollards and signals along the kerb of one side."""
    s = side.sign
    cross = plan.crossing or (1e9, 1e9)

    def put(draw: Furniture, offset: float, z: float) -> None:
        if cross[0] - 0.6 < z < cross[1] + 0.6:
            return
        x, z = plan.at(s * (side.road + offset), z)
        stage.add(z, lambda: draw(canvas, dice, x, z, -s))

    if dice.chance(0.1 + plan.setting.trees):
        spacing, offset = dice.between(7, 14), max(0.8, side.verge / 2)
        z = dice.between(4, 4 + spacing)
        while z < 95:
            if dice.chance(0.9):
                put(things.tree, offset, z)
            z += spacing * dice.between(0.85, 1.15)
    for draw, often, spacing_range, offsets in POSTS:
        if not dice.chance(often):
            continue
        spacing, offset = dice.between(*spacing_range), dice.between(*offsets)
        z = dice.between(3.5, 4 + spacing)
        reach = 26 if draw is things.bollard else 80
        while z < reach:
            put(draw, offset, z)
            z += spacing * dice.between(0.8, 1.3) if draw is not things.bollard else spacing
    if plan.crossing and dice.chance(0.85):
        put(things.traffic_light, 0.7, cross[0] - 1.2)
        if dice.chance(0.6):
            put(things.traffic_light, 0.7, cross[1] + 1.2)
    elif plan.zebra is not None and dice.chance(0.6):
        put(things.traffic_light, 0.6, plan.zebra + 3.4)
    elif dice.chance(0.13):
        put(things.traffic_light, 0.6, dice.between(8, 30))


def populate(stage: Stage, canvas: Canvas, dice: Dice, plan: Plan) -> None:
    """People on the sidewalks and crossings, parked cycles, riders."""
    crowd = dice.whole(*plan.setting.people)
    for _ in range(crowd):
        side = plan.right if dice.chance(0.5) else plan.left
        z = 4.0 + 50 * dice.random() ** 1.6
        x, z = plan.at(side.sign * (side.walk + dice.between(0.3, max(0.5, side.pavement - 0.3))), z)
        yaw = dice.pick((AWAY, TOWARDS)) + dice.between(-0.4, 0.4) if dice.chance(0.75) else dice.between(0, 6.28)
        for i in range(1 + (dice.chance(0.3))):
            stage.add(z + 0.01 * i, partial(things.person, canvas, dice, x + 0.6 * i, z, yaw))
    if plan.zebra is not None and dice.chance(0.6):
        for _ in range(dice.whole(1, 4)):
            x, z = plan.at(dice.between(-plan.left.road, plan.right.road), plan.zebra + dice.between(0.5, 2.5))
            stage.add(z, partial(things.person, canvas, dice, x, z, dice.pick((RIGHT, LEFT))))
    elif dice.chance(0.25):
        x, z = plan.at(dice.between(-plan.left.road, plan.right.road), dice.between(9, 35))
        stage.add(z, partial(things.person, canvas, dice, x, z, dice.between(0, 6.28)))
    for draw, often in ((things.bicycle, 0.42), (things.motorcycle, 0.3)):
        if not dice.chance(often * (1.6 if plan.name == "bazaar" and draw is things.motorcycle else 1)):
            continue
        side = plan.right if dice.chance(0.6) else plan.left
        start = 4.5 + 20 * dice.random()
        turn = dice.between(0, 6.28) if dice.chance(0.4) else RIGHT + dice.between(-0.5, 0.5)
        for i in range(dice.whole(1, 4)):
            x, z = plan.at(side.sign * (side.road + dice.between(0.5, 1.2)), start + i * 0.9)
            stage.add(z, partial(draw, canvas, dice, x, z, turn + dice.between(-0.15, 0.15)))
    for draw, often in ((things.bicycle, 0.34), (things.motorcycle, 0.3 if plan.name != "bazaar" else 0.85)):
        for _ in range(dice.whole(1, 2) if dice.chance(often) else 0):
            against = plan.lanes_against and dice.chance(0.4)
            offset = -plan.lane * dice.between(0.8, 1.3) if against else plan.right.road - dice.between(0.6, 1.4) - (2.2 if plan.right.parking else 0)  # fmt: skip
            x, z = plan.at(offset, 5.5 + 28 * dice.random() ** 1.3)
            yaw = plan.heading(z) + (TOWARDS if against else AWAY) + dice.between(-0.2, 0.2)
            if dice.chance(0.2):
                yaw += dice.pick((RIGHT, LEFT)) * 0.8
            stage.add(z, partial(draw, canvas, dice, x, z, yaw, ridden=True))


TRAFFIC = {"car": 1.0, "truck": 0.07, "bus": 0.08}
"""What drives in the lanes, and how often."""


def drive(stage: Stage, canvas: Canvas, dice: Dice, plan: Plan) -> None:
    """Vehicles in the lanes, parked ones along the kerbs, one that crosses, a tram on its track."""

    def put(kind: str, offset: float, z: float, yaw: float, *, parked: bool = False) -> None:
        x, z = plan.at(offset, z)
        half = vehicles.extent(kind) if kind != "car" else 2.2
        stage.add(
            max(1.5, z - half * abs(np.cos(yaw))),
            lambda: vehicles.vehicle(canvas, dice, kind, x, z, yaw + plan.heading(z), parked=parked),
        )

    density = dice.between(0.12, 0.8)
    lanes = [(i * plan.lane, AWAY) for i in range(plan.lanes_ahead)]
    lanes += [(-(i + 1) * plan.lane, TOWARDS) for i in range(plan.lanes_against)]
    tram = plan.track is not None and dice.chance(0.72)
    for offset, yaw in lanes:
        z = dice.between(8, 26) if offset == 0 else dice.between(4, 24)
        if tram and plan.track is not None and abs(offset - plan.track) < 2.6:
            continue
        while z < 85:
            kind = dice.weighted(TRAFFIC)
            if dice.chance(density):
                z += vehicles.extent(kind) - 2 if kind != "car" else 0
                put(kind, offset + dice.between(-0.3, 0.3), z, yaw + dice.between(-0.04, 0.04))
                z += vehicles.extent(kind)
            z += dice.between(6, 18)
    if tram and plan.track is not None:
        z = dice.between(14, 40) + 8
        put("train", plan.track, z, TOWARDS if plan.track < 0 else AWAY)
    for side in (plan.left, plan.right):
        if not side.parking:
            continue
        fill, yaw = dice.between(0.3, 0.9), AWAY if side.sign > 0 or dice.chance(0.3) else TOWARDS
        angle = dice.pick((0.0, 0.0, 0.0, 0.0, 0.9)) * -side.sign
        z = dice.between(3, 7)
        while z < 75:
            if dice.chance(fill) and not (plan.crossing and plan.crossing[0] - 5 < z < plan.crossing[1] + 5):
                kind = "car" if dice.chance(0.985) else "truck"
                turned = AWAY if dice.chance(0.85) else TOWARDS
                heading = yaw + turned + dice.between(-0.03, 0.03) + angle
                put(kind, side.sign * (side.road - 1.15), z, heading, parked=dice.chance(0.85))
                z += 2 * vehicles.extent(kind) - 4.8 if kind != "car" else 0
            z += dice.between(5.0, 6.5) if not angle else dice.between(3.2, 4.5)
    if plan.crossing and dice.chance(0.55):
        near, far = plan.crossing
        for _ in range(dice.whole(1, 2)):
            kind = dice.weighted({"car": 1.0, "truck": 0.1, "bus": 0.1, "train": 0.06})
            going = dice.pick((RIGHT, LEFT))
            z = near + (far - near) * (0.3 if going == RIGHT else 0.7)
            put(kind, dice.between(-9, 9), z, going + dice.between(-0.1, 0.1))


def draw_bonnet(canvas: Canvas, dice: Dice) -> None:
    """The camera's own car at the lower edge of the view (void)."""
    canvas.begin()
    camera = canvas.camera
    top = camera.height * (1 - dice.between(0.03, 0.09))
    part = canvas.part(IGNORE, "bonnet", dice.random(), normal=(0.0, 1.0, 0.0), distance=-camera.eye)
    points = [(camera.width * i / 12, top + camera.height * 0.05 * (2 * i / 12 - 1) ** 2) for i in range(13)]
    canvas.polygon([(0, camera.height), *points, (camera.width, camera.height)], part)


@dataclass(frozen=True)
class Drawing:
    """A street as part numbers, before any style gives it colours."""

    canvas: Canvas
    plan: Plan
    parts: npt.NDArray[np.int32]
    """Part seen at each sample, (height·SCALE)×(width·SCALE)."""


def draw_scene(
    dice: Dice, height: int, width: int, *, add: Callable[[Stage, Canvas, Plan], None] | None = None
) -> Drawing:
    """Plan a street and draw it; `add` puts more things into it, which change nothing else."""
    plan = make_plan(dice, height, width)
    canvas = Canvas(plan.camera)
    draw_ground(canvas, dice, plan)
    draw_backdrop(canvas, dice, plan)
    stage = Stage([])
    for side in (plan.left, plan.right):
        line_street(stage, canvas, dice, plan, side)
        furnish(stage, canvas, dice, plan, side)
    populate(stage, canvas, dice, plan)
    drive(stage, canvas, dice, plan)
    if add is not None:
        add(stage, canvas, plan)
    stage.play()
    if dice.chance(0.3):
        draw_bonnet(canvas, dice)
    return Drawing(canvas, plan, np.asarray(canvas.image))

"""What stands and moves beside the vehicles: people, cycles, poles, lights, signs, trees. One function per kind."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from spcnet.labels import IGNORE
from spcnet.synthesis.streets.canvas import SCALE, Canvas, Caster, Light, Point, foot
from spcnet.synthesis.streets.dice import Dice
from spcnet.synthesis.streets.facades import CLASS
from spcnet.synthesis.streets.textures import CROWN_SIZE, crowns

SHADES = 10
"""Steps from the darkest to the brightest leaf."""
SMALL_CROWN = 13 * SCALE
"""Height in samples below which a crown shows no leaves."""


class Stand:
    """A place on the ground with a direction; knows where its points are seen."""

    def __init__(self, canvas: Canvas, x: float, z: float, yaw: float = 0.0) -> None:
        """A stand at (x, z) that looks along `yaw`: 0 is away from the camera, π towards it, π/2 to the right."""
        self.canvas, self.x, self.z, self.yaw = canvas, x, z, yaw
        self.k = canvas.camera.focal / z
        """Samples per metre here."""
        self._sin, self._cos = math.sin(yaw), math.cos(yaw)

    def at(self, ahead: float, right: float, up: float) -> Point:
        """Where a point is seen, given in metres along the stand's own axes."""
        sin, cos = self._sin, self._cos
        return self.canvas.camera.project(
            self.x + ahead * sin + right * cos, up, max(self.z + ahead * cos - right * sin, 0.3)
        )

    def part(self, kind: int, material: str, pick: float, shade: float = 1.0) -> int:
        """A part that faces the camera here."""
        return self.canvas.part(kind, material, pick, distance=-self.z, shade=shade)

    def casts(
        self, half_length: float, half_width: float, height: float, *, soft: bool = False, lift: float = 0
    ) -> None:
        """Throw a shadow, that of a box with this foot on the ground."""
        corners = foot(self.x, self.z, self.yaw, half_length, half_width)
        self.canvas.casters.append(Caster(corners, height, soft, lift))


# ------------------------------------------------------------------------------------------------ people


def _limb(stand: Stand, joints: Sequence[Point], part: int, metres: float) -> None:
    """A thick line through the joints, rounded where it is thick enough to show."""
    width = metres * stand.k
    stand.canvas.line(joints, part, width)
    if width > 3:
        for joint in joints:
            stand.canvas.disc(joint, width / 2 - 0.4, part)


def _head(stand: Stand, centre: Point, skin: int, hair: int, size: float, facing: float) -> None:
    """A head with hair; `facing` is 1 when the face looks at the camera, -1 when the back of the head does."""
    radius = max(0.115 * size * stand.k, 0.8)
    canvas, (x, y) = stand.canvas, centre
    canvas.draw.ellipse((x - 0.85 * radius, y - 1.1 * radius, x + 0.85 * radius, y + 1.15 * radius), fill=skin)
    low = 0.9 if facing < -0.3 else -0.15
    if radius > 1.2:
        canvas.draw.chord(
            (x - 0.95 * radius, y - 1.25 * radius, x + 0.95 * radius, y + 1.1 * radius),
            *((180, 360) if low < 0 else (130, 410)),
            fill=hair,
        )


def person(canvas: Canvas, dice: Dice, x: float, z: float, yaw: float) -> None:
    """Somebody who walks or stands: legs, coat or jacket, arms, head, perhaps a bag."""
    canvas.begin()
    stand = Stand(canvas, x, z, yaw)
    size = dice.between(0.88, 1.08) if dice.chance(0.88) else dice.between(0.6, 0.8)

    def part(material: str, shade: float = 1.0, pick: float | None = None) -> int:
        return stand.part(CLASS["person"], material, dice.random() if pick is None else pick, shade)

    def at(ahead: float, right: float, up: float) -> Point:
        return stand.at(ahead * size, right * size, up * size)

    cloth, trousers = dice.random(), dice.random()
    top, sleeve = part("top", 1, cloth), part("top", 0.82, cloth)
    legs, back_leg = part("bottom", 1, trousers), part("bottom", 0.8, trousers)
    skin, hair, shoe = part("skin"), part("hair"), part("shoe")
    stride = dice.between(0.1, 0.34) * dice.sign() if dice.chance(0.7) else 0.03
    stout = dice.between(0.9, 1.2)
    shapes = dice.random()
    for side, phase, part_of_leg in ((-1, -1, back_leg), (1, 1, legs)):
        swing = stride * phase
        knee_bend = 0.12 if phase * stride < 0 else 0.03
        hip, knee = at(0, 0.09 * side, 0.92), at(swing * 0.55 + knee_bend * 0.5, 0.1 * side, 0.5)
        ankle = at(swing * 1.15 - knee_bend, 0.1 * side, 0.07)
        _limb(stand, (hip, knee, ankle), skin if shapes < 0.1 else part_of_leg, 0.15 * size * stout)
        if stand.k > 14:
            _limb(stand, (ankle, at(swing * 1.15 + 0.1, 0.11 * side, 0.04)), shoe, 0.1 * size)
    hem = 0.52 if shapes < 0.3 else 0.8
    hips, shoulders = 0.17 * stout * (1.15 if hem < 0.6 else 1), 0.22 * stout
    spine = (at(0, 0, hem), at(0.02, 0, 1.42))
    _limb(stand, (at(0.8 * stride, -shoulders, 0.95), at(0, -shoulders, 1.4)), sleeve, 0.1 * size)
    canvas.line(spine, top, 0.24 * size * stout * stand.k)
    canvas.polygon(
        [at(0, -hips, hem), at(0, -hips * 0.95, 1.1), at(0, -shoulders, 1.42), at(0, -0.08, 1.5), at(0, 0.08, 1.5),
         at(0, shoulders, 1.42), at(0, hips * 0.95, 1.1), at(0, hips, hem)],
        top,
    )  # fmt: skip
    elbow, hand = at(0.06 + stride * 0.5, shoulders + 0.05, 1.12), at(0.14 - stride * 0.6, shoulders + 0.02, 0.86)
    _limb(stand, (at(0, shoulders, 1.4), elbow, hand), sleeve, 0.095 * size)
    if stand.k > 14:
        canvas.disc(hand, 0.05 * size * stand.k, skin)
    carried = dice.random()
    if carried < 0.2:
        canvas.polygon(
            [at(-0.2, r, u) for r, u in ((-0.13, 1.02), (-0.13, 1.4), (0.13, 1.4), (0.13, 1.02))], part("bag")
        )
        canvas.line((at(-0.18, 0, 1.05), at(-0.18, 0, 1.38)), part("bag"), 0.16 * size * stand.k)
    elif carried < 0.36:
        x0, y0 = at(0.1, shoulders + 0.1, 0.72)
        canvas.polygon([(x0 - 0.14 * stand.k, y0), (x0 + 0.14 * stand.k, y0), (x0 + 0.12 * stand.k, y0 - 0.26 * stand.k), (x0 - 0.12 * stand.k, y0 - 0.26 * stand.k)], part("bag"))  # fmt: skip
    _head(stand, at(0.03, 0, 1.64), skin, hair, size, -math.cos(yaw))
    stand.casts(0.18, 0.22, 1.7 * size)


# ------------------------------------------------------------------------------------------------ cycles


def _wheel(stand: Stand, ahead: float, radius: float, tyre: int, hub: int, kind: int, *, solid: bool) -> None:
    """An upright wheel: a filled disc, or a rim and spokes one sees through."""
    canvas = stand.canvas
    count = 20 if stand.k > 20 else 12
    ring = [
        stand.at(ahead + radius * math.cos(t), 0, radius + radius * math.sin(t))
        for t in (2 * math.pi * i / count for i in range(count))
    ]
    thick = max(1.0, (0.13 if solid else 0.05) * stand.k)
    if solid:
        canvas.polygon(ring, tyre)
        inner = [stand.at(ahead + 0.55 * radius * math.cos(t), 0, radius + 0.55 * radius * math.sin(t)) for t in (2 * math.pi * i / count for i in range(count))]  # fmt: skip
        canvas.polygon(inner, hub)
        canvas.line((stand.at(ahead, 0, 0.02), stand.at(ahead, 0, 2 * radius)), tyre, thick)
        return
    xs, ys = [p[0] for p in ring], [p[1] for p in ring]
    left, top = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
    right, bottom = min(canvas.camera.width, math.ceil(max(xs)) + 1), min(canvas.camera.height, math.ceil(max(ys)) + 1)
    if right > left and bottom > top:
        veil = Image.new("L", (right - left, bottom - top), 0)
        ImageDraw.Draw(veil).polygon([(px - left, py - top) for px, py in ring], fill=255)
        canvas.seen_through(left, top, np.asarray(veil) > 0, kind)
    if stand.k > 24:
        for i in range(0, count // 2, 2):
            canvas.line((ring[i], ring[i + count // 2]), hub, 1)
    canvas.line([*ring, ring[0]], tyre, thick)


def bicycle(canvas: Canvas, dice: Dice, x: float, z: float, yaw: float, *, ridden: bool = False) -> None:
    """A bicycle: two spoked wheels, a diamond frame, saddle and handlebar; with its rider if it is ridden."""
    canvas.begin()
    stand = Stand(canvas, x, z, yaw)
    kind, pick = CLASS["bicycle"], dice.random()
    paint = stand.part(kind, "cycle", pick)
    tyre, steel = stand.part(kind, "tyre", 0.3), stand.part(kind, "hub", dice.random(), 0.8)
    radius, tube = 0.34, 0.055
    _wheel(stand, -0.52, radius, tyre, steel, kind, solid=False)
    _wheel(stand, 0.52, radius, tyre, steel, kind, solid=False)
    at = stand.at
    crank, seat, head = at(-0.05, 0, 0.3), at(-0.2, 0, 0.82), at(0.36, 0, 0.88)
    for a, b in ((at(-0.52, 0, radius), crank), (at(-0.52, 0, radius), seat), (crank, seat), (crank, head), (seat, head), (head, at(0.52, 0, radius))):  # fmt: skip
        canvas.line((a, b), paint, tube * stand.k)
    _limb(stand, (at(-0.3, 0, 0.92), at(-0.1, 0, 0.94)), tyre, 0.08)
    canvas.line((head, at(0.33, 0, 1.02)), steel, tube * stand.k)
    canvas.line((at(0.3, -0.28, 1.04), at(0.3, 0.28, 1.04)), steel, tube * stand.k)
    # Seen from the front or behind, a cycle is no thinner than its tyres and pedals.
    canvas.line((at(-0.52, 0, 0.02), at(-0.52, 0, 0.68)), tyre, 0.06 * stand.k)
    if dice.chance(0.3):
        canvas.polygon([at(0.5, r, u) for r, u in ((-0.17, 0.78), (-0.17, 1.0), (0.17, 1.0), (0.17, 0.78))], stand.part(kind, "bag", dice.random()))  # fmt: skip
    stand.casts(0.85, 0.12, 1.0 if not ridden else 1.7)
    if ridden:
        _rider(stand, dice, seat=0.96, reach=(0.3, 1.04), pedal=0.3, lean=dice.between(0.05, 0.3), helmet=0.4)


def motorcycle(canvas: Canvas, dice: Dice, x: float, z: float, yaw: float, *, ridden: bool = False) -> None:
    """A motorcycle or scooter: solid wheels, tank, seat, fork, lamps; with one or two riders if it is ridden."""
    canvas.begin()
    stand = Stand(canvas, x, z, yaw)
    kind, pick = CLASS["motorcycle"], dice.random()
    body, dark = stand.part(kind, "motor", pick), stand.part(kind, "motor", pick, 0.65)
    tyre, steel, seat = stand.part(kind, "tyre", 0.3), stand.part(kind, "hub", 0.5), stand.part(kind, "trimming", 0.2)
    at, scooter = stand.at, dice.chance(0.45)
    radius = 0.24 if scooter else 0.31
    towards = math.cos(yaw) < 0
    ends = (-0.62, 0.62) if towards else (0.62, -0.62)
    _wheel(stand, ends[0], radius, tyre, steel, kind, solid=True)
    width = 0.17
    if scooter:
        side = [(-0.75, 0.4), (-0.72, 0.78), (-0.1, 0.76), (-0.02, 0.4), (0.3, 0.36), (0.42, 0.95), (0.52, 0.95), (0.6, 0.4), (0.3, 0.22), (-0.4, 0.22)]  # fmt: skip
    else:
        side = [(-0.85, 0.72), (-0.6, 0.82), (-0.1, 0.76), (0.05, 0.95), (0.38, 0.98), (0.5, 0.8), (0.36, 0.4), (0.1, 0.22), (-0.3, 0.24), (-0.5, 0.5)]  # fmt: skip
    for right, part in ((-width / 2, dark), (width / 2, body)):
        canvas.polygon([at(a, right, u) for a, u in side], part)
    cross = [
        at(-0.3 if not towards else 0.4, r, u)
        for r, u in ((-width, 0.35), (-width * 0.8, 0.85), (width * 0.8, 0.85), (width, 0.35))
    ]
    canvas.polygon(cross, body)
    canvas.polygon([at(a, r, u) for a, r, u in ((-0.75, -0.12, 0.8), (-0.1, -0.12, 0.8), (-0.1, 0.12, 0.84), (-0.75, 0.12, 0.84))], seat)  # fmt: skip
    canvas.line((at(0.62, 0, radius), at(0.38, 0, 1.0)), steel, 0.07 * stand.k)
    canvas.line((at(0.34, -0.34, 1.06), at(0.34, 0.34, 1.06)), seat, 0.05 * stand.k)
    _wheel(stand, ends[1], radius, tyre, steel, kind, solid=True)
    stand.casts(0.95, 0.2, 1.1 if not ridden else 1.6)
    if ridden:
        helmet = 0.75
        if dice.chance(0.3):
            _rider(stand, dice, seat=0.86, reach=(0.0, 1.1), pedal=0.35, lean=0.05, helmet=helmet, back=0.38)
        _rider(stand, dice, seat=0.84, reach=(0.34, 1.06), pedal=0.33, lean=dice.between(0.02, 0.2), helmet=helmet)
    lamp = at(0.6, 0, 0.85) if towards else at(-0.85, 0, 0.68)
    part = stand.part(kind, "headlamp" if towards else "taillamp", 0.5)
    canvas.disc(lamp, max(0.09 * stand.k, 0.8), part)
    canvas.lights.append(Light("head" if towards else "tail", x, 0.8, z, lamp, part))


def _rider(
    stand: Stand,
    dice: Dice,
    *,
    seat: float,
    reach: Point,
    pedal: float,
    lean: float,
    helmet: float,
    back: float = 0.0,
) -> None:
    """Somebody who sits on a cycle: thighs forward, shins down, arms to the handlebar."""
    canvas, kind = stand.canvas, CLASS["rider"]

    def at(ahead: float, right: float, up: float) -> Point:
        return stand.at(ahead - back, right, up)

    cloth, trousers = dice.random(), dice.random()
    top, sleeve = stand.part(kind, "top", cloth), stand.part(kind, "top", cloth, 0.85)
    legs, far = stand.part(kind, "bottom", trousers), stand.part(kind, "bottom", trousers, 0.78)
    skin, hair = stand.part(kind, "skin", dice.random()), stand.part(kind, "hair", dice.random())
    hip = -0.22
    turn = dice.random() * 2 * math.pi
    for side, part, phase in ((-1, far, turn), (1, legs, turn + math.pi)):
        foot = (-0.03 + 0.15 * math.cos(phase), pedal + 0.14 * math.sin(phase))
        knee = ((hip + foot[0]) / 2 + 0.3, (seat + foot[1]) / 2 + 0.14)
        _limb(stand, (at(hip, 0.1 * side, seat), at(knee[0], 0.14 * side, knee[1]), at(foot[0], 0.12 * side, foot[1])), part, 0.15)  # fmt: skip
        if stand.k > 16:
            _limb(stand, (at(foot[0] - 0.05, 0.12 * side, foot[1] - 0.04), at(foot[0] + 0.14, 0.12 * side, foot[1] - 0.04)), stand.part(kind, "shoe", 0.4), 0.08)  # fmt: skip
    chest = (hip + lean + 0.08, seat + 0.52)
    _limb(stand, (at(chest[0], -0.2, chest[1]), at((chest[0] + reach[0]) / 2, -0.24, chest[1] - 0.25), at(reach[0], -0.24, reach[1])), sleeve, 0.09)  # fmt: skip
    canvas.line((at(hip, 0, seat - 0.05), at(chest[0], 0, chest[1])), top, 0.25 * stand.k)
    canvas.polygon(
        [at(hip, -0.17, seat - 0.06), at(chest[0], -0.21, chest[1]), at(chest[0], -0.07, chest[1] + 0.08),
         at(chest[0], 0.07, chest[1] + 0.08), at(chest[0], 0.21, chest[1]), at(hip, 0.17, seat - 0.06)],
        top,
    )  # fmt: skip
    _limb(stand, (at(chest[0], 0.2, chest[1]), at((chest[0] + reach[0]) / 2, 0.25, chest[1] - 0.25), at(reach[0], 0.24, reach[1])), sleeve, 0.09)  # fmt: skip
    head = at(chest[0] + 0.07, 0, chest[1] + 0.24)
    _head(stand, head, skin, hair, 1.0, -math.cos(stand.yaw))
    if dice.chance(helmet):
        radius = 0.135 * stand.k
        cover = stand.part(kind, "helmet", dice.random())
        stand.canvas.draw.chord((head[0] - radius, head[1] - 1.25 * radius, head[0] + radius, head[1] + radius), 170, 370, fill=cover)  # fmt: skip


# ------------------------------------------------------------------------------------------------ poles and signs


def _post(stand: Stand, part: int, height: float, thick: float) -> None:
    half = max(thick * stand.k, 1.0) / 2
    (x, bottom), (_, top) = stand.at(0, 0, 0), stand.at(0, 0, height)
    stand.canvas.draw.rectangle((x - half, top, x + half, bottom), fill=part)


def lamp_post(canvas: Canvas, dice: Dice, x: float, z: float, inward: int) -> None:
    """A street lamp on a mast with an arm over the road, or a lantern on a short post."""
    canvas.begin()
    stand = Stand(canvas, x, z)
    metal = stand.part(CLASS["pole"], "pole", dice.random())
    lantern = dice.chance(0.25)
    height = dice.between(3.4, 4.6) if lantern else dice.between(6.5, 10.0)
    _post(stand, metal, height, dice.between(0.11, 0.2))
    reach = 0.0 if lantern else dice.between(1.0, 2.6) * inward
    glow = stand.part(CLASS["pole"], "street_lamp", 0.5)
    if reach:
        canvas.line((stand.at(0, 0, height), stand.at(0, reach, height + 0.35)), metal, 0.09 * stand.k)
    head = stand.at(0, reach, height + 0.32)
    half, thick = (0.2 if lantern else 0.4) * stand.k, (0.22 if lantern else 0.09) * stand.k
    canvas.draw.rectangle((head[0] - half, head[1] - thick, head[0] + half, head[1] + thick), fill=glow)
    canvas.draw.rectangle((head[0] - half, head[1] - thick * 1.3, head[0] + half, head[1] - thick * 0.3), fill=metal)
    canvas.lights.append(Light("street", x + reach, height, z, head, glow))
    stand.casts(0.08, 0.08, height)


def utility_pole(canvas: Canvas, dice: Dice, x: float, z: float, inward: int) -> None:
    """A pole that carries wires, with a cross-arm and perhaps a box."""
    canvas.begin()
    stand = Stand(canvas, x, z)
    wood = stand.part(CLASS["pole"], "bark" if dice.chance(0.5) else "pole", dice.random())
    height = dice.between(6.0, 9.0)
    _post(stand, wood, height, dice.between(0.16, 0.28))
    for drop in (0.35, 0.9)[: dice.whole(1, 2)]:
        canvas.line((stand.at(0, -0.8, height - drop), stand.at(0, 0.8, height - drop)), wood, 0.12 * stand.k)
    stand.casts(0.1, 0.1, height)


def bollard(canvas: Canvas, dice: Dice, x: float, z: float, inward: int) -> None:
    """A low post that keeps cars off the pavement."""
    canvas.begin()
    stand = Stand(canvas, x, z)
    _post(stand, stand.part(CLASS["pole"], "pole", dice.random()), dice.between(0.7, 1.1), 0.13)
    stand.casts(0.06, 0.06, 0.9)


def traffic_light(canvas: Canvas, dice: Dice, x: float, z: float, inward: int) -> None:
    """A signal on a post, perhaps with a second head on an arm over the road."""
    canvas.begin()
    stand = Stand(canvas, x, z)
    kind, metal = CLASS["traffic light"], stand.part(CLASS["pole"], "pole", dice.random())
    overhead = dice.chance(0.35)
    height = dice.between(5.2, 6.0) if overhead else dice.between(3.1, 3.7)
    _post(stand, metal, height, 0.15)
    housing = stand.part(kind, "signal", dice.random())
    colour = dice.weighted({"red": 0.5, "amber": 0.1, "green": 0.4})
    heads = [(0.0, min(height, 3.4) - 0.55)]
    if overhead:
        reach = dice.between(2.5, 4.5) * inward
        canvas.line((stand.at(0, 0, height - 0.1), stand.at(0, reach, height)), metal, 0.12 * stand.k)
        heads.append((reach, height - 0.5))
    for right, middle in heads:
        half, tall = max(0.2 * stand.k, 1.2), 0.52 * stand.k
        cx, cy = stand.at(0, right, middle)
        canvas.draw.rectangle((cx - half, cy - tall, cx + half, cy + tall), fill=housing)
        for slot, name in ((-1, "red"), (0, "amber"), (1, "green")):
            lit = name == colour
            lamp = stand.part(kind, f"lamp_{name}" if lit else "lamp_off", 0.5)
            centre = (cx, cy + slot * tall * 0.62)
            canvas.disc(centre, max(0.125 * stand.k, 0.9 if lit else 0.5), lamp)
            if lit:
                canvas.lights.append(Light(f"signal_{name}", x + right, middle, z, centre, lamp))
    stand.casts(0.1, 0.1, height)


def traffic_sign(canvas: Canvas, dice: Dice, x: float, z: float, inward: int) -> None:
    """One or two signs on a post: round, triangular, square, octagonal, a street name, or a direction board."""
    canvas.begin()
    stand = Stand(canvas, x, z)
    board = dice.chance(0.14)
    height = dice.between(3.4, 4.6) if board else dice.between(2.3, 3.1)
    _post(stand, stand.part(CLASS["pole"], "pole", dice.random()), height, 0.08 if not board else 0.14)
    if dice.chance(0.15):
        _sign_face(stand, dice, height - 0.3, back=True)
    elif board:
        _board(stand, dice, height)
    else:
        top = height
        for _ in range(1 + dice.chance(0.35)):
            _sign_face(stand, dice, top - 0.3)
            top -= 0.72
    stand.casts(0.06, 0.06, height)


def _board(stand: Stand, dice: Dice, height: float) -> None:
    """A direction board: a wide sheet with a rim and lines of writing."""
    kind = CLASS["traffic sign"]
    half, tall = dice.between(0.8, 1.6), dice.between(0.7, 1.3)
    sheet = stand.part(kind, dice.pick(("sign_blue", "sign_yellow", "sign_green", "sign_white")), dice.random())
    ink = stand.part(kind, "sign_white" if dice.chance(0.7) else "sign_ink", 0.5)
    for inset, part in ((0.0, ink), (0.05, sheet)):
        x0, y0 = stand.at(0, -half + inset, height - inset)
        x1, y1 = stand.at(0, half - inset, height - tall + inset)
        stand.canvas.draw.rectangle((min(x0, x1), y0, max(x0, x1), y1), fill=part)
    for line in range(3):
        y = height - tall * (0.25 + 0.25 * line)
        ends = (stand.at(0, -half * 0.75, y), stand.at(0, half * dice.between(0.0, 0.7), y))
        stand.canvas.line(ends, ink, 0.1 * stand.k)


def _sign_face(stand: Stand, dice: Dice, middle: float, *, back: bool = False) -> None:
    kind = CLASS["traffic sign"]
    shape = dice.pick(("disc", "disc", "triangle", "square", "square", "octagon", "plate", "diamond"))
    radius = dice.between(0.3, 0.42)
    k, (cx, cy) = stand.k, stand.at(0, 0, middle)
    rim, sheet, ink = {
        "disc": dice.pick((("sign_red", "sign_white", "sign_ink"), ("sign_white", "sign_blue", "sign_white"), ("sign_red", "sign_blue", "sign_red"), ("sign_red", "sign_red", "sign_white"))),
        "triangle": ("sign_red", dice.pick(("sign_white", "sign_white", "sign_yellow")), "sign_ink"),
        "square": dice.pick((("sign_white", "sign_blue", "sign_white"), ("sign_white", "sign_blue", "sign_ink"))),
        "octagon": ("sign_white", "sign_red", "sign_white"),
        "plate": dice.pick((("sign_ink", "sign_white", "sign_ink"), ("sign_white", "sign_blue", "sign_white"), ("sign_ink", "sign_yellow", "sign_ink"))),
        "diamond": ("sign_white", "sign_yellow", "sign_ink"),
    }[shape]  # fmt: skip
    if back:
        rim = sheet = ink = "sign_back"
    outline = {
        "disc": _round(14, 0),
        "triangle": ((0, -1.1), (1, 0.7), (-1, 0.7)),
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "octagon": _round(8, math.pi / 8),
        "plate": ((-1.2, -0.5), (1.2, -0.5), (1.2, 0.5), (-1.2, 0.5)),
        "diamond": ((0, -1), (1, 0), (0, 1), (-1, 0)),
    }[shape]
    scale = max(radius * k, 1.0)
    for share, name in ((1.0, rim), (0.76, sheet)):
        part = stand.part(kind, name, 0.5)
        stand.canvas.polygon([(cx + px * scale * share, cy + py * scale * share) for px, py in outline], part)
    level = dice.chance(0.5)
    if k > 12:
        mark, half = stand.part(kind, ink, 0.5), 0.32 * scale
        flat = ((cx - half, cy + half * 0.2), (cx + half, cy + half * 0.2))
        stand.canvas.line(flat if level else ((cx, cy - half), (cx, cy + half)), mark, 0.25 * scale)


def _round(count: int, start: float) -> tuple[Point, ...]:
    return tuple(
        (math.cos(start + 2 * math.pi * i / count), math.sin(start + 2 * math.pi * i / count)) for i in range(count)
    )


def litter_bin(canvas: Canvas, dice: Dice, x: float, z: float, inward: int) -> None:
    """A bin, a bench, an advertising column or a box: things that no class names (void)."""
    canvas.begin()
    stand = Stand(canvas, x, z)
    part, lid = stand.part(IGNORE, "bin", dice.random()), stand.part(IGNORE, "bin", 0.2, 0.8)
    half, height = dice.pick(((0.25, 0.95), (0.3, 1.1), (0.55, 1.3), (0.6, 2.4), (0.8, 0.5)))
    for low, high, p in ((0.0, height, part), (height * 0.88, height, lid)):
        (x0, y0), (x1, y1) = stand.at(0, -half, high), stand.at(0, half, low)
        canvas.draw.rectangle((min(x0, x1), y0, max(x0, x1), y1), fill=p)
    stand.casts(half, half, height)


# ------------------------------------------------------------------------------------------------ plants


def _foliage(
    stand: Stand, dice: Dice, shape: str, low: float, high: float, half: float, pick: float, tone: float = 1.0
) -> None:
    """Stamp a crown from the bank onto the canvas, between two heights in metres."""
    canvas = stand.canvas
    crown = dice.pick(crowns()[shape])
    (cx, bottom), (_, top) = stand.at(0, 0, low), stand.at(0, 0, high)
    wide = half * stand.k
    left, right = cx - wide, cx + wide
    x0, x1 = max(0, math.floor(left)), min(canvas.camera.width, math.ceil(right))
    y0, y1 = max(0, math.floor(top)), min(canvas.camera.height, math.ceil(bottom))
    if x1 <= x0 or y1 <= y0:
        return
    if bottom - top < SMALL_CROWN:
        _far_foliage(stand, left, right, top, bottom, pick, tone)
        return
    first = len(canvas.rows)
    steps = SHADES if stand.k > 16 * SCALE else SHADES // 2
    for step in range(steps):
        stand.part(CLASS["vegetation"], "foliage", pick, tone * (0.42 + 1.0 * step / (steps - 1)))
    sx, sy = CROWN_SIZE / (right - left), CROWN_SIZE / (bottom - top)
    box = ((x0 - left) * sx, (y0 - top) * sy, (x1 - left) * sx, (y1 - top) * sy)
    size = (x1 - x0, y1 - y0)
    method = Image.Resampling.BILINEAR if sx < 1.5 else Image.Resampling.NEAREST
    cover, shade = (plane.resize(size, method, box=_inside(box)) for plane in (crown.cover, crown.shade))
    parts = (np.asarray(shade).astype(np.int32) * steps >> 8) + np.int32(first)
    canvas.image.paste(Image.fromarray(parts), (x0, y0), cover.convert("1", dither=Image.Dither.NONE))


_BLOBS = ((0.0, 0.1, 1.0, 0.95, 0.6), (0.08, 0.3, 0.62, 0.95, 0.8), (0.36, 0.12, 0.96, 0.72, 0.92), (0.12, 0.0, 0.72, 0.58, 1.1), (0.24, 0.06, 0.56, 0.36, 1.3))  # fmt: skip
"""Ellipses of a far crown as shares of its box (left, top, right, bottom), and how bright each is."""


def _far_foliage(stand: Stand, left: float, right: float, top: float, bottom: float, pick: float, tone: float) -> None:
    """A crown too small to show its leaves: a few round clumps, lit from above."""
    wide, tall = right - left, bottom - top
    for x0, y0, x1, y1, shade in _BLOBS:
        part = stand.part(CLASS["vegetation"], "foliage", pick, tone * shade)
        box = (left + x0 * wide, top + y0 * tall, left + x1 * wide, top + y1 * tall)
        stand.canvas.draw.ellipse(box, fill=part)


def _inside(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    limit = float(CROWN_SIZE)
    x0, y0, x1, y1 = box
    return max(0.0, x0), max(0.0, y0), min(limit, x1), min(limit, y1)


def tree(canvas: Canvas, dice: Dice, x: float, z: float, inward: int = 1) -> None:
    """A tree: trunk, a few boughs, and a crown; some are bare."""
    canvas.begin()
    stand = Stand(canvas, x, z)
    shape = dice.weighted({"round": 0.55, "tall": 0.25, "conifer": 0.1, "bare": 0.07})
    height = dice.between(4.5, 13.0)
    bark = stand.part(CLASS["vegetation"], "bark", dice.random())
    trunk = dice.between(0.18, 0.3) * math.sqrt(height / 8)
    pick = dice.random()
    if shape == "bare":
        _bare(stand, dice, bark, height, trunk)
        stand.casts(height * 0.2, height * 0.2, height, soft=True, lift=height * 0.3)
        return
    clear = height * dice.between(0.22, 0.36) if shape != "conifer" else 0.5
    half = height * {"round": 0.42, "tall": 0.27, "conifer": 0.26}[shape] * dice.between(0.8, 1.15)
    lean = dice.between(-0.3, 0.3)
    canvas.line((stand.at(0, 0, 0), stand.at(0, lean * 0.5, clear + height * 0.2)), bark, trunk * stand.k)
    for _ in range(2):
        canvas.line((stand.at(0, 0, clear * 0.9), stand.at(0, dice.between(-0.5, 0.5) * half, clear + height * 0.25)), bark, 0.5 * trunk * stand.k)  # fmt: skip
    tone = dice.between(0.85, 1.1)
    _foliage(stand, dice, shape, clear * 0.85, height, half, pick, tone)
    if shape == "round" and z < 40 and dice.chance(0.6):
        side = Stand(canvas, x + dice.between(-0.5, 0.5) * half, z)
        _foliage(side, dice, "round", clear * 0.75, height * 0.75, half * 0.7, pick, tone)
    stand.casts(half * 0.8, half * 0.8, height, soft=True, lift=clear)


def _bare(stand: Stand, dice: Dice, bark: int, height: float, trunk: float) -> None:
    """Leafless boughs, forking three times."""

    def grow(right: float, up: float, angle: float, length: float, thick: float, depth: int) -> None:
        tip = (right + length * math.sin(angle), up + length * math.cos(angle))
        stand.canvas.line((stand.at(0, right, up), stand.at(0, *tip)), bark, thick * stand.k)
        if depth:
            for turn in (-0.45, 0.1, 0.5)[: 2 + dice.chance(0.6)]:
                grow(*tip, angle * 0.8 + turn + dice.between(-0.15, 0.15), length * dice.between(0.55, 0.75), thick * 0.6, depth - 1)  # fmt: skip

    grow(0.0, 0.0, dice.between(-0.05, 0.05), height * 0.34, trunk, 4 if stand.z < 14 else 3)


def bush(canvas: Canvas, dice: Dice, x: float, z: float, inward: int = 1) -> None:
    """A bush, or a piece of hedge."""
    canvas.begin()
    stand = Stand(canvas, x, z)
    hedge = dice.chance(0.3)
    height = dice.between(*((1.0, 2.0) if hedge else (0.7, 3.0)))
    half = dice.between(*((1.5, 3.0) if hedge else (0.7, 2.2)))
    _foliage(
        stand, dice, "hedge" if hedge else "bush", -0.05, height * 1.15, half, dice.random(), dice.between(0.8, 1.05)
    )
    stand.casts(0.3, half * 0.8, height * 0.6, soft=True)

"""A canvas that holds, for each pixel, the number of the part that is seen there.

Everything in a street is a flat part: a polygon in a plane of the world. The painter draws the numbers of the parts
from far to near, and tables say for each part its class, material and plane. So the label of a pixel is exact by
construction, its depth follows from the plane (1/z is affine in the pixel's coordinates), and no style can move an
edge: a style only colours parts.

World: x to the right, y up from the ground, z ahead, in metres; the camera stands at x = z = 0, `eye` above ground.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from spcnet.synthesis.streets.materials import NUMBER

SCALE = 2
"""Samples along each side of a pixel of the image; the label takes one of them."""
NEAR = 1.0
"""Nearest distance in metres at which anything is drawn."""
SEE_THROUGH = -1
"""In the cells of a panel: what stands behind is seen, but belongs to the panel's class."""

Point = tuple[float, float]
Vector = tuple[float, float, float]
Ints = npt.NDArray[np.int32]
TOWARDS: Vector = (0.0, 0.0, -1.0)
"""Normal of what faces the camera."""
UP: Vector = (0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; lengths in samples (`SCALE` to a pixel). Its pitch is a shift of the horizon."""

    height: int
    width: int
    focal: float
    centre: float
    horizon: float
    eye: float
    """Metres above ground."""
    mirror: int
    """1, or -1 for a mirrored world (traffic on the other side)."""

    def project(self, x: float, y: float, z: float) -> Point:
        """Where a point of the world is seen."""
        k = self.focal / z
        return self.centre + self.mirror * x * k, self.horizon + (self.eye - y) * k

    def project_all(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Where the points (N×3) are seen (N×2)."""
        k = self.focal / points[:, 2]
        return np.stack(
            (self.centre + self.mirror * points[:, 0] * k, self.horizon + (self.eye - points[:, 1]) * k), axis=1
        )


@dataclass(frozen=True)
class Caster:
    """Something that throws a shadow: the outline of its foot on the ground, and how tall it is."""

    foot: tuple[Point, ...]
    """Corners (x, z)."""
    height: float
    soft: bool = False
    """Leaves let some light through."""
    lift: float = 0.0
    """Height of the lowest part above ground."""


@dataclass(frozen=True)
class Light:
    """A lamp that shines when it is dark."""

    kind: str
    """head, tail, street, signal_red, signal_amber, signal_green or display."""
    x: float
    y: float
    z: float
    sample: Point
    """Where it is seen, in samples."""
    part: int
    """The part that must be seen there for the lamp to shine."""


@dataclass
class Canvas:
    """Part numbers seen so far, and the tables of the parts. Part 0 is the sky."""

    camera: Camera
    image: Image.Image = field(init=False)
    rows: list[tuple[float, ...]] = field(default_factory=list)
    """For each part: class, material, pick, shade, normal x y z, plane distance, object number."""
    casters: list[Caster] = field(default_factory=list)
    lights: list[Light] = field(default_factory=list)
    thing: int = 0
    """Number of the object being drawn, for outlines."""

    def __post_init__(self) -> None:
        self.image = Image.new("I", (self.camera.width, self.camera.height), 0)
        self.draw = ImageDraw.Draw(self.image)
        self.rows.append((10, NUMBER["sky"], 0.0, 1.0, 0.0, 0.0, -1.0, -1e5, 0))

    def begin(self) -> None:
        """Start another object."""
        self.thing += 1

    def part(
        self, kind: int, material: str, pick: float, *, normal: Vector = TOWARDS, distance: float, shade: float = 1.0
    ) -> int:
        """Enter a part into the tables.

        Args:
            kind: class (train id, or 255).
            material: name in `MATERIALS`.
            pick: number in [0, 1) that chooses among the colours a style has for the material.
            normal: unit vector the part faces.
            distance: of its plane from the camera, along the normal (negative: it faces the camera).
            shade: factor on its brightness.

        Returns:
            The part's number.
        """
        self.rows.append((kind, NUMBER[material], pick, shade, *normal, distance, self.thing))
        return len(self.rows) - 1

    def ground(self, kind: int, material: str, pick: float, shade: float = 1.0) -> int:
        """A part that lies on the ground."""
        return self.part(kind, material, pick, normal=UP, distance=-self.camera.eye, shade=shade)

    def polygon(self, points: Sequence[Point], part: int) -> None:
        """Fill a polygon given in samples."""
        self.draw.polygon(points, fill=part)

    def quad(self, start: Point, end: Point, height: float, part: int) -> None:
        """Draw a plain upright wall between two points on the ground in front of the camera."""
        project = self.camera.project
        (x0, z0), (x1, z1) = start, end
        corners = ((x0, 0.0, z0), (x0, height, z0), (x1, height, z1), (x1, 0.0, z1))
        self.polygon([project(*corner) for corner in corners], part)

    def line(self, points: Sequence[Point], part: int, width: float) -> None:
        """Draw a line of a width in samples, at least one."""
        self.draw.line(points, fill=part, width=max(1, round(width)))

    def disc(self, centre: Point, radius: float, part: int) -> None:
        """Fill a circle given in samples."""
        x, y = centre
        self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=part)

    def stamp(self, left: int, top: int, parts: Ints, mask: npt.NDArray[np.bool_]) -> None:
        """Put part numbers onto the canvas where the mask holds; the corner is given in samples."""
        self.image.paste(Image.fromarray(parts), (left, top), Image.fromarray(mask.view(np.uint8) * np.uint8(255)))

    def seen_through(self, left: int, top: int, mask: npt.NDArray[np.bool_], kind: int) -> None:
        """Give what is seen where the mask holds to another class, without changing how it looks."""
        height, width = mask.shape
        under = np.asarray(self.image.crop((left, top, left + width, top + height)))
        present = np.zeros(len(self.rows), dtype=bool)
        present[under[mask]] = True
        renamed = np.arange(len(self.rows), dtype=np.int32)
        for part in np.flatnonzero(present).tolist():
            renamed[part] = len(self.rows)
            row = self.rows[part]
            self.rows.append((kind, *row[1:]))
        self.stamp(left, top, renamed[under], mask)

    def in_view(self, start: Point, end: Point) -> bool:
        """Whether any of a wall from one point on the ground to another can be on the canvas."""
        if max(start[1], end[1]) < 0.3:
            return False
        us = [self.camera.project(x, 0.0, z)[0] for x, z in (clip_near(start, end), clip_near(end, start))]
        return max(us) > 0 and min(us) < self.camera.width

    def panel(
        self,
        start: Point,
        end: Point,
        cells: Ints,
        row_edges: Sequence[float],
        column_edges: Sequence[float],
        *,
        kind: int,
    ) -> None:
        """Draw an upright wall with a grid of uneven cells on it, in true perspective.

        Args:
            start: where the wall begins on the ground, (x, z).
            end: where it ends.
            cells: part number of each cell, rows from the bottom up; 0 is a hole, `SEE_THROUGH` a veil.
            row_edges: heights in metres between the rows, one more than there are rows.
            column_edges: distances from the start between the columns, one more than there are columns.
            kind: class of a veil.
        """
        camera = self.camera
        tangent, normal, distance, length = plane(start, end)
        if abs(distance) < 0.05:
            return
        ends = [clip_near(start, end), clip_near(end, start)]
        us = [camera.project(x, 0.0, z)[0] for x, z in ends]
        left, right = max(0, math.floor(min(us))), min(camera.width, math.ceil(max(us)))
        if right - left < 2:
            return
        ray = camera.mirror * (np.arange(left, right) + 0.5 - camera.centre) / camera.focal
        inverse = (normal[0] * ray + normal[2]) / distance
        z = 1.0 / np.where(inverse > 1e-4, inverse, np.inf)
        along = (ray * z - start[0]) * tangent[0] + (z - start[1]) * tangent[1]
        inside = (inverse > 1e-4) & (along >= 0) & (along < length)
        if not inside.any():
            return
        k = camera.focal / z[inside]
        low, high = row_edges[0], row_edges[-1]
        vs = [camera.horizon + (camera.eye - y) * kk for y in (low, high) for kk in (k.min(), k.max())]
        top, bottom = max(0, math.floor(min(vs))), min(camera.height, math.ceil(max(vs)))
        if top >= bottom:
            return
        column = np.clip(np.searchsorted(column_edges, along, side="right") - 1, 0, cells.shape[1] - 1)
        # Heights are looked up in steps of 5 cm: a search per pixel would cost more than everything else here.
        steps = np.arange(low, high + 0.05, 0.05) + 0.025
        row_of = np.clip(np.searchsorted(row_edges, steps, side="right") - 1, 0, cells.shape[0] - 1)
        v = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - camera.horizon)
        height = np.float32(camera.eye - low) - v * (z / camera.focal).astype(np.float32)
        mask = (height >= 0) & (height < high - low) & inside
        height *= np.float32(20)
        step = np.clip(height, 0, len(steps) - 1, out=height).astype(np.int32)
        row_start = (row_of * cells.shape[1]).astype(np.int32)
        parts = cells.ravel().take(row_start.take(step) + column.astype(np.int32))
        if cells.min() < 1:
            veil = mask & (parts == SEE_THROUGH)
            if veil.any():
                self.seen_through(left, top, veil, kind)
            mask &= parts > 0
        self.stamp(left, top, parts, mask)


def foot(x: float, z: float, yaw: float, half_length: float, half_width: float) -> tuple[Point, ...]:
    """Corners on the ground (x, z) of a box around a point that looks along `yaw`."""
    sin, cos = math.sin(yaw), math.cos(yaw)
    corners = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    steps = ((ahead * half_length, right * half_width) for ahead, right in corners)
    return tuple((x + a * sin + r * cos, z + a * cos - r * sin) for a, r in steps)


def plane(start: Point, end: Point) -> tuple[Point, Vector, float, float]:
    """Tangent, normal towards the camera, distance from the camera along it, and length of an upright wall."""
    dx, dz = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dz)
    tangent = (dx / length, dz / length)
    nx, nz = tangent[1], -tangent[0]
    distance = nx * start[0] + nz * start[1]
    if distance > 0:
        nx, nz, distance = -nx, -nz, -distance
    return tangent, (nx, 0.0, nz), distance, length


def clip_near(point: Point, other: Point, *, nearest: float = 0.3) -> Point:
    """The point, moved towards the other until it is at least that many metres in front of the camera."""
    if point[1] >= nearest or other[1] <= nearest:
        return point if point[1] >= nearest else (point[0], nearest)
    fraction = (nearest - point[1]) / (other[1] - point[1])
    return point[0] + fraction * (other[0] - point[0]), nearest

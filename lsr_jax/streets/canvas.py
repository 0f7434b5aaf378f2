"""A pin-hole camera, and a canvas on which flat parts are painted back to front.

World coordinates are metres: `x` to the right, `y` up from the ground, `z` ahead. The
canvas stores for each pixel only the number of the part that was painted last. All else
is looked up by that number, so image and label agree to the pixel. The inverse depth of a
plane is linear in the pixel coordinates: ``1/z = a*u + b*v + c``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

import cv2
import numpy as np

from lsr_jax.data.label_spaces import IGNORE, TRAIN_ID
from lsr_jax.streets.looks import Rgb

LABEL = {**TRAIN_ID, "ignore": IGNORE}
Point = tuple[float, float]
Plane = tuple[float, float, float]


def circle(corners: int) -> list[Point]:
    """Returns the corners of a regular polygon of radius 1."""
    angles = [math.tau * k / corners for k in range(corners)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


CIRCLE = circle(10)


class Facing(IntEnum):
    """The two world axes that span a part; texture follows them."""

    UP = 0  # x and z
    SIDE = 1  # z and y
    FRONT = 2  # x and y


class Pattern(NamedTuple):
    """Rectangles repeated over a part: windows, slabs, planks.

    Attributes:
      pitch: metres from one to the next, along the first and the second axis.
      fill: fraction of the pitch that a rectangle covers, along both axes.
      colour: of the rectangles.
    """

    pitch: tuple[float, float]
    fill: tuple[float, float]
    colour: Rgb


class Part(NamedTuple):
    """The common properties of all pixels of one painted polygon."""

    label: int
    colour: Rgb
    plane: Plane
    facing: Facing
    pattern: Pattern | None


class Light(NamedTuple):
    """Factor on the colour of a face by where it looks; the ground has 1."""

    left: float
    right: float
    front: float


class Camera(NamedTuple):
    """Pin-hole camera above the road.

    Attributes:
      size: ``(H, W)``.
      height: above the ground, metres.
      horizon: row of the horizon in the middle of the image, pixels.
      focal: focal length, pixels.
      centre: column of the vanishing point, pixels.
      roll: rows the horizon falls a column.
    """

    size: tuple[int, int]
    height: float
    horizon: float
    focal: float
    centre: float
    roll: float

    def project(self, x: float, y: float, z: float) -> Point:
        """Pixel ``(u, v)`` of a point in the world."""
        u = self.centre + self.focal * x / z
        tilt = self.roll * (u - self.size[1] / 2)
        return u, self.horizon + tilt + self.focal * (self.height - y) / z

    def project_upright(self, points: Iterable[Point], z: float) -> list[Point]:
        """Pixels of points ``(x, y)`` that share the depth `z`."""
        scale = self.focal / z
        middle, level = self.size[1] / 2, self.horizon + scale * self.height
        pixels = []
        for x, y in points:
            u = self.centre + scale * x
            pixels.append((u, level + self.roll * (u - middle) - scale * y))
        return pixels

    def ground_plane(self) -> Plane:
        """Inverse depth of ``y = 0``."""
        k = 1 / (self.focal * self.height)
        offset = self.roll * self.size[1] / 2 - self.horizon
        return -self.roll * k, k, offset * k

    def side_plane(self, x: float) -> Plane:
        """Inverse depth of the plane at constant `x`, kept off the optical axis."""
        k = 1 / (self.focal * math.copysign(max(abs(x), 0.3), x))
        return k, 0.0, -self.centre * k


class Canvas:
    """The part number of every pixel, the parts, and the mask of shaded ground."""

    def __init__(self, camera: Camera, light: Light, sky: Rgb):
        self.camera = camera
        self.light = light
        self.part = np.zeros(camera.size, np.int32)
        self.shaded = np.zeros(camera.size, np.uint8)
        self.sky = sky
        self.parts = [Part(LABEL["sky"], sky, (0, 0, 1 / 60), Facing.FRONT, None)]

    def polygon(
        self,
        points: Iterable[Point],
        name: str,
        colour: Rgb,
        plane: Plane,
        facing: Facing,
        *,
        light: float = 1.0,
        pattern: Pattern | None = None,
    ) -> None:
        """Paints a polygon of pixel coordinates as one part of class `name`."""
        red, green, blue = colour
        lit = (red * light, green * light, blue * light)
        _fill(self.part, points, len(self.parts))
        self.parts.append(Part(LABEL[name], lit, plane, facing, pattern))

    def front(
        self, x0, x1, y0, y1, z, name, colour, *, pattern=None, glows=False
    ) -> None:
        """Paints an upright rectangle that faces the camera; `glows` ignores the sun.

        `x0` may be the right edge or the left one.
        """
        x0, x1 = sorted((x0, x1))
        corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        points = self.camera.project_upright(corners, z)
        light = 1.0 if glows else self.light.front
        style = {"light": light, "pattern": pattern}
        self.polygon(points, name, colour, (0, 0, 1 / z), Facing.FRONT, **style)

    def side(self, x, z0, z1, y0, y1, name, colour, *, pattern=None) -> None:
        """Paints an upright rectangle along the road."""
        corners = ((y0, z0), (y0, z1), (y1, z1), (y1, z0))
        points = [self.camera.project(x, y, z) for y, z in corners]
        plane = self.camera.side_plane(x)
        light = self.light.left if x < 0 else self.light.right
        style = {"light": light, "pattern": pattern}
        self.polygon(points, name, colour, plane, Facing.SIDE, **style)

    def ground(self, x0, x1, z0, z1, name, colour, *, pattern=None) -> None:
        """Paints a rectangle that lies on the ground."""
        plane = self.camera.ground_plane()
        corners = self._on_ground(x0, x1, z0, z1)
        self.polygon(corners, name, colour, plane, Facing.UP, pattern=pattern)

    def billboard(self, x, y, z, outline, name, colour) -> None:
        """Paints an outline, in metres around ``(x, y)``, that faces the camera."""
        points = self.camera.project_upright([(x + a, y + b) for a, b in outline], z)
        plane = (0, 0, 1 / z)
        self.polygon(points, name, colour, plane, Facing.FRONT, light=self.light.front)

    def disc(self, x, y, z, radius_x, radius_y, name, colour) -> None:
        """Paints an upright ellipse that faces the camera."""
        outline = [(radius_x * a, radius_y * b) for a, b in CIRCLE]
        self.billboard(x, y, z, outline, name, colour)

    def shadow(self, x0, x1, z0, z1) -> None:
        """Shades a rectangle, where ground is visible in the end."""
        _fill(self.shaded, self._on_ground(x0, x1, max(z0, 1.2), z1), 1)

    def _on_ground(self, x0, x1, z0, z1) -> list[Point]:
        corners = ((x0, z0), (x1, z0), (x1, z1), (x0, z1))
        return [self.camera.project(x, 0, z) for x, z in corners]


def _fill(image: np.ndarray, points: Iterable[Point], value: int) -> None:
    fixed_point = [(int(u * 16), int(v * 16)) for u, v in points]
    cv2.fillPoly(image, [np.array(fixed_point, np.int32)], value, shift=4)

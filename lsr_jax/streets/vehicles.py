"""Cars, trucks, buses and trams, along the road as boxes or across it as outlines.

Along the road, `z` is the distance of the near end, `x` the lateral position of the middle
line. A box shows its near end and the flank that is turned to the camera's axis, if any.
"""

from __future__ import annotations

from typing import NamedTuple

from lsr_jax.streets.canvas import CIRCLE, Facing, Pattern
from lsr_jax.streets.scene import BLACK, Scene, scaled

SILL = 0.28  # height of the lower edge of a body, metres
REAR_LAMP = (0.75, 0.08, 0.06)
HEAD_LAMP = (0.95, 0.95, 0.85)
PLATE = (0.85, 0.85, 0.8)
BUS_SIGN = (0.9, 0.65, 0.15)


class Box(NamedTuple):
    """Outer edges of a vehicle; `flank` is the `x` of the visible side, or None."""

    left: float
    right: float
    near: float
    far: float
    flank: float | None


def _box(scene: Scene, z: float, x: float, width: float, length: float) -> Box:
    left, right = x - width / 2, x + width / 2
    flank = left if left > 0 else right if right < 0 else None
    scene.canvas.shadow(left - 0.2, right + 0.2, z - 0.2, z + length)
    return Box(left, right, z, z + length, flank)


def car(scene: Scene, z: float, x: float) -> None:
    """A car seen from behind or from ahead."""
    colour, height = scene.colour("car", 1.5), scene.uniform(1.4, 1.75)
    away, glass = scene.chance(0.55), scene.glass()
    box = _box(scene, z, x, 1.75, 4.2)
    waist, inset = 0.56 * height, 0.12 * 1.75
    if box.flank is not None:
        _car_flank(scene, box, waist, height, inset, colour, glass)
    canvas = scene.canvas
    left, right = box.left + inset, box.right - inset
    pane = [(left, height), (right, height), (box.right, waist), (box.left, waist)]
    canvas.billboard(0, 0, z, pane, "car", glass)
    canvas.front(left, right, height - 0.1, height, z, "car", colour)
    canvas.front(box.left, box.right, SILL, waist, z, "car", colour)
    for at in (box.left, box.right - 0.25):
        canvas.front(at, at + 0.25, 0, 0.3, z, "car", BLACK)
    for at in (box.left + 0.05, box.right - 0.4):
        lamp = REAR_LAMP if away else HEAD_LAMP
        top = waist - 0.06
        canvas.front(at, at + 0.35, top - 0.16, top, z, "car", lamp, glows=True)
    canvas.front(x - 0.25, x + 0.25, 0.42, 0.54, z, "car", PLATE)


def _car_flank(scene, box, waist, height, inset, colour, glass) -> None:
    canvas, project = scene.canvas, scene.canvas.camera.project
    canvas.side(box.flank, box.near, box.far, SILL, waist, "car", colour)
    roof = box.flank + (inset if box.flank > 0 else -inset)
    length = box.far - box.near
    panes = (
        project(box.flank, waist, box.near + 0.15 * length),
        project(box.flank, waist, box.near + 0.85 * length),
        project(roof, height, box.near + 0.7 * length),
        project(roof, height, box.near + 0.25 * length),
    )
    plane = canvas.camera.side_plane(box.flank)
    canvas.polygon(panes, "car", glass, plane, Facing.SIDE)
    _flank_wheels(scene, box, "car", 0.32, (0.2, 0.8))


def truck(scene: Scene, z: float, x: float) -> None:
    """A lorry: a box on wheels with a darker cab ahead."""
    canvas = scene.canvas
    colour, height = scene.colour("truck", 1.5), scene.uniform(2.7, 3.6)
    away, cab = scene.chance(0.55), scaled(colour, 0.8)
    box = _box(scene, z, x, 2.4, 7.5)
    left, right = box.left, box.right
    if box.flank is not None:
        start = box.far - 1.9 if away else box.near
        canvas.side(box.flank, box.near, box.far, SILL, height, "truck", colour)
        canvas.side(box.flank, start, start + 1.9, SILL, 0.8 * height, "truck", cab)
        _flank_wheels(scene, box, "truck", 0.45, (0.2, 0.8))
    if away:
        canvas.front(left, right, 0.7, height, z, "truck", cab)
        canvas.front(x - 0.03, x + 0.03, 0.7, height, z, "truck", BLACK)
    else:
        canvas.front(left, right, 0.4, 0.8 * height, z, "truck", cab)
        bottom, top = 0.45 * height, 0.72 * height
        glass = scene.glass()
        canvas.front(left + 0.15, right - 0.15, bottom, top, z, "truck", glass)
    canvas.front(left, right, SILL, 0.7, z, "truck", BLACK)
    for at in (left, right - 0.4):
        canvas.front(at, at + 0.4, 0, 0.6, z, "truck", BLACK)


def bus(scene: Scene, z: float, x: float) -> None:
    """A city bus with a band of windows and a lit destination sign."""
    canvas = scene.canvas
    colour, away = scene.colour("bus", 1.5), scene.chance(0.55)
    box = _box(scene, z, x, 2.5, 11.0)
    if box.flank is not None:
        canvas.side(box.flank, box.near, box.far, SILL, 3.0, "bus", colour)
        _window_band(scene, box, "bus", 1.3, 2.45, 1.5, colour)
        _flank_wheels(scene, box, "bus", 0.45, (0.2, 0.8))
    _coach_end(scene, box, "bus", 3.0, 1.2, colour, BUS_SIGN)
    for at in (box.left, box.right - 0.35):
        canvas.front(at, at + 0.35, 0, 0.5, z, "bus", BLACK)
    _coach_lamps(scene, box, "bus", away)


def tram(scene: Scene, z: float, x: float) -> None:
    """A tram (class train) with a stripe, a joint in the middle and a pantograph."""
    canvas = scene.canvas
    colour, away = scene.colour("train", 1.5), scene.chance(0.55)
    box = _box(scene, z, x, 2.5, 24.0)
    left, right, near, far, flank = box
    if flank is not None:
        canvas.side(flank, near, far, SILL, 3.4, "train", colour)
        _window_band(scene, box, "train", 1.5, 2.7, 2.2, colour)
        stripe, middle = scene.colour("train"), (near + far) / 2
        canvas.side(flank, near, far, 0.9, 1.25, "train", stripe)
        canvas.side(flank, middle - 0.2, middle + 0.2, SILL, 3.4, "train", BLACK)
        _flank_wheels(scene, box, "train", 0.45, (0.12, 0.4, 0.6, 0.88))
    _coach_end(scene, box, "train", 3.4, 1.5, colour, BLACK)
    canvas.front(left, right, 0.9, 1.25, z, "train", scene.colour("train"))
    canvas.front(x - 0.2, x + 0.2, 0.7, 0.9, z, "train", HEAD_LAMP)
    pantograph = [(-0.8, 0), (0.8, 0), (0.5, 0.9)]
    pantograph += [(-0.5, 0.9), (-0.45, 0.8), (0.45, 0.8)]
    canvas.billboard(x, 3.4, z + 3, pantograph, "train", BLACK)
    _coach_lamps(scene, box, "train", away)


def _window_band(scene, box, name, bottom, top, pitch, post_colour) -> None:
    posts = Pattern((pitch, 20.0), (0.12, 1.0), post_colour)
    near, far = box.near + 0.3, box.far - 0.3
    scene.canvas.side(
        box.flank, near, far, bottom, top, name, scene.glass(), pattern=posts
    )


def _coach_end(scene, box, name, height, pane_bottom, colour, sign) -> None:
    canvas, (left, right, z, _, _) = scene.canvas, box
    canvas.front(left, right, SILL, height, z, name, colour)
    canvas.front(left + 0.12, right - 0.12, pane_bottom, 2.5, z, name, scene.glass())
    canvas.front(left + 0.4, right - 0.4, height - 0.4, height - 0.1, z, name, sign)


def _coach_lamps(scene, box, name, away) -> None:
    lamp = REAR_LAMP if away else HEAD_LAMP
    for at in (box.left + 0.1, box.right - 0.45):
        scene.canvas.front(at, at + 0.35, 0.6, 0.85, box.near, name, lamp, glows=True)


def _flank_wheels(scene, box, name, radius, places) -> None:
    canvas, project = scene.canvas, scene.canvas.camera.project
    plane = canvas.camera.side_plane(box.flank)
    for place in places:
        z = box.near + place * (box.far - box.near)
        rim = [
            project(box.flank, radius + radius * b, z + radius * a) for a, b in CIRCLE
        ]
        canvas.polygon(rim, name, BLACK, plane, Facing.SIDE)


def crossing_car(scene: Scene, z: float, x: float) -> None:
    """A car seen from its side."""
    canvas = scene.canvas
    colour, ahead = scene.colour("car", 1.5), scene.sign()
    body = [(-2.1, 0.3), (2.1, 0.3), (2.1, 0.7), (1.2, 0.85), (-2.05, 0.9)]
    cabin = [(-1.9, 0.88), (1.15, 0.85), (0.45, 1.42), (-1.2, 1.45)]
    panes = [(-1.6, 0.9), (0.95, 0.88), (0.4, 1.33), (-1.1, 1.36)]
    canvas.shadow(x - 2.1, x + 2.1, z - 0.3, z + 1.6)
    for outline, paint in ((body, colour), (cabin, colour), (panes, scene.glass())):
        turned = [(ahead * a, b) for a, b in outline]
        canvas.billboard(x, 0, z, turned, "car", paint)
    _crossing_wheels(scene, z, x, "car", 4.2, 0.32)


def crossing_truck(scene: Scene, z: float, x: float) -> None:
    """A lorry seen from its side."""
    canvas = scene.canvas
    colour, ahead = scene.colour("truck", 1.5), scene.sign()
    nose = x + 3.5 * ahead
    canvas.shadow(x - 3.5, x + 3.5, z - 0.3, z + 1.6)
    canvas.front(x - 3.5, x + 3.5, 0.5, 3.1, z, "truck", colour)
    cab = scaled(colour, 0.7)
    canvas.front(nose, nose - 1.7 * ahead, 0.4, 2.5, z, "truck", cab)
    canvas.front(nose, nose - 1.2 * ahead, 1.5, 2.2, z, "truck", scene.glass())
    _crossing_wheels(scene, z, x, "truck", 7.0, 0.48)


def crossing_bus(scene: Scene, z: float, x: float) -> None:
    """A bus seen from its side."""
    canvas = scene.canvas
    colour = scene.colour("bus", 1.5)
    left, right = x - 5.25, x + 5.25
    posts = Pattern((1.5, 20.0), (0.12, 1.0), colour)
    glass = scene.glass()
    canvas.shadow(left, right, z - 0.3, z + 1.6)
    canvas.front(left, right, 0.35, 3.0, z, "bus", colour)
    canvas.front(left + 0.2, right - 0.2, 1.3, 2.4, z, "bus", glass, pattern=posts)
    _crossing_wheels(scene, z, x, "bus", 10.5, 0.48)


def _crossing_wheels(scene, z, x, name, length, radius) -> None:
    for at in (x - 0.32 * length, x + 0.32 * length):
        scene.canvas.disc(at, radius, z, radius, radius, name, BLACK)

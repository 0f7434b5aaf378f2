"""Buildings, hedges, walls, fences, trees, poles, persons, two-wheelers.

A function paints one object that stands on the ground at lateral position `x`, `z` metres
ahead, or that fills the stretch from `near` to `far` metres ahead; `side` is -1 left of
the road and 1 right of it.
"""

from __future__ import annotations

from lsr_jax.streets.canvas import Pattern
from lsr_jax.streets.scene import Scene, scaled

TYRE = (0.08, 0.08, 0.09)
SIGNALS = ((0.95, 0.15, 0.1), (0.95, 0.7, 0.15), (0.15, 0.85, 0.45))


def tree(scene: Scene, z: float, x: float) -> None:
    """A trunk and three clusters of leaves, all vegetation."""
    canvas = scene.canvas
    height, leaves = scene.uniform(2.0, 3.2), scene.colour("vegetation")
    trunk = scaled(leaves[::-1], 0.55, 0.08)
    canvas.front(x - 0.14, x + 0.14, 0, height + 0.5, z, "vegetation", trunk)
    for _ in range(3):
        scene.foliage(
            x + scene.uniform(-0.9, 0.9),
            height + scene.uniform(0.6, 2.4),
            z,
            scene.uniform(1.1, 2.0),
            scene.uniform(1.0, 1.8),
            tuple(value * scene.uniform(0.85, 1.15) for value in leaves),
        )
    canvas.shadow(x - 2, x + 2, z - 1, z + 3)


def pole(scene: Scene, z: float, x: float, side: int) -> None:
    """A pole, tall with an arm or low, with traffic lights, a sign or neither."""
    canvas = scene.canvas
    kind, colour = scene.random.random(), scene.colour("pole")
    radius = scene.uniform(*scene.proportions.pole_radius)
    tall = kind < 0.35
    top = scene.uniform(5, 8) if tall else scene.uniform(2.4, 3.8)
    canvas.front(x - radius, x + radius, 0, top, z, "pole", colour)
    if kind < 0.2:
        canvas.front(x, x - side * 2, top - 0.15, top, z, "pole", colour)
    elif 0.35 <= kind < 0.68 or (tall and scene.chance(0.4)):
        _traffic_lights(scene, z, x, side, top, colour)
    if kind >= 0.68 or kind < 0.12:
        _sign(scene, z, x, 3.0 if tall else top - 0.1)


def _traffic_lights(scene, z, x, side, top, colour) -> None:
    canvas, on_arm = scene.canvas, top > 5
    half, height = scene.proportions.light_radius, scene.proportions.light_height
    for k in range(scene.random.randint(1, 2)):
        if on_arm:
            at, head = x - side * (0.05 + k * 2.2), top - 0.5
        else:
            at, head = x, top + 0.1 - k * 1.4
        if on_arm and k == 0:
            canvas.front(x, x - side * 2.4, top - 0.12, top, z, "pole", colour)
        box = scene.colour("light")
        canvas.front(at - half, at + half, head - height, head, z, "light", box)
        lit = scene.random.randint(0, 2)
        y = head - 0.18 - 0.3 * lit
        canvas.disc(at, y, z, 0.13, 0.13, "light", SIGNALS[lit])


def _sign(scene, z, x, top) -> None:
    canvas = scene.canvas
    colour, size = scene.colour("sign"), scene.uniform(*scene.proportions.sign_radius)
    shape = scene.random.random()
    y = top - size
    if shape < 0.4:
        inner = tuple(min(1, value) for value in scaled(colour, 0.4, 0.55))
        canvas.disc(x, y, z, size, size, "sign", colour)
        canvas.disc(x, y, z, size * 0.65, size * 0.65, "sign", inner)
    elif shape < 0.7:
        triangle = [(-1.1 * size, -0.8 * size), (1.1 * size, -0.8 * size), (0, size)]
        canvas.billboard(x, y, z, triangle, "sign", colour)
    else:
        left, right = x - 1.4 * size, x + 1.4 * size
        canvas.front(left, right, top - 1.2 * size, top, z, "sign", colour)


def person(scene: Scene, z: float, x: float) -> None:
    """A pedestrian: two legs, a trunk, a head."""
    canvas = scene.canvas
    height, stride = scene.uniform(1.45, 1.9), scene.uniform(0.02, 0.22)
    shirt, trousers, skin = scene.colour("person"), scene.colour("person"), scene.skin()
    w = scene.uniform(0.2, 0.26) * scene.proportions.person_breadth
    hip, waist, chest = 0.48 * height, 0.5 * height, 0.68 * height
    legs = (
        [(-stride - 0.09, 0), (-stride + 0.07, 0), (0.05, hip), (-0.14, waist)],
        [(stride - 0.07, 0), (stride + 0.09, 0), (0.14, waist), (-0.05, hip)],
    )
    hem, shoulder = 0.46 * height, 0.82 * height
    trunk = [(-0.8 * w, hem), (0.8 * w, hem), (1.15 * w, chest)]
    trunk += [(w, shoulder), (-w, shoulder), (-1.15 * w, chest)]
    canvas.shadow(x - 0.25, x + 0.35, z - 0.15, z + 0.25)
    for leg in legs:
        canvas.billboard(x, 0, z, leg, "person", trousers)
    canvas.billboard(x, 0, z, trunk, "person", shirt)
    canvas.disc(x, 0.92 * height, z, 0.11, 0.13, "person", skin)


def two_wheeler(scene: Scene, z: float, x: float, name: str, *, ridden: bool) -> None:
    """A bicycle or motorcycle from the side or the front, with a rider if `ridden`."""
    colour, skin = scene.colour(name), scene.skin()
    sideways, ahead = scene.chance(0.55), scene.sign()
    reach = 0.8 if sideways else 0.3
    scene.canvas.shadow(x - reach, x + reach, z - 0.15, z + 0.25)
    if not sideways:
        _front_view(scene, z, x, name, colour)
    elif name == "motorcycle":
        _motorcycle_side(scene, z, x, ahead, colour)
    else:
        _bicycle_side(scene, z, x, ahead, colour)
    if ridden:
        motor = name == "motorcycle"
        _rider(scene, z, x, ahead if sideways else 0, skin, motor=motor)


def _motorcycle_side(scene, z, x, ahead, colour) -> None:
    _wheels(scene, z, x, 0.68, 0.30, "motorcycle", scaled(colour, 0.5, 0.2))
    body = [(-0.75, 0.75), (-0.5, 0.35), (0.3, 0.3)]
    body += [(0.6, 0.6), (0.45, 0.98), (0.2, 0.8)]
    scene.canvas.billboard(x, 0, z, _turned(body, ahead), "motorcycle", colour)


def _bicycle_side(scene, z, x, ahead, colour) -> None:
    # What is seen through the spokes counts as bicycle, but has the backdrop's colour.
    backdrop = scene.canvas.parts[1].colour
    _wheels(scene, z, x, 0.52, 0.34, "bicycle", scaled(backdrop, 0.6, 0.25))
    frame = [(-0.52, 0.30), (0.0, 0.28), (0.42, 0.8)]
    frame += [(0.36, 0.88), (-0.15, 0.84), (-0.1, 0.42)]
    handlebar = [(0.35, 0.85), (0.5, 1.05), (0.35, 1.05)]
    scene.canvas.billboard(x, 0, z, _turned(frame, ahead), "bicycle", colour)
    scene.canvas.billboard(x, 0, z, _turned(handlebar, ahead), "bicycle", TYRE)


def _wheels(scene, z, x, distance, radius, name, inside) -> None:
    for at in (x - distance, x + distance):
        scene.canvas.disc(at, radius, z, radius, radius, name, TYRE)
        scene.canvas.disc(at, radius, z, 0.62 * radius, 0.62 * radius, name, inside)


def _front_view(scene, z, x, name, colour) -> None:
    canvas = scene.canvas
    w, bar = (0.1, 0.38) if name == "motorcycle" else (0.05, 0.28)
    body = [(-2.2 * w, 0.45), (2.2 * w, 0.45), (1.6 * w, 0.95), (-1.6 * w, 0.95)]
    canvas.front(x - w, x + w, 0, 0.7, z, name, TYRE)
    canvas.billboard(x, 0, z, body, name, colour)
    canvas.front(x - bar, x + bar, 0.95, 1.03, z, name, TYRE)


def _rider(scene, z, x, ahead, skin, *, motor) -> None:
    """`ahead` is -1 or 1 for a rider seen from the side, 0 for the front view."""
    canvas = scene.canvas
    shirt, trousers = scene.colour("rider"), scene.colour("rider")
    y = 0.82 if motor else 0.92
    if ahead:
        leg = [(-0.25, y + 0.05), (-0.05, y + 0.1), (0.25, 0.55)]
        leg += [(0.12, 0.22), (0.0, 0.25), (0.08, 0.55)]
        legs = [_turned(leg, ahead)]
        trunk = [(-0.26, y), (0.0, y), (0.3, y + 0.5)]
        trunk += [(0.12, y + 0.62), (-0.12, y + 0.62), (-0.1, y + 0.5)]
        arm = [(0.1, y + 0.5), (0.2, y + 0.52), (0.45, 1.1), (0.38, 1.03)]
        top = [_turned(trunk, ahead), _turned(arm, ahead)]
    else:
        leg = [(0.08, 0.3), (0.2, 0.3), (0.22, y + 0.05), (0.04, y + 0.08)]
        legs = [_turned(leg, -1), leg]
        trunk = [(-0.2, y), (0.2, y), (0.22, y + 0.5)]
        trunk += [(0.1, y + 0.62), (-0.1, y + 0.62), (-0.22, y + 0.5)]
        top = [trunk]
    for outline in legs:
        canvas.billboard(x, 0, z, outline, "rider", trousers)
    for outline in top:
        canvas.billboard(x, 0, z, outline, "rider", shirt)
    helmet = scene.colour("rider") if motor or scene.chance(0.4) else skin
    canvas.disc(x + 0.15 * ahead, y + 0.76, z, 0.13, 0.15, "rider", helmet)


def _turned(outline, ahead):
    return [(ahead * a, b) for a, b in outline]


def building(scene: Scene, near: float, far: float, x: float, side: int) -> None:
    """A house with rows of windows, perhaps with shops and a shadow on the road."""
    canvas = scene.canvas
    height, depth = scene.geometry("building_height"), scene.uniform(8, 16)
    colour, windows = scene.colour("building"), scene.windows()
    end = x + side * depth
    canvas.front(x, end, 0, height, near, "building", colour, pattern=windows)
    canvas.side(x, near, far, 0, height, "building", colour, pattern=windows)
    if scene.chance(0.6):
        shop = tuple(value * scene.uniform(0.5, 0.9) for value in colour)
        panes = Pattern((scene.uniform(2.5, 4), 9.0), (0.6, 0.3), (0.12, 0.13, 0.15))
        canvas.side(x, near, far, 0, 3.0, "building", shop, pattern=panes)
    if scene.chance(0.7):
        canvas.shadow(x - side * scene.uniform(1, 6), x, near, far)


def hedge(scene: Scene, near: float, far: float, x: float, side: int) -> None:
    """Two to four bushes."""
    for _ in range(scene.random.randint(2, 4)):
        depth = scene.uniform(near, far)
        scene.foliage(
            x + side * scene.uniform(0.5, 5),
            scene.uniform(1.0, 4.5),
            depth,
            scene.uniform(1.5, 4),
            scene.uniform(1.5, 4),
            scene.colour("vegetation"),
        )


def wall(scene: Scene, near: float, far: float, x: float, side: int) -> None:
    """A wall with a few joints, perhaps with bushes behind it."""
    canvas = scene.canvas
    colour, height = scene.colour("wall"), scene.uniform(1.2, 3.2)
    if scene.chance(0.6):
        reach = scene.uniform(1.5, 4)
        leaves = scene.colour("vegetation")
        scene.foliage(x + side * 4, height + 1, far, 4, reach, leaves)
    canvas.front(x, x + side * 0.4, 0, height, near, "wall", colour)
    joints = Pattern((scene.uniform(2, 5), 30.0), (0.05, 1.0), scaled(colour, 0.75))
    canvas.side(x, near, far, 0, height, "wall", colour, pattern=joints)


def fence(scene: Scene, near: float, far: float, x: float, side: int) -> None:
    """A fence through whose gaps green or bare ground is seen; all of it is fence."""
    colour = scene.colour("fence")
    behind = scene.colour("vegetation" if scene.chance(0.5) else "terrain")
    height = scene.uniform(1.0, 2.2)
    if scene.chance(0.6):
        scene.foliage(x + side * 5, 2.5, far, 5, 3, scene.colour("vegetation"))
    pitch = (scene.uniform(0.25, 0.6), scene.uniform(0.4, 1.2))
    gaps = Pattern(pitch, (0.6, 0.8), behind)
    scene.canvas.side(x, near, far, 0, height, "fence", colour, pattern=gaps)

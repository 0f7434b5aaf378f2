"""What stands along the road: buildings, hedges, walls, fences.

Each function fills the stretch from `near` to `far` metres ahead at lateral position
`x`; `side` is -1 left of the road and 1 right of it.
"""

from __future__ import annotations

from lsr_jax.data.streets.canvas import Pattern
from lsr_jax.data.streets.scene import Scene, scaled


def building(scene: Scene, near: float, far: float, x: float, side: int) -> None:
    """A house with rows of windows, perhaps with shops and a shadow on the road."""
    canvas = scene.canvas
    height, depth = scene.geometry("building_height"), scene.uniform(8, 16)
    colour, windows = scene.colour("building"), scene.windows()
    left, right = sorted((x, x + side * depth))
    canvas.front(left, right, 0, height, near, "building", colour, pattern=windows)
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
    left, right = sorted((x, x + side * 0.4))
    canvas.front(left, right, 0, height, near, "wall", colour)
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

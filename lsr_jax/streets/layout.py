"""Compose a scene: skyline, street, roadside, furniture, vehicles, people."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from lsr_jax.streets import objects, vehicles
from lsr_jax.streets.canvas import Facing, Pattern
from lsr_jax.streets.looks import Rgb
from lsr_jax.streets.scene import Scene, scaled

BONNETS = ((0.12, 0.12, 0.13), (0.5, 0.5, 0.5), (0.3, 0.3, 0.33))


class Street(NamedTuple):
    """The road and its surroundings, in metres; -1 is left and 1 is right."""

    edges: dict[int, float]  # of the road
    pavements: dict[int, float]  # their widths
    asphalt: Rgb
    crossroad: tuple[float, float] | None  # near and far edge of the road that crosses
    has_tram: bool  # rails and a tram are on the road


def compose(scene: Scene) -> None:
    """Paints a whole scene, from the farthest to the nearest thing."""
    _skyline(scene)
    street = _street(scene)
    for side in (-1, 1):
        _roadside(scene, street, side)
    placed = []

    def place(paint, z, x, *args, **options):
        placed.append((z, partial(paint, scene, z, x, *args, **options)))

    _place_furniture(scene, street, place)
    _place_vehicles(scene, street, place)
    _place_people(scene, street, place)
    for _, paint in sorted(placed, key=lambda thing: -thing[0]):
        paint()
    if scene.chance("bonnet"):
        _bonnet(scene)


def _skyline(scene: Scene) -> None:
    x = -150.0
    while x < 150:
        width, kind = scene.uniform(8, 40), scene.random.random()
        if kind < 0.5:
            height, colour = scene.uniform(4, 20), scene.colour("building")
            windows = scene.windows()
            scene.canvas.front(
                x, x + width, 0, height, 120.0, "building", colour, pattern=windows
            )
        elif kind < 0.85:
            y, reach = scene.uniform(2, 5), scene.uniform(4, 8)
            leaves = scene.colour("vegetation")
            scene.foliage(x + width / 2, y, 120.0, width * 0.6, reach, leaves)
        x += width * 0.8


def _street(scene: Scene) -> Street:
    canvas = scene.canvas
    edges = {-1: -scene.geometry("road_left"), 1: scene.geometry("road_right")}
    pavements = {-1: scene.geometry("pavement"), 1: scene.geometry("pavement")}
    canvas.ground(-400, 400, 1.0, 400, "terrain", scene.colour("terrain"))
    asphalt = scene.colour("road")
    slab = scene.tone["tile"]
    for side in (-1, 1):
        left, right = sorted((edges[side], edges[side] + side * pavements[side]))
        stone = scene.colour("sidewalk")
        joints = Pattern((slab, slab), (0.08, 0.08), scaled(stone, 0.72))
        canvas.ground(left, right, 1.0, 300, "sidewalk", stone, pattern=joints)
    canvas.ground(edges[-1], edges[1], 1.0, 300, "road", asphalt)
    crossroad = None
    if scene.chance("crossroad"):
        near = scene.uniform(18, 45)
        crossroad = (near, near + scene.uniform(7, 14))
        canvas.ground(-200, 200, *crossroad, "road", asphalt)
    _markings(scene, edges, asphalt)
    return Street(edges, pavements, asphalt, crossroad, scene.chance("train"))


def _markings(scene: Scene, edges: dict[int, float], asphalt: Rgb) -> None:
    canvas, left, right = scene.canvas, edges[-1], edges[1]
    paint = tuple(min(1.2, value * scene.uniform(1.5, 2.0)) for value in asphalt)
    if scene.chance("lane_marks"):
        middle = left + (right - left) * scene.uniform(0.42, 0.58)
        z = scene.uniform(2, 5)
        while z < 60:
            canvas.ground(middle - 0.09, middle + 0.09, z, z + 2.5, "road", paint)
            z += 6
        if scene.chance(0.5):
            canvas.ground(right - 0.35, right - 0.2, 1, 120, "road", paint)
    if scene.chance(0.2):
        z = scene.uniform(7, 16)
        x = left + 0.3
        while x < right - 0.5:
            canvas.ground(x, x + 0.5, z, z + 2.5, "road", paint)
            x += 1.0


def _roadside(scene: Scene, street: Street, side: int) -> None:
    base = street.edges[side] + side * street.pavements[side]
    for near, far in _stretches(scene):
        crossroad = street.crossroad
        if crossroad and near < crossroad[1] and far > crossroad[0]:
            continue
        kind, x = scene.random.random(), base + side * scene.random.random()
        for build in (objects.building, objects.hedge, objects.wall, objects.fence):
            kind -= scene.look.probability[build.__name__]
            if kind < 0:
                build(scene, near, far, x, side)
                break


def _stretches(scene: Scene) -> list[tuple[float, float]]:
    """Cuts a side of the road into ``(near, far)``, farthest first, some with gaps."""
    stretches, far = [], 95.0
    while far > 3:
        near = max(2.0, far - scene.uniform(7, 22))
        stretches.append((near, far))
        far = near - (scene.uniform(0, 6) if scene.chance(0.4) else 0)
    return stretches


def _place_furniture(scene: Scene, street: Street, place: Callable) -> None:
    for _ in range(int(scene.geometry("poles"))):
        side = scene.sign()
        z = scene.uniform(*scene.proportions.pole_depth)
        x = street.edges[side] + side * scene.uniform(0.2, 1.0)
        place(objects.pole, z, x, side)
    for side in (-1, 1):
        z = scene.uniform(6, 20)
        if scene.chance("trees"):
            for _ in range(scene.random.randint(1, 5)):
                x = street.edges[side] + side * scene.uniform(0.6, 1.6)
                place(objects.tree, z, x)
                z += scene.uniform(6, 12)


def _place_vehicles(scene: Scene, street: Street, place: Callable) -> None:
    left, right = street.edges[-1], street.edges[1]
    uniform, choice = scene.uniform, scene.random.choice
    for _ in range(int(scene.geometry("cars"))):
        kind = scene.random.random()
        if kind < 0.45:
            place(vehicles.car, uniform(6, 45), choice((left + 1.1, right - 1.1)))
        elif kind < 0.88:
            place(vehicles.car, uniform(8, 55), uniform(left * 0.75, right * 0.6))
        else:
            z = uniform(10, 40)
            place(vehicles.crossing_car, z, uniform(left * 1.3, right * 1.3))
    for name, along, across in (
        ("truck", vehicles.truck, vehicles.crossing_truck),
        ("bus", vehicles.bus, vehicles.crossing_bus),
    ):
        if scene.chance(name):
            if scene.chance(0.8):
                z, lane = uniform(9, 35), uniform(left * 0.9, left * 0.4)
                place(along, z, choice((lane, right - 1.4, left + 1.5)))
            else:
                place(across, uniform(14, 35), uniform(left, right))
    if street.has_tram:
        track = left * uniform(0.4, 0.7)
        rail = scaled(street.asphalt, 0.55)
        for x in (track - 0.7, track + 0.7):
            scene.canvas.ground(x - 0.06, x + 0.06, 1, 150, "road", rail)
        place(vehicles.tram, uniform(9, 32), track)


def _place_people(scene: Scene, street: Street, place: Callable) -> None:
    left, right = street.edges[-1], street.edges[1]
    uniform, sizes = scene.uniform, scene.proportions
    for _ in range(int(scene.geometry("persons"))):
        if scene.chance(0.8):
            side, z = scene.sign(), uniform(*sizes.pavement_person_depth)
            x = street.edges[side] + side * uniform(0.3, 2.5)
        else:
            z, x = uniform(*sizes.road_person_depth), uniform(left, right)
        place(objects.person, z, x)
    for name, rider in (("bicycle", "cyclist"), ("motorcycle", "motorcyclist")):
        if scene.chance(rider):
            z, x = uniform(*sizes.rider_depth), uniform(left * 0.8, right)
            place(objects.two_wheeler, z, x, name, ridden=True)
    for name in ("bicycle", "motorcycle"):
        if scene.chance(f"parked_{name}"):
            side = scene.sign()
            x = street.edges[side] + side * uniform(-0.4, 1.8)
            z = uniform(*sizes.parked_cycle_depth)
            for k in range(scene.random.randint(1, 3)):
                at, depth = x + 0.3 * k, z + 0.7 * k
                place(objects.two_wheeler, depth, at, name, ridden=False)


def _bonnet(scene: Scene) -> None:
    """Paints the front of the camera's own car, which has the ignore label."""
    height, width = scene.canvas.camera.size
    top, colour = height * (1 - scene.uniform(0.06, 0.09)), scene.random.choice(BONNETS)
    corner, below = top + 0.05 * height, height + 2
    outline = [(-2, below), (-2, corner), (0.2 * width, top)]
    outline += [(0.8 * width, top), (width + 2, corner), (width + 2, below)]
    scene.canvas.polygon(outline, "ignore", colour, (0, 0, 0.6), Facing.FRONT)

"""Every kind of object paints its own classes, where it is put, and nothing else."""

import random

import numpy as np
import pytest

from lsr_jax.streets import canvas, looks, objects, scene, vehicles


def painted(paint, *arguments, seed, **options):
    """Class names found where an object was painted on an empty scene, and its mask."""
    drawing = scene.Scene(
        random.Random(seed),
        looks.look(looks.Knobs()),
        scene.PROPORTIONS["ordinary"],
        (128, 256),
    )
    # Bicycles show the first part through their spokes.
    drawing.canvas.ground(-50, 50, 1, 300, "road", (0.4, 0.4, 0.4))
    paint(drawing, *arguments, **options)
    names = {label: name for name, label in canvas.LABEL.items()}
    numbers = np.unique(drawing.canvas.part[drawing.canvas.part > 1])
    return {
        names[drawing.canvas.parts[number].label] for number in numbers
    }, drawing.canvas.part > 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("paint", "arguments", "classes"),
    [
        (objects.tree, (12, 3.0), {"vegetation"}),
        (objects.person, (8, -2.0), {"person"}),
        (vehicles.car, (12, 3.0), {"car"}),
        (vehicles.car, (12, 0.0), {"car"}),
        (vehicles.truck, (15, -3.0), {"truck"}),
        (vehicles.bus, (15, 3.0), {"bus"}),
        (vehicles.tram, (20, -3.0), {"train"}),
        (vehicles.crossing_car, (15, 1.0), {"car"}),
        (vehicles.crossing_truck, (20, -1.0), {"truck"}),
        (vehicles.crossing_bus, (25, 0.0), {"bus"}),
        (objects.building, (10, 25, 6.0, 1), {"building"}),
        (objects.hedge, (10, 25, -6.0, -1), {"vegetation"}),
    ],
)
def test_one_class_on_its_side_of_the_road(paint, arguments, classes, seed):
    names, mask = painted(paint, *arguments, seed=seed)
    assert names == classes
    columns = np.nonzero(mask)[1]
    x = arguments[2] if len(arguments) == 4 else arguments[1]
    if abs(x) >= 2:
        # The vanishing point lies within 38..62 % of the width.
        assert np.sign(columns.mean() - 128) == np.sign(x)


@pytest.mark.parametrize("name", ["bicycle", "motorcycle"])
@pytest.mark.parametrize("ridden", [False, True])
def test_two_wheelers_and_their_riders(name, ridden):
    for seed in range(6):
        names, _ = painted(objects.two_wheeler, 6, 1.0, name, ridden=ridden, seed=seed)
        assert names == ({name, "rider"} if ridden else {name})


def test_poles_carry_lights_signs_or_nothing():
    found = [painted(objects.pole, 9, 3.0, 1, seed=seed)[0] for seed in range(40)]
    assert all("pole" in names for names in found)
    kinds = {frozenset(names - {"pole"}) for names in found}
    assert {frozenset(), frozenset({"light"}), frozenset({"sign"})} <= kinds


@pytest.mark.parametrize("build", [objects.wall, objects.fence])
def test_walls_and_fences_may_have_bushes_behind_them(build):
    own = build.__name__
    found = [painted(build, 8, 20, 4.0, 1, seed=seed)[0] for seed in range(8)]
    assert {frozenset(names) for names in found} == {
        frozenset({own}),
        frozenset({own, "vegetation"}),
    }


def test_a_car_is_as_wide_as_its_metres_say():
    camera = canvas.Camera((128, 256), 1.5, 60.0, 200.0, 128.0, 0.0)
    light = canvas.Light(1.0, 1.0, 1.0)
    drawing = scene.Scene(
        random.Random(0),
        looks.look(looks.Knobs()),
        scene.PROPORTIONS["ordinary"],
        (128, 256),
    )
    drawing.canvas = canvas.Canvas(camera, light, sky=(0.5, 0.5, 0.5))
    vehicles.car(drawing, 10, 0.0)
    rows, columns = np.nonzero(drawing.canvas.part)
    # 1.75 m at 10 m and 200 pixels focal length; tyres touch the ground at 60 + 30.
    assert np.ptp(columns) + 1 == pytest.approx(35, abs=1.5)
    assert rows.max() == pytest.approx(90, abs=1)

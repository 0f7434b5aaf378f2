"""Layout: frequencies follow the tables, near objects hide far ones."""

import dataclasses
import random

import numpy as np
import pytest

from lsr_jax.streets import canvas, layout, looks, scene


def composed(seed, **changes):
    look = looks.look(looks.Knobs(1.0, 1.0, 1.0))
    look = dataclasses.replace(
        look,
        probability=look.probability | changes.get("probability", {}),
        geometry=look.geometry | changes.get("geometry", {}),
    )
    drawing = scene.Scene(
        random.Random(seed), look, scene.PROPORTIONS["enlarged"], (64, 128)
    )
    layout.compose(drawing)
    return drawing.canvas


def labels_of(painting):
    return {part.label for part in painting.parts}


@pytest.mark.parametrize(
    ("chance", "name"),
    [
        ("truck", "truck"),
        ("bus", "bus"),
        ("train", "train"),
        ("cyclist", "rider"),
        ("parked_motorcycle", "motorcycle"),
        ("bonnet", "ignore"),
        ("wall", "wall"),
        ("fence", "fence"),
    ],
)
def test_probabilities_decide_what_is_painted(chance, name):
    never = {
        **dict.fromkeys(("truck", "bus", "train", "cyclist", "motorcyclist"), 0.0),
        **dict.fromkeys(("parked_bicycle", "parked_motorcycle", "bonnet"), 0.0),
        **dict.fromkeys(("building", "hedge", "wall", "fence", "crossroad"), 0.0),
    }
    label = canvas.LABEL[name]
    for seed in range(3):
        assert label not in labels_of(composed(seed, probability=never))
        assert label in labels_of(composed(seed, probability=never | {chance: 1.0}))


def test_counts_follow_their_ranges():
    for count in (0, 5):
        geometry = dict.fromkeys(("cars", "persons", "poles"), (count, count))
        painting = composed(1, geometry=geometry)
        label = canvas.LABEL["person"]
        # Two legs, a trunk and a head each.
        assert [part.label for part in painting.parts].count(label) == 4 * count


def test_nearer_things_hide_farther_ones():
    for seed in range(5):
        painting = composed(seed)
        heads = {"car", "person", "pole", "sign", "light", "rider"}
        wanted = {canvas.LABEL[name] for name in heads}
        inverse_depths = [
            part.plane[2]
            for part in painting.parts
            if part.label in wanted and part.facing == canvas.Facing.FRONT
        ]
        assert len(inverse_depths) > 5
        assert (np.diff(inverse_depths) >= 0).all()


def test_ground_and_sky_fill_the_image():
    for seed in range(5):
        painting = composed(seed)
        labels = np.array([part.label for part in painting.parts])[painting.part]
        below = labels[int(0.6 * 64) :]
        assert not (below == canvas.LABEL["sky"]).any()
        assert (labels[0] != canvas.LABEL["road"]).all()

"""Shading: label by part, colours by the formulas, optics that can be neutral."""

import dataclasses
import random

import numpy as np
import pytest

from lsr_jax.streets import canvas, layout, looks, scene, shading

NEUTRAL = {
    **dict.fromkeys(("exposure", "contrast", "gamma", "saturation"), 1.0),
    **dict.fromkeys(("red", "green", "blue", "shadow"), 1.0),
    **dict.fromkeys(("haze", "blur", "noise", "vignette", "lift"), 0.0),
}
COLOUR = (0.8, 0.4, 0.2)


@pytest.fixture
def plain():
    """An empty scene without texture, haze and optics."""
    look = looks.look(looks.Knobs())
    look = dataclasses.replace(look, texture=np.zeros_like(look.texture))
    drawing = scene.Scene(
        random.Random(0), look, scene.PROPORTIONS["ordinary"], (48, 96)
    )
    drawing.tone |= NEUTRAL
    return drawing


def test_label_and_colour_come_from_the_part(plain):
    plain.canvas.ground(-50, 50, 1, 300, "road", COLOUR)
    plain.canvas.front(-1, 1, 0, 2, 6, "car", COLOUR, glows=True)
    plain.canvas.shadow(-50, 50, 1, 300)
    plain.tone["shadow"] = 0.5
    image, label = shading.shade(plain)
    names = ("sky", "road", "car")
    expected = np.array([canvas.LABEL[name] for name in names])[plain.canvas.part]
    np.testing.assert_array_equal(label, expected)
    full = np.array(COLOUR) * 255
    # Only ground lies in the shade.
    assert np.abs(image[label == canvas.LABEL["car"]] - full).max() <= 1
    assert np.abs(image[label == canvas.LABEL["road"]] - full / 2).max() <= 1


def test_haze_grows_with_distance(plain):
    plain.tone["haze"] = 0.01
    black = (0.0, 0.0, 0.0)
    plain.canvas.front(-50, 50, 0, 50, 100, "wall", black, glows=True)
    plain.canvas.front(-50, 0, 0, 50, 10, "wall", black, glows=True)
    image, label = shading.shade(plain)
    haze = np.array(plain.canvas.sky) * 0.5 + 0.42
    for part, z in ((1, 100), (2, 10)):
        expected = 255 * haze * (1 - np.exp(-0.01 * z))
        found = image[(plain.canvas.part == part) & (label == 3)]
        assert np.abs(found - expected).max() <= 1


def test_pattern_covers_its_share_of_the_part(plain):
    white, black = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
    windows = canvas.Pattern(pitch=(2.0, 3.0), fill=(0.5, 0.4), colour=white)
    plain.canvas.front(-4, 4, 0, 6, 5, "building", black, pattern=windows, glows=True)
    image, label = shading.shade(plain)
    facade = image[label == canvas.LABEL["building"]]
    assert set(np.unique(facade)) == {0, 255}
    # 0.5 * 0.4 of the facade; the image cuts it off, so not to the last pixel.
    assert 0.1 < (facade > 0).mean() < 0.3


def test_neutral_optics_only_round():
    image = np.random.default_rng(0).random((8, 16, 3), np.float32)
    photograph = shading._photograph(image.copy(), NEUTRAL, 0)
    np.testing.assert_array_equal(photograph, (image * 255 + 0.5).astype(np.uint8))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"saturation": 0.0}, [0.3 * 0.8 + 0.59 * 0.4 + 0.11 * 0.2] * 3),
        ({"exposure": 0.5}, [0.4, 0.2, 0.1]),
        ({"red": 0.5}, [0.4, 0.4, 0.2]),
        ({"contrast": 0.5, "lift": 0.1}, [0.75, 0.55, 0.45]),
        ({"gamma": 2.0}, [0.64, 0.16, 0.04]),
        ({"blur": 1.0}, [0.8, 0.4, 0.2]),
    ],
)
def test_optics_by_hand(change, expected):
    image = np.full((8, 16, 3), COLOUR, np.float32)
    photograph = shading._photograph(image, NEUTRAL | change, 0)
    assert np.abs(photograph - 255 * np.array(expected)).max() <= 1


def test_noise_tables_are_stable_and_texture_has_no_seams():
    tables = shading.noise()
    assert shading.noise() is tables
    for table in (tables.fine, tables.coarse):
        assert table.shape == (256, 256)
        assert np.abs(table).max() <= 1.5
        inside = np.abs(np.diff(table, axis=0)).mean()
        across = np.abs(table[0] - table[-1]).mean()
        assert across < 1.5 * inside


def test_drawing_does_not_change_the_tables():
    before = [table.copy() for table in shading.noise()]
    drawing = scene.Scene(
        random.Random(5),
        looks.look(looks.Knobs(1.25, 0.5, 1.0)),
        scene.PROPORTIONS["enlarged"],
        (32, 64),
    )
    layout.compose(drawing)
    shading.shade(drawing)
    for table, old in zip(shading.noise(), before, strict=True):
        np.testing.assert_array_equal(table, old)

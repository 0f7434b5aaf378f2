"""Interpolation of the looks: its ends are the tables, a knob changes its own."""

import dataclasses

import numpy as np
import pytest

from lsr_jax.data import label_spaces
from lsr_jax.streets import looks


@pytest.mark.parametrize("end", [0, 1])
def test_ends_of_the_line_are_the_tables(end):
    look = looks.look(looks.Knobs(float(end), float(end), float(end)))
    for name, modes in looks.PALETTE.items():
        colors = [tuple(bytes.fromhex(mode)) for mode in modes[end].split()]
        np.testing.assert_allclose(look.palette[name], np.array(colors) / 255)
    for name, amplitude in looks.TEXTURE.items():
        row = look.texture[label_spaces.TRAIN_ID[name]]
        np.testing.assert_allclose(row, amplitude[end], rtol=1e-6)
    for name, pair in (looks.APPEARANCE | looks.PHOTOMETRY).items():
        np.testing.assert_allclose(look.tone[name], pair[end])
    for name, pair in looks.GEOMETRY.items():
        np.testing.assert_allclose(look.geometry[name], pair[end])
    for name, pair in looks.PROBABILITY.items():
        assert look.probability[name] == pytest.approx(pair[end])


@pytest.mark.parametrize(
    ("knob", "moved"),
    [
        ("appearance", {"palette", "texture", *looks.APPEARANCE}),
        ("photometry", {*looks.PHOTOMETRY}),
        ("geometry", {"geometry", "probability"}),
    ],
)
def test_each_knob_moves_its_own_tables(knob, moved):
    def flat(look):
        fields = {f.name: getattr(look, f.name) for f in dataclasses.fields(look)}
        fields |= fields.pop("tone")
        return fields | {"texture": look.texture.tolist()}

    start, end = (
        flat(looks.look(looks.Knobs())),
        flat(looks.look(looks.Knobs(**{knob: 1}))),
    )
    assert {name for name in start if start[name] != end[name]} == moved


def test_beyond_the_camera_look_values_stay_possible():
    look = looks.look(looks.Knobs(1.25, 2.0, 2.0))
    # Noise goes on along its line, 0.008 -> 0.022 -> 0.036; a probability stops at 1.
    assert look.tone["noise"][1] == pytest.approx(0.036)
    assert look.probability["bonnet"] == 1
    assert look.probability["wall"] == pytest.approx(0.02)
    assert (look.texture >= 0).all()
    assert (look.texture[label_spaces.IGNORE] == 0).all()


def test_tables_name_every_class():
    assert tuple(looks.PALETTE) == label_spaces.NAMES
    assert tuple(looks.TEXTURE) == label_spaces.NAMES
    for rendered, camera in looks.PALETTE.values():
        assert len(rendered.split()) == len(camera.split())

"""Presets: all can be drawn, wrong ones are named in one line."""

import dataclasses

import pytest

from lsr_jax import errors, streets


@pytest.mark.parametrize("preset", streets.PRESETS.values(), ids=lambda p: p.name)
def test_every_preset_draws(preset):
    for split in streets.SPLITS:
        domain, part = split.split("_")
        image, label = streets.draw(0, domain=domain, split=part, preset=preset)
        assert image.shape[:2] == label.shape == preset.size
    assert streets.PRESETS[preset.name] is preset


def test_the_default_preset_is_regime_f():
    preset = streets.PRESETS["streets"]
    assert preset.size == (96, 192)
    assert preset.knobs == streets.Knobs(1.25, 0.5, 1.0)
    assert preset.counts == streets.Counts(
        rendered_train=3000,
        rendered_val=300,
        camera_train=2000,
        camera_val=300,
        camera_test=300,
    )


def test_the_photometric_preset_shifts_photometry_alone():
    assert streets.PRESETS["photometric"].knobs == streets.Knobs(photometry=1.0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"size": (16, 64)}, "size"),
        ({"size": (64, 64, 3)}, "size"),
        ({"proportions": "huge"}, "ordinary or enlarged, found huge"),
        ({"counts": streets.Counts(1, 1, 1, 1, 0)}, "at least one image a split"),
        ({"knobs": streets.Knobs(geometry=-1.0)}, "knobs.geometry"),
        ({"knobs": streets.Knobs(appearance=float("nan"))}, "knobs.appearance"),
    ],
)
def test_wrong_values_are_named_in_one_line(change, named):
    with pytest.raises(errors.InputError, match=named) as caught:
        dataclasses.replace(streets.PRESETS["tiny"], **change)
    assert "\n" not in str(caught.value)

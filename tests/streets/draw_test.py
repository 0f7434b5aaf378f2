"""`draw`: properties of every image."""

import dataclasses
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from lsr_jax import streets
from lsr_jax.data import label_spaces, prepared

TINY = streets.PRESETS["tiny"]


def drawn(domain, count, split="train", preset=TINY):
    draw = streets.draw
    return [
        draw(index, domain=domain, split=split, preset=preset) for index in range(count)
    ]


def test_another_process_draws_the_same_without_jax_or_tfds():
    script = """
import json, sys
from lsr_jax import streets
from lsr_jax.data import prepared
tiny = streets.PRESETS["tiny"]
drawn = [streets.draw(i, domain=d, split="val", preset=tiny)
         for d in streets.DOMAINS for i in (0, 7)]
heavy = {"jax", "tensorflow", "tensorflow_datasets", "grain"} & set(sys.modules)
print(json.dumps([[prepared.digest(*pair) for pair in drawn], sorted(heavy)]))
"""
    output = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    here = [
        prepared.digest(*streets.draw(index, domain=domain, split="val", preset=TINY))
        for domain, index in itertools.product(streets.DOMAINS, (0, 7))
    ]
    assert json.loads(output) == [here, []]


def test_no_image_is_drawn_twice():
    seeds = TINY, dataclasses.replace(TINY, seed=1)
    # Without a shift, nothing but the random numbers tells the domains apart.
    unshifted = [dataclasses.replace(p, knobs=streets.Knobs()) for p in seeds]
    digests = [
        prepared.digest(*pair)
        for preset, domain, part in itertools.product(
            unshifted, streets.DOMAINS, streets.PARTS
        )
        for pair in drawn(domain, 2, part, preset)
    ]
    assert len(digests) == 24
    assert len(set(digests)) == 24


@pytest.mark.parametrize("domain", streets.DOMAINS)
def test_images_show_all_classes_and_only_those(domain):
    pairs = drawn(domain, 40)
    for image, label in pairs:
        assert (image.shape, image.dtype) == ((64, 128, 3), np.uint8)
        assert (label.shape, label.dtype) == ((64, 128), np.uint8)
        assert image.std() > 5
    found = {int(value) for _, label in pairs for value in np.unique(label)}
    bonnet = {label_spaces.IGNORE} if domain == "camera" else set()
    assert found == set(range(19)) | bonnet


def test_bonnet_is_at_the_bottom_of_every_camera_image_and_of_no_other():
    for _, label in drawn("camera", 5):
        rows, _ = np.nonzero(label == label_spaces.IGNORE)
        assert rows.min() > 0.85 * 64
        assert (label[-1] == label_spaces.IGNORE).all()
    unshifted = dataclasses.replace(TINY, knobs=streets.Knobs())
    for _, label in drawn("rendered", 5) + drawn("camera", 5, preset=unshifted):
        assert not (label == label_spaces.IGNORE).any()


def test_knobs_move_the_camera_domain_alone():
    unshifted = dataclasses.replace(TINY, knobs=streets.Knobs())
    for domain, same in (("rendered", True), ("camera", False)):
        shifted, other = drawn(domain, 1)[0], drawn(domain, 1, preset=unshifted)[0]
        assert np.array_equal(shifted[0], other[0]) == same


def test_camera_images_are_less_saturated():
    def saturation(domain):
        images = np.stack([image for image, _ in drawn(domain, 12)]).astype(float)
        return (images.max(-1) - images.min(-1)).mean()

    assert saturation("camera") < 0.7 * saturation("rendered")


def test_size_changes_the_resolution_and_not_the_scene():
    options = {"domain": "camera", "split": "val", "preset": TINY}
    _, label = streets.draw(3, **options)
    image, double = streets.draw(3, **options, size=(128, 256))
    assert image.shape == (128, 256, 3)
    assert (double[1::2, 1::2] == label).mean() > 0.9


def test_enlarged_objects_are_larger():
    ordinary = dataclasses.replace(TINY, proportions="ordinary")
    small = [label_spaces.TRAIN_ID[name] for name in ("pole", "light", "sign")]
    share = [
        np.mean(
            [np.isin(label, small).mean() for _, label in drawn("camera", 20, preset=p)]
        )
        for p in (TINY, ordinary)
    ]
    assert share[0] > 2 * share[1]


@pytest.mark.parametrize(
    "wrong", [{"domain": "real"}, {"split": "camera_val"}, {"index": -1}]
)
def test_unknown_domain_split_or_index_is_an_error(wrong):
    arguments = {"index": 0, "domain": "camera", "split": "val", **wrong}
    with pytest.raises(ValueError, match="no image"):
        streets.draw(arguments.pop("index"), **arguments)

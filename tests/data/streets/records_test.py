"""Records: the folder name tells data apart, encoding loses nothing."""

import dataclasses

import cv2
import numpy as np
import pytest

from lsr_jax.data import streets
from lsr_jax.data.streets import records

PRESET = streets.PRESETS["tiny"]


def test_a_record_holds_the_drawn_pixels():
    record = records.render(PRESET, "rendered_val", 3)
    image, label = streets.draw(3, domain="rendered", split="val", preset=PRESET)
    assert record.id == "rendered-val-000003"
    assert record.sha256 == records.digest(image, label)
    assert record.pixels.sum() == label.size
    stored = (
        np.frombuffer(record.image, np.uint8),
        np.frombuffer(record.label, np.uint8),
    )
    np.testing.assert_array_equal(cv2.imdecode(stored[0], cv2.IMREAD_COLOR_RGB), image)
    np.testing.assert_array_equal(cv2.imdecode(stored[1], cv2.IMREAD_UNCHANGED), label)


def test_digest_sees_every_pixel():
    image, label = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)
    other_image, other_label = image.copy(), label.copy()
    other_image[3, 5, 2] = other_label[0, 0] = 1
    pairs = (image, label), (other_image, label), (image, other_label)
    assert len({records.digest(*pair) for pair in pairs}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"size": (32, 96)},
        {"seed": 1},
        {"proportions": "ordinary"},
        {"counts": PRESET.counts._replace(camera_test=2)},
        {"knobs": dataclasses.replace(PRESET.knobs, photometry=0.25)},
    ],
)
def test_whatever_changes_the_data_changes_their_folder(change):
    changed = dataclasses.replace(PRESET, **change)
    assert records.config_name(changed) != records.config_name(PRESET)


def test_changed_drawing_code_changes_the_folder(monkeypatch):
    before = records.config_name(PRESET)
    assert before == records.config_name(PRESET)
    assert before.startswith("tiny-64x128-")
    monkeypatch.setattr(records, "generator_version", lambda: "another")
    assert records.config_name(PRESET) != before

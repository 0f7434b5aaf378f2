"""What is written for TensorBoard, read back."""

import eventfiles
import numpy as np
from tensorboardX.proto import event_pb2

from lsr_jax.training.events import BINS, Events


def test_a_histogram_is_that_of_numpy(tmp_path):
    values = np.random.default_rng(0).normal(3.0, 2.0, (9, 19))
    with Events(tmp_path, first=5) as events:
        events.histogram(5, "norms", values)
        events.histogram(6, "norms", np.float32([2.0]))
    (step, tag, many), (_, _, one) = eventfiles.shown(tmp_path)
    assert (step, tag) == (5, "norms")
    found = many.histo
    assert (found.min, found.max) == (values.min(), values.max())
    np.testing.assert_allclose(
        [found.num, found.sum, found.sum_squares],
        [values.size, values.sum(), (values**2).sum()],
    )
    counts, edges = np.histogram(values, bins=BINS)
    # The first bucket is empty: its limit is the left edge of the second.
    np.testing.assert_array_equal(found.bucket, [0, *counts])
    np.testing.assert_allclose(found.bucket_limit, edges)
    assert (one.histo.min, one.histo.max, sum(one.histo.bucket)) == (2, 2, 1)


def test_an_image_keeps_its_pixels_and_its_description(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    with Events(tmp_path, first=1) as events:
        events.image(1, "target", pixels, "street_1.png")
    ((_, _, value),) = eventfiles.shown(tmp_path)
    found, size = eventfiles.pixels(value)
    np.testing.assert_array_equal(found, pixels)
    assert size == (5, 7, 3)
    assert value.metadata.summary_description == "street_1.png"


def test_everything_is_on_disk_at_once(tmp_path):
    with Events(tmp_path, first=3) as events:
        events.scalars(3, {"a": 1.5, "b": float("inf")})
        begin, *rest = eventfiles.read(tmp_path)
    assert begin.step == 3
    assert begin.session_log.status == event_pb2.SessionLog.START
    found = [(e.step, e.summary.value[0].simple_value) for e in rest]
    assert found == [(3, 1.5), (3, float("inf"))]

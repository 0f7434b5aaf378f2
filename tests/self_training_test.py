import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import self_training


def slow_thresholds(labels, confidence, num_classes, portion, cap):
    out = []
    for c in range(num_classes):
        own = np.sort(confidence[labels == c])
        rank = min(int(np.round(portion * len(own))), len(own) - 1)
        out.append(min(own[rank], cap) if len(own) else 0.0)
    return np.array(out)


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 1, 1, 3, 255], (3, 7, 9)).astype(np.int32)
    labels[0, 0, 0] = 4  # a class of a single pixel
    confidence = rng.uniform(0.2, 1, labels.shape).astype(np.float32)
    confidence[labels == 3] = 0.95
    return labels, confidence


@pytest.mark.parametrize(("portion", "cap"), [(0.5, 0.9), (0.8, 2.0), (1.0, 2.0)])
def test_thresholds_against_loops(pixels, portion, cap):
    labels, confidence = pixels
    expected = slow_thresholds(labels, confidence, 6, portion, cap)
    options = {"portion": portion, "cap": cap}
    exact = functools.partial(self_training.class_thresholds, num_classes=6, **options)
    np.testing.assert_array_equal(exact(labels, confidence), np.float32(expected))
    np.testing.assert_array_equal(
        jax.jit(exact)(labels, confidence), np.float32(expected)
    )
    # Image by image, as over a data set.
    count = jax.jit(
        functools.partial(self_training.confidence_histogram, num_classes=6)
    )
    histogram = sum(
        np.asarray(count(*image), np.int64)
        for image in zip(labels, confidence, strict=True)
    )
    assert histogram.sum() == (labels != 255).sum()
    counted = self_training.histogram_thresholds(histogram, **options)
    gap = expected - counted
    assert (gap >= 0).all()
    assert (gap < 1 / 4096).all()


def test_by_hand():
    labels = jnp.array([0, 0, 0, 1, 1, 255])
    confidence = jnp.array([0.5, 0.7, 0.6, 0.99, 0.98, 0.1])
    ours = self_training.class_thresholds(labels, confidence, num_classes=3)
    # Ranks round(1.5) = 2 and round(1) = 1.
    np.testing.assert_allclose(ours, [0.7, 0.9, 0])
    histogram = self_training.confidence_histogram(
        labels, confidence, num_classes=3, bins=10
    )
    assert histogram[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert histogram[1].tolist() == [0] * 9 + [2]
    assert not histogram[2].any()
    full = self_training.confidence_histogram(
        jnp.array([2]), jnp.array([1.0]), num_classes=3, bins=10
    )
    assert full[2, 9] == 1

    p = jnp.array([[[[0.7, 0.2, 0.1], [0.6, 0.4, 0], [0.1, 0.9, 0], [0.3, 0.3, 0.4]]]])
    labels = self_training.class_thresholded(p, ours)
    assert labels.tolist() == [[[0, 255, 1, 2]]]


def test_no_pixel_at_all():
    void = np.full((1, 2, 2), 255, np.int32)
    confidence = np.ones((1, 2, 2), np.float32)
    ours = self_training.class_thresholds(void, confidence, num_classes=3)
    assert not ours.any()
    histogram = self_training.confidence_histogram(void, confidence, num_classes=3)
    assert not self_training.histogram_thresholds(np.asarray(histogram)).any()

"""Norms and angles by hand."""

import numpy as np

from lsr_jax.ops import numerics


def test_norms_and_angles_by_hand():
    vectors = np.array([[2, 0], [2, 2], [0, 3], [-1, 0]], np.float32)
    np.testing.assert_allclose(numerics.norms(vectors), [2, 8**0.5, 3, 1])
    nan = np.nan
    expected = [
        [nan, 45, 90, 180],
        [45, nan, 45, 135],
        [90, 45, nan, 90],
        [180, 135, 90, nan],
    ]
    np.testing.assert_allclose(numerics.angles(vectors), expected, atol=1e-6)


def test_a_zero_vector_has_no_direction():
    vectors = np.array([[0, 0], [3, 4]])
    found = numerics.unit_rows(vectors)
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], [0.6, 0.8])
    assert np.isnan(numerics.angles(vectors)).all()

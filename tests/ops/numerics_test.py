"""Norms, angles and scaled gradients by hand."""

import jax
import jax.numpy as jnp
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


def test_scaled_gradient_keeps_every_bit():
    tree = {"a": jnp.array([0.1, -3e38, 1e-30]), "b": jnp.float32(7)}
    found = jax.jit(numerics.scaled_gradient, static_argnums=1)(tree, -1.0)
    jax.tree.map(np.testing.assert_array_equal, found, tree)
    gradient = jax.grad(lambda t: (numerics.scaled_gradient(t, 2.0)["a"] * 3).sum())(
        tree
    )
    np.testing.assert_array_equal(gradient["a"], [6, 6, 6])

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import losses


def slow_sliced(first, second, directions):
    if directions is not None:
        units = directions / np.linalg.norm(directions, axis=0)
        first, second = first @ units, second @ units
    gaps = [
        (a - b) ** 2
        for m in range(first.shape[1])
        for a, b in zip(sorted(first[:, m]), sorted(second[:, m]), strict=True)
    ]
    return np.mean(gaps)


def sliced(first, second, directions):
    return losses.sliced_wasserstein(first, second, directions)


SLICED = jax.jit(jax.value_and_grad(sliced, argnums=(0, 1)))


def heads(*shape):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, *shape)).astype(np.float32)
    return np.asarray(jax.nn.softmax(logits))


def local(first, second, detached, active=True):
    weights = losses.local_weights(
        first, second, epsilon=0.4, strength=40, detached=detached, active=active
    )
    return weights.mean(), weights


def test_local_weights_against_loops():
    first, second = heads(2, 3, 4, 5)
    expected = np.zeros((2, 3, 4))
    for place in np.ndindex(2, 3, 4):
        p, q = first[place].astype(np.float64), second[place].astype(np.float64)
        cosine = p @ q / np.linalg.norm(p) / np.linalg.norm(q)
        expected[place] = 0.4 + 40 * (1 - cosine)
    compiled = jax.jit(local, static_argnums=2)
    for detached in (False, True):
        for weights in (local, compiled):
            ours = weights(first, second, detached)[1]
            np.testing.assert_allclose(ours, expected, rtol=1e-4)
        gradients = jax.grad(local, (0, 1), has_aux=True)(first, second, detached)[0]
        for gradient in gradients:
            assert np.isfinite(gradient).all()
            assert gradient.any() != detached
    assert (local(first, second, False, active=False)[1] == 1).all()


def test_cosine_discrepancy_by_hand():
    first = jnp.array([[[[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]]]])
    second = jnp.array([[[[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]]])
    ours = losses.cosine_discrepancy(first, second)
    np.testing.assert_allclose(ours, [[[1, 0, 1]]], atol=1e-6)
    gradient = jax.grad(lambda p: losses.cosine_discrepancy(p, second).sum())(first)
    np.testing.assert_allclose(gradient[0, 0, :2], [[0, -1], [0, 0]], atol=1e-6)
    assert np.isfinite(gradient).all()


def test_weight_discrepancy_by_hand():
    first = {"kernel": jnp.array([[3.0, 0.0]]), "bias": jnp.array([4.0])}
    second = {"kernel": jnp.array([[4.0, 0.0]]), "bias": jnp.array([3.0])}
    loss = jax.jit(jax.value_and_grad(losses.weight_discrepancy))
    np.testing.assert_allclose(loss(first, second)[0], 24 / 25 + 1)
    np.testing.assert_allclose(loss(first, first)[0], 2)
    np.testing.assert_allclose(losses.weight_discrepancy(first, first), 2)
    nothing = jax.tree.map(jnp.zeros_like, first)
    for one, other in ((first, nothing), (nothing, first), (nothing, nothing)):
        value, gradient = loss(one, other)
        assert value == 1
        assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
    with pytest.raises(ValueError, match=r"[Mm]ismatch|keys"):
        losses.weight_discrepancy(first, {"kernel": first["kernel"]})


@pytest.mark.parametrize("projected", [True, False])
def test_sliced_wasserstein_against_loops(projected):
    first, second = (p.reshape(-1, 5) for p in heads(2, 3, 4, 5))
    directions = None
    if projected:
        directions = losses.random_directions(jax.random.key(0), 5, count=7)
        assert directions.shape == (5, 7)
    value, (gradient, other) = SLICED(first, second, directions)
    theta = None if directions is None else np.asarray(directions, np.float64)
    wide = first.astype(np.float64), second.astype(np.float64)
    np.testing.assert_allclose(value, slow_sliced(*wide, theta), rtol=1e-5)
    np.testing.assert_allclose(sliced(first, second, directions), value, rtol=1e-6)
    differences = np.zeros_like(wide[0])
    for place in np.ndindex(3, 5):  # the first samples are enough
        step = np.zeros_like(wide[0])
        step[place] = 1e-6
        up, down = (slow_sliced(wide[0] + s, wide[1], theta) for s in (step, -step))
        differences[place] = (up - down) / 2e-6
    np.testing.assert_allclose(gradient[:3], differences[:3], rtol=0, atol=1e-6)
    # Paired by rank: a permutation of the samples changes nothing, same shapes do.
    again, _ = SLICED(first[::-1], second, directions)
    np.testing.assert_allclose(again, value, rtol=1e-5)
    same, gradients = SLICED(first, first[::-1], directions)
    np.testing.assert_allclose(same, 0, atol=1e-12)
    assert np.isfinite(jnp.stack([gradient, other, *gradients])).all()


def test_discrepancies_by_hand():
    first = jnp.array([[[[0.0, 1.0], [1.0, 0.0]]]])
    second = jnp.array([[[[1.0, 0.0], [1.0, 0.0]]]])
    # Along (1, 0) the samples are {0, 1} and {1, 1}; the length does not matter.
    directions = jnp.array([[3.0], [0.0]])
    np.testing.assert_allclose(
        losses.sliced_wasserstein(first, second, directions), 1 / 2
    )
    np.testing.assert_allclose(losses.sliced_wasserstein(first, second), 1 / 2)
    np.testing.assert_allclose(losses.absolute_discrepancy(first, second), 1 / 2)
    assert not jax.grad(losses.absolute_discrepancy)(first, first).any()
    value, gradients = SLICED(first, second, jnp.zeros((2, 1)))
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)
    with pytest.raises(ValueError, match="differ"):
        losses.sliced_wasserstein(first, second[:, :, :1])

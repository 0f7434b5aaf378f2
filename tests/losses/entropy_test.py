import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import losses

C = 19


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def slow_weights(labels, counted, num_classes, ratio):
    out = np.zeros(labels.shape)
    for place in np.ndindex(labels.shape):
        counts = [(counted[place[0]] == c).sum() for c in range(num_classes)]
        if labels[place] < num_classes:
            n = counts[labels[place]]
            out[place] = 1 / max(n**ratio * sum(counts) ** (1 - ratio), 1)
    return out


@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
def test_image_weights_against_loops(ratio):
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 3, 255], (2, 4, 5)).astype(np.int32)
    counted = rng.choice([0, 2, 3, 255], (2, 4, 5)).astype(np.int32)
    labels[1] = np.where(labels[1] == 3, 0, labels[1])
    weights = jax.jit(
        functools.partial(losses.image_weights, num_classes=4, ratio=ratio)
    )
    np.testing.assert_allclose(
        weights(labels), slow_weights(labels, labels, 4, ratio), rtol=1e-6
    )
    np.testing.assert_allclose(
        weights(labels, counted=counted),
        slow_weights(labels, counted, 4, ratio),
        rtol=1e-6,
    )


def test_by_hand():
    p = jnp.array([[[[0.5, 0.5], [1.0, 0.0]]]])
    np.testing.assert_allclose(losses.max_squares(p), -(0.5 + 1) / 8)
    np.testing.assert_allclose(losses.entropy(p), np.log(2) / 4, rtol=1e-6)
    weights = jnp.array([[[2.0, 0.5]]])
    np.testing.assert_allclose(losses.max_squares(p, weights), -(2 * 0.5 + 0.5) / 2)
    np.testing.assert_allclose(losses.entropy(p, weights), np.log(2), rtol=1e-6)
    first = jnp.array([[[True, False]]])
    np.testing.assert_allclose(losses.max_squares(p, where=first), -0.5 / 4)
    np.testing.assert_allclose(losses.entropy(p, weights, where=first), np.log(2))


def test_the_papers_divisor_by_hand():
    p = jnp.array([[[[0.5, 0.5], [1.0, 0.0]]]])
    weights = jnp.array([[[2.0, 0.5]]])
    first = jnp.array([[[True, False]]])
    squares, entropy = (
        functools.partial(loss, divisor="pixels")
        for loss in (losses.max_squares, losses.entropy)
    )
    np.testing.assert_allclose(squares(p), -(0.5 + 1) / 4)
    np.testing.assert_allclose(entropy(p), np.log(2) / 2, rtol=1e-6)
    np.testing.assert_allclose(squares(p, weights), -(2 * 0.5 + 0.5))
    np.testing.assert_allclose(entropy(p, weights), 2 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(squares(p, where=first), -0.5 / 2)
    np.testing.assert_allclose(entropy(p, weights, where=first), 2 * np.log(2))
    for loss in (losses.max_squares, losses.entropy):
        with pytest.raises(ValueError, match="divisor must be"):
            loss(p, divisor="classes")


def slow_term(kind, p, weights, where, divisor):
    """``L_T`` pixel by pixel and class by class."""
    total = 0.0
    for place in np.ndindex(where.shape):
        for q in p[place]:
            value = -(q**2) if kind == "max_squares" else -q * np.log(q)
            scale = weights[place] if weights is not None else 1 / where.sum()
            halved = kind == "max_squares" and weights is None
            total += where[place] * scale * value / (2 if halved else 1)
    if weights is not None:
        total /= len(p)
    return total / (p.shape[-1] if divisor == "pixels_and_classes" else 1)


@pytest.mark.parametrize("divisor", ["pixels_and_classes", "pixels"])
@pytest.mark.parametrize("kind", ["max_squares", "entropy"])
def test_terms_against_loops(kind, divisor):
    p = np.asarray(jax.nn.softmax(normal(2, 3, 4, 5)))
    where = normal(2, 3, 4) > -0.5
    labels = np.where(where, p.argmax(-1), 255)
    omega = np.asarray(losses.image_weights(labels, num_classes=5, ratio=0.2))
    loss = functools.partial(getattr(losses, kind), divisor=divisor)
    for weights in (None, omega):
        expected = slow_term(kind, p, weights, where, divisor)
        for found in (loss, jax.jit(loss)):
            np.testing.assert_allclose(
                found(p, weights, where=where), expected, rtol=1e-5
            )


@pytest.mark.parametrize("divisor", ["pixels_and_classes", "pixels"])
def test_ratio_zero_is_twice_max_squares(divisor):
    logits = normal(3, 4, 5, C)
    loss = functools.partial(losses.max_squares, divisor=divisor)
    weights = losses.image_weights(logits.argmax(-1), num_classes=C, ratio=0.0)
    p = jax.nn.softmax(logits)
    np.testing.assert_allclose(loss(p, weights), 2 * loss(p), rtol=1e-6)


@pytest.mark.parametrize("divisor", ["pixels_and_classes", "pixels"])
@pytest.mark.parametrize("scale", [1.0, 400.0])
def test_nothing_valid_and_saturated_predictions_stay_finite(scale, divisor):
    logits = np.float32(scale) * normal(1, 3, 4, 5)
    none = jnp.zeros((1, 3, 4), bool)
    void = losses.image_weights(
        jnp.full((1, 3, 4), 255, jnp.int32), num_classes=5, ratio=0.2
    )
    assert not void.any()

    def terms(logits, weights, where):
        p = jax.nn.softmax(logits)
        return (
            losses.max_squares(p, weights, where=where, divisor=divisor)
            + losses.entropy(p, weights, where=where, divisor=divisor)
            + losses.soft_cross_entropy(logits, p, weights, where=where)
        )

    step = jax.jit(jax.value_and_grad(terms))
    for weights, where in ((None, none), (void, None)):
        value, gradient = step(logits, weights, where)
        assert value == 0
        assert not gradient.any()
    value, gradient = step(logits, None, None)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_entropy_equals_soft_cross_entropy_with_itself():
    logits = 5 * normal(2, 3, 4, 5)

    def entropy(logits):
        return losses.entropy(jax.nn.softmax(logits))

    def itself(logits):
        return losses.soft_cross_entropy(logits, jax.nn.softmax(logits))

    ours, theirs = (
        jax.jit(jax.value_and_grad(loss))(logits) for loss in (entropy, itself)
    )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-7)

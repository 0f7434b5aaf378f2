import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held import compiled, holds, widen

from lsr_jax import losses


def entropy(logits):
    return losses.normalised_entropy(jax.nn.softmax(logits))


def pulled(logits, cotangent):
    return (cotangent * losses.self_information(jax.nn.softmax(logits))).sum()


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


def test_against_loops(logits):
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    expected = np.zeros_like(p)
    for place in np.ndindex(p.shape):
        expected[place] = -p[place] * np.log2(p[place]) / np.log2(5)
    for maps in (losses.self_information, jax.jit(losses.self_information)):
        np.testing.assert_allclose(maps(p.astype(np.float32)), expected, rtol=1e-5)
    ours = compiled(entropy)[0]({"logits": logits}, {})
    np.testing.assert_allclose(ours, expected.sum() / (2 * 3 * 4), rtol=1e-6)
    plain = losses.entropy(p.astype(np.float32))
    np.testing.assert_allclose(ours, plain * 5 / np.log(5), rtol=1e-6)


def test_by_hand():
    p = jnp.array([[[[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]]])
    maps = losses.self_information(p)
    np.testing.assert_allclose(maps[0, 0, 0], [0.25, 0.25, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(maps[0, 0, 1], 0.25, rtol=1e-6)
    np.testing.assert_allclose(losses.normalised_entropy(p), 0.75, rtol=1e-6)
    half = losses.self_information(p.astype(jnp.bfloat16))
    np.testing.assert_array_equal(half, maps)


@pytest.mark.parametrize("scale", [0.0, 400.0])
def test_saturated_and_uniform_predictions_stay_finite(logits, scale):
    inputs = {"logits": np.float32(scale) * logits}
    for loss, fixed in ((entropy, {}), (pulled, {"cotangent": logits})):
        value, gradient = compiled(loss)[1](inputs, fixed)
        assert np.isfinite(value)
        assert np.isfinite(gradient["logits"]).all()
    expected = 1 if scale == 0 else 0
    np.testing.assert_allclose(compiled(entropy)[0](inputs, {}), expected, atol=0.05)


@pytest.mark.golden("advent", "logits", "entropy_loss__.*", "prob_2_entropy__.*")
def test_golden_entropy(golden):
    logits = golden["logits"]
    holds(golden, "entropy_loss__", entropy, {"logits": (logits, "grad_logits")})
    maps = losses.self_information(jax.nn.softmax(logits))
    # The recorded map is float32 near 0 too: 1e-6 of its largest possible value.
    golden.holds("prob_2_entropy__out", maps, 1e-6, scale=("1", np.float64(1)))
    cotangent = golden["prob_2_entropy__cotangent"]
    gradient = compiled(pulled)[1]({"logits": logits}, {"cotangent": cotangent})[1]
    golden.holds_gradient("prob_2_entropy__vjp_logits", gradient["logits"])
    with jax.enable_x64(True):
        wide = losses.self_information(jax.nn.softmax(widen(jnp.asarray(logits))))
    np.testing.assert_allclose(maps, wide, rtol=0, atol=1e-6)

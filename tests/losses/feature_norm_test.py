import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held import compiled, holds

from lsr_jax import losses


def step(features, previous=None, delta=0.12):
    return losses.stepwise_norm(features, previous, delta=delta)


def test_by_hand():
    features = jnp.array([[[[3.0, 4.0], [0.0, 0.0]]]])
    value, gradient = jax.value_and_grad(step)(features, delta=0.1)
    np.testing.assert_allclose(value, 0.01, rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 0, 0], [-0.06, -0.08], rtol=1e-6)
    assert not gradient[0, 0, 1].any()
    previous = jnp.array([[[[0.0, 5.5], [1.0, 0.0]]]])
    value, gradient = jax.value_and_grad(step)(features, previous, delta=0.5)
    np.testing.assert_allclose(value, (1 + 1.5**2) / 2)
    np.testing.assert_allclose(gradient[0, 0, 0], [-0.6, -0.8], rtol=1e-6)
    assert not jax.grad(step, argnums=1)(features, previous, delta=0.5).any()


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_released_is_the_mean_norm_with_a_constant_pull(scale):
    rng = np.random.default_rng(0)
    features = np.float32(scale) * rng.uniform(size=(2, 3, 4, 6)).astype(np.float32)
    value, gradient = jax.jit(jax.value_and_grad(step))(features)
    np.testing.assert_allclose(value, 0.0144, rtol=1e-6)
    expected = -2 * 0.12 * jax.grad(losses.mean_norm)(features)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.golden("f2a", "feats.*", "code__.*")
def test_golden_released(golden):
    for case, key in (("plain", "feats"), ("zero", "feats_zero")):
        holds(golden, f"code__{case}__", step, {"features": (golden[key], "grad")})


@pytest.mark.golden("f2a", "feats_zero", "paper_.*")
def test_golden_paper(golden):
    features, previous = golden["feats_zero"], golden["paper_feats_prev"]
    for stem, delta in (("paper_dr0p12", 0.12), ("paper_dr1p0", 1.0)):
        fixed = {"previous": previous, "delta": delta}
        value, gradient = compiled(step)[1]({"features": features}, fixed)
        golden.holds(f"{stem}__value", value, 1e-6)
        golden.holds_gradient(f"{stem}__grad", gradient["features"])
        with jax.enable_x64(True):
            wide = {"features": jnp.asarray(features, jnp.float64)}
            fixed["previous"] = jnp.asarray(previous, jnp.float64)
            golden.holds(f"{stem}__value", compiled(step)[0](wide, fixed), 1e-12)


def test_damping_by_hand():
    damping = functools.partial(losses.damping, decay_steps=100)
    np.testing.assert_allclose(damping(jnp.int32(0)), 1)
    np.testing.assert_allclose(damping(25), 0.75)
    np.testing.assert_allclose(jax.jit(damping)(jnp.int32(100)), 0, atol=1e-7)
    np.testing.assert_allclose(damping(80, rate=1.5), -0.2, rtol=1e-6)


@pytest.mark.golden("f2a", "schedule__.*")
def test_golden_damping_of_the_norm_loss(golden):
    with jax.enable_x64(True):
        steps = jnp.asarray(golden["schedule__iters"])
        ours = 0.00015 * losses.damping(steps, decay_steps=150_000, rate=1.5)
        golden.holds("schedule__norm_weight", ours, 1e-12)

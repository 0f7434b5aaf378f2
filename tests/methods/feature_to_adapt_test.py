import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lsr_jax import losses
from lsr_jax.methods import clan, feature_to_adapt
from lsr_jax.ops import diagnostics

DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(feature_to_adapt.make).parameters.items()
}


def test_clan_and_norm(key):
    keywords = {
        name: DEFAULTS[name] for name in inspect.signature(clan.make).parameters
    }
    alone = clan.make(**keywords)
    method = feature_to_adapt.make(norm=0.5)
    params, state, batch, ctx = toy.problem(method, key, step=50_000)
    total, aux = method.loss(params, state, batch, ctx)
    base, base_aux = alone.loss(params, state, batch, ctx)
    np.testing.assert_allclose(total - base, 2 * 0.5 * 0.5 * 0.0144, rtol=1e-3)
    found = dict(aux.metrics)
    for domain in ("source", "target"):
        np.testing.assert_allclose(found.pop(f"norm_{domain}"), 0.0144, rtol=1e-5)
        assert found.pop(f"mean_norm_{domain}") > 0
    np.testing.assert_equal(found, dict(base_aux.metrics))


def test_norm_only_has_no_adversary(key):
    method = feature_to_adapt.make(**feature_to_adapt.PRESETS["norm_only"])
    params, state, batch, ctx = toy.problem(method, key)
    assert params.keys() == {"model"}
    _, aux = method.loss(params, state, batch, ctx)
    norms = {f"{n}_{d}" for n in ("norm", "mean_norm") for d in ("source", "target")}
    assert aux.metrics.keys() == {"segmentation", *norms}


def test_without_norm_it_is_clan(key):
    method = feature_to_adapt.make(norm=0.0)
    params, state, batch, ctx = toy.problem(method, key)
    _, aux = method.loss(params, state, batch, ctx)
    names = {"segmentation", "adversarial", "weight_discrepancy", "discriminator"}
    assert diagnostics.without(aux.metrics).keys() == names


def test_presets():
    paper, released = (feature_to_adapt.PRESETS[name] for name in ("paper", "released"))
    assert released.items() <= DEFAULTS.items()
    assert paper.keys() == released.keys()


@pytest.mark.golden("schedule", "f2a__(iters|damping)")
def test_golden_damping(golden):
    with jax.enable_x64(True):
        steps = jnp.asarray(golden["f2a__iters"])
        ours = losses.damping(steps, decay_steps=DEFAULTS["decay_steps"])
        golden.holds("f2a__damping", ours, 1e-12)

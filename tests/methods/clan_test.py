import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lsr_jax import losses, models
from lsr_jax.methods import clan, common
from lsr_jax.ops import diagnostics, resample

KEYWORDS = {
    "adversarial": 0.3,
    "weight_discrepancy": 0.2,
    "strength": 4.0,
    "epsilon": 0.4,
    "warmup_steps": 3,
    "discriminator_warmup_steps": 5,
    "decay_steps": 20,
}


def probabilities(logits):
    p = jax.nn.softmax(resample.bilinear(logits, toy.SIZE))
    return np.asarray(p, np.float64)


def composed(params, batch, ctx, *, gamma):
    """The objective of `KEYWORDS` by hand."""
    step = int(ctx.step)
    source, target, _ = common.both_domains(params, batch, ctx)
    heads = [probabilities(x) for x in (target.logits, target.aux_logits)]
    lengths = [np.linalg.norm(p, axis=-1) for p in heads]
    cosine = (heads[0] * heads[1]).sum(-1) / (lengths[0] * lengths[1])
    omega = 0.4 + 4.0 * (1 - cosine)
    _, apply = models.discriminator(toy.NUM_CLASSES)
    real, fake = (
        np.asarray(
            resample.bilinear(
                apply(
                    params["disc"]["main"],
                    probabilities(x.logits + x.aux_logits).astype(np.float32),
                ),
                toy.SIZE,
            )[..., 0],
            np.float64,
        )
        for x in (source, target)
    )
    fooling = np.log1p(np.exp(fake)) * (omega if step > 3 else 1)
    judging = np.log1p(np.exp(-fake)) * (omega if step > 5 else 1)
    flat = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(params["model"][name])])
        for name in ("head", "aux_head")
    ]
    angle = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    fade = 1 - step / 20
    return (
        common.segmentation(source, batch.source, auxiliary=1.0, gamma=gamma)
        + 0.3 * fade * fooling.mean()
        + 0.2 * fade * (angle + 1)
        + np.log1p(np.exp(real)).mean()
        + judging.mean()
    )


@pytest.mark.parametrize(("step", "gamma"), [(3, 0.0), (4, 0.0), (6, 2.0)])
def test_composition_through_the_warm_up(step, gamma, key):
    method = clan.make(**KEYWORDS, gamma=gamma)
    params, state, batch, ctx = toy.problem(method, key, step=step)
    total, aux = method.loss(params, state, batch, ctx)
    np.testing.assert_allclose(
        total, composed(params, batch, ctx, gamma=gamma), rtol=1e-5
    )
    names = {"segmentation", "adversarial", "weight_discrepancy", "discriminator"}
    assert diagnostics.without(aux.metrics).keys() == names


def test_without_horizon_nothing_fades(key):
    damped = clan.make(**KEYWORDS)
    constant = clan.make(**{**KEYWORDS, "decay_steps": None})
    params, state, batch, ctx = toy.problem(damped, key, step=10)
    total, aux = damped.loss(params, state, batch, ctx)
    whole, same = constant.loss(params, state, batch, ctx)
    for name, value in aux.metrics.items():
        np.testing.assert_array_equal(same.metrics[name], value)
    faded = 0.3 * aux.metrics["adversarial"] + 0.2 * aux.metrics["weight_discrepancy"]
    np.testing.assert_allclose(whole - total, 0.5 * faded, rtol=1e-5)


@pytest.mark.parametrize("off", ["adversarial", "weight_discrepancy"])
def test_ablation(off, key):
    method = clan.make(**{**KEYWORDS, off: 0.0})
    params, state, batch, ctx = toy.problem(method, key)
    _, aux = method.loss(params, state, batch, ctx)
    gone = {"adversarial", "discriminator"} if off == "adversarial" else {off}
    names = {"segmentation", "adversarial", "weight_discrepancy", "discriminator"}
    assert diagnostics.without(aux.metrics).keys() == names - gone
    told = {f"discriminator_accuracy_{domain}" for domain in ("source", "target")}
    assert aux.metrics.keys() & told == (told if "disc" in params else set())
    assert ("disc" in params) == (off != "adversarial")


def test_the_defaults_are_the_papers():
    defaults = inspect.signature(clan.make).parameters
    for name, value in clan.PRESETS["paper"].items():
        assert defaults[name].default == value
    assert clan.make().heads == ("two_heads",)


@pytest.mark.golden("schedule", "clan__(iters|damping)")
def test_golden_damping(golden):
    decay_steps = inspect.signature(clan.make).parameters["decay_steps"].default
    with jax.enable_x64(True):
        ours = losses.damping(
            jnp.asarray(golden["clan__iters"]), decay_steps=decay_steps
        )
        golden.holds("clan__damping", ours, 1e-12)

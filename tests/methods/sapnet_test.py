"""SAPNet: the loss by hand, and the reversed gradient."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick
import toy

from lsr_jax import models
from lsr_jax.methods import common, sapnet

WINDOWS = (1, 3)
CLOSE = {"rtol": 1e-4, "atol": 1e-7}


@pytest.fixture(autouse=True)
def _narrow():
    with quick.discriminators():
        yield


def classification(params, batch, ctx):
    """``CE_s + CE_t`` in numbers of two classes, and both logits; without dropout."""
    _, apply = models.attention_pyramid(
        toy.FEATURES, toy.NUM_CLASSES, windows=WINDOWS, stride=2, dropout=0.0
    )
    source, target, _ = common.both_domains(params, batch, ctx)
    logits = [
        apply(params["disc"]["main"], outputs.features, outputs.logits, ctx.rng)
        for outputs in (source, target)
    ]
    pairs = [jnp.concatenate([jnp.zeros_like(x), x], axis=-1) for x in logits]
    named = [jax.nn.log_softmax(x)[..., i] for i, x in enumerate(pairs)]
    return -named[0].mean() - named[1].mean(), logits


def segmentation(params, batch, ctx):
    source, _, _ = common.both_domains(params, batch, ctx)
    return common.segmentation(source, batch.source)


def test_the_loss_by_hand(key):
    method = sapnet.make(segmentation=2.0, domain=0.3, windows=WINDOWS, dropout=0.0)
    params, state, batch, ctx = toy.problem(method, key)
    total, aux = method.loss(params, state, batch, ctx)
    domains, (source, target) = classification(params, batch, ctx)
    np.testing.assert_allclose(aux.metrics["domain"], domains, rtol=1e-5)
    wanted = 2.0 * segmentation(params, batch, ctx) + 0.3 * domains
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    for name, right in (("source", source < 0), ("target", target > 0)):
        found = aux.metrics[f"discriminator_accuracy_{name}"]
        np.testing.assert_allclose(found, right.mean())


@pytest.mark.parametrize("reversal", [0.0, 1.0, 0.25])
def test_the_network_ascends_what_the_classifier_descends(reversal, key):
    method = sapnet.make(domain=0.3, reversal=reversal, windows=WINDOWS, dropout=0.0)
    params, state, batch, ctx = toy.problem(method, key)
    found = jax.grad(lambda p: method.loss(p, state, batch, ctx)[0])(params)
    domains = jax.grad(lambda p: classification(p, batch, ctx)[0])(params)
    labels = jax.grad(lambda p: segmentation(p, batch, ctx))(params)
    wanted = {
        "model": jax.tree.map(
            lambda label, domain: label - reversal * 0.3 * domain,
            labels["model"],
            domains["model"],
        ),
        "disc": jax.tree.map(lambda domain: 0.3 * domain, domains["disc"]),
    }
    chex.assert_trees_all_close(found, wanted, **CLOSE)
    # Through the features, and through the logits of the head.
    for part in ("backbone", "head"):
        slopes = jax.tree.leaves(domains["model"][part])
        assert max(np.abs(slope).max() for slope in slopes) > 1e-4


def test_both_domains_have_draws_of_their_own(key):
    method = sapnet.make(windows=WINDOWS)
    params, state, batch, ctx = toy.problem(method, key)
    batch = batch._replace(target=batch.source)
    classifier = params["disc"]["main"]["classifier"]  # small logits of both signs
    classifier["kernel"], classifier["bias"] = 0.01 * classifier["kernel"], jnp.zeros(2)

    @jax.jit
    def terms(rng):
        context = ctx._replace(rng=rng)
        return method.loss(params, state, batch, context)[1].metrics

    first, again, other = (terms(jax.random.key(seed)) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert first["domain"] != other["domain"]
    eager = method.loss(params, state, batch, ctx)[1].metrics
    chex.assert_trees_all_close(terms(ctx.rng), eager, rtol=1e-5)
    assert first["segmentation"] == other["segmentation"]
    # With the same draws both logits would be one, d, and the two losses
    # softplus(d) + softplus(-d), at least 2 log 2.
    values = [float(terms(jax.random.key(seed))["domain"]) for seed in range(8)]
    assert min(values) < 2 * np.log(2) - 1e-5


def test_without_weight_there_is_no_classifier(key):
    method = sapnet.make(domain=0.0)
    params, state, batch, ctx = toy.problem(method, key)
    assert params.keys() == {"model"}
    assert method.loss(params, state, batch, ctx)[1].metrics.keys() == {"segmentation"}

"""The norm loss on top of any method."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
import variants

from lsr_jax.errors import InputError
from lsr_jax.methods import METHODS, controls, feature_norm
from lsr_jax.types import Aux, Method

NORM = {"weight": 0.5, "delta": 0.1, "rate": 1.5, "decay_steps": 20}
SOURCE_ONLY, TARGET_ONLY = ("source",), ("target",)
SEEN = {
    "source_only": SOURCE_ONLY,
    "target_only": TARGET_ONLY,
    "batchnorm_only": SOURCE_ONLY + TARGET_ONLY,
    "lsr": SOURCE_ONLY + TARGET_ONLY,
}


def lengths(params, images, ctx):
    outputs, _ = ctx.forward(params, ctx.model_state, images, True)
    return np.linalg.norm(np.asarray(outputs.features, np.float64), axis=-1)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_it(name, key):
    """The terms are those of the domains that its own network sees in train mode."""
    alone = {**SEEN, "source_continued": SOURCE_ONLY, "dacs": SOURCE_ONLY}
    domains = alone.get(name, SOURCE_ONLY + TARGET_ONLY)

    def metrics(key, method):
        params, state, batch, ctx = toy.problem(method, key)
        return method.loss(params, state, batch, ctx)[1].metrics

    for reference in ("current", "previous"):
        method = feature_norm.norm(
            variants.build(name, None), **NORM, reference=reference
        )
        found = jax.eval_shape(functools.partial(metrics, method=method), key)
        terms = {term for term in found if term.startswith("feature_norm_")}
        assert terms == {f"feature_norm_{domain}" for domain in domains}


@pytest.mark.parametrize(("name", "domains"), SEEN.items())
def test_adds_a_term_for_each_domain_that_the_method_sees(name, domains, key):
    """``L + 0.5 (1 - 1.5 * 4 / 20) (N_s + N_t)``, and each N is delta^2."""
    plain = METHODS[name].make()
    params, state, batch, ctx = toy.problem(plain, key, step=4)
    method = feature_norm.norm(plain, **NORM)
    total, aux = method.loss(params, state, batch, ctx)
    base, base_aux = plain.loss(params, state, batch, ctx)

    extra = {key: aux.metrics[key] for key in aux.metrics.keys() - base_aux.metrics}
    assert extra.keys() == {
        f"{n}_{d}" for n in ("feature_norm", "mean_norm") for d in domains
    }
    np.testing.assert_allclose(
        total - base, 0.5 * 0.7 * len(domains) * 0.01, rtol=0, atol=1e-6
    )
    for domain in domains:
        np.testing.assert_allclose(extra[f"feature_norm_{domain}"], 0.01, rtol=1e-5)
        found = lengths(params["model"], getattr(batch, domain).image, ctx).mean()
        np.testing.assert_allclose(extra[f"mean_norm_{domain}"], found, rtol=1e-5)
    for name, value in base_aux.metrics.items():
        np.testing.assert_array_equal(aux.metrics[name], value)
    assert method[2:] == plain[2:]


def test_the_gradient_lengthens_the_features(key):
    plain = controls.batchnorm_only()
    params, state, batch, ctx = toy.problem(plain, key, step=4)

    def gradient(method):
        def loss(params):
            return method.loss(params, state, batch, ctx)[0]

        return jax.grad(loss)(params)["model"]["backbone"]["conv1"]["kernel"]

    def mean_norms(kernel):
        model = {**params["model"], "backbone": {"conv1": {"kernel": kernel}}}
        norms = []
        for images in batch:
            outputs, _ = ctx.forward(model, ctx.model_state, images.image, True)
            norms.append(jnp.linalg.norm(outputs.features, axis=-1).mean())
        return sum(norms)

    kernel = params["model"]["backbone"]["conv1"]["kernel"]
    wanted = -2 * 0.1 * 0.5 * 0.7 * jax.grad(mean_norms)(kernel)
    found = gradient(feature_norm.norm(plain, **NORM)) - gradient(plain)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * float(jnp.abs(wanted).max()))


def test_previous_features_are_those_of_the_network_one_step_ago(key):
    plain = controls.batchnorm_only()
    method = feature_norm.norm(plain, **NORM, reference="previous")
    params, state, batch, ctx = toy.problem(method, key)
    total, aux = method.loss(params, state, batch, ctx)
    # Before the first step there is no earlier network than the present one.
    np.testing.assert_allclose(aux.metrics["feature_norm_source"], 0.01, rtol=1e-4)

    moved = jax.tree.map(lambda x: 1.1 * x, params)
    total, aux = method.loss(moved, aux.method_state, batch, ctx)
    base, base_aux = plain.loss(moved, {}, batch, ctx)
    terms = []
    for domain, images in zip(("source", "target"), batch, strict=True):
        before = lengths(params["model"], images.image, ctx)
        after = lengths(moved["model"], images.image, ctx)
        terms.append(((before + 0.1 - after) ** 2).mean())
        found = aux.metrics[f"feature_norm_{domain}"]
        np.testing.assert_allclose(found, terms[-1], rtol=1e-4)
    np.testing.assert_allclose(total - base, 0.5 * sum(terms), rtol=1e-3)
    np.testing.assert_array_equal(
        jax.tree.leaves(aux.method_state.params)[0], jax.tree.leaves(moved["model"])[0]
    )
    assert aux.method_state.method == {}
    for leaf, wanted in zip(
        jax.tree.leaves(aux.model_state),
        jax.tree.leaves(base_aux.model_state),
        strict=True,
    ):
        np.testing.assert_array_equal(leaf, wanted)


def test_previous_keeps_the_preparation_of_the_method(key):
    plain = controls.batchnorm_only()._replace(
        init=lambda *_: ({}, 1), prepare=lambda state, preparation: state + preparation
    )
    method = feature_norm.norm(plain, **NORM, reference="previous")
    _, state = method.init(key, {"kernel": 2}, {}, None)
    assert method.prepare(state, 5) == feature_norm.WithPrevious(6, {"kernel": 2})


def test_weight_zero_changes_nothing():
    plain = controls.batchnorm_only()
    assert feature_norm.norm(plain, **{**NORM, "weight": 0.0}) is plain


def test_a_method_that_augments_a_domain_itself_has_the_term(key):
    """The images that pass through the network need not be those of the batch."""

    def loss(params, state, batch, ctx):
        flipped = batch.source.image[:, :, ::-1]
        outputs, model_state = ctx.forward(
            params["model"], ctx.model_state, flipped, True
        )
        metrics, outputs = {"segmentation": outputs.logits.mean()}, {"source": outputs}
        return metrics["segmentation"], Aux(metrics, state, model_state, outputs)

    plain = controls.source_only()._replace(loss=loss)
    params, state, batch, ctx = toy.problem(plain, key, step=4)
    total, aux = feature_norm.norm(plain, **NORM).loss(params, state, batch, ctx)
    np.testing.assert_allclose(aux.metrics["feature_norm_source"], 0.01, rtol=1e-5)
    base, _ = plain.loss(params, state, batch, ctx)
    np.testing.assert_allclose(total - base, 0.5 * 0.7 * 0.01, rtol=0, atol=1e-6)


def test_a_method_without_outputs_is_refused(key):
    def loss(params, state, batch, ctx):
        return jnp.zeros(()), Aux({}, state, ctx.model_state)

    plain = Method(controls.batchnorm_only().init, loss)
    params, state, batch, ctx = toy.problem(plain, key)
    with pytest.raises(
        InputError, match=r"feature_norm\.weight: expected 0 .* found 0\.5"
    ):
        feature_norm.norm(plain, **NORM).loss(params, state, batch, ctx)

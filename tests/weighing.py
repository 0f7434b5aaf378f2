"""Which keywords of a method weigh which terms, found by asking its loss."""

import inspect

import jax
import pytest
import toy
import variants

from lsr_jax import keywords
from lsr_jax.methods import METHODS, common

WEIGHTS = (keywords.Weight, keywords.MaximisedWeight)


def weighed(method, key):
    """``{term: its weight}`` of what the loss builds, and all that it reports."""
    seen = {}

    def keep(terms, weights, original=common.weighted):
        total, metrics = original(terms, weights)
        seen.update({term: weights[term] for term in terms if term in metrics})
        return total, metrics

    def metrics(key):
        params, state, batch, context = toy.problem(method, key)
        return method.loss(params, state, batch, context)[1].metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "weighted", keep)
        reported = jax.eval_shape(metrics, key)
    return seen, reported


def weights_of(name, preset):
    """``{keyword: value}`` of a method's weights that are not 0."""
    signature = inspect.signature(METHODS[name].make)
    values = {key: given.default for key, given in signature.parameters.items()}
    values |= METHODS[name].presets[preset] if preset else {}
    types = keywords.annotations(METHODS[name].make)
    return {
        keyword: value
        for keyword, value in values.items()
        if value and types[keyword] in WEIGHTS
    }


def hold(name, preset, key):
    """Every term of a method has a weight among its keywords, and 0 takes it away."""
    whole, reported = weighed(variants.build(name, preset), key)
    if not whole:
        assert reported.keys() == {"segmentation"}  # a control: the term is the loss
        return
    left = set(whole)
    for keyword, value in weights_of(name, preset).items():
        without, _ = weighed(variants.build(name, preset, **{keyword: 0.0}), key)
        thrice, _ = weighed(variants.build(name, preset, **{keyword: 3 * value}), key)
        assert without.keys() <= whole.keys() == thrice.keys()
        for term in whole.keys() - without.keys():
            left.discard(term)
            fades = not isinstance(whole[term], float)  # with the step: an array
            # A discriminator goes where its opponent goes, whose weight is another.
            leaves = term.startswith("discriminator") and keyword != "discriminator"
            if not fades and not leaves:
                assert thrice[term] == pytest.approx(3 * whole[term])
    assert not left

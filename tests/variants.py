"""Every method, with every preset that builds another loss, on the toy network."""

import inspect

import jax
import pytest
import toy

from lsr_jax import keywords
from lsr_jax.methods import METHODS, common
from lsr_jax.training import optimizer, state, step
from lsr_jax.types import BatchSpec

# Of SAPNet: the feature map of the toy network has 4x6 cells.
SMALL = {"windows": (1, 3)}
WEIGHTS = (keywords.Weight, keywords.MaximisedWeight)
SPEC = BatchSpec(toy.NUM_CLASSES, toy.FEATURES, toy.SIZE, toy.SIZE)


def presets(module):
    """None for the defaults, and the presets that build another loss.

    Two positive numbers build the same; one that is 0 or negative does not.
    """
    defaults = inspect.signature(module.make).parameters

    def built(key, value):
        return (value > 0) - (value < 0) if isinstance(value, float | int) else value

    return [None] + [
        preset
        for preset, values in module.presets.items()
        if any(built(k, v) != built(k, defaults[k].default) for k, v in values.items())
    ]


def build(name, preset, **keywords):
    """The method; of ``keywords`` it gets those that it has."""
    module = METHODS[name]
    known = inspect.signature(module.make).parameters
    chosen = dict(module.presets[preset]) if preset else {}
    if chosen.get("class_frequency", "none") != "none":
        chosen["class_frequency"] = "none"  # frequencies are for 19, 16, 13 classes
    keywords = SMALL | keywords
    chosen |= {key: value for key, value in keywords.items() if key in known}
    return module.make(**chosen)


def carries_state(name, preset):
    """Whether there is anything in its state."""
    method = build(name, preset)

    def method_state(key):
        return method.init(key, *toy.init(key, method.heads[0]), SPEC)[1]

    return bool(jax.tree.leaves(jax.eval_shape(method_state, jax.random.key(0))))


PAIRS = [(name, preset) for name in METHODS for preset in presets(METHODS[name])]


def parameters(pairs):
    """Of ``pytest.mark.parametrize(("name", "preset"), ...)``."""
    return [
        pytest.param(*pair, id=f"{pair[0]}-{pair[1] or 'default'}") for pair in pairs
    ]


VARIANTS = parameters(PAIRS)
# For tests that compile for minutes: the defaults, and with `-m long` the presets too.
LONG_PRESETS = [
    pytest.param(*one.values, id=one.id, marks=pytest.mark.long)
    if one.values[1]
    else one
    for one in VARIANTS
]
# The defaults, and what else carries a state.
CARRYING = parameters(pair for pair in PAIRS if not pair[1] or carries_state(*pair))


def start(method, key, folder):
    """The state before step 0 and a step without preprocessing."""
    model_params, model_state = toy.init(key, method.heads[0])
    params, method_state = state.with_method(
        model_params, model_state, method, SPEC, key
    )
    if method.prepare:
        given = toy.preparation(key, method, folder)
        method_state = method.prepare(method_state, given)
    transformation = optimizer.make(
        params,
        optimizer.model_groups(head_multiplier=10.0),
        name="sgd",
        learning_rate=1e-3,
        weight_decay=5e-4,
        momentum=0.9,
        decay_steps=100,
        power=0.9,
        warmup_steps=0,
    )
    whole = state.create(params, model_state, method_state, transformation, key)
    train_step = step.make_step(
        method, transformation, toy.forward, lambda _, batch: batch, toy.PIXELS
    )
    return whole, train_step


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


def check_weights(name, preset, key):
    """Every term of a method has a weight among its keywords, and 0 takes it away."""
    whole, reported = weighed(build(name, preset), key)
    if not whole:
        assert reported.keys() == {"segmentation"}  # a control: the term is the loss
        return
    left = set(whole)
    for keyword, value in weights_of(name, preset).items():
        without, _ = weighed(build(name, preset, **{keyword: 0.0}), key)
        thrice, _ = weighed(build(name, preset, **{keyword: 3 * value}), key)
        assert without.keys() <= whole.keys() == thrice.keys()
        for term in whole.keys() - without.keys():
            left.discard(term)
            fades = not isinstance(whole[term], float)  # with the step: an array
            # A discriminator goes where its opponent goes, whose weight is another.
            leaves = term.startswith("discriminator") and keyword != "discriminator"
            if not fades and not leaves:
                assert thrice[term] == pytest.approx(3 * whole[term])
    assert not left

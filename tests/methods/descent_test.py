"""Every term by itself: it moves one of the two players, and moves it the right way."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
import toy
import variants

from lsr_jax.methods import common
from lsr_jax.ops import diagnostics
from lsr_jax.types import Context

# So that the unsure predictions of the toy network are labels, and its few cells a class.
REACHED = {
    "gap": 0.0,
    "probability": 0.0,
    "confidence": 0.0,
    "threshold": 0.0,
    "minimum": 1,
    "distance_classes": tuple(range(toy.NUM_CLASSES)),
}
STEP = 9000  # CLAN's warm-up is over, nothing has faded out
LENGTH, COUNT = 0.01, 2  # of the steps downhill
LEARNING, LEARNT = 0.1, 20  # and of those before, on the source

# What grows: OCE's spacing is maximised, a norm loss lengthens the features.
RISING = {"spacing", "mean_norm_source", "mean_norm_target"}
# The heads of SWD disagree as much as they can.
OPPOSED = {("discrepancy", "heads")}
# A reversed gradient: the classifier learns the domains, and the network unlearns them.
REVERSED = {"sapnet domain"}
# delta^2 whatever the features: the released step-wise norm, seen in mean_norm_* alone.
CONSTANT = {
    f"feature_to_adapt {preset} norm_{domain}"
    for preset in (None, "norm_only")
    for domain in ("source", "target")
}


def parts(params):
    """``{"backbone": ..., "heads": ...[, "disc": ...]}``, what moves apart."""
    network = dict(params["model"])
    found = {"backbone": network.pop("backbone"), "heads": network}
    return found | ({"disc": params["disc"]} if "disc" in params else {})


def whole(parts):
    """The inverse of `parts`."""
    model = {"backbone": parts["backbone"], **parts["heads"]}
    return {"model": model} | ({"disc": parts["disc"]} if "disc" in parts else {})


def direction(gradient):
    """Its largest entry, 0 only where all are, and the vector of length 1 along it."""
    leaves = [jnp.abs(leaf).max() for leaf in jax.tree.leaves(gradient)]
    largest = jnp.stack(leaves).max()
    scale = jnp.where(largest == 0, 1, largest)
    scaled = jax.tree.map(lambda x: x / scale, gradient)
    norm = jnp.maximum(optax.tree.norm(scaled), 1.0)
    return largest, jax.tree.map(lambda x: x / norm, scaled)


class Alone:
    """The gradient of a method's loss with the weight of one term, the others' 0.

    A term is a number in ``names``, those of the metrics without diagnostics. What a method adds beside
    `common.weighted` is the term -1, to which all other metrics belong.
    """

    def __init__(self, method, fresh, batch, key):
        self.method, self.batch = method, batch
        self.context = Context(
            toy.forward, fresh.model_state, jnp.asarray(STEP), key, toy.PIXELS
        )
        self.names, self.weighted, self.total = [], [], 0.0
        arguments = fresh.params, fresh.method_state, jnp.asarray(-1)
        metrics = jax.eval_shape(self.loss, *arguments)[1].metrics
        self.names = sorted(diagnostics.without(metrics))

    def number(self, name):
        return jnp.asarray(self.names.index(name) if name in self.weighted else -1)

    def loss(self, params, method_state, number):
        original = common.weighted

        def one(terms, weights):
            self.weighted = list(weights)
            weights = {
                name: weight
                if not self.names or (isinstance(weight, float | int) and weight == 0)
                else jnp.where(number == self.number(name), weight, 0.0)
                for name, weight in weights.items()
            }
            self.total, metrics = original(terms, weights)
            return self.total, metrics

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(common, "weighted", one)
            total, aux = self.method.loss(
                params, method_state, self.batch, self.context
            )
        return jnp.where(number < 0, total - self.total, self.total), aux

    @functools.partial(jax.jit, static_argnums=0)
    def step(self, params, method_state, number, lengths):
        """Metrics, state, the largest slope of every part, and parameters after a step.

        The step of each part is straight downhill and ``lengths[part]`` long.
        """
        gradient, aux = jax.grad(self.loss, has_aux=True)(params, method_state, number)
        slopes, after = {}, {}
        for part, before in parts(params).items():
            slopes[part], up = direction(parts(gradient)[part])
            length = lengths[part]
            after[part] = jax.tree.map(lambda x, d, s=length: x - s * d, before, up)
        return aux.metrics, aux.method_state, slopes, whole(after)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), variants.LONG_PRESETS)
def test_each_term_moves_one_player_the_right_way(name, preset, key, tmp_path):
    method = variants.build(name, preset, **REACHED)
    fresh, _ = variants.start(method, key, tmp_path)
    alone = Alone(method, fresh, toy.batch(key, 4, method), key)
    learnt, state = learning(alone, fresh)
    still = dict.fromkeys(parts(learnt), 0.0)
    judging = []
    for term in alone.names:
        number = alone.number(term)
        before, _, slopes, _ = alone.step(learnt, state, number, still)
        moving = [part for part, slope in slopes.items() if slope != 0]
        assert moving, term
        both = f"{name} {term}" in REVERSED
        if both:
            assert moving == list(slopes), (term, moving)
        else:
            assert moving == ["disc"] or "disc" not in moving, (term, moving)
        judging += [term] if moving == ["disc"] else []
        for part in moving:
            params = learnt
            for _ in range(COUNT):
                *_, params = alone.step(params, state, number, still | {part: LENGTH})
            after, *_ = alone.step(params, state, number, still)
            change = after[term] - before[term]
            if f"{name} {preset} {term}" in CONSTANT:
                assert change == 0, term
            elif term in RISING or (term, part) in OPPOSED or (both and part != "disc"):
                assert change > 0, (term, part)
            else:
                assert change < 0, (term, part)
    fooling = [term for term in alone.names if term.startswith("adversarial")]
    own = [term for term in alone.names if f"{name} {term}" in REVERSED]
    assert len(judging) == len(fooling)
    assert len(judging + own) == len(fresh.params.get("disc", ()))


def learning(alone, fresh):
    """Parameters that know the source a little, and the state of the step before them.

    A fresh network predicts next to nothing right, and few classes of an image.
    """
    params, state = fresh.params, fresh.method_state
    number = alone.number("segmentation")
    for _ in range(LEARNT):
        lengths = dict.fromkeys(parts(params), LEARNING)
        _, after, _, params = alone.step(params, state, number, lengths)
    return params, after

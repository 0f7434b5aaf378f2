"""What the goldens want to know of a step, carried out of it in its own state."""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import seeded

from lsr_jax.methods import lsr
from lsr_jax.types import Method

HEADS = {"clas": "head"}


class Watched(NamedTuple):
    """The norms of the last gradients, and the states of two optimisers: one runs."""

    duplicated: jax.Array
    norms: dict
    dup: optax.OptState
    dedup: optax.OptState


def watched(dup, dedup):
    """Both optimisers behind one flag, so that both runs share one compiled step."""

    def init(params):
        norms = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), params)
        return Watched(jnp.array(True), norms, dup.init(params), dedup.init(params))

    def update(grads, state, params):
        def first():
            updates, new = dup.update(grads, state.dup, params)
            return updates, state._replace(dup=new)

        def second():
            updates, new = dedup.update(grads, state.dedup, params)
            return updates, state._replace(dedup=new)

        updates, state = jax.lax.cond(state.duplicated, first, second)
        norms = jax.tree.map(lambda leaf: jnp.linalg.norm(leaf.ravel()), grads)
        return updates, state._replace(norms=norms)

    return optax.GradientTransformation(init, update)


class Seen(NamedTuple):
    """The method's own state; the terms of the last step, unrounded; its pseudo-labels."""

    method: lsr.LSRState
    terms: dict
    labels: jax.Array


def remembering(method, terms, labels, orders):
    """``method`` with what the goldens want to know in its state.

    ``labels`` is a list to which every trace of the loss adds the pseudo-labels;
    ``orders`` ``[steps, C]`` takes the place of the random key.
    """

    def loss(params, before, batch, ctx):
        ctx = ctx._replace(rng=jnp.asarray(orders)[ctx.step])
        total, aux = method.loss(params, before.method, batch, ctx)
        found = labels.pop() if labels else before.labels
        return total, aux._replace(
            method_state=Seen(aux.method_state, aux.metrics, found)
        )

    def init(key, params, model_state, spec):
        extra, start = method.init(key, params, model_state, spec)
        zeros = {name: jnp.zeros(()) for name in terms}
        return extra, Seen(start, zeros, None)

    return Method(init, loss, domains=method.domains, labelled=method.labelled)


@functools.cache
def unused_branches():
    """ASPP branches that never run: not in our tree, never moved in the originals'."""
    start = seeded.state_dict("lsr_resnet1111")
    names = [name for name in start if re.search(r"conv2d_list\.[23]", name)]
    return {name: start[name].astype(np.float32) for name in names}


def checksums(params, model_state, names, passes):
    """``[entries, 3]`` sum, sum of magnitudes and norm, in the order of the originals."""
    rows = []
    for name in names:
        value = seeded.leaf(params, model_state, name, HEADS)
        if name.endswith("num_batches_tracked"):
            value = passes
        elif value is None:
            value = unused_branches()[name]
        value = np.asarray(value, np.float64).ravel()
        rows.append((value.sum(), np.abs(value).sum(), np.linalg.norm(value)))
    return np.array(rows)


def gradient_norms(norms, names):
    """``[parameters]``, nan where nothing arrived."""
    found = [seeded.leaf(norms["model"], {}, name, HEADS) for name in names]
    found = np.array([0.0 if norm is None else norm for norm in found], np.float64)
    return np.where(found == 0, np.nan, found)

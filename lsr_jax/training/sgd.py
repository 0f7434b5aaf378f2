"""The polynomial schedule and SGD as PyTorch orders it, as optax transformations."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lsr_jax.types import PyTree


def poly(
    learning_rate: float,
    *,
    horizon: int,
    power: float = 0.9,
    warmup_steps: int = 0,
    offset: int = 0,
) -> optax.Schedule:
    """Polynomial decay, evaluated before step ``t`` (counted from 0).

    ``lr(t) = learning_rate * (1 - t / horizon) ** power``, and during warm-up
    ``lr(t) = learning_rate * t / warmup_steps``. As in CLAN the warm-up does not shift
    the decay: after it the rate jumps onto the polynomial. Past the horizon the rate is
    0 (the originals turn complex there). ``offset`` steps are skipped: CAG moves its
    schedule before the first step, not after it, which is 1.
    """

    def schedule(count: jax.Array) -> jax.Array:
        t = jnp.asarray(count, float) + offset
        # Not 1 - t / horizon: near the horizon float32 would lose most digits.
        decay = (jnp.maximum(horizon - t, 0.0) / horizon) ** power
        warmup = t / max(warmup_steps, 1)
        return learning_rate * jnp.where(t < warmup_steps, warmup, decay)

    return schedule


class RepeatedSGDState(NamedTuple):
    """Step count and the momentum buffer of `repeated_sgd`."""

    count: jax.Array
    momentum: PyTree


def repeated_sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float, repeats: int
) -> optax.GradientTransformation:
    """SGD as torch runs it on a parameter that its optimiser lists ``repeats`` times.

    Within one step, with one gradient g and rate lr, ``repeats`` times::

        v <- momentum * v + (g + weight_decay * theta)
        theta <- theta - lr * v

    In the very first step every repetition starts a new buffer, ``v = g +
    weight_decay * theta``, and the last one is kept (torch 2.13, `torch.optim.SGD`).
    The nominal 1 : 10 ratio of backbone and head thus becomes about 3 : 10.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return RepeatedSGDState(jnp.zeros((), jnp.int32), zeros)

    def update(grads, state, params):
        rate = schedule(state.count)
        # A fresh buffer equals an old one that is forgotten.
        keep = jnp.where(state.count == 0, 0.0, momentum)

        def leaf(grad, velocity, start):
            theta = start
            for _ in range(repeats):
                decayed = grad + weight_decay * theta
                velocity = keep.astype(grad.dtype) * velocity + decayed
                theta = theta - rate.astype(grad.dtype) * velocity
            return theta - start, velocity

        pairs = jax.tree.map(leaf, grads, state.momentum, params)
        updates, velocity = (
            jax.tree.map(lambda _, pair, i=i: pair[i], grads, pairs) for i in (0, 1)
        )
        return updates, RepeatedSGDState(state.count + 1, velocity)

    return optax.GradientTransformation(init, update)


def sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float, repeats: int = 1
) -> optax.GradientTransformation:
    """SGD in torch's order: ``v <- momentum v + (g + weight_decay theta)``, ``theta <- theta - lr v``.

    The first call sets ``v = g + weight_decay theta``; no dampening, no Nesterov; the
    rate stays outside the buffer.
    """
    if repeats > 1:
        return repeated_sgd(
            schedule, momentum=momentum, weight_decay=weight_decay, repeats=repeats
        )
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(schedule),
    )


def promoting(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """The same where strict dtype promotion is on: optax's Adam mixes int and float."""

    def update(grads, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return transformation.update(grads, state, params)

    return optax.GradientTransformation(transformation.init, update)

"""The one train step: it knows no method."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lsr_jax.errors import InputError
from lsr_jax.training.state import TrainState
from lsr_jax.types import Batch, Context, Forward, Method, Pixels

Preprocess = Callable[[jax.Array, Batch], Batch]


def make_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    forward: Callable,
    preprocess: Preprocess,
    pixels: Pixels,
    *,
    skip_nonfinite: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """``step(state, batch) -> (state, metrics)``, pure, to be compiled once.

    The loss of the method is differentiated by all parameters. ``preprocess`` maps
    ``(key, uint8 batch)`` to network input. With ``skip_nonfinite`` a step whose loss or
    gradient is not finite leaves all but its number as it was; ``skipped`` is then a
    metric, the count so far. The others are the terms of the loss, the method's
    `diagnostics`, ``total`` and ``gradient_norm``, as float32 scalars.
    """

    def step(state: TrainState, batch: Batch):
        images_key, method_key, dropout_key = jax.random.split(
            jax.random.fold_in(state.rng, state.step), 3
        )
        batch = preprocess(images_key, batch)

        def objective(params):
            context = Context(
                with_dropout(forward, dropout_key),
                state.model_state,
                state.step,
                method_key,
                pixels,
            )
            total, aux = method.loss(params, state.method_state, batch, context)
            if not isinstance(total, jax.Array):  # a sum of no terms is a plain 0
                raise InputError("method: all loss weights are 0; set at least one")
            return total, aux

        gradient = jax.value_and_grad(objective, has_aux=True)
        (total, aux), grads = gradient(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            **aux.metrics,
            "total": total,
            "gradient_norm": optax.tree.norm(grads),
        }
        after = state.replace(
            params=optax.apply_updates(state.params, updates),
            model_state=aux.model_state,
            method_state=jax.lax.stop_gradient(aux.method_state),
            opt_state=opt_state,
        )
        if skip_nonfinite:
            after = where_finite(metrics, after, state)
            metrics["skipped"] = after.skipped
        state = after.replace(step=state.step + 1)
        return state, jax.tree.map(lambda x: x.astype(jnp.float32), metrics)

    return step


def with_dropout(forward: Callable, key: jax.Array) -> Forward:
    """``forward`` with a dropout key of its own for every call."""
    number = itertools.count()

    def keyed(params, model_state, images, train, dropout=True):
        rng = jax.random.fold_in(key, next(number))
        return forward(params, model_state, images, train, rng if dropout else None)

    return keyed


def where_finite(metrics: dict, after: TrainState, before: TrainState) -> TrainState:
    """``after`` if all metrics are finite, else ``before`` with one more ``skipped``."""
    finite = jnp.all(jnp.stack([jnp.isfinite(x) for x in metrics.values()]))
    before = before.replace(skipped=before.skipped + 1)
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)

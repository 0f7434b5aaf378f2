"""The step-wise norm loss of Feature To Adapt, added to any method."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import jax

from lsr_jax import losses
from lsr_jax.errors import InputError
from lsr_jax.keywords import Count, Range, Weight
from lsr_jax.methods import common
from lsr_jax.types import Method, PyTree

Delta = Annotated[float, Range(unit="in units of the norm")]
Rate = Annotated[float, Range(unit="0 does not fade")]


class WithPrevious(NamedTuple):
    """The state of the method, and the network before the last step."""

    method: PyTree
    params: PyTree


def norm(
    method: Method,
    *,
    weight: Weight,
    delta: Delta,
    rate: Rate,
    decay_steps: Count | None,
    reference: Literal["current", "previous"] = "current",
    name: str = "feature_norm",
) -> Method:
    """Add ``weight damp (N_s + N_t)``, `losses.stepwise_norm` of the features, to a loss.

    The features are those in the ``outputs`` that the loss of the method returns; a
    domain without outputs has no term.

    Args:
      method: what the terms are added to.
      weight: lambda_norm; with 0 the method is returned unchanged.
      delta: growth of the norm.
      rate: of `losses.damping`: negative past ``decay_steps / rate``, where norms are
        pushed down.
      decay_steps: a config may have None, which the stage replaces by its number of steps.
      reference: the earlier features. "current": those of the same pass, as the
        released ``train.py`` (the value is always ``delta^2``, the gradient a constant
        pull). "previous": those of the network one step ago on the images of the batch,
        as the paper; the state keeps a copy of that network.
      name: of the terms in the metrics, ``NAME_source`` and ``NAME_target``. The norms
        themselves are ``mean_norm_source`` and ``mean_norm_target``.

    Raises:
      InputError: the loss of the method returns no outputs.
    """
    if weight == 0:
        return method
    if reference == "previous":
        method = _with_previous(method)

    def loss(params, state, batch, ctx):
        total, aux = method.loss(params, state, batch, ctx)
        if not aux.outputs:
            raise InputError(
                f"{name}.weight: expected 0 for a method whose loss returns no network "
                f"outputs, found {weight}"
            )
        damped = weight * losses.damping(ctx.step, decay_steps=decay_steps, rate=rate)
        metrics = dict(aux.metrics)
        for domain, outputs in aux.outputs.items():
            previous = None
            if reference == "previous":
                images = getattr(batch, domain).image
                earlier, _ = ctx.forward(state.params, ctx.model_state, images, True)
                previous = earlier.features
            term = losses.stepwise_norm(outputs.features, previous, delta=delta)
            total += damped * term
            metrics[f"{name}_{domain}"] = term
            metrics[f"mean_norm_{domain}"] = losses.mean_norm(outputs.features)
        return total, aux._replace(metrics=metrics)

    return method._replace(loss=loss)


def _with_previous(method: Method) -> Method:
    """The same method, with the network before the last step in its state."""

    def init(key, params, model_state, spec):
        extra, state = method.init(key, params, model_state, spec)
        return extra, WithPrevious(state, params)

    def loss(params, state, batch, ctx):
        total, aux = method.loss(params, state.method, batch, ctx)
        previous = jax.lax.stop_gradient(params["model"])
        state = WithPrevious(aux.method_state, previous)
        return total, aux._replace(method_state=state)

    return method._replace(init=init, loss=loss, prepare=common.prepare_inner(method))

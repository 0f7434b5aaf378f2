"""A term on top of any method: the step-wise norm loss of Feature To Adapt."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from lsr_jax import losses
from lsr_jax.errors import InputError
from lsr_jax.methods import common
from lsr_jax.types import Aux, Images, Method, PyTree

REFERENCES = ("current", "previous")
DOMAINS = ("source", "target")


class WithPrevious(NamedTuple):
    """The state of the method beneath, and the network before the last step."""

    method: PyTree
    params: PyTree


def norm(
    method: Method,
    *,
    weight: float,
    delta: float,
    rate: float,
    decay_steps: int,
    reference: str = "current",
    name: str = "feature_norm",
) -> Method:
    """``L + weight damp (N_s + N_t)``, `losses.stepwise_norm` of the layer4 features.

    The features are those of the passes that the method itself makes: of the student,
    in train mode, over the images of the batch as they are. A domain over which it
    makes none has no term.

    Args:
      method: what is added to.
      weight: lambda_norm; with 0 the method comes back as it is.
      delta: the growth, in units of the norm.
      rate: ``damp = 1 - rate step / decay_steps``, see `losses.damping`: negative past
        ``decay_steps / rate``, where norms are pushed down.
      decay_steps: steps.
      reference: the earlier features: "current", those of the same pass, as the
        released ``train.py`` (the value is always ``delta^2``, the gradient a constant
        pull); "previous", those of the network one step ago, as the paper, which keeps
        a copy of it and passes the images through that too.
      name: of the terms in the metrics, ``NAME_source`` and ``NAME_target``, beside
        the ``mean_norm_source`` and ``mean_norm_target`` that they move.

    Raises:
      InputError: an unknown reference, or a method without any such pass.
    """
    common.check_choice("norm_reference", reference, REFERENCES)
    if weight == 0:
        return method
    if reference == "previous":
        method = remembering(method)

    def loss(params, state, batch, ctx):
        seen, forward = recording(ctx.forward, params["model"], batch)
        total, aux = method.loss(params, state, batch, ctx._replace(forward=forward))
        if not seen:
            raise InputError(
                f"{name}.weight: expected 0 for a method that never passes the images "
                f"of the batch through its network; found {weight}"
            )
        damped = weight * losses.damping(ctx.step, decay_steps=decay_steps, rate=rate)
        metrics = dict(aux.metrics)
        for domain, features in seen.items():
            previous = None
            if reference == "previous":
                images = getattr(batch, domain).image
                outputs, _ = ctx.forward(state.params, ctx.model_state, images, True)
                previous = outputs.features
            term = losses.stepwise_norm(features, previous, delta=delta)
            total += damped * term
            metrics[f"{name}_{domain}"] = term
            metrics[f"mean_norm_{domain}"] = losses.mean_norm(features)
        return total, aux._replace(metrics=metrics)

    return method._replace(loss=loss)


def recording(forward: Callable, student: PyTree, batch) -> tuple[dict, Callable]:
    """``{domain: features}``, filled by the student's train-mode passes through a forward.

    Returns:
      the dict, empty so far, and the forward to be used.
    """
    seen = {}

    def recorded(params, model_state, images, train):
        outputs, model_state = forward(params, model_state, images, train)
        for domain in DOMAINS:
            share: Images | None = getattr(batch, domain)
            shown = share is not None and images is share.image
            if shown and train and same_features(params, student):
                seen.setdefault(domain, outputs.features)
        return outputs, model_state

    return seen, recorded


def same_features(params: PyTree, student: PyTree) -> bool:
    """Whether they are one network up to its heads, whose gradients may be scaled."""
    return all(
        params[name] is student[name] for name in student.keys() - common.HEAD_PARTS
    )


def remembering(method: Method) -> Method:
    """The same method, with the network before the last step in its state."""

    def init(key, params, model_state, spec):
        extra, state = method.init(key, params, model_state, spec)
        return extra, WithPrevious(state, params)

    def loss(params, state, batch, ctx):
        total, aux = method.loss(params, state.method, batch, ctx)
        kept = WithPrevious(aux.method_state, jax.lax.stop_gradient(params["model"]))
        return total, Aux(aux.metrics, kept, aux.model_state)

    def prepare(state, preparation):
        return state._replace(method=method.prepare(state.method, preparation))

    return method._replace(
        init=init, loss=loss, prepare=None if method.prepare is None else prepare
    )

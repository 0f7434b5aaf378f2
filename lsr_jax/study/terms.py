"""Which keywords of a method weigh a term that it adds, found by asking its loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from lsr_jax import models
from lsr_jax.errors import InputError
from lsr_jax.methods import listing
from lsr_jax.models import Model
from lsr_jax.training import stage as training_stage
from lsr_jax.types import Batch, BatchSpec, Context, Method, Pixels, PyTree

# Nothing that a method adds: what it starts from, and its opponent's own loss.
GIVEN = ("segmentation", "discriminator")


def weights(config: Mapping, stage: str) -> tuple[str, ...]:
    """The keywords of a stage's method that weigh a term of its own, by the alphabet.

    A keyword is such a weight if the loss reports fewer terms once it is 0. One that is
    0 already removes nothing, and one that cannot be 0 is none. Nothing is computed:
    the network of the config is traced with shapes alone.

    Args:
      config: resolved.
      stage: whose method is asked.

    Raises:
      InputError: the method cannot use the heads of the network.
    """
    network = traceable(models.build(**config["model"]))
    full = reported(training_stage.build_method(config, stage), network)
    found = []
    for keyword in sorted(set(numeric(config[stage]["method"])) - set(GIVEN)):
        section = {**config[stage]["method"], keyword: 0.0}
        without = {**config, stage: {**config[stage], "method": section}}
        try:
            method = training_stage.build_method(without, stage)
            terms = reported(method, network)
        except (InputError, ValueError, TypeError, ZeroDivisionError):
            continue  # an exponent, a count: 0 means nothing there
        if len(terms) < len(full):
            found.append(keyword)
    return tuple(found)


def numeric(keywords: Mapping) -> Iterable[str]:
    """Names of the numbers that are not 0."""
    return (
        name
        for name, value in keywords.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value
    )


def traceable(model: Model) -> Model:
    """The network with a forward pass that is traced once for all questions."""
    return model._replace(forward=jax.jit(model.forward, static_argnums=3))


def reported(method: Method, model: Model) -> set[str]:
    """Names of what the loss of one step reports."""

    def step(params: PyTree, model_state: PyTree) -> Mapping:
        key = jax.random.key(0)
        spec = BatchSpec(
            model.num_classes, model.feature_dim, listing.SIZE, listing.SIZE
        )
        extra, state = method.init(key, params, model_state, spec)

        def forward(params, model_state, images, train):
            return model.forward(params, model_state, images, train, key)

        context = Context(
            forward,
            model_state,
            jnp.zeros((), jnp.int32),
            key,
            Pixels(lambda image: image, lambda image: image),
        )
        domains = (listing.images(method, name) for name in Batch._fields)
        _, aux = method.loss(
            {"model": params, **extra}, state, Batch(*domains), context
        )
        return dict(aux.metrics)

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), listing.SIZE))
    return set(jax.eval_shape(step, *shapes))

"""The weights of a method's own loss terms, found by tracing its loss."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from lsr_jax import models
from lsr_jax.errors import InputError
from lsr_jax.methods import catalog
from lsr_jax.models import Model
from lsr_jax.training import stage as training_stage
from lsr_jax.types import Method, PyTree

# Not terms that a method adds: the segmentation loss, and the discriminator's own loss.
GIVEN = ("segmentation", "discriminator")


def weights(config: Mapping, stage: str) -> tuple[str, ...]:
    """The keywords of a stage's method that weigh a term of its own, sorted.

    A keyword is such a weight if the loss reports fewer terms once it is 0. Nothing is
    computed: the loss is traced with shapes alone.

    Args:
      config: resolved.
      stage: whose method is asked.

    Raises:
      InputError: the method cannot use the heads of the network.
    """
    network = models.build(**config["model"])
    # Traced once for all methods.
    network = network._replace(forward=jax.jit(network.forward, static_argnums=3))
    full = reported(training_stage.build_method(config, stage), network)
    keywords = config[stage]["method"]
    found = []
    for name in sorted(set(keywords) - set(GIVEN)):
        value = keywords[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not value:
            continue
        section = {**config[stage], "method": {**keywords, name: 0.0}}
        try:
            method = training_stage.build_method({**config, stage: section}, stage)
            terms = reported(method, network)
        except (InputError, ValueError, TypeError, ZeroDivisionError):
            continue  # an exponent, a count: 0 is not allowed
        if len(terms) < len(full):
            found.append(name)
    return tuple(found)


def reported(method: Method, model: Model) -> set[str]:
    """Names of the metrics that the loss of one step reports."""

    def metrics(*network: PyTree) -> Mapping:
        return dict(catalog.trace(method, model, network, passes=[])[2])

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), catalog.SIZE))
    return set(jax.eval_shape(metrics, *shapes))

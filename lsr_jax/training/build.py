"""From sections of a resolved config to method, optimiser and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import optax

from lsr_jax import models
from lsr_jax.data import augment
from lsr_jax.errors import InputError
from lsr_jax.methods import METHODS, added
from lsr_jax.training import optimizer as optimizers
from lsr_jax.training.step import Preprocess
from lsr_jax.types import Method, PyTree


def method(config: Mapping, stage: str) -> Method:
    """The method of a stage, with the norm loss on top if that has a weight.

    Raises:
      InputError: it cannot use the heads of the network.
    """
    keywords = dict(config[stage]["method"])
    name = keywords.pop("name")
    method = METHODS[name].make(**keywords)
    head = config["model"]["head"]
    if head not in method.heads:
        raise InputError(
            f"model.head: {name} in stage {stage!r} needs {' or '.join(method.heads)}; "
            f"found {head}"
        )
    terms = dict(config[stage]["added_norm"])
    terms["horizon"] = terms["horizon"] or config[stage]["steps"]
    return added.norm(method, **terms)


def optimizer(
    params: PyTree, model: models.Model, stage: Mapping
) -> optax.GradientTransformation:
    """The optimiser of a stage over all of its parameters."""
    keywords = dict(stage["optimizer"])
    groups = optimizers.model_groups(
        head_multiplier=keywords.pop("head_multiplier"),
        duplicate_updates=keywords.pop("duplicate_updates"),
        frozen=model.frozen_paths,
    )
    keywords["horizon"] = keywords["horizon"] or stage["steps"]
    return optimizers.make(params, groups, **keywords)


def preprocess(config: Mapping, stage: str) -> Preprocess:
    """Augmentation and normalisation as the config wants them."""
    return partial(
        augment.preprocess,
        **config[stage]["augment"],
        preprocessing=config["data"]["preprocessing"],
    )

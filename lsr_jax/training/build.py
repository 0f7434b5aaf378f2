"""From sections of a resolved config to method, optimiser and preprocessing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial

import jax
import optax

from lsr_jax import models
from lsr_jax.data import augment
from lsr_jax.errors import InputError, TrainingError
from lsr_jax.methods import METHODS, added
from lsr_jax.training import optimizer as optimizers
from lsr_jax.training.step import Preprocess
from lsr_jax.types import Method, PyTree

# No fault of the keys: a device without memory, a disk, training itself.
NOT_OF_KEYS = (jax.errors.JaxRuntimeError, MemoryError, OSError, TrainingError)


@contextlib.contextmanager
def from_keys(stage: str) -> Iterator[None]:
    """Whatever is built inside, an error of it is one line that names the stage.

    Raises:
      InputError: what is inside raised one, or cannot be built from the keys.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"stage {stage}: {error}") from error
    except NOT_OF_KEYS:
        raise
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), "")
        raise InputError(
            f"{stage}: cannot be built from its keys: {type(error).__name__}: {line}; "
            "--debug shows where"
        ) from error


def method(config: Mapping, stage: str) -> Method:
    """The method of a stage, with the norm loss on top if that has a weight.

    Raises:
      InputError: an unknown one, or one that cannot use the heads of the network.
    """
    keywords = dict(config[stage]["method"])
    name = keywords.pop("name")
    if name not in METHODS:
        raise InputError(
            f"method.name: expected one of {', '.join(METHODS)}; found {name!r} in stage "
            f"{stage!r}"
        )
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

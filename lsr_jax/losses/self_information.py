"""Self-information of predictions, ADVENT: the entropy loss and the discriminator's maps."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lsr_jax import resample

_EPSILON = 1e-30


def self_information(probabilities: jax.Array) -> jax.Array:
    """Weighted self-information maps, what ADVENT's discriminators see.

    ``I_c = -p_c log2(p_c + 1e-30) / log2 C``, class by class (ADVENT,
    ``advent/utils/func.py::prob_2_entropy``).

    Args:
      probabilities: ``[B, H, W, C]``.

    Returns:
      ``[B, H, W, C]``, their sum over the classes lies in [0, 1].
    """
    p = resample.at_least_float32(probabilities)
    return -p * jnp.log(p + _EPSILON) / jnp.log(jnp.asarray(p.shape[-1], p.dtype))


def normalised_entropy(probabilities: jax.Array) -> jax.Array:
    """Mean entropy of the predictions in units of the largest possible.

    ``-1 / (B H W log2 C) sum_{x, c} p log2(p + 1e-30)``, gradient through both factors
    (ADVENT, ``advent/utils/loss.py::entropy_loss``). It is ``C / ln C`` times
    `losses.entropy`.

    Args:
      probabilities: ``[B, H, W, C]``.
    """
    return self_information(probabilities).sum(axis=-1).mean()

"""Supervised pixel losses."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp

from lsr_jax.ops import numerics


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean of ``-log p[label]`` over the valid pixels; 0 when there is none.

    Args:
      logits: ``[B, H, W, C]``.
      labels: ``[B, H, W]``; a label outside ``0..C-1`` (255 = ignore) is left out.
    """
    log_probability, valid = _log_probability(logits, labels)
    return numerics.masked_mean(-log_probability, valid)


def focal_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, gamma: float, smallest: float = 0.0
) -> jax.Array:
    """Mean of ``-(1 - p[label])^gamma log p[label]`` over the valid pixels.

    CLAN and Feature To Adapt train with it at ``gamma`` 2 under the name of cross
    entropy (``utils/loss.py``); the gradient passes through both factors. ``gamma`` 0
    is `cross_entropy`, with its arrays.

    Args:
      logits: ``[B, H, W, C]``.
      labels: ``[B, H, W]``.
      gamma: 0, or 1 and above (between them the gradient is unbounded at ``p = 1``).
      smallest: where ``p[label]`` is below it, the loss is that of ``smallest`` and the
        gradient 0. The released code clamps at 1e-9, so it gives up on such pixels.

    Raises:
      ValueError: any other ``gamma``.
    """
    if gamma < 0 or 0 < gamma < 1:
        raise ValueError(f"gamma must be 0 or at least 1, got {gamma}")
    log_probability, valid = _log_probability(logits, labels)
    if smallest > 0:
        log_probability = jnp.maximum(log_probability, math.log(smallest))
    miss = -jnp.expm1(log_probability)
    return numerics.masked_mean(-(miss**gamma) * log_probability, valid)


def weighted_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    *,
    divisor: Literal["pixels", "weights"] = "pixels",
) -> jax.Array:
    """Sum of ``-omega log p[label]`` over the valid pixels, over the divisor.

    Args:
      logits: ``[B, H, W, C]``.
      labels: ``[B, H, W]``; a label outside ``0..C-1`` (255 = ignore) is left out.
      weights: ``[B, H, W]``, ``omega``; no gradient flows into them.
      divisor: "pixels", all ``B H W`` of them, void ones included, as DACS
        (``utils/loss.py::CrossEntropyLoss2dPixelWiseWeighted``); "weights", the sum of
        ``omega`` over the valid pixels: the weighted mean, which with ``omega`` the
        weight of the pixel's class is torch's. 0 where nothing is valid.
    """
    log_probability, valid = _log_probability(logits, labels)
    weights = jax.lax.stop_gradient(weights).astype(log_probability.dtype)
    weights = jnp.where(valid, weights, 0)
    total = -(weights * log_probability).sum()
    if divisor == "pixels":
        return total / labels.size
    if divisor != "weights":
        raise ValueError(f"divisor must be 'pixels' or 'weights', got {divisor!r}")
    weight = weights.sum()
    return total / jnp.where(weight > 0, weight, 1)


def _log_probability(logits, labels) -> tuple[jax.Array, jax.Array]:
    chosen = numerics.class_mask(labels, logits.shape[-1])
    valid = chosen.any(axis=-1)
    picked = jnp.where(chosen, logits, 0).sum(axis=-1)
    log_probability = picked - jax.nn.logsumexp(logits, axis=-1)
    return jnp.where(valid, log_probability, 0), valid

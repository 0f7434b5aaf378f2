"""Supervised pixel losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lsr_jax.losses import reduction


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean of ``-log p[label]`` over the valid pixels; 0 when there is none.

    Args:
      logits: ``[B, H, W, C]``.
      labels: ``[B, H, W]``; a label outside ``0..C-1`` (255 = ignore) is left out.
    """
    log_probability, valid = _log_probability(logits, labels)
    return reduction.masked_mean(-log_probability, valid)


def focal_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, gamma: float
) -> jax.Array:
    """Mean of ``-(1 - p[label])^gamma log p[label]`` over the valid pixels.

    CLAN and Feature To Adapt train with it at ``gamma`` 2 under the name of cross
    entropy (``utils/loss.py``); the gradient passes through both factors. ``gamma`` 0
    is `cross_entropy`.

    Args:
      logits: ``[B, H, W, C]``.
      labels: ``[B, H, W]``; a label outside ``0..C-1`` (255 = ignore) is left out.
      gamma: 0, or 1 and above (between them the gradient is unbounded at ``p = 1``).
    """
    if gamma < 0 or 0 < gamma < 1:
        raise ValueError(f"gamma must be 0 or at least 1, got {gamma}")
    log_probability, valid = _log_probability(logits, labels)
    miss = -jnp.expm1(log_probability)
    return reduction.masked_mean(-(miss**gamma) * log_probability, valid)


def _log_probability(logits, labels) -> tuple[jax.Array, jax.Array]:
    chosen = reduction.class_mask(labels, logits.shape[-1])
    valid = chosen.any(axis=-1)
    picked = jnp.where(chosen, logits, 0).sum(axis=-1)
    log_probability = picked - jax.nn.logsumexp(logits, axis=-1)
    return jnp.where(valid, log_probability, 0), valid

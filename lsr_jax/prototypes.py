"""Class prototypes: batch means and their exponential moving average."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax import resample


class Prototypes(NamedTuple):
    """Smoothed class prototypes, carried from step to step.

    Attributes:
      mean: ``[C, D]``; zero rows where a class was never seen.
      seen: ``[C]`` bool, True where the class occurred in this or an earlier step.
    """

    mean: jax.Array
    seen: jax.Array


def init(num_classes: int, dim: int, *, dtype=jnp.float32) -> Prototypes:
    """No class seen yet, all means zero."""
    return Prototypes(
        jnp.zeros((num_classes, dim), dtype), jnp.zeros((num_classes,), bool)
    )


def class_means(
    features: jax.Array, labels: jax.Array, *, num_classes: int
) -> tuple[jax.Array, jax.Array]:
    """Mean feature vector of every class in the batch, LSR eq. 2.

    ``p_c = (1 / |F_c|) sum_{f in F_c} f``, with its gradient.

    Args:
      features: ``[B, h, w, D]``; half precision is summed in float32.
      labels: ``[B, h, w]``; a label outside ``0..C-1`` (255 = ignore) is left out.
      num_classes: ``C``.

    Returns:
      means ``[C, D]``, a zero row for an absent class, and counts ``[C]``, floating.
    """
    features = resample.at_least_float32(features)
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=features.dtype)
    counts = one_hot.sum(axis=(0, 1, 2))
    sums = jnp.einsum(
        "bhwc,bhwd->cd",
        one_hot,
        features,
        precision=jax.lax.Precision.HIGHEST,
    )
    return sums / jnp.maximum(counts, 1)[:, None], counts


def update(
    state: Prototypes,
    means: jax.Array,
    counts: jax.Array,
    *,
    momentum: float = 0.8,
    initial: Literal["zero", "first_seen"] = "zero",
    clamp: bool = False,
) -> Prototypes:
    """Moves the prototypes of the classes present towards their batch means, LSR eq. 3.

    ``p^_c = momentum sg(p^_c) + (1 - momentum) p_c``; an absent class keeps its
    prototype. The gradient reaches the batch means only, through ``1 - momentum``.

    Args:
      state: prototypes of the step before.
      means: ``[C, D]`` batch means.
      counts: ``[C]`` how many vectors each mean is made of, 0 = absent.
      momentum: weight of the old value.
      initial: "zero" averages with the zero start, as the paper; "first_seen" takes
        the batch mean of the first step in which a class occurs, as LSR's
        ``tools/train_UDA.py``.
      clamp: clips averaged prototypes at zero from below, as ``tools/train_UDA.py``.
        It changes no value for non-negative features.
    """
    if initial not in ("zero", "first_seen"):
        raise ValueError(f"initial must be 'zero' or 'first_seen', got {initial!r}")
    present = counts > 0
    old = jax.lax.stop_gradient(state.mean)
    new = momentum * old + (1 - momentum) * means
    if clamp:  # not jnp.maximum: torch passes the whole gradient at exactly zero
        new = jnp.where(new >= 0, new, 0)
    if initial == "first_seen":
        new = jnp.where(state.seen[:, None], new, means)
    return Prototypes(jnp.where(present[:, None], new, old), state.seen | present)

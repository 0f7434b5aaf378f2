"""Class prototypes: batch means and their exponential moving average."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax.ops import resample


class Prototypes(NamedTuple):
    """Smoothed class prototypes, carried from step to step."""

    mean: jax.Array  # [C, D]; zero rows where a class was never seen
    seen: jax.Array  # [C] bool, whether the class occurred in this or an earlier step


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


def joint_class_means(
    *domains: tuple[jax.Array, jax.Array], num_classes: int
) -> tuple[jax.Array, jax.Array]:
    """`class_means` of several domains together, OCE; each is ``(features, labels)``."""
    pairs = [class_means(*domain, num_classes=num_classes) for domain in domains]
    total = sum(counts for _, counts in pairs)
    sums = sum(means * counts[:, None] for means, counts in pairs)
    return sums / jnp.maximum(total, 1)[:, None], total


def running_mean(
    means: jax.Array,
    counts: jax.Array,
    vectors: jax.Array,
    valid: jax.Array,
    *,
    cap: float = 3000,
) -> tuple[jax.Array, jax.Array]:
    """Update the anchors with the class means of single images, one image after another.

    ``A_c <- (n_c A_c + v) / (n_c + 1)``, then ``n_c <- min(n_c + 1, cap)``: the mean of
    the first ``cap`` vectors, beyond that an average that forgets at the rate
    ``1 / (cap + 1)`` (CAG_UDA, ``cac.py``). A vector of zeros does not count.

    Args:
      means: ``[C, D]`` anchors so far, zeros at the start.
      counts: ``[C]`` floating, how many vectors each is made of.
      vectors: ``[B, C, D]`` of `losses.image_class_means`.
      valid: ``[B, C]`` bool.
      cap: the largest count.
    """

    def add(state, image):
        mean, count = state
        vector, exists = image
        exists &= (vector != 0).any(axis=-1)
        count_now = count[:, None]
        moved = (count_now * mean + vector) / (count_now + 1)
        mean = jnp.where(exists[:, None], moved, mean)
        return (mean, jnp.where(exists, jnp.minimum(count + 1, cap), count)), None

    vectors = vectors.astype(means.dtype)
    return jax.lax.scan(add, (means, counts), (vectors, valid))[0]


def update(
    state: Prototypes,
    means: jax.Array,
    counts: jax.Array,
    *,
    momentum: float = 0.8,
    initial: Literal["zero", "first_seen", "itself"] = "zero",
    clamp: bool = False,
) -> Prototypes:
    """Move the prototypes of the classes present towards their batch means, LSR eq. 3.

    ``p^_c = momentum sg(p^_c) + (1 - momentum) p_c``; an absent class keeps its
    prototype. The gradient reaches the batch means only, through ``1 - momentum``.

    Args:
      state: prototypes of the step before.
      means: ``[C, D]`` batch means.
      counts: ``[C]`` how many vectors each mean is made of, 0 = absent.
      momentum: weight of the old value.
      initial: "zero" averages with the zero start, as the paper; "first_seen" takes
        the batch mean of the first step in which a class occurs, as LSR's
        ``tools/train_UDA.py``; "itself" averages that mean with a constant copy of it,
        as OCE (UDAclustering, ``utils/losses.py``): the same value, and the gradient is
        scaled by ``1 - momentum`` in the first step too.
      clamp: clips averaged prototypes at zero from below, as ``tools/train_UDA.py``.
        It changes no value for non-negative features.

    Raises:
      ValueError: any other ``initial``.
    """
    if initial not in ("zero", "first_seen", "itself"):
        raise ValueError(
            f"initial must be 'zero', 'first_seen' or 'itself', got {initial!r}"
        )
    present = counts > 0
    old = jax.lax.stop_gradient(state.mean)
    if initial == "itself":
        met = (state.seen | ~present)[:, None]
        old = jnp.where(met, old, jax.lax.stop_gradient(means))
    new = momentum * old + (1 - momentum) * means
    if clamp:  # not jnp.maximum: torch passes the whole gradient at exactly zero
        new = jnp.where(new >= 0, new, 0)
    if initial == "first_seen":
        new = jnp.where(state.seen[:, None], new, means)
    return Prototypes(jnp.where(present[:, None], new, old), state.seen | present)

"""The latent terms of OCE: contraction, spacing, orthogonality and sparsity.

Features are ``[B, h, w, D]``, labels ``[B, h, w]`` at feature resolution; a label
outside ``0..C-1`` (255 = ignore) takes no part. Centroids are ``[C, D]`` of both domains
together (`prototypes.joint_class_means`), ``seen`` ``[C]`` bool says which exist. Nothing
is detached, centroids neither. Half-precision features are computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from lsr_jax.ops import numerics, resample

_HIGHEST = jax.lax.Precision.HIGHEST

Order = Literal[1, 2]
DistanceOf = Literal["block", "vectors"]
Reduce = Literal["mean", "sum"]


def contraction(
    features: jax.Array,
    labels: jax.Array,
    centroids: jax.Array,
    seen: jax.Array,
    *,
    order: Order = 1,
    distance_of: DistanceOf = "block",
) -> jax.Array:
    """Distance of the features of one domain to the centroid of their class.

    ``1/|J| sum_j d(c_j - F_j)`` over the classes ``J`` that occur in ``labels`` and have
    a centroid; ``F_j`` are the features of class ``j``. OCE minimises it on both domains
    and subtracts `spacing`.

    Args:
      features: ``[B, h, w, D]`` of one domain.
      labels: ``[B, h, w]``.
      centroids: ``[C, D]``.
      seen: ``[C]`` bool.
      order: ``p`` of the norm in ``d``, 1 (the released default) or 2 (the slides).
      distance_of: "block", ``d(X) = ||X||_p / size(X)`` over all entries of the
        differences ``X`` of a class (UDAclustering, ``utils/losses.py``). "vectors",
        ``d(X) = mean_n ||x_n||_p`` over its rows: with order 2 the L2 distance of the
        slides, which do not say whether it is squared; it is not, as in the code.

    Raises:
      ValueError: any other ``order`` or ``distance_of``.
    """
    features = resample.at_least_float32(features)
    centroids = centroids.astype(features.dtype)
    one_hot = jax.nn.one_hot(labels, seen.shape[0], dtype=features.dtype)
    counts = one_hot.sum(axis=(0, 1, 2))
    # [B, h, w, D] by a product with at most one 1 a row: exact.
    own = jnp.matmul(one_hot, centroids, precision=_HIGHEST)

    def gather(gaps):
        return jnp.einsum("bhwc,bhw->c", one_hot, gaps, precision=_HIGHEST)

    gaps, number = features - own, jnp.maximum(counts, 1)
    distance = _distance(gaps, gather, number, order, distance_of)
    return numerics.masked_mean(distance, (counts > 0) & seen)


def spacing(
    centroids: jax.Array,
    seen: jax.Array,
    *,
    order: Order = 1,
    distance_of: DistanceOf = "block",
) -> jax.Array:
    """Distance of every centroid to all others, the term that OCE maximises.

    ``1/|J| sum_j d([c_j - c_i]_{i != j})`` over the centroids that exist, with ``d`` of
    `contraction`; 0 for fewer than two.
    """
    centroids = resample.at_least_float32(centroids)
    pairs = seen[:, None] & seen & ~jnp.eye(seen.shape[0], dtype=bool)
    others = jnp.maximum(seen.sum(dtype=centroids.dtype) - 1, 1)

    def gather(gaps):
        return jnp.where(pairs, gaps, 0).sum(axis=-1)

    gaps = centroids[:, None] - centroids
    distance = _distance(gaps, gather, others, order, distance_of)
    return numerics.masked_mean(distance, seen)


def orthogonality(
    features: Sequence[jax.Array],
    centroids: jax.Array,
    seen: jax.Array,
    *,
    temperature: float = 1.0,
    reduce: Reduce = "mean",
) -> jax.Array:
    """Entropy of the similarities between features and centroids.

    ``-mean_{n, j} q log q`` with ``q = softmax_j(f_n . c_j / T)`` over all cells of all
    domains, void ones included, and the centroids that exist. Features that are
    orthogonal to all centroids but their own have the least.

    Args:
      features: ``[B, h, w, D]`` of every domain; sizes may differ.
      centroids: ``[C, D]``.
      seen: ``[C]`` bool.
      temperature: ``T``.
      reduce: over ``n`` and ``j``: "mean" (UDAclustering, ``utils/losses.py``) or "sum"
        (the slides), which grows with the batch.

    Raises:
      ValueError: any other ``reduce``.
    """
    _check_reduce(reduce)
    total, cells = 0.0, 0
    for domain in features:
        domain = resample.at_least_float32(domain)
        similarity = jnp.einsum(
            "bhwd,cd->bhwc", domain, centroids.astype(domain.dtype), precision=_HIGHEST
        )
        lowest = jnp.finfo(domain.dtype).min
        log_q = jax.nn.log_softmax(jnp.where(seen, similarity / temperature, lowest))
        # Not through the centroids that do not exist: 0 times their logarithm.
        log_q = jnp.where(seen, log_q, 0)
        total -= jnp.where(seen, jnp.exp(log_q) * log_q, 0).sum()
        cells += domain.size // domain.shape[-1]
    if reduce == "sum":
        return total
    return total / (cells * jnp.maximum(seen.sum(dtype=total.dtype), 1))


def sparsity(
    centroids: jax.Array,
    seen: jax.Array,
    *,
    threshold: float = 0.5,
    exponent: int = 2,
    reduce: Reduce = "mean",
) -> jax.Array:
    """Push the channels of every centroid to 0 or to its largest channel.

    ``-mean_{j, k} |c_jk / max_k c_jk - rho|^e`` over the centroids that exist; the
    gradient also flows through the maximum (UDAclustering, ``utils/losses.py``). A
    centroid without a positive channel counts as zeros.

    Args:
      centroids: ``[C, D]``.
      seen: ``[C]`` bool.
      threshold: ``rho``.
      exponent: ``e``.
      reduce: over ``j`` and ``k``: "mean" (UDAclustering) or "sum" (the slides).

    Raises:
      ValueError: any other ``reduce``.
    """
    _check_reduce(reduce)
    centroids = resample.at_least_float32(centroids)
    largest = centroids.max(axis=-1, keepdims=True)
    positive = largest > 0
    relative = centroids / jnp.where(positive, largest, 1)
    relative = jnp.where(positive, relative, 0)
    distance = numerics.absolute(relative - threshold) ** exponent
    if reduce == "sum":
        return -jnp.where(seen[:, None], distance, 0).sum()
    return -numerics.masked_mean(distance.mean(axis=-1), seen)


def _distance(gaps, gather, count, order, distance_of) -> jax.Array:
    """``d`` of `contraction` per class; ``gather`` adds up what belongs to a class."""
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    powers = numerics.absolute(gaps) if order == 1 else jnp.square(gaps)
    powers = powers.sum(axis=-1)
    if distance_of == "block":
        return _root(gather(powers), order) / (count * gaps.shape[-1])
    if distance_of == "vectors":
        return gather(_root(powers, order)) / count
    raise ValueError(f"distance_of must be 'block' or 'vectors', got {distance_of!r}")


def _check_reduce(reduce) -> None:
    if reduce not in ("mean", "sum"):
        raise ValueError(f"reduce must be 'mean' or 'sum', got {reduce!r}")


def _root(total, order: int) -> jax.Array:
    if order == 1:
        return total
    positive = total > 0  # the root of 0 has no gradient
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, total, 1)), 0)

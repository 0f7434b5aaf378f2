"""The three latent-space regularisers of LSR: clustering, perpendicularity, norm.

Labels are at feature resolution; one outside ``0..C-1`` (255 = ignore) takes no part.
Half-precision features are computed in float32. Where the paper and the released ``utils/losses.py`` differ, the defaults
are the paper's and a keyword names the other.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from lsr_jax.ops import numerics, resample

_HIGHEST = jax.lax.Precision.HIGHEST


def clustering(
    features: jax.Array,
    labels: jax.Array,
    prototypes: jax.Array,
    seen: jax.Array,
    *,
    distance: Literal["squared_l2", "l2_mean", "l1_mean", "cosine"] = "squared_l2",
    classes: Literal["present", "all"] = "present",
    prototype_gradient: bool = False,
) -> jax.Array:
    """Distance of features to the prototype of their class, LSR eq. 5.

    ``1/|C| sum_c 1/|F_c| sum_{f in F_c} d(f, p_c)`` over the classes that occur in
    ``labels`` and have a prototype. Other classes contribute nothing.

    Args:
      features: ``[B, h, w, D]``.
      labels: ``[B, h, w]``.
      prototypes: ``[C, D]``.
      seen: ``[C]`` bool, which prototypes exist.
      distance: ``d``: "squared_l2" ``sum_k (f_k - p_k)^2``, the paper; "l2_mean" and
        "l1_mean", the mean over the D channels of the squared or absolute difference;
        "cosine" ``1 - |cos(f, p)|``. ``utils/losses.py::clustering`` calls the last
        three euclidean, absolute (its default) and cosine.
      classes: ``|C|``: "present", the number of classes that contribute; "all", ``C``,
        as ``utils/losses.py::clustering``.
      prototype_gradient: whether the gradient also reaches the prototypes; the
        released code detaches them.

    Raises:
      ValueError: any other ``distance`` or ``classes``.
    """
    features = resample.at_least_float32(features)
    prototypes = prototypes.astype(features.dtype)
    if not prototype_gradient:
        prototypes = jax.lax.stop_gradient(prototypes)
    one_hot = jax.nn.one_hot(labels, prototypes.shape[0], dtype=features.dtype)
    share = _class_share(one_hot, seen, classes)
    # [B, h, w, D] by a product with exactly one 1 a row: difference first, then square.
    own = jnp.matmul(one_hot, prototypes, precision=_HIGHEST)
    return (share * _distance(features, own, distance)).sum()


def perpendicularity(
    prototypes: jax.Array, present: jax.Array, *, order: jax.Array | None = None
) -> jax.Array:
    """Mean cosine between the prototypes of different classes, LSR eq. 6.

    ``1 / (n (n - 1)) sum_{i != j} cos(p_i, p_j)`` over the ``n`` classes present; 0
    for fewer than two.

    Args:
      prototypes: ``[C, D]``; the paper means the batch means, the released code
        (``utils/losses.py``) the smoothed prototypes of all classes ever seen.
      present: ``[C]`` bool.
      order: ``[C]`` permutation of the classes. The released code visits them in a
        random order and detaches the earlier one of every pair: the same value, on
        average half the gradient. None gives both their gradient.
    """
    direction = numerics.unit(resample.at_least_float32(prototypes))
    place = jnp.arange(present.shape[0])
    pivot = direction
    if order is not None:
        place = jnp.argsort(order)
        pivot = jax.lax.stop_gradient(direction)
    cosine = jnp.matmul(pivot, direction.T, precision=_HIGHEST)
    # Cosines are symmetric, so one of the two ordered pairs gives value and gradient.
    pairs = (place[:, None] < place) & present[:, None] & present
    return numerics.masked_mean(cosine, pairs)


def norm_alignment(
    features: jax.Array,
    target_norm: jax.Array,
    *,
    delta: float,
    side: Literal["both", "below"] = "both",
    relative: bool = False,
    active_only: bool = False,
    margin: Literal["add", "multiply"] = "add",
    labels: jax.Array | None = None,
) -> jax.Array:
    """Moves feature norms towards a common, slightly larger norm, LSR eq. 7 and 8.

    ``mean_f | m + delta - ||f|| |`` over all cells, void ones included. The paper takes
    for ``m`` the mean norm of the source features of the step before, and on the target
    ``side="below"``. ``utils/losses.py::normAlignment`` takes the mean norm of the
    current source features, both sides on both domains and ``active_only``; its types
    percent, multiplicative and class are ``relative``, ``margin`` and ``labels``.

    Args:
      features: ``[B, h, w, D]``.
      target_norm: ``m``, a scalar of `mean_norm`, or ``[C]`` of `class_mean_norms` with
        ``labels``. No gradient flows into it.
      delta: in units of the norm, or a factor with ``margin="multiply"``.
      side: "below" counts only norms that are smaller than wanted:
        ``max(0, m + delta - ||f||)``.
      relative: divides by ``m``.
      active_only: first sets the channels that are below the mean of their own cell to
        zero; they get no gradient. (The released code compares without the channel
        axis, which only works for one image.)
      margin: the norm wanted is ``m + delta`` ("add") or ``m delta`` ("multiply").
      labels: ``[B, h, w]``: compares every cell with its own class's ``m_c`` and
        averages within, then over the classes that occur in ``labels`` and have
        ``m_c > 0``.

    Raises:
      ValueError: any other ``side`` or ``margin``.
    """
    if side not in ("both", "below"):
        raise ValueError(f"side must be 'both' or 'below', got {side!r}")
    if margin not in ("add", "multiply"):
        raise ValueError(f"margin must be 'add' or 'multiply', got {margin!r}")
    features = resample.at_least_float32(features)
    target_norm = jax.lax.stop_gradient(target_norm).astype(features.dtype)
    if active_only:
        level = jax.lax.stop_gradient(features).mean(axis=-1, keepdims=True)
        features = jnp.where(features >= level, features, 0)
    if labels is None:
        share = 1 / (features.size // features.shape[-1])
    else:
        one_hot = jax.nn.one_hot(labels, target_norm.shape[0], dtype=features.dtype)
        share = _class_share(one_hot, target_norm > 0)
        target_norm = (one_hot * target_norm).sum(axis=-1)

    wanted = target_norm + delta if margin == "add" else target_norm * delta
    lacking = wanted - numerics.safe_norm(features)
    error = numerics.absolute(lacking) if side == "both" else jax.nn.relu(lacking)
    if relative:
        error = error / jnp.where(target_norm > 0, target_norm, 1)
    return (share * error).sum()


def mean_norm(features: jax.Array) -> jax.Array:
    """Mean L2 norm of all feature vectors, void ones included, ``[B, h, w, D]`` -> []."""
    return numerics.safe_norm(resample.at_least_float32(features)).mean()


def class_mean_norms(
    features: jax.Array, labels: jax.Array, *, num_classes: int
) -> jax.Array:
    """Mean L2 norm of the feature vectors of every class, ``[C]``, 0 for absent ones."""
    norms = numerics.safe_norm(resample.at_least_float32(features))[..., None]
    one_hot = jax.nn.one_hot(labels, num_classes, dtype=norms.dtype)
    counts = one_hot.sum(axis=(0, 1, 2))
    return (one_hot * norms).sum(axis=(0, 1, 2)) / jnp.maximum(counts, 1)


def _class_share(one_hot, exists, classes: str = "present") -> jax.Array:
    """Weight of every cell in a mean over classes of means over cells, [B, h, w]."""
    counts = one_hot.sum(axis=(0, 1, 2))
    contributing = (counts > 0) & exists
    if classes == "present":
        divisor = jnp.maximum(contributing.sum(dtype=one_hot.dtype), 1)
    elif classes == "all":
        divisor = one_hot.shape[-1]
    else:
        raise ValueError(f"classes must be 'present' or 'all', got {classes!r}")
    share = jnp.where(contributing, 1 / (jnp.maximum(counts, 1) * divisor), 0)
    return (one_hot * share).sum(axis=-1)


def _distance(features, own, distance: str) -> jax.Array:
    if distance == "squared_l2":
        return jnp.square(features - own).sum(axis=-1)
    if distance == "l2_mean":
        return jnp.square(features - own).mean(axis=-1)
    if distance == "l1_mean":
        return numerics.absolute(features - own).mean(axis=-1)
    if distance == "cosine":
        cosine = (numerics.unit(features) * numerics.unit(own)).sum(axis=-1)
        return 1 - numerics.absolute(cosine)
    raise ValueError(
        "distance must be 'squared_l2', 'l2_mean', 'l1_mean' or 'cosine', got"
        f" {distance!r}"
    )

"""Diagnostics of a training step: float32 scalars that are logged beside the terms.

They are always finite, so that they never stop a run: a mean or a minimum over nothing
is 0, and so is the count that is logged with it.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

LABELS = ("target_labelled", "target_classes")
PROTOTYPES = (
    "prototype_classes",
    *("prototype_norm_min", "prototype_norm_mean"),
    *("prototype_angle_min", "prototype_angle_mean"),
)
DISCRIMINATOR = ("discriminator_accuracy_source", "discriminator_accuracy_target")
# Decision boundaries: logits of the source are below.
BOUNDARIES = {"cross_entropy": 0.0, "least_squares": 0.5}


# Of DACS: the fraction of target pixels with a confident teacher, and the fraction of
# cells whose features are held to ImageNet's.
PREFIXES = ("confident", "distance_cells", *LABELS, *PROTOTYPES, *DISCRIMINATOR)
"""What names of diagnostics begin with; every other metric is a term of the loss."""


def without(metrics: Mapping) -> dict:
    """The metrics that are not diagnostics: terms of the loss, total, gradient norm."""
    return {k: x for k, x in metrics.items() if not k.startswith(PREFIXES)}


def _named(names, found, suffix: str) -> dict[str, jax.Array]:
    names = [f"{name}_{suffix}" if suffix else name for name in names]
    return dict(zip(names, found, strict=True))


def pseudo_labels(
    labels: jax.Array, *, num_classes: int, rule: str = ""
) -> dict[str, jax.Array]:
    """``target_labelled`` and ``target_classes``: fraction labelled, and number of classes.

    ``|{i: 0 <= y_i < C}| / N`` and ``|{y_i: 0 <= y_i < C}|`` over the ``N`` cells or pixels
    of the batch of pseudo-labels ``[B, h, w]``, 255 = ignore. ``rule`` is appended to the
    names where a method has several.
    """
    kept = ((labels >= 0) & (labels < num_classes)).mean(dtype=jnp.float32)
    found = kept, classes(labels, num_classes=num_classes)
    return _named(LABELS, found, rule)


def classes(labels: jax.Array, *, num_classes: int) -> jax.Array:
    """``|{y_i: 0 <= y_i < C}|``, how many classes occur among ``labels`` ``[...]``."""
    known = jnp.arange(num_classes, dtype=labels.dtype)
    occurs = (labels.reshape(-1, 1) == known).any(axis=0)
    return occurs.sum(dtype=jnp.float32)


def prototypes(means: jax.Array, seen: jax.Array) -> dict[str, jax.Array]:
    """Norms of the class prototypes ``[C, D]``, and angles between them in degrees.

    Minimum and mean of ``||p_c||_2`` over the classes ``seen``, and of the angle between
    ``p_c`` and ``p_k`` over their pairs ``c < k``; a pair with a zero vector is left out.
    """
    means = jax.lax.stop_gradient(means).astype(jnp.float32)
    norms = jnp.linalg.norm(means, axis=-1)
    directions = means / jnp.where(norms > 0, norms, 1)[:, None]
    # For unit vectors ``tan(angle / 2) = ||u - v|| / ||u + v||``. The arccos of ``u v``
    # would lose half of the digits of a small angle.
    u, v = directions[:, None], directions
    opposite, adjacent = (jnp.linalg.norm(x, axis=-1) for x in (u - v, u + v))
    angles = jnp.degrees(2 * jnp.arctan2(opposite, adjacent))
    directed = seen & (norms > 0)
    pairs = jnp.triu(directed[:, None] & directed, k=1)
    found = (
        seen.sum(dtype=jnp.float32),
        *minimum_and_mean(norms, seen),
        *minimum_and_mean(angles, pairs),
    )
    return dict(zip(PROTOTYPES, found, strict=True))


def minimum_and_mean(x: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of the entries of ``x`` selected by ``where``; 0 without any.

    NaN becomes 0, infinity the largest number.
    """
    count = where.sum(dtype=x.dtype)
    smallest = jnp.where(where, x, jnp.inf).min()
    mean = jnp.where(where, x, 0).sum() / jnp.maximum(count, 1)
    return tuple(jnp.nan_to_num(jnp.where(count > 0, y, 0)) for y in (smallest, mean))


def discriminator(
    source: jax.Array,
    target: jax.Array,
    *,
    kind: str = "cross_entropy",
    level: str = "",
) -> dict[str, jax.Array]:
    """Accuracies of a discriminator on both domains.

    ``mean [d_s < b]`` and ``mean [d_t > b]`` with the decision boundary ``b``: 0 for
    cross-entropy, 1/2 for squared errors. Both near 1: it separates the domains, and the
    network learns nothing from it. A sum near 1: it does not separate them.

    Args:
      source: logits ``[...]`` on the source, without weights.
      target: the same on the target.
      kind: of `losses.domain_loss`.
      level: appended to the names where a method has several discriminators.
    """
    boundary = BOUNDARIES[kind]
    right = [x.mean(dtype=jnp.float32) for x in (source < boundary, target > boundary)]
    return _named(DISCRIMINATOR, right, level)

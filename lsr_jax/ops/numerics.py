"""Reductions, norms and angles that stay finite where nothing is left or a norm is 0.

`norms`, `unit_rows` and `angles` are for reports: on the host, in float64, and NaN where
undefined, such as an angle at a zero vector.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax.types import PyTree


def class_mask(labels: jax.Array, num_classes: int) -> jax.Array:
    """One-hot labels, ``[...] -> [..., C]`` bool; all False for 255.

    A comparison that fuses into the sum that follows. Indexing by the labels would
    scatter in the gradient, and XLA on CPU folds its constant indices for seconds.
    """
    labels = jnp.asarray(labels)
    return labels[..., None] == jnp.arange(num_classes, dtype=labels.dtype)


def masked_mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean of ``values`` where ``valid``, 0 where nothing is valid.

    Args:
      values: any shape; may be non-finite where it is not valid.
      valid: bool of the same shape.
    """
    total = jnp.where(valid, values, 0).sum()
    return total / jnp.maximum(valid.sum(dtype=values.dtype), 1)


def absolute(x: jax.Array) -> jax.Array:
    """``|x|`` with gradient 0 at 0, as torch; that of ``jnp.abs`` is 1 there."""
    return x * jnp.sign(x)


def safe_norm(x: jax.Array, *, keepdims: bool = False) -> jax.Array:
    """L2 norm over the last axis; its gradient at a zero vector is zero, not NaN."""
    square = jnp.square(x).sum(axis=-1, keepdims=keepdims)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def unit(x: jax.Array) -> jax.Array:
    """``x / ||x||`` over the last axis; a zero vector stays zero, gradient zero."""
    norm = safe_norm(x, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1)


def scaled_gradient(tree: PyTree, factor: float) -> PyTree:
    """The same values, exactly; gradients that pass through are ``factor`` fold."""

    def leaf(x):
        fixed = jax.lax.stop_gradient(x)
        return fixed + factor * (x - fixed)

    return jax.tree.map(leaf, tree)


def norms(vectors: np.ndarray) -> np.ndarray:
    """L2 norms ``[N]`` of ``[N, D]``."""
    return np.linalg.norm(np.asarray(vectors, np.float64), axis=-1)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """The vectors divided by their L2 norms; a zero vector becomes NaN."""
    vectors = np.asarray(vectors, np.float64)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    undefined = np.full(vectors.shape, np.nan)
    return np.divide(vectors, length, out=undefined, where=length > 0)


def angles(vectors: np.ndarray) -> np.ndarray:
    """Angles in degrees ``[N, N]`` between vectors ``[N, D]``, NaN on the diagonal."""
    directions = unit_rows(vectors)
    found = np.degrees(np.arccos(np.clip(directions @ directions.T, -1, 1)))
    np.fill_diagonal(found, np.nan)
    return found

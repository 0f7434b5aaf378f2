"""Class-wise thresholds of pseudo-labels over a whole data set, BDL (``SSL.py``)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax.types import IGNORE


def class_thresholds(
    labels: jax.Array,
    confidence: jax.Array,
    *,
    num_classes: int,
    portion: float = 0.5,
    cap: float = 0.9,
) -> jax.Array:
    """Threshold of every class: the median of its confidences, at most ``cap``.

    The value at rank ``round(portion n_c)`` (half to even, counted from 0) of the sorted
    confidences of the ``n_c`` pixels predicted as ``c``; 0 for a class never predicted.
    Sorts all pixels in memory; `histogram_thresholds` counts them instead.

    Args:
      labels: ``[...]`` predicted classes of any number of images; 255 is left out.
      confidence: ``[...]`` the largest probability of the same pixels.
      num_classes: ``C``.
      portion: which quantile.
      cap: the largest threshold.

    Returns:
      ``[C]`` of the dtype of ``confidence``.
    """
    labels, confidence = labels.ravel(), confidence.ravel()

    def quantile(label):
        own = labels == label
        count = own.sum()
        ordered = jnp.sort(jnp.where(own, confidence, jnp.inf))
        value = ordered[_rank(count, portion)]
        return jnp.where(count > 0, jnp.minimum(value, cap), 0)

    return jax.lax.map(quantile, jnp.arange(num_classes, dtype=labels.dtype))


def confidence_histogram(
    labels: jax.Array, confidence: jax.Array, *, num_classes: int, bins: int = 4096
) -> jax.Array:
    """Pixels by predicted class and confidence, to be summed over a data set.

    Args:
      labels: ``[...]`` predicted classes; 255 is left out.
      confidence: ``[...]`` in [0, 1].
      num_classes: ``C``.
      bins: of equal width; bin ``k`` holds the confidences in ``[k, k + 1) / bins``, the
        last one 1 too.

    Returns:
      ``[C, bins]`` int32; sum over many images in int64 numpy.
    """
    labels, confidence = labels.ravel(), confidence.ravel()
    place = jnp.clip(jnp.floor(confidence * bins).astype(jnp.int32), 0, bins - 1)
    valid = (labels >= 0) & (labels < num_classes)
    cell = jnp.where(valid, labels.astype(jnp.int32), num_classes) * bins + place
    counts = jnp.bincount(cell, length=(num_classes + 1) * bins)
    return counts.reshape(num_classes + 1, bins)[:num_classes]


def histogram_thresholds(
    histogram: np.ndarray, *, portion: float = 0.5, cap: float = 0.9
) -> np.ndarray:
    """`class_thresholds` from a summed histogram, lower by less than one bin.

    Args:
      histogram: ``[C, bins]`` of `confidence_histogram`.
      portion: which quantile.
      cap: the largest threshold.

    Returns:
      ``[C]`` float64.
    """
    histogram = np.asarray(histogram)
    counts = histogram.sum(axis=-1, dtype=np.int64)
    rank = np.minimum(np.round(portion * counts), counts - 1)
    below = np.cumsum(histogram, axis=-1, dtype=np.int64) <= rank[:, None]
    edges = below.sum(axis=-1) / histogram.shape[-1]
    return np.where(counts > 0, np.minimum(edges, cap), 0.0)


def class_thresholded(probabilities: jax.Array, thresholds: jax.Array) -> jax.Array:
    """The arg-max, void where its probability is below the threshold of its class.

    Args:
      probabilities: ``[B, H, W, C]``.
      thresholds: ``[C]``.

    Returns:
      ``[B, H, W]`` int32, 255 = ignore.
    """
    labels = probabilities.argmax(axis=-1).astype(jnp.int32)
    kept = probabilities.max(axis=-1) >= thresholds[labels]
    return jnp.where(kept, labels, IGNORE)


def _rank(count, portion: float) -> jax.Array:
    rank = jnp.round(portion * count.astype(jnp.result_type(float)))
    return jnp.minimum(rank.astype(count.dtype), count - 1)

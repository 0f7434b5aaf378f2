"""CAG's distances of class means or cells to anchors (``models/adaptation_model.py``)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax.ops import numerics, resample

_TENS = 10.0 ** np.arange(39)  # float32 holds no larger power


def image_class_means(
    features: jax.Array,
    labels: jax.Array,
    predictions: jax.Array,
    *,
    num_classes: int,
    minimum: int = 10,
    even_gradient: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Mean feature of every class in every image, over cells predicted as labelled.

    Args:
      features: ``[B, h, w, D]``.
      labels: ``[B, h, w]``; a label outside ``0..C-1`` (255 = ignore) is left out.
      predictions: ``[B, h, w]``; a cell that differs from its label is left out.
      num_classes: ``C``.
      minimum: a mean of fewer cells is not valid.
      even_gradient: multiplies the gradient of a mean of ``n`` cells by ``2 n / (h w)``
        (``normalisation_pooling``): every cell then gets ``2 / (h w)`` of it, however
        large its class. False is the plain mean.

    Returns:
      means ``[B, C, D]``, zeros where a class has no cell, and valid ``[B, C]`` bool.
    """
    features = resample.at_least_float32(features)
    agreeing = numerics.class_mask(labels, num_classes)
    agreeing &= (labels == predictions)[..., None]
    one_hot = agreeing.astype(features.dtype)
    counts = one_hot.sum(axis=(1, 2))
    sums = jnp.einsum(
        "bhwc,bhwd->bcd", one_hot, features, precision=jax.lax.Precision.HIGHEST
    )
    means = sums / jnp.maximum(counts, 1)[..., None]
    if even_gradient:
        cells = labels.shape[1] * labels.shape[2]
        means = _scale_gradient(means, 2 * counts[..., None] / cells)
    return means, counts >= minimum


def anchor_distance(
    means: jax.Array,
    valid: jax.Array,
    anchors: jax.Array,
    *,
    scale: float = 10.0,
    limit: float = 5.0,
) -> jax.Array:
    """Pulls class means of images towards the anchor of their class.

    ``scale / n sum_{b, c} l(v_bc, A_c)`` over the ``n`` valid means; 0 without any.
    ``l`` is the mean over the channels of the smooth L1 distance (``d^2 / 2`` below 1,
    ``|d| - 1/2`` above), divided by 10 until it is at most ``limit``
    (``class_vectors_alignment``; the poster shows the L2 distance of every pixel).

    Args:
      means: ``[B, C, D]`` of `image_class_means`.
      valid: ``[B, C]`` bool; also False for a class without an anchor.
      anchors: ``[C, D]``, constants.
      scale: see the formula.
      limit: infinity never divides.
    """
    anchors = jax.lax.stop_gradient(anchors).astype(means.dtype)
    gaps = numerics.absolute(means - anchors)
    smooth = jnp.where(gaps < 1, jnp.square(gaps) / 2, gaps - 0.5).mean(axis=-1)
    tens = jnp.asarray(_TENS, smooth.dtype)
    divisions = (smooth[..., None] > limit * tens).sum(axis=-1)
    return scale * numerics.masked_mean(smooth / tens[divisions], valid)


def cell_anchor_distance(
    features: jax.Array, labels: jax.Array, anchors: jax.Array, seen: jax.Array
) -> jax.Array:
    """Mean of ``||f - A_y||_2`` over the labelled cells, as CAG's poster has it.

    Args:
      features: ``[B, h, w, D]``.
      labels: ``[B, h, w]``, ``y``; a label outside ``0..C-1`` (255 = ignore) or of a
        class without an anchor is left out.
      anchors: ``[C, D]``, constants.
      seen: ``[C]`` bool, which classes have an anchor.
    """
    features = resample.at_least_float32(features)
    anchors = jax.lax.stop_gradient(anchors).astype(features.dtype)
    chosen = numerics.class_mask(labels, len(anchors)) & seen
    own = jnp.einsum(
        "bhwc,cd->bhwd",
        chosen.astype(features.dtype),
        anchors,
        precision=jax.lax.Precision.HIGHEST,
    )
    distance = numerics.safe_norm(features - own)
    return numerics.masked_mean(distance, chosen.any(axis=-1))


@jax.custom_vjp
def _scale_gradient(x, factor):
    del factor
    return x


def _scale_forward(x, factor):
    return x, factor


def _scale_backward(factor, cotangent):
    return cotangent * factor, jnp.zeros_like(factor)


_scale_gradient.defvjp(_scale_forward, _scale_backward)

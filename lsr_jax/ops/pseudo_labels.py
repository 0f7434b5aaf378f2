"""Labels from label maps, predictions and prototypes: ``int32`` with 255 = ignore.

They carry no gradient. BDL's class-wise thresholds (``SSL.py``) are here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax.ops import resample
from lsr_jax.types import IGNORE

CLASS_FREQUENCY = {
    "gta5": (
        *(0.36613, 0.090714, 0.18823, 0.020762, 0.0071692, 0.011866, 0.0015088),
        *(0.0009359, 0.085027, 0.024222, 0.15210, 0.0039858, 0.00035832, 0.028775),
        *(0.012881, 0.0041957, 0.00071898, 0.00036897, 0.000062678),
    ),
    "synthia": (
        *(0.1916, 0.1993, 0.3021, 0.0028, 0.0028, 0.0108, 0.0004, 0.0011),
        *(0.1071, 0.0712, 0.0437, 0.0049, 0.0420, 0.0159, 0.0021, 0.0023),
    ),
    "cityscapes13": (
        *(0.3849, 0.0634, 0.2398, 0.0022, 0.0058, 0.1670, 0.0427, 0.0129),
        *(0.0014, 0.0719, 0.0027, 0.0011, 0.0042),
    ),
}
"""Pixel share of every trainId, as LSR's ``datasets/histDown.py`` has it by class count:
19 classes of GTA5, 16 of SYNTHIA, 13 of Cityscapes."""


def histogram_downsample(
    labels: jax.Array,
    *,
    size: resample.Size,
    num_classes: int,
    threshold: float = 0.5,
    window: resample.Window = "full",
    class_frequency: Sequence[float] | jax.Array | None = None,
) -> jax.Array:
    """Histogram-aware downsampling of a label map (LSR, ``datasets/histDown.py``).

    A cell takes the class with the largest count ``n`` in its window if the second
    largest is smaller than ``threshold`` times it, else it is void; so is a cell
    without a valid pixel. Windows: see `resample.window_counts`.

    Args:
      labels: ``[B, H, W]`` trainIds, 255 = ignore.
      size: ``(h, w)`` of the feature map.
      num_classes: ``C``.
      threshold: ``T_h``.
      window: "full" as the paper, "diagonal" as the released code does by mistake.
      class_frequency: ``[C]`` divides the counts before they are compared, so that rare
        classes win. The released code does so with `CLASS_FREQUENCY` on the labels of
        GTA5, SYNTHIA and 13-class Cityscapes, never on predictions.

    Returns:
      ``[B, h, w]``.
    """
    counts = resample.window_counts(labels, size, num_classes, window=window)
    if class_frequency is not None:
        counts = counts / jnp.asarray(class_frequency, counts.dtype)
    top_class = counts.argmax(axis=-1).astype(jnp.int32)
    top = counts.max(axis=-1)
    is_top = top_class[..., None] == jnp.arange(num_classes, dtype=jnp.int32)
    second = jnp.where(is_top, 0, counts).max(axis=-1)
    clear = (second == 0) | (second / jnp.where(top > 0, top, 1) < threshold)
    return jnp.where((top > 0) & clear, top_class, IGNORE)


def confident(
    logits: jax.Array,
    labels: jax.Array | None = None,
    *,
    size: resample.Size,
    threshold: float = 0.5,
    histogram_threshold: float = 0.5,
    window: resample.Window = "full",
) -> jax.Array:
    """Confident predictions at feature resolution (LSR, ``predHistDown``).

    The predicted map is downsampled by `histogram_downsample`; a cell is void too where
    the adaptive average of the largest class probability is below ``threshold``.

    Args:
      logits: ``[B, H, W, C]`` at image resolution.
      labels: ``[B, H, W]`` the predicted map if it is not the arg-max of ``logits``.
      size: ``(h, w)`` of the feature map.
      threshold: ``T_p``.
      histogram_threshold: ``T_h``.
      window: see `histogram_downsample`.

    Returns:
      ``[B, h, w]``.
    """
    logits = jax.lax.stop_gradient(logits)
    if labels is None:
        labels = logits.argmax(axis=-1).astype(jnp.int32)
    down = histogram_downsample(
        labels,
        size=size,
        num_classes=logits.shape[-1],
        threshold=histogram_threshold,
        window=window,
    )
    return jnp.where(confidence(logits, size=size) >= threshold, down, IGNORE)


def confidence(logits: jax.Array, *, size: resample.Size) -> jax.Array:
    """Adaptive average of the largest class probability, ``[B, H, W, C] -> [B, h, w]``."""
    largest = logits.max(axis=-1) - jax.nn.logsumexp(logits, axis=-1)
    return resample.adaptive_average(jnp.exp(largest)[..., None], size)[..., 0]


def shrunken(
    probabilities: jax.Array,
    *,
    size: resample.Size,
    rule: Literal["bilinear", "nearest"],
) -> jax.Array:
    """Predictions at feature resolution, every cell labelled (OCE, ``utils/losses.py``).

    The released code uses both rules in one step: "bilinear" for clustering, "nearest"
    for orthogonality and sparsity.

    Args:
      probabilities: ``[B, H, W, C]``.
      size: ``(h, w)`` of the result.
      rule: "bilinear" shrinks the probabilities (align-corners, without smoothing) and
        takes the arg-max, "nearest" shrinks the arg-max as torch.
    """
    if rule == "bilinear":
        shrunk = resample.bilinear(jax.lax.stop_gradient(probabilities), size)
        return shrunk.argmax(axis=-1).astype(jnp.int32)
    if rule != "nearest":
        raise ValueError(f"rule must be 'bilinear' or 'nearest', got {rule!r}")
    labels = probabilities.argmax(axis=-1).astype(jnp.int32)
    return resample.nearest(labels, size, rule="torch")


def nearest_prototype(
    features: jax.Array,
    prototypes: jax.Array,
    seen: jax.Array,
    *,
    threshold: float | None = 0.5,
    compact_index: bool = False,
) -> jax.Array:
    """Class of the nearest prototype (LSR, ``utils/losses.py::predPDDown``).

    ``q = softmax_c(-||f - p_c||_2)`` over the prototypes that exist; the label is its
    arg-max, void where the largest ``q`` is below ``threshold`` or nothing was seen.

    Args:
      features: ``[B, h, w, D]``.
      prototypes: ``[C, D]``.
      seen: ``[C]`` bool.
      threshold: confidence; None keeps every cell.
      compact_index: returns the position of the class among the prototypes that exist
        instead of the class, a bug of the released default ``doubleproto``: until every
        class was seen, all labels above a missing class are shifted down.

    Returns:
      ``[B, h, w]``.
    """
    distance = prototype_distances(features, prototypes, seen)
    label = distance.argmin(axis=-1).astype(jnp.int32)
    if compact_index:
        position = jnp.cumsum(seen.astype(jnp.int32)) - 1
        label = position[label]
    valid = seen.any()
    if threshold is not None:
        largest = jax.nn.softmax(-distance).max(axis=-1)
        valid = valid & (largest >= threshold)
    return jnp.where(valid, label, IGNORE)


def nearest_anchor(
    features: jax.Array, anchors: jax.Array, seen: jax.Array, *, gap: float
) -> jax.Array:
    """Class of the nearest anchor where it is clearly nearest (CAG, eq. 1 and 2).

    ``arg-min_c ||f - A_c||_2``, void where the second smallest distance exceeds it by
    less than ``gap`` (2.5 in CAG_UDA, ``models/adaptation_model.py``) or no anchor is
    seen. Arguments and result as of `nearest_prototype`.
    """
    distance = prototype_distances(features, anchors, seen)
    label = distance.argmin(axis=-1).astype(jnp.int32)
    is_nearest = label[..., None] == jnp.arange(seen.shape[0], dtype=jnp.int32)
    second = jnp.where(is_nearest, jnp.inf, distance).min(axis=-1)
    active = seen.any() & (second - distance.min(axis=-1) >= gap)
    return jnp.where(active, label, IGNORE)


def prototype_distances(
    features: jax.Array, prototypes: jax.Array, seen: jax.Array
) -> jax.Array:
    """``||f - p_c||_2``, infinite where no prototype exists, ``[B, h, w, C]``."""
    features = jax.lax.stop_gradient(resample.at_least_float32(features))
    prototypes = jax.lax.stop_gradient(prototypes).astype(features.dtype)
    # Expanded square, so that no [N, C, D] tensor is built; what all prototypes share
    # is taken off first, or the difference of large numbers would lose digits.
    common = prototypes.mean(axis=0)
    features, prototypes = features - common, prototypes - common
    product = jnp.einsum(
        "bhwd,cd->bhwc", features, prototypes, precision=jax.lax.Precision.HIGHEST
    )
    squares = jnp.square(features).sum(axis=-1, keepdims=True) - 2 * product
    squares = jnp.maximum(squares + jnp.square(prototypes).sum(axis=-1), 0)
    return jnp.where(seen, jnp.sqrt(squares), jnp.inf)


def thresholded(
    probabilities: jax.Array,
    auxiliary: jax.Array | None = None,
    *,
    threshold: float,
) -> jax.Array:
    """Hard pseudo-labels, and multi-level guidance (MaxSquareLoss, ``solve_gta5.py``).

    The arg-max of ``probabilities``, void where the largest is not above
    ``threshold``. With a second head: the arg-max of the mean of both, kept where
    either head is above the threshold; the labels train the second head only.
    ``[B, H, W, C]`` to ``[B, H, W]``.
    """
    kept = probabilities.max(axis=-1) > threshold
    mean = probabilities
    if auxiliary is not None:
        kept = kept | (auxiliary.max(axis=-1) > threshold)
        mean = (probabilities + auxiliary) / 2
    return jnp.where(kept, mean.argmax(axis=-1).astype(jnp.int32), IGNORE)


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
        rank = jnp.round(portion * count.astype(jnp.result_type(float)))
        value = ordered[jnp.minimum(rank.astype(count.dtype), count - 1)]
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
    """`class_thresholds`, lower by less than one bin, of ``[C, bins]``; float64.

    ``histogram`` is the sum of `confidence_histogram` over a data set.
    """
    histogram = np.asarray(histogram)
    counts = histogram.sum(axis=-1, dtype=np.int64)
    rank = np.minimum(np.round(portion * counts), counts - 1)
    below = np.cumsum(histogram, axis=-1, dtype=np.int64) <= rank[:, None]
    edges = below.sum(axis=-1) / histogram.shape[-1]
    return np.where(counts > 0, np.minimum(edges, cap), 0.0)


def class_thresholded(probabilities: jax.Array, thresholds: jax.Array) -> jax.Array:
    """The arg-max, void where its probability is below the threshold of its class.

    Probabilities ``[B, H, W, C]`` and thresholds ``[C]`` to ``[B, H, W]``.
    """
    labels = probabilities.argmax(axis=-1).astype(jnp.int32)
    kept = probabilities.max(axis=-1) >= thresholds[labels]
    return jnp.where(kept, labels, IGNORE)

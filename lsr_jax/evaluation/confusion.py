"""Measures of segmentation, all taken from one confusion matrix.

``confusion_matrix`` counts on the device. Everything else is float64 numpy on the sum of
its matrices over a whole set: ``M[t, p]`` pixels of true class ``t`` predicted as ``p``.
Measures are fractions in 0..1. A class without a defined value (0/0) is NaN and left out
of every mean; a class that is predicted but never true scores 0.

``classes`` picks rows of the same matrix: confusion with a class outside of the subset
still counts as an error, as the 16- and 13-class scores of the SYNTHIA literature do.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Classes = Sequence[int] | None


def confusion_matrix(
    labels: jax.Array,
    predictions: jax.Array,
    num_classes: int,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Counts pixels by true and predicted class.

    Args:
      labels: ``[B, H, W]`` integers; a pixel outside 0..C-1 (255 = ignore) drops out.
      predictions: ``[B, H, W]`` integers; a pixel outside 0..C-1 drops out.
      num_classes: ``C``.
      valid: ``[B]`` bool, False for the images that only fill up a batch.

    Returns:
      int32 ``[C, C]``, rows = truth, columns = prediction; exact below 2^31 pixels.
    """
    if labels.shape != predictions.shape or labels.ndim != 3:
        raise ValueError(
            f"labels {labels.shape} and predictions {predictions.shape} "
            "must have the same shape [B, H, W]"
        )
    truth, guess = labels.astype(jnp.int32), predictions.astype(jnp.int32)
    counted = (truth >= 0) & (truth < num_classes)
    counted &= (guess >= 0) & (guess < num_classes)
    if valid is not None:
        counted &= valid[:, None, None]
    # Pixels that do not count share one extra bin behind the matrix.
    cells = jnp.where(counted, truth * num_classes + guess, num_classes**2)
    counts = jnp.bincount(cells.reshape(-1), length=num_classes**2 + 1)
    return counts[:-1].reshape(num_classes, num_classes).astype(jnp.int32)


def iou(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union, ``M[c,c] / (M[c,:] + M[:,c] - M[c,c])``: ``[C]``."""
    hits, true, predicted = _marginals(matrix)
    return _ratio(hits, true + predicted - hits)


def mean_iou(matrix_or_iou: np.ndarray, classes: Classes = None) -> float:
    """Mean IoU over ``classes`` (all by default), of a matrix or of ``[C]`` IoUs."""
    values = np.asarray(matrix_or_iou, np.float64)
    return mean(iou(values) if values.ndim == 2 else values, classes)


def pixel_accuracy(matrix: np.ndarray) -> float:
    """Share of the counted pixels that are right; 0 where no pixel was counted."""
    hits, true, _ = _marginals(matrix)
    return float(hits.sum() / true.sum()) if true.sum() > 0 else 0.0


def class_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Recall of each class, ``M[c,c] / M[c,:]``: ``[C]``."""
    hits, true, _ = _marginals(matrix)
    return _ratio(hits, true)


def precision(matrix: np.ndarray) -> np.ndarray:
    """Precision of each class, ``M[c,c] / M[:,c]``: ``[C]``."""
    hits, _, predicted = _marginals(matrix)
    return _ratio(hits, predicted)


def frequency_weighted_iou(matrix: np.ndarray, classes: Classes = None) -> float:
    """Sum over ``classes`` of IoU times the class's share of all true pixels.

    A subset still divides by the pixels of all classes, as the originals do (LSR, OCE and
    MaxSquare ``utils/eval.py``), so it is no mean over the subset. NaN without pixels.
    """
    _, true, _ = _marginals(matrix)
    weighted = _ratio(true, np.broadcast_to(true.sum(), true.shape)) * iou(matrix)
    return float(np.nansum(_chosen(weighted, classes))) if true.sum() > 0 else np.nan


def population_std(values: np.ndarray, classes: Classes = None) -> float:
    """Standard deviation over classes, divided by their number (LSR section 5)."""
    present = _present(values, classes)
    return float(present.std()) if present.size else np.nan


def asr(iou: np.ndarray, oracle_iou: np.ndarray) -> np.ndarray:
    """Adapted-to-supervised ratio of each class, ``IoU_adapted / IoU_oracle``: ``[C]``.

    Both in the same unit. NaN where the oracle has no value or 0. Its mean is mASR (LSR,
    section 5).
    """
    return _ratio(np.asarray(iou, np.float64), np.asarray(oracle_iou, np.float64))


def mean(values: np.ndarray, classes: Classes = None) -> float:
    """Mean over ``classes`` of the values that are defined; NaN where none is."""
    present = _present(values, classes)
    return float(present.mean()) if present.size else np.nan


def _marginals(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = np.asarray(matrix, np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"a confusion matrix is [C, C], not {counts.shape}")
    return counts.diagonal(), counts.sum(1), counts.sum(0)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    undefined = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator != 0)


def _chosen(values: np.ndarray, classes: Classes) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return values if classes is None else values[list(classes)]


def _present(values: np.ndarray, classes: Classes) -> np.ndarray:
    chosen = _chosen(values, classes)
    return chosen[~np.isnan(chosen)]

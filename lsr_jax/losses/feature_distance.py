"""The distance to the features of ImageNet, DAFormer (CVPR 2022)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from lsr_jax.ops import numerics, resample
from lsr_jax.types import IGNORE


def feature_distance(
    features: jax.Array, reference: jax.Array, cells: jax.Array
) -> jax.Array:
    """Mean over the cells of ``||f - f_ImageNet||_2`` over channels; 0 without a cell.

    ``mmseg/models/uda/dacs.py::masked_feat_dist``, which is NaN without a cell (its
    gradient is 0, as here).

    Args:
      features: ``[B, h, w, D]`` of the last stage of the trained encoder.
      reference: the same of the encoder with its ImageNet weights; no gradient.
      cells: ``[B, h, w]`` bool: those of which a *thing* class covers three quarters,
        see `majority_labels`.
    """
    difference = resample.at_least_float32(features - jax.lax.stop_gradient(reference))
    return numerics.masked_mean(numerics.safe_norm(difference), cells)


def majority_labels(
    labels: jax.Array, factor: int, *, num_classes: int, ratio: float = 0.75
) -> jax.Array:
    """The class that covers at least ``ratio`` of a square cell's pixels, else 255.

    ``mmseg/models/utils/utils.py::downscale_label_ratio``: void counts as one more
    class, whose cells are 255; the first of equal shares wins.

    Args:
      labels: ``[B, H, W]``, 255 = ignore.
      factor: side of a cell in pixels; rows and columns that remain are not counted.
      num_classes: ``C``.
      ratio: of the cell's pixels.

    Returns:
      ``[B, H // factor, W // factor]``.
    """
    rows, columns = (side // factor for side in labels.shape[1:])
    cells = labels[:, : rows * factor, : columns * factor]
    cells = cells.reshape(-1, rows, factor, columns, factor)
    inside = (cells >= 0) & (cells < num_classes)
    slots = numerics.class_mask(jnp.where(inside, cells, num_classes), num_classes + 1)
    counts = slots.sum((2, 4), dtype=jnp.int32)
    found = counts.argmax(-1).astype(labels.dtype)
    enough = counts.max(-1) >= math.ceil(ratio * factor**2)
    return jnp.where(enough & (found < num_classes), found, IGNORE)

"""Resampling as separable linear maps ``A_h X A_w^T`` with constant matrices.

Every matrix is built in numpy from the static sizes, so that under ``jit`` a
resampling is two matrix products. Products run at the highest precision: interpolation
keeps float32 accuracy on hardware whose default is coarser. Counts in windows are sums
of shifted maps, and exact.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax.errors import InputError
from lsr_jax.types import IGNORE

Size = tuple[int, int]
Window = Literal["full", "diagonal"]
Corners = Literal["aligned", "half_pixel"]


def bilinear(x: jax.Array, size: Size, *, corners: Corners = "aligned") -> jax.Array:
    """Bilinear interpolation; the identity where the size does not change.

    ``[B, h, w, C]`` to ``[B, *size, C]``; half precision is computed and returned in
    float32. Pixel ``i`` of the result reads position ``i (in - 1) / (out - 1)`` with
    "aligned" corners, ``(i + 1/2) in / out - 1/2`` with "half_pixel", clipped to the
    image (torch ``interpolate(mode="bilinear")``, ``align_corners`` true and false).
    Shrinking does not smooth.
    """
    if x.shape[1:3] == tuple(size):
        return at_least_float32(x)
    return _separable(x, functools.partial(_bilinear_matrix, corners), size)


def adaptive_average(x: jax.Array, size: Size) -> jax.Array:
    """Adaptive average pooling: cell i averages rows floor(iH/h) .. ceil((i+1)H/h)-1.

    ``[B, H, W, C]`` to ``[B, *size, C]``; half precision is computed and returned in
    float32. Neighbouring cells overlap where ``H`` is no multiple of ``h`` (torch
    ``adaptive_avg_pool2d``).
    """
    return _separable(x, _average_matrix, size)


def window_average(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Mean pooling without padding, ``[B, H, W, C]`` to ``[B, h, w, C]``.

    Cell ``i`` averages rows ``stride i .. stride i + window - 1``, columns alike, so
    ``h = (H - window) // stride + 1`` (torch ``avg_pool2d``). Half precision is computed
    and returned in float32.
    """
    size = tuple((side - window) // stride + 1 for side in x.shape[1:3])
    return _separable(x, functools.partial(_window_matrix, window, stride), size)


def window_counts(
    labels: jax.Array, size: Size, num_classes: int, *, window: Window = "full"
) -> jax.Array:
    """Class counts in the window of every feature cell.

    With ``d = H / h`` and ``k = ceil(d / 2)`` the window of cell ``i`` is centred on
    pixel ``floor(d i)`` (so the first cell on pixel 0) and reaches ``k`` pixels to
    either side; columns alike. Pixels outside the image and labels that are not in
    ``0..C-1`` are not counted.

    Args:
      labels: ``[B, H, W]`` trainIds, 255 = ignore.
      size: ``(h, w)`` of the feature map.
      num_classes: ``C``.
      window: "full" counts all ``(2k+1) (2k'+1)`` pixels. "diagonal" counts only the
        ``2k+1`` pixels at equal row and column offsets ``-k..k-1`` and ``k+1``, which
        is what LSR's ``datasets/histDown.py::histDown`` does (a bug: it means to read
        the whole window).

    Returns:
      ``[B, h, w, C]`` float32, exact integers.

    Raises:
      InputError: for the diagonal of a window that is not square.
    """
    height, width = labels.shape[1:]
    if window == "full":
        return _full_window_counts(labels, size, num_classes)
    if window != "diagonal":
        raise ValueError(f"window must be 'full' or 'diagonal', got {window!r}")
    radius, radius_w = _radius(height, size[0]), _radius(width, size[1])
    if radius != radius_w:
        raise InputError(
            f"window='diagonal' needs the same reach in rows and columns, found {radius}"
            f" and {radius_w} for labels {height}x{width} on features"
            f" {size[0]}x{size[1]}; use window='full'"
        )
    offsets = np.r_[-radius:radius, radius + 1][:, None]
    rows, inside_h = _clipped(_centres(height, size[0]) + offsets, height)
    columns, inside_w = _clipped(_centres(width, size[1]) + offsets, width)
    samples = labels[:, rows[:, :, None], columns[:, None, :]]  # [B, 2k+1, h, w]
    inside = inside_h[:, :, None] & inside_w[:, None, :]
    samples = jnp.where(inside, samples, IGNORE)
    return jax.nn.one_hot(samples, num_classes, dtype=jnp.float32).sum(axis=1)


def _full_window_counts(labels, size: Size, num_classes: int) -> jax.Array:
    """Rows, then columns, as sums of shifted maps.

    The windows are narrow bands, so a matrix product would mostly add zeros; and a
    one-hot map of the whole image is never built.
    """
    rows, columns = (
        (_radius(*sizes), _centres(*sizes))
        for sizes in zip(labels.shape[1:], size, strict=True)
    )
    classes = jnp.arange(num_classes, dtype=labels.dtype)[:, None]
    reach, centres = rows
    padding = ((0, 0), (reach, reach), (0, 0))
    labels = jnp.pad(labels, padding, constant_values=IGNORE)
    counts = sum(
        (labels[:, centres + shift, None] == classes).astype(jnp.float32)
        for shift in range(2 * reach + 1)
    )  # [B, h, C, W]: columns last, where a processor adds many at once
    reach, centres = columns
    counts = jnp.pad(counts, ((0, 0), (0, 0), (0, 0), (reach, reach)))
    counts = sum(counts[..., centres + shift] for shift in range(2 * reach + 1))
    return jnp.swapaxes(counts, 2, 3)


def nearest(
    labels: jax.Array, size: Size, *, rule: Literal["pil", "torch"] = "pil"
) -> jax.Array:
    """Nearest-neighbour resize of label maps, ``[B, H, W]`` to ``[B, *size]``.

    The rule "pil" reads pixel ``floor((i + 1/2) H / h)``, "torch" ``floor(i H / h)``; any
    other is a ValueError.
    """
    if rule not in ("pil", "torch"):
        raise ValueError(f"rule must be 'pil' or 'torch', got {rule!r}")
    rows, columns = (
        _nearest_index(*sizes, rule)
        for sizes in zip(labels.shape[1:], size, strict=True)
    )
    return labels[:, rows[:, None], columns[None, :]]


def at_least_float32(x: jax.Array) -> jax.Array:
    """Half precision becomes float32; float32 and float64 stay what they are."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def _separable(x, matrix, size: Size) -> jax.Array:
    x = at_least_float32(x)
    rows, columns = (
        jnp.asarray(matrix(*sizes), x.dtype)
        for sizes in zip(x.shape[1:3], size, strict=True)
    )
    highest = jax.lax.Precision.HIGHEST
    x = jnp.einsum("Hh,bhwc->bHwc", rows, x, precision=highest)
    return jnp.einsum("Ww,bhwc->bhWc", columns, x, precision=highest)


@functools.cache
def _bilinear_matrix(corners: Corners, source: int, target: int) -> np.ndarray:
    if corners == "aligned":
        position = np.arange(target) * ((source - 1) / max(target - 1, 1))
    else:
        position = (np.arange(target) + 0.5) * (source / target) - 0.5
        position = np.clip(position, 0, source - 1)
    lower = np.minimum(position.astype(int), max(source - 2, 0))
    fraction = position - lower
    matrix = np.zeros((target, source))
    index = np.arange(target)
    matrix[index, lower] = 1 - fraction
    matrix[index, np.minimum(lower + 1, source - 1)] += fraction
    return matrix


@functools.cache
def _average_matrix(source: int, target: int) -> np.ndarray:
    cell = np.arange(target)[:, None]
    return _means(cell * source // target, -(-(cell + 1) * source // target), source)


@functools.cache
def _window_matrix(window: int, stride: int, source: int, target: int) -> np.ndarray:
    first = np.arange(target)[:, None] * stride
    return _means(first, first + window, source)


def _means(first: np.ndarray, last: np.ndarray, source: int) -> np.ndarray:
    pixel = np.arange(source)
    return ((first <= pixel) & (pixel < last)) / (last - first)


def _radius(source: int, target: int) -> int:
    return math.ceil(source / target / 2)


def _centres(source: int, target: int) -> np.ndarray:
    # In float64 and in this order, as histDown: for some sizes an exact integer product
    # rounds down to the pixel before.
    return np.floor(source / target * np.arange(target)).astype(int)


def _clipped(index: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    return np.clip(index, 0, length - 1), (index >= 0) & (index < length)


def _nearest_index(source: int, target: int, rule: str) -> np.ndarray:
    cell = np.arange(target)
    if rule == "pil":
        # PIL adds up the step, and so are its roundings.
        step = source / target
        index = np.cumsum(np.where(cell == 0, step / 2, step))
    else:  # torch scales in float32
        index = np.floor(cell.astype(np.float32) * np.float32(source / target))
    return np.minimum(index.astype(int), source - 1)

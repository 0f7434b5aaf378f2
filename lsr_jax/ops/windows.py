"""Windows of images: cut at given places, and slid over the whole image."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Size = tuple[int, int]


def cut(maps: jax.Array, corners: jax.Array, size: Size) -> jax.Array:
    """The window of ``size`` at ``corners`` ``[B, 2]`` of each map ``[B, H, W, ...]``."""

    def one(whole, corner):
        start = jnp.concatenate([corner, jnp.zeros(whole.ndim - 2, corner.dtype)])
        return jax.lax.dynamic_slice(whole, start, (*size, *whole.shape[2:]))

    return jax.vmap(one)(maps, corners)


def paste(parts: jax.Array, corners: jax.Array, size: Size) -> jax.Array:
    """The inverse of `cut`: maps ``[B, *size, ...]``, 0 outside the windows."""

    def one(part, corner):
        whole = jnp.zeros((*size, *part.shape[2:]), part.dtype)
        start = jnp.concatenate([corner, jnp.zeros(part.ndim - 2, corner.dtype)])
        return jax.lax.dynamic_update_slice(whole, part, start)

    return jax.vmap(one)(parts, corners)


def starts(side: int, window: int) -> list[int]:
    """First pixels of windows that cover a side; neighbours overlap by half or more."""
    stride = max(window // 2, 1)
    count = max(-(-(side - window) // stride), 0) + 1
    return [min(index * stride, side - window) for index in range(count)]


def slide(
    function: Callable[[jax.Array], jax.Array], images: jax.Array, window: Size
) -> jax.Array:
    """A function of images, applied to windows that overlap by half, and averaged.

    mmseg's ``segmentors/encoder_decoder.py::slide_inference`` with a stride of half of
    the window. All windows are one batch, those of an image one after the other, so that
    a batch that is split over devices stays where it is.

    Args:
      function: ``[N, *window, ...] -> [N, h, w, C]``.
      images: ``[B, H, W, ...]``, no side below that of the window.
      window: ``(height, width)``.

    Returns:
      ``[B, H / f, W / f, C]`` with ``f`` the window's height over ``h``; ``f`` must
      divide the first pixels of all windows.
    """
    rows, columns = (
        starts(side, part) for side, part in zip(images.shape[1:3], window, strict=True)
    )
    places = [(row, column) for row in rows for column in columns]
    batch = jnp.stack(
        [images[:, y : y + window[0], x : x + window[1]] for y, x in places], axis=1
    )
    maps = function(batch.reshape(-1, *batch.shape[2:]))
    maps = maps.reshape(*batch.shape[:2], *maps.shape[1:])
    factor = window[0] // maps.shape[2]
    size = tuple(side // factor for side in images.shape[1:3])
    total = count = 0.0
    for index, place in enumerate(places):
        part = maps[:, index]
        before = [side // factor for side in place]
        spans = zip(before, size, part.shape[1:3], strict=True)
        padding = [(start, whole - start - length) for start, whole, length in spans]
        padding = ((0, 0), *padding, (0, 0))
        total += jnp.pad(part, padding)
        count += jnp.pad(jnp.ones_like(part[:1, ..., :1]), padding)
    return total / count

"""HRDA (Hoyer et al., ECCV 2022): a network at two resolutions, fused by attention.

The network sees the whole image at half its size, the context, and a window of the image
at its full size, the detail. An attention head on the encoder's context output says how
much the detail's logits weigh in every cell and class
(``mmseg/models/segmentors/hrda_encoder_decoder.py``, ``decode_heads/hrda_head.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from lsr_jax import errors, types
from lsr_jax.ops import resample, windows

GRID = 8  # pixels: windows begin at multiples of it

Size = tuple[int, int]


class MultiResolution(nn.Module):
    """A backbone and a head, shared by context and detail, and an attention head.

    In training with a dropout key the detail is one window, drawn for each image. Else
    windows that overlap by half cover the image and their logits are averaged: for
    evaluation, and for a teacher, whose BatchNorm takes its statistics from all windows.

    Attributes:
      backbone: ``(images, train) -> [outputs of levels]``.
      head: of context and detail.
      attention: of as many channels as there are classes.
      decode: ``(head, levels, train) -> (features, logits)``.
      detail: sides of the window, as a share of the sides of the image.
    """

    backbone: nn.Module
    head: nn.Module
    attention: nn.Module
    decode: Callable
    detail: float

    def __call__(self, images: jax.Array, train: bool) -> types.Outputs:
        """``[B, H, W, 3]`` network input to the context's features and fused logits."""
        size = images.shape[1:3]
        window = window_size(size, self.detail)
        half = tuple(side // 2 for side in size)
        context = resample.bilinear(images, half, corners="half_pixel")
        levels = self.backbone(context, train)
        features, coarse = self.decode(self.head, levels, train)
        share = nn.sigmoid(self.decode(self.attention, levels, train)[1])
        fused_size = tuple(2 * side for side in coarse.shape[1:3])
        cell = size[0] // fused_size[0]
        detail = None
        if train and self.has_rng("dropout"):
            key = self.make_rng("dropout")
            corners = draw_corners(key, images.shape[0], size, window)
            fine = self._logits(windows.cut(images, corners, window), train)
            inside = windows.paste(
                jnp.ones_like(fine[..., :1]), corners // cell, fused_size
            )
            share *= inside[:, ::2, ::2]
            detail = types.Detail(
                resample.bilinear(fine, window, corners="half_pixel"), corners
            )
            fine = windows.paste(fine, corners // cell, fused_size)
        else:
            fine = windows.slide(lambda x: self._logits(x, train), images, window)
        fused = _double(share) * fine + _double((1 - share) * coarse)
        logits = resample.bilinear(fused, size, corners="half_pixel")
        encoder = levels[-1].astype(features.dtype)
        return types.Outputs(features, logits, encoder=encoder, detail=detail)

    def _logits(self, images, train):
        return self.decode(self.head, self.backbone(images, train), train)[1]


def window_size(size: Size, share: float) -> Size:
    """Sides of the detail for an ``(H, W)`` image: multiples of 8 pixels.

    Raises:
      InputError: a side of the image is no multiple of 16.
    """
    if any(side % (2 * GRID) for side in size):
        raise errors.InputError(
            f"model.detail: expected sides that {2 * GRID} divides, found "
            f"{size[1]}x{size[0]} (WxH); change the size of the images or crops"
        )
    return tuple(max(round(share * side / GRID), 1) * GRID for side in size)


def draw_corners(key: jax.Array, count: int, size: Size, window: Size) -> jax.Array:
    """Upper left pixels ``[B, 2]`` of windows: multiples of 8, uniform.

    The last place, where the window ends with the image, is never drawn unless it is
    the only one, as in ``hrda_encoder_decoder.py::get_crop_bbox``. The original draws
    one window for the whole batch.
    """
    places = [
        max((whole - part + 1) // GRID, 1)
        for whole, part in zip(size, window, strict=True)
    ]
    return GRID * jax.random.randint(key, (count, 2), 0, jnp.asarray(places))


def _double(x):
    size = tuple(2 * side for side in x.shape[1:3])
    return resample.bilinear(x, size, corners="half_pixel")

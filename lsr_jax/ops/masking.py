"""Block masks of masked image consistency, MIC (CVPR 2023)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lsr_jax.ops import resample


def block_mask(
    key: jax.Array, shape: tuple[int, int, int], *, block: int, ratio: float
) -> jax.Array:
    """Blocks of pixels that stay visible, each with probability ``1 - ratio``.

    ``mmseg/models/utils/masking_transforms.py::BlockMaskGenerator``: a grid of
    ``round(H / block) x round(W / block)`` uniform numbers, enlarged by nearest
    neighbour; a block stays where its number is above ``ratio``.

    Args:
      key: random key.
      shape: ``(B, H, W)``.
      block: side of a block in pixels.
      ratio: share of blocks that are masked.

    Returns:
      ``[B, H, W]`` bool, True where visible.
    """
    batch, *size = shape
    cells = [max(round(side / block), 1) for side in size]
    visible = jax.random.uniform(key, (batch, *cells), jnp.float32) > ratio
    return resample.nearest(visible, tuple(size), rule="torch")

"""ClassMix between domains, DACS: classes of the source pasted onto the target.

``trainUDA.py``, ``utils/transformmasks.py`` and ``utils/transformsgpu.py`` of DACS. Label
values are counted in ``C + 1`` slots, the last one for 255 = ignore.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp


def draw_classes(
    key: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    void: bool = True,
    of: Literal["image", "batch"] = "image",
) -> jax.Array:
    """Draws half of the classes for every image, rounded up, without replacement.

    Args:
      key: random key.
      labels: ``[B, H, W]`` of the source.
      num_classes: ``C``.
      void: whether 255 counts as a class and can be drawn, as in the released code: void
        pixels of the source are then pasted too, and train nothing.
      of: the classes that are halved: those of the "image", as DACS, or of the whole
        "batch", as DAFormer (``dacs_transforms.py::get_class_masks``), of which an image
        may have few.

    Returns:
      ``[B, C + 1]`` bool; all False where there is no class.
    """
    slots = _slots(labels, num_classes)
    values = jnp.arange(num_classes + 1, dtype=slots.dtype)
    present = (slots[..., None] == values).any(axis=(1, 2))
    if of == "batch":
        present = jnp.broadcast_to(present.any(axis=0), present.shape)
    if not void:
        present = present.at[:, -1].set(False)
    score = jax.random.uniform(key, present.shape)
    score = jnp.where(present, score, -1)
    rank = jnp.argsort(jnp.argsort(-score, axis=-1), axis=-1)
    number = (present.sum(axis=-1, keepdims=True) + 1) // 2
    return present & (rank < number)


def mask(labels: jax.Array, chosen: jax.Array) -> jax.Array:
    """Where source labels ``[B, H, W]`` are pasted, bool; ``chosen`` of `draw_classes`."""
    slots = _slots(labels, chosen.shape[-1] - 1)
    return jax.vmap(lambda row, image: row[image])(chosen, slots)


def mix(pasted: jax.Array, source: jax.Array, target: jax.Array) -> jax.Array:
    """``[B, H, W, ...]``: source where ``pasted`` ``[B, H, W]`` of `mask`, else target."""
    extra = (1,) * (source.ndim - pasted.ndim)
    return jnp.where(pasted.reshape(*pasted.shape, *extra), source, target)


def pixel_weights(
    pasted: jax.Array,
    confidence: jax.Array,
    *,
    threshold: float = 0.968,
    share: Literal["batch", "image", "pixel"] = "batch",
    trusted: jax.Array | None = None,
) -> jax.Array:
    """Weights of the mixed image: 1 on source pixels, the confident share on target.

    Args:
      pasted: ``[B, H, W]`` bool of `mask`.
      confidence: ``[B, H, W]`` largest probability of the target pseudo-labels, taken
        before mixing: pixels that are pasted over count too.
      threshold: a pixel is confident from it on.
      share: of confident pixels in the whole "batch", one number, as the released
        ``threshold_uniform``; in the own "image", as the paper describes it; or 1 for
        every confident "pixel" and 0 for the others, as ``threshold``.
      trusted: ``[B, H, W]`` bool; the weight of other target pixels is 0. They count
        into the share.

    Returns:
      ``[B, H, W]`` of the dtype of ``confidence``, without gradient.

    Raises:
      ValueError: any other ``share``.
    """
    confident = (confidence >= threshold).astype(confidence.dtype)
    if share == "batch":
        confident = jnp.broadcast_to(confident.mean(), confident.shape)
    elif share == "image":
        mean = confident.mean(axis=(1, 2), keepdims=True)
        confident = jnp.broadcast_to(mean, confident.shape)
    elif share != "pixel":
        raise ValueError(f"share must be 'batch', 'image' or 'pixel', got {share!r}")
    if trusted is not None:
        confident = jnp.where(trusted, confident, 0)
    return mix(pasted, jnp.ones_like(confident), confident)


def _slots(labels, num_classes: int) -> jax.Array:
    inside = (labels >= 0) & (labels < num_classes)
    return jnp.where(inside, labels, num_classes)

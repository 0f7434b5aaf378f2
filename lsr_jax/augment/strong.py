"""The strong augmentation of mixed images, DACS (``utils/transformsgpu.py``).

Images are float32 ``[B, H, W, 3]`` with values 0..255. The colour operations are those of
kornia 0.4; in 0.6 the same names mean others. The original draws once for both images of
its batch whether to jitter and whether to blur; here each image has its own draws.
"""

from __future__ import annotations

import math
from typing import Annotated

import jax
import jax.numpy as jnp

from lsr_jax.augment import transforms
from lsr_jax.keywords import HalfRange, Probability, Range

Sigma = Annotated[
    tuple[float, float], Range(excluded=0, increasing=True, unit="pixels")
]


def augment(
    key: jax.Array,
    image: jax.Array,
    *,
    jitter: HalfRange = 0.25,
    jitter_probability: Probability = 0.8,
    blur_sigma: Sigma = (0.15, 1.15),
    blur_probability: Probability = 0.5,
) -> jax.Array:
    """Applies `colour_jitter` and `blur`; a strength or probability of 0 leaves one out."""
    jitter_key, blur_key = jax.random.split(key)
    if jitter:
        image = colour_jitter(
            jitter_key, image, strength=jitter, probability=jitter_probability
        )
    if blur_probability:
        image = blur(blur_key, image, sigma=blur_sigma, probability=blur_probability)
    return image


def colour_jitter(
    key: jax.Array, image: jax.Array, *, strength: float, probability: float
) -> jax.Array:
    """Applies `jitter` to each image with the given probability.

    Brightness, contrast and saturation are U(1 - strength, 1 + strength), hue is
    U(-strength, strength) turns; all 24 orders are equally likely.
    """
    chosen_key, factor_key, order_key = jax.random.split(key, 3)
    batch = image.shape[0]
    chosen = jax.random.bernoulli(chosen_key, probability, (batch, 1, 1, 1))
    factors = jax.random.uniform(
        factor_key, (batch, 4), minval=-strength, maxval=strength
    )
    factors += jnp.array([1.0, 1.0, 1.0, 0.0])
    order = jnp.argsort(jax.random.uniform(order_key, (batch, 4)), axis=-1)
    return jnp.where(chosen, jitter(image, factors, order), image)


def jitter(image: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """Applies four operations to x = image / 255, each followed by a clip to 0..1.

    0 brightness: ``x + b - 1``; 1 contrast: ``c x``, around 0; 2 saturation: ``f s``
    clipped to 0..1, and 3 hue: ``h + t`` turns, in HSV. The saturation is
    ``(max - min) / (max + 1e-6)``, as in kornia 0.5; 0.4 has no 1e-6.

    Args:
      image: ``[B, H, W, 3]`` RGB. The original passes BGR, for which the same number
        turns the hue the other way; its range is symmetric.
      factors: ``[B, 4]`` b, c, f and t.
      order: ``[B, 4]`` the numbers of the operations in the order of each image.
    """
    factors = factors.astype(image.dtype)[:, :, None, None]

    # XLA does not fuse into a loop. Unrolled, every operation would be computed again for
    # each channel of those that follow.
    def operate(position, x):
        chosen = order[:, position, None, None]
        brightness, contrast, saturation, turn = (
            jnp.where(chosen == i, factors[:, i], neutral)
            for i, neutral in enumerate((1.0, 1.0, 1.0, 0.0))
        )
        x = jnp.clip(x * contrast[..., None] + brightness[..., None] - 1, 0, 1)
        hue, colourful, value = _hsv_of(x)
        turned = _rgb_of(hue + 6 * turn, jnp.clip(colourful * saturation, 0, 1), value)
        return jnp.where(chosen[..., None] >= 2, turned, x)

    start = jnp.clip(image / 255, 0, 1)
    return 255 * jax.lax.fori_loop(0, 4, operate, start)


def _hsv_of(rgb):
    """Hue in sixths of a turn, saturation and value, each ``[B, H, W]``."""
    red, green, blue = (rgb[..., i] for i in range(3))
    largest, smallest = rgb.max(axis=-1), rgb.min(axis=-1)
    spread = largest - smallest
    divisor = jnp.where(spread > 0, spread, 1)
    hue = 4 + (red - green) / divisor
    hue = jnp.where(largest == green, 2 + (blue - red) / divisor, hue)
    hue = jnp.where(largest == red, (green - blue) / divisor, hue)
    return hue, spread / (largest + 1e-6), largest


def _rgb_of(hue, saturation, value):
    """Back to ``[B, H, W, 3]``: a channel falls with the distance of the hue from it."""
    distance = (hue[..., None] + jnp.array([5.0, 3.0, 1.0])) % 6
    share = jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)
    return value[..., None] * (1 - saturation[..., None] * share)


def blur(
    key: jax.Array, image: jax.Array, *, sigma: tuple[float, float], probability: float
) -> jax.Array:
    """Applies `gaussian_blur` to each image with a probability, deviation U(sigma)."""
    chosen_key, sigma_key = jax.random.split(key)
    batch = image.shape[0]
    chosen = jax.random.bernoulli(chosen_key, probability, (batch, 1, 1, 1))
    drawn = jax.random.uniform(sigma_key, (batch,), minval=sigma[0], maxval=sigma[1])
    return jnp.where(chosen, gaussian_blur(image, drawn, largest=sigma[1]), image)


def gaussian_blur(image: jax.Array, sigma: jax.Array, *, largest: float) -> jax.Array:
    """Blurs with deviations sigma ``[B]``, none of them above `largest`.

    The kernel has `kernel_size` taps in each direction and the sum 1; the border is
    reflected without repeating its pixels. Taps beyond six deviations, below 1e-8 of the
    middle one, are left out.
    """
    for axis in (1, 2):
        reach = kernel_size(image.shape[axis]) // 2
        reach = min(reach, math.ceil(6 * largest))
        distance = jnp.arange(-reach, reach + 1, dtype=image.dtype)
        kernel = jnp.exp(-jnp.square(distance / sigma[:, None]) / 2)
        kernel /= kernel.sum(axis=-1, keepdims=True)
        image = transforms.correlate(image, kernel, axis, border="reflect")
    return image


def kernel_size(side: int) -> int:
    """Returns an odd tenth of a side of the image: 51 for 512."""
    tenth = math.ceil(0.1 * side)
    return tenth - 1 + tenth % 2

"""The effects of augmentation: pure functions of a key and a batch of images.

Images are RGB ``[B, H, W, 3]`` with values 0..255, also in the results; mirror and crop
keep uint8, the colour effects take and return float32. Each image has its own random
numbers, from one global array per effect: they do not depend on the number of devices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lsr_jax.errors import InputError
from lsr_jax.ops import windows
from lsr_jax.types import IGNORE, Images

LOWEST_WHITE = 120
"""Smallest white point: it already saturates half of the levels."""

TRIES = 11
"""Windows that a rule of `crop` is tried on; the last one is taken unchecked."""

_LUMA = (0.299, 0.587, 0.114)


def mirror(key: jax.Array, images: Images, *, probability: float = 0.5) -> Images:
    """Mirrors left and right, each image and its label with the given probability."""
    chosen = jax.random.bernoulli(key, probability, images.image.shape[:1])

    def flip(array):
        where = chosen.reshape(-1, *[1] * (array.ndim - 1))
        return jnp.where(where, array[:, :, ::-1], array)

    return jax.tree.map(flip, images)


def crop(
    key: jax.Array,
    images: Images,
    *,
    size: tuple[int, int],
    majority: float = 1.0,
    drawn: jax.Array | None = None,
    drawn_pixels: int = 0,
) -> Images:
    """Cuts a window of `size` = (height, width) out of each image, all equally likely.

    Up to ten times, a window of which one class has the share `majority` or more of the
    labelled pixels is drawn again (mmseg's ``pipelines/transforms.py``, cat_max_ratio).
    Up to ten times, all of this is repeated until the window has more than `drawn_pixels`
    pixels of the class `drawn` ``[B]`` (DAFormer's ``datasets/uda_dataset.py``,
    min_pixels * min_crop_ratio). 1 and 0 turn the rules off.

    Raises:
      InputError: the window is larger than the images; a rule without labels.
    """
    batch, *extent = images.image.shape[:3]
    _check_window(extent, size)
    tries = (TRIES if drawn_pixels else 1, TRIES if majority < 1 else 1)
    extents = jnp.tile(jnp.array(extent), (batch, *tries, 1))
    corners = _draw_corners(key, extents, size)
    if tries == (1, 1):
        corners = corners[:, 0, 0]
    elif images.label is None or (drawn_pixels and drawn is None):
        raise InputError(
            "augmentation: majority needs labels, drawn_pixels rare_classes too; set them "
            "to 1 and 0 for images without"
        )
    else:
        drawn = jnp.zeros(batch, jnp.int32) if drawn is None else drawn
        choose = functools.partial(
            choose_window, size=size, majority=majority, drawn_pixels=drawn_pixels
        )
        corners = jax.vmap(choose)(images.label, drawn, corners)
    return jax.tree.map(lambda maps: windows.cut(maps, corners, size), images)


def choose_window(
    label: jax.Array,
    drawn: jax.Array,
    corners: jax.Array,
    *,
    size: tuple[int, int],
    majority: float,
    drawn_pixels: int,
) -> jax.Array:
    """The window of one label ``[H, W]`` that the rules of `crop` take.

    It is one of ``corners`` ``[R, D, 2]``: in each of R repetitions, D windows for the
    first rule. ``drawn`` is a scalar, the class of the image.
    """

    def pixels(corner):
        window = jax.lax.dynamic_slice(label, corner, size)
        return jnp.bincount(window.ravel().astype(jnp.int32), length=IGNORE + 1)

    def is_mixed(corner):
        counts = pixels(corner)[:IGNORE].astype(jnp.float32)  # exact below 2^24
        return counts.max() < majority * counts.sum()

    def repetition(corners):
        return corners[first(lambda i: is_mixed(corners[i]), len(corners))]

    def has_drawn(i):
        return pixels(repetition(corners[i]))[drawn] > drawn_pixels

    return repetition(corners[first(has_drawn, len(corners))])


def first(passes: Callable[[jax.Array], jax.Array], count: int) -> jax.Array:
    """The first index below ``count`` that passes; the last one is not checked."""
    return jax.lax.while_loop(
        lambda i: (i < count - 1) & ~passes(i),
        lambda i: i + 1,
        jnp.zeros((), jnp.int32),
    )


def scale_crop(
    key: jax.Array,
    images: Images,
    *,
    size: tuple[int, int],
    scale: tuple[float, float] = (0.5, 1.5),
) -> Images:
    """Resizes each image by a factor U(scale) and cuts a window of `size` out of it.

    The resized height and width are rounded. Images are resized bilinearly with
    antialiasing and rounded once to whole levels (at most one level from PIL, which rounds
    twice), labels by nearest neighbour, row ``floor((i + 0.5) H / scaled H)``, as PIL, whose
    running float sum may be one too small. CAG uses U(0.5, 1.5).

    Raises:
      InputError: the window does not fit at the smallest scale.
    """
    height, width = images.image.shape[1:3]
    scale_key, corner_key = jax.random.split(key)
    factor = jax.random.uniform(
        scale_key, images.image.shape[:1], minval=scale[0], maxval=scale[1]
    )
    full = jnp.array([height, width], jnp.float32)
    scaled = jnp.round(factor[:, None] * full).astype(jnp.int32)
    least = (round(height * scale[0]), round(width * scale[0]))
    _check_window(least, size)
    corners = _draw_corners(corner_key, scaled, size)

    def resize(image, scaled, corner):
        return jax.image.scale_and_translate(
            image.astype(jnp.float32),
            (*size, 3),
            (0, 1),
            scaled.astype(jnp.float32) / full,
            -corner.astype(jnp.float32),
            "linear",
        )

    def nearest(label, scaled, corner):
        rows, columns = (
            (2 * (corner[axis] + jnp.arange(size[axis])) + 1)
            * label.shape[axis]
            // (2 * scaled[axis])
            for axis in (0, 1)
        )
        return label[rows][:, columns]

    maps = images.label, images.trusted
    image = jnp.round(jax.vmap(resize)(images.image, scaled, corners))
    maps = jax.tree.map(lambda x: jax.vmap(nearest)(x, scaled, corners), maps)
    return Images(image, *maps)


def _draw_corners(key, extent, size):
    """Draws upper left corners ``[..., 2]`` of windows within `extent` ``[..., 2]``."""
    return jax.random.randint(key, extent.shape, 0, extent - jnp.array(size) + 1)


def _check_window(extent, size):
    if extent[0] < size[0] or extent[1] < size[1]:
        raise InputError(
            f"augmentation: crop {size[0]}x{size[1]} (height x width) does not fit into "
            f"images of {extent[0]}x{extent[1]}; take a smaller crop or a larger scale"
        )


def colour_jitter(
    key: jax.Array, image: jax.Array, *, white_point: int = 75, jitter: int = 25
) -> jax.Array:
    """Applies LSR's white-point rebalancing and colour jitter to each channel.

    ``clip(floor(255 x / r) + j, 0, 255)`` for whole levels x, with integers
    r ~ U{255 - white_point .. 255 + white_point}, never below `LOWEST_WHITE`, and
    j ~ U{-jitter .. jitter}. The floor is the original's cast to uint8, here exact.
    """
    white_key, jitter_key = jax.random.split(key)
    shape = (image.shape[0], 1, 1, 3)
    low, high = max(255 - int(white_point), LOWEST_WHITE), 255 + int(white_point)
    white = jax.random.randint(white_key, shape, low, high + 1)
    shift = jax.random.randint(jitter_key, shape, -int(jitter), int(jitter) + 1)
    # The fraction of a quotient by r < 900 is at most 1 - 1/900, the float32 error below
    # 1e-4: adding 1e-3 makes the floor exact on every device.
    level = jnp.floor(image * (255.0 / white.astype(jnp.float32)) + 1e-3)
    return jnp.clip(level + shift.astype(jnp.float32), 0.0, 255.0)


def contrast(key: jax.Array, image: jax.Array, *, strength: float = 0.4) -> jax.Array:
    """Returns ``m + f (x - m)``, m the mean luma, f ~ U(1 - strength, 1 + strength).

    PIL's ImageEnhance.Contrast without its rounding of luma, m and result.
    """
    factor = _factor(key, image, strength)
    mean = jnp.mean(_luma(image), axis=(1, 2, 3), keepdims=True)
    return jnp.clip(mean + factor * (image - mean), 0.0, 255.0)


def saturation(key: jax.Array, image: jax.Array, *, strength: float = 0.6) -> jax.Array:
    """Returns ``l + f (x - l)``, l the pixel's luma, f ~ U(1 - strength, 1 + strength).

    PIL's ImageEnhance.Color without its rounding of luma and result.
    """
    factor = _factor(key, image, strength)
    luma = _luma(image)
    return jnp.clip(luma + factor * (image - luma), 0.0, 255.0)


def _factor(key, image, strength):
    shape = (image.shape[0], 1, 1, 1)
    return jax.random.uniform(key, shape, minval=1 - strength, maxval=1 + strength)


def _luma(image):
    # XLA does not fuse through a matmul. With an elementwise sum, all previous effects
    # would be computed again for every channel.
    weights = jnp.array(_LUMA)[:, None]
    return jnp.matmul(image, weights, precision="highest")


def blur(
    key: jax.Array, image: jax.Array, *, strength: float = 1.0, probability: float = 0.5
) -> jax.Array:
    """Applies `gaussian_blur` to each image with the given probability.

    The standard deviation is U(0, strength) pixels; MaxSquare, OCE and LSR draw the radius
    of PIL's GaussianBlur with strength 1.
    """
    chosen_key, sigma_key = jax.random.split(key)
    chosen = jax.random.bernoulli(chosen_key, probability, image.shape[:1])
    sigma = jax.random.uniform(sigma_key, image.shape[:1], maxval=strength)
    return gaussian_blur(image, jnp.where(chosen, sigma, 0.0), largest=strength)


def gaussian_blur(image: jax.Array, sigma: jax.Array, *, largest: float) -> jax.Array:
    """Blurs like PIL's GaussianBlur with deviations sigma ``[B]``, at most `largest`.

    PIL applies in each direction three equal boxes of variance sigma^2 / 3 (extended box
    filter, Gwosdek et al. 2011). Here they are one kernel, the border is repeated once and
    nothing is rounded; PIL repeats the border and rounds to whole levels after every box.
    The difference is below three levels, except at the border of a busy image.
    """
    reach = math.floor((math.sqrt(4 * largest**2 + 1) - 1) / 2) + 1
    kernel = jax.vmap(_three_boxes, (0, None))(sigma, reach)
    return jnp.clip(correlate(correlate(image, kernel, 1), kernel, 2), 0.0, 255.0)


def correlate(image, kernel, axis, *, border="edge"):
    """Correlates each image with a kernel ``[B, taps]`` along an axis, border as jnp.pad."""
    taps = kernel.shape[1]
    width = [(taps // 2 * (i == axis),) * 2 for i in range(4)]
    padded = jnp.pad(image, width, mode=border)

    def add(k, total):
        shifted = jax.lax.dynamic_slice_in_dim(padded, k, image.shape[axis], axis)
        return total + kernel[:, k, None, None, None] * shifted

    # XLA does not fuse into a loop. Unrolled, a CPU would compute all previous effects
    # several times. A depthwise convolution takes fifty times as long.
    return jax.lax.fori_loop(0, taps, add, jnp.zeros_like(image))


def _three_boxes(sigma, reach):
    """Returns the kernel ``[6 reach + 1]`` of three boxes of `reach` pixels each."""
    variance = sigma**2 / 3
    # A box of length L has the variance (L^2 - 1) / 12.
    whole = jnp.floor((jnp.sqrt(12 * variance + 1) - 1) / 2)
    fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    fraction /= 6 * (variance - (whole + 1) ** 2)
    distance = jnp.abs(jnp.arange(-reach, reach + 1, dtype=jnp.float32))
    box = jnp.clip(whole + fraction + 1 - distance, 0.0, 1.0)
    box /= jnp.sum(box)
    two = jnp.convolve(box, box, precision="highest")
    return jnp.convolve(two, box, precision="highest")


def noise(key: jax.Array, image: jax.Array, *, strength: float = 12.0) -> jax.Array:
    """Returns ``clip(x + s z, 0, 255)``: z ~ N(0, 1) per value, s ~ U(0, strength).

    z is the sum of the four bytes of a word, scaled to mean 0 and variance 1: within
    +-3.5, with a kurtosis of 2.7 instead of 3. The word is a hash of the position and of
    the image's own seed; drawing it with jax.random takes a CPU ten times as long.
    """
    sigma_key, seed_key = jax.random.split(key)
    sigma = jax.random.uniform(sigma_key, (image.shape[0], 1, 1, 1), maxval=strength)
    seed = jax.random.bits(seed_key, (2, image.shape[0], 1, 1, 1), jnp.uint32)
    position = jnp.arange(math.prod(image.shape[1:]), dtype=jnp.uint32)
    word = _hash(_hash(position.reshape(image.shape[1:]) + seed[0]) ^ seed[1])
    total = sum((word >> shift) & 255 for shift in (0, 8, 16, 24))
    normal = (total.astype(jnp.float32) - 510.0) / math.sqrt((256**2 - 1) / 3)
    return jnp.clip(image + sigma * normal, 0.0, 255.0)


def _hash(word):
    """The finaliser of MurmurHash3: each bit of a uint32 changes half of the others."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)

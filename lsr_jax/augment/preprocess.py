"""uint8 images to network input, inside the jitted step: presets and order of effects."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import chex
import jax
import jax.numpy as jnp

from lsr_jax import types
from lsr_jax.augment import transforms
from lsr_jax.errors import InputError
from lsr_jax.keywords import CountOrZero, HalfRange, Probability, Range, Size

Levels = Annotated[int, Range(most=255, unit="levels")]
Scale = Annotated[
    tuple[float, float], Range(excluded=0, increasing=True, unit="a factor")
]
Majority = Annotated[float, Range(excluded=0, most=1, unit="a share")]
Margins = Annotated[tuple[float, float, float, float], Range(most=1, unit="a share")]

_NONE = {
    "flip": 0.0,
    "white_point": 0,
    "jitter": 0,
    "blur": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "noise": 0.0,
}

AUGMENTATION = {
    "none": _NONE,
    "flip": {**_NONE, "flip": 0.5},
    # MaxSquare and OCE on both domains, LSR on target images.
    "flip_blur": {**_NONE, "flip": 0.5, "blur": 1.0},
    # LSR on source images. Paper and released code agree on the white point, 180..330;
    # the paper states a jitter of +-25, the code draws +-20.
    "paper": {**_NONE, "flip": 0.5, "white_point": 75, "jitter": 25, "blur": 1.0},
    "released": {**_NONE, "flip": 0.5, "white_point": 75, "jitter": 20, "blur": 1.0},
    # Twice the ranges of the paper (white points 120..405) and three effects more.
    "heavy": {
        "flip": 0.5,
        "white_point": 150,
        "jitter": 50,
        "blur": 1.2,
        "contrast": 0.4,
        "saturation": 0.6,
        "noise": 12.0,
    },
}
"""Presets: keyword arguments of `augment`."""

_PREPROCESSING = {
    # name: (channel order, divisor, mean, standard deviation)
    "caffe": ("bgr", 1.0, (104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0)),
    "imagenet": ("rgb", 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ("rgb", 255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def preprocess(
    key: jax.Array,
    batch: types.Batch,
    *,
    source: dict,
    target: dict,
    preprocessing: str,
) -> types.Batch:
    """Turns the pipeline's uint8 images of both domains into network input.

    ``source`` and ``target`` are keyword arguments of `augment`; a domain or label that is
    None stays None. A domain's random key does not depend on the presence of the other.
    """

    def prepare(key, images, options):
        if images is None:
            return None
        images = augment(key, images, **options)
        image = normalise(images.image, preprocessing=preprocessing)
        return images._replace(image=image)

    source_key, target_key = jax.random.split(key)
    return types.Batch(
        source=prepare(source_key, batch.source, source),
        target=prepare(target_key, batch.target, target),
    )


def normalise(image: jax.Array, *, preprocessing: str = "caffe") -> jax.Array:
    """Turns RGB 0..255 ``[..., 3]``, uint8 or float32, into float32 network input.

    "caffe": BGR minus (104.00698793, 116.66876762, 122.67891434), as the original DeepLab
    code; "imagenet": ``(x / 255 - mean) / std`` with torchvision's numbers; "unit":
    ``x / 255``, as CAG.

    Raises:
      InputError: unknown ``preprocessing``.
    """
    order, divisor, mean, deviation = _find(preprocessing)
    image = image.astype(jnp.float32)
    image = image[..., ::-1] if order == "bgr" else image
    return (image / divisor - jnp.array(mean)) / jnp.array(deviation)


def restore(image: jax.Array, *, preprocessing: str = "caffe") -> jax.Array:
    """Turns network input back into float32 RGB 0..255: the inverse of `normalise`.

    Raises:
      InputError: unknown ``preprocessing``.
    """
    order, divisor, mean, deviation = _find(preprocessing)
    image = (image * jnp.array(deviation) + jnp.array(mean)) * divisor
    return image[..., ::-1] if order == "bgr" else image


def pixels(preprocessing: str) -> types.Pixels:
    """Returns `normalise` and `restore` for one ``preprocessing``."""
    return types.Pixels(
        partial(normalise, preprocessing=preprocessing),
        partial(restore, preprocessing=preprocessing),
    )


def _find(preprocessing: str) -> tuple:
    if preprocessing not in _PREPROCESSING:
        raise InputError(
            f"preprocessing: expected one of {', '.join(_PREPROCESSING)}, "
            f"found {preprocessing!r}"
        )
    return _PREPROCESSING[preprocessing]


def augment(
    key: jax.Array,
    images: types.Images,
    *,
    margins: Margins | None = None,
    scale: Scale | None = None,
    crop: Size | None = None,
    majority: Majority = 1.0,
    drawn_pixels: CountOrZero = 0,
    flip: Probability = 0.0,
    white_point: Levels = 0,
    jitter: Levels = 0,
    blur: Annotated[float, Range(unit="pixels")] = 0.0,
    blur_probability: Probability = 0.5,
    contrast: HalfRange = 0.0,
    saturation: HalfRange = 0.0,
    noise: Annotated[float, Range(most=255, unit="levels")] = 0.0,
) -> types.Images:
    """Applies the effects in the order of the keywords.

    An effect of 0 or None is left out; the random numbers of the others stay the same.

    Args:
      key: PRNG key.
      images: ``[B, H, W, 3]`` and ``[B, H, W]`` or None.
      margins: shares of the image at the top, bottom, left and right where
        pseudo-labels count nothing, see `types.Images`.
      scale: range of `transforms.scale_crop`; needs `crop`.
      crop: ``(height, width)`` of the result, see `transforms.crop`, also for
      majority: share of one class from which a crop is drawn again; 1 for none, and
      drawn_pixels: of the class that an image was drawn for, which a crop exceeds.
      flip: probability of `transforms.mirror`.
      white_point: largest distance of a white point from 255, and
      jitter: largest shift of a channel, see `transforms.colour_jitter`.
      blur: strength, and
      blur_probability: probability of `transforms.blur`.
      contrast: strength of `transforms.contrast`.
      saturation: strength of `transforms.saturation`.
      noise: strength of `transforms.noise`.

    Returns:
      float32 images within 0..255 and int32 labels.

    Raises:
      InputError: `scale` without `crop`, a rule for crops without a plain crop or without
        labels, or a crop that does not fit.
    """
    chex.assert_rank(images.image, 4)
    keys = jax.random.split(key, 7)
    images, drawn = images._replace(drawn=None), images.drawn
    if (majority < 1 or drawn_pixels) and (scale is not None or crop is None):
        raise InputError(
            f"augmentation: majority={majority} and drawn_pixels={drawn_pixels} need a "
            f"crop and no scale, found crop={crop} and scale={scale}"
        )
    if margins is not None:
        images = images._replace(trusted=_inside(images.image.shape[:3], margins))
    if scale is not None:
        if crop is None:
            raise InputError(f"augmentation: scale={scale} needs a crop, found none")
        images = transforms.scale_crop(keys[0], images, size=crop, scale=scale)
    elif crop is not None:
        images = transforms.crop(
            keys[0],
            images,
            size=crop,
            majority=majority,
            drawn=drawn,
            drawn_pixels=drawn_pixels,
        )
    if flip:
        images = transforms.mirror(keys[1], images, probability=flip)
    image = images.image.astype(jnp.float32)
    label = None if images.label is None else images.label.astype(jnp.int32)
    if white_point or jitter:
        image = transforms.colour_jitter(
            keys[2], image, white_point=white_point, jitter=jitter
        )
    if blur:
        image = transforms.blur(
            keys[3], image, strength=blur, probability=blur_probability
        )
    if contrast:
        image = transforms.contrast(keys[4], image, strength=contrast)
    if saturation:
        image = transforms.saturation(keys[5], image, strength=saturation)
    if noise:
        image = transforms.noise(keys[6], image, strength=noise)
    return types.Images(image, label, images.trusted)


def _inside(shape, margins):
    """Pixels of ``[B, H, W]`` within the margins, counted in whole rows and columns."""
    top, bottom, left, right = margins
    rows, columns = (
        (jnp.arange(side) >= int(before * side))
        & (jnp.arange(side) < side - int(after * side))
        for side, before, after in ((shape[1], top, bottom), (shape[2], left, right))
    )
    return jnp.broadcast_to(rows[:, None] & columns, shape)

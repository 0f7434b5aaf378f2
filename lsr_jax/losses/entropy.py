"""Unsupervised losses on predictions: maximum squares, entropy, self-information.

Without weights a term is the mean over valid pixels and classes. With image-wise
weights (IW) it is ``1 / (B C)`` times the weighted sum over pixels and classes, because
the weights already divide by (a power of) the number of pixels. That is how the code of
the originals divides; ``divisor="pixels"`` leaves out the ``1 / C``, as the papers do.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from lsr_jax.ops import numerics, resample

_EPSILON = 1e-30

Divisor = Literal["pixels_and_classes", "pixels"]


def max_squares(
    probabilities: jax.Array,
    weights: jax.Array | None = None,
    *,
    where: jax.Array | None = None,
    divisor: Divisor = "pixels_and_classes",
) -> jax.Array:
    """Maximum squares loss (MaxSquareLoss, ``utils/loss.py``).

    ``-1/2 mean_{x, c} p_c(x)^2`` over valid pixels and classes, or with image-wise
    weights ``-1 / (B C) sum_x omega_x sum_c p_c(x)^2``. The weighted form has no 1/2:
    `image_weights` at ratio 0 gives exactly twice the unweighted loss for one image.

    Args:
      probabilities: ``[B, H, W, C]``.
      weights: ``[B, H, W]`` of `image_weights`.
      where: ``[B, H, W]`` bool, the valid pixels; all by default.
      divisor: "pixels_and_classes", or "pixels", ``C`` times as much: the paper's
        ``-1/(2N) sum_x sum_c p_c(x)^2`` over ``N`` pixels.

    Raises:
      ValueError: any other ``divisor``.
    """
    squares = jnp.square(probabilities).sum(axis=-1)
    classes = _classes(probabilities, divisor)
    if weights is None:
        return -_mean(squares, where, classes) / 2
    return -_weighted(squares, weights, where, classes)


def entropy(
    probabilities: jax.Array,
    weights: jax.Array | None = None,
    *,
    where: jax.Array | None = None,
    divisor: Divisor = "pixels_and_classes",
) -> jax.Array:
    """Entropy of the predictions, gradient through both factors.

    ``-mean_{x, c} p ln p`` over valid pixels and classes, or with image-wise weights
    ``-1 / (B C) sum_x omega_x sum_c p ln p`` (MaxSquareLoss, ``utils/loss.py``). Times
    ``C / ln C`` it is ADVENT's entropy loss. ``0 ln 0`` is 0 with gradient 0. Arguments
    and errors as of `max_squares`.
    """
    positive = probabilities >= jnp.finfo(probabilities.dtype).tiny
    terms = probabilities * jnp.log(jnp.where(positive, probabilities, 1))
    values = -jnp.where(positive, terms, 0).sum(axis=-1)
    classes = _classes(probabilities, divisor)
    if weights is None:
        return _mean(values, where, classes)
    return _weighted(values, weights, where, classes)


def soft_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    weights: jax.Array | None = None,
    *,
    where: jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy of predictions against a distribution over the classes.

    ``-mean_{x, c} t ln softmax(z)`` over valid pixels and classes, or with image-wise
    weights ``-1 / (B C) sum_x omega_x sum_c t ln softmax(z)`` (MaxSquareLoss,
    ``utils/loss.py``). With ``t = softmax(z)``, not detached, it is `entropy`.

    Args:
      logits: ``[B, H, W, C]``.
      targets: ``[B, H, W, C]``, ``t``, differentiable too.
      weights: as of `max_squares`.
      where: as of `max_squares`.
    """
    values = -(targets * jax.nn.log_softmax(logits)).sum(axis=-1)
    if weights is None:
        return _mean(values, where, logits.shape[-1])
    return _weighted(values, weights, where, logits.shape[-1])


def image_weights(
    labels: jax.Array,
    *,
    num_classes: int,
    ratio: float,
    counted: jax.Array | None = None,
) -> jax.Array:
    """Image-wise class weights: pixels of classes that are rare in their image weigh more.

    ``omega_x = 1 / max(n_c^r (sum_k n_k)^(1 - r), 1)`` for a pixel of class ``c``,
    with ``n`` the class histogram of the pixel's own image. Ratio 0 weighs every pixel
    alike by ``1 / N``, ratio 1 every class alike by ``1 / n_c`` (MaxSquareLoss and
    UDAclustering, for one image; LSR, ``utils/losses.py``).

    Args:
      labels: ``[B, H, W]`` the class of every pixel, as a rule the arg-max of the
        prediction; a label outside ``0..C-1`` (255 = ignore) has weight 0.
      num_classes: ``C``.
      ratio: ``r`` in [0, 1].
      counted: ``[B, H, W]`` labels to take the histogram from instead.

    Returns:
      ``[B, H, W]`` float32, without gradient.
    """
    chosen = numerics.class_mask(labels, num_classes)
    histogram = chosen if counted is None else numerics.class_mask(counted, num_classes)
    histogram = histogram.sum(axis=(1, 2), dtype=jnp.float32)  # [B, C]
    total = histogram.sum(axis=-1, keepdims=True)
    weights = 1 / jnp.maximum(histogram**ratio * total ** (1 - ratio), 1)
    return jnp.where(chosen, weights[:, None, None], 0).sum(axis=-1)


def _mean(values, where, classes: int) -> jax.Array:
    valid = jnp.ones(values.shape, bool) if where is None else where
    return numerics.masked_mean(values, valid) / classes


def _weighted(values, weights, where, classes: int) -> jax.Array:
    weights = jax.lax.stop_gradient(weights).astype(values.dtype)
    if where is not None:
        weights = jnp.where(where, weights, 0)
    return (weights * values).sum() / (len(values) * classes)


def _classes(probabilities, divisor) -> int:
    """What the sum over the classes is divided by."""
    if divisor == "pixels_and_classes":
        return probabilities.shape[-1]
    if divisor == "pixels":
        return 1
    raise ValueError(
        f"divisor must be 'pixels_and_classes' or 'pixels', got {divisor!r}"
    )


def self_information(probabilities: jax.Array) -> jax.Array:
    """Self-information ``[B, H, W, C]`` of probabilities, what ADVENT's discriminators see.

    ``I_c = -p_c log2(p_c + 1e-30) / log2 C``, class by class (ADVENT,
    ``advent/utils/func.py::prob_2_entropy``); the sum over the classes lies in [0, 1].
    """
    p = resample.at_least_float32(probabilities)
    return -p * jnp.log(p + _EPSILON) / jnp.log(jnp.asarray(p.shape[-1], p.dtype))


def normalised_entropy(probabilities: jax.Array) -> jax.Array:
    """Mean entropy of ``[B, H, W, C]`` predictions in units of the largest possible.

    ``-1 / (B H W log2 C) sum_{x, c} p log2(p + 1e-30)``, gradient through both factors
    (ADVENT, ``advent/utils/loss.py::entropy_loss``).
    """
    return self_information(probabilities).sum(axis=-1).mean()

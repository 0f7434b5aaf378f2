"""What several methods share: weighted terms and losses at image resolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax

from lsr_jax import losses, resample
from lsr_jax.types import Images, Outputs, PyTree


def weighted(
    terms: Mapping[str, Callable[[], jax.Array]], weights: Mapping[str, float]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """``sum_k weights[k] * terms[k]()`` and the unweighted terms.

    A term whose weight is exactly 0 is never built, so every ablation is a config
    override that also costs nothing.
    """
    values = {name: terms[name]() for name in terms if weights[name] != 0}
    total = sum(weights[name] * value for name, value in values.items())
    return total, values


def stateless(key: jax.Array, params: PyTree, spec) -> tuple[dict, dict]:
    """The ``init`` of a method without parameters or state of its own."""
    del key, params, spec
    return {}, {}


def upsampled_probabilities(logits: jax.Array, images: jax.Array) -> jax.Array:
    """Softmax of align-corners upsampled logits: ``[B, h, w, C]`` to ``[B, H, W, C]``."""
    size = images.shape[1:3]
    return jax.nn.softmax(resample.bilinear(logits, size), axis=-1)


def segmentation(outputs: Outputs, images: Images) -> jax.Array:
    """Cross-entropy of the main head at the resolution of the label."""
    size = images.label.shape[1:3]
    return losses.cross_entropy(resample.bilinear(outputs.logits, size), images.label)


def max_square_term(
    outputs: Outputs, images: jax.Array, *, ratio: float | None
) -> jax.Array:
    """`losses.max_squares` of the main head at image resolution.

    ``ratio`` is the exponent of the image-wise class weights, None for none.
    """
    probabilities = upsampled_probabilities(outputs.logits, images)
    if ratio is None:
        return losses.max_squares(probabilities)
    weights = losses.image_weights(
        jax.lax.stop_gradient(probabilities).argmax(axis=-1),
        num_classes=probabilities.shape[-1],
        ratio=ratio,
    )
    return losses.max_squares(probabilities, weights)

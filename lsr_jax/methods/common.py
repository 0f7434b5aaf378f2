"""Shared by several methods: weighted terms and losses at image resolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax

from lsr_jax import losses
from lsr_jax.ops import resample
from lsr_jax.types import HEADS, Batch, BatchSpec, Context, Images, Outputs, PyTree

FOCAL_CLAMP = 1e-9
HEAD_PARTS = ("head", "aux_head")  # of the parameters of a network

Term = jax.Array | tuple[jax.Array, Mapping[str, jax.Array]]
"""A scalar of the loss, or a pair of it and the `diagnostics` that it brings."""


def weighted(
    terms: Mapping[str, Callable[[], Term]],
    weights: Mapping[str, float | jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """``sum_k weights[k] * terms[k]()``, the unweighted terms, and their diagnostics.

    A term whose weight is exactly 0 is never built, so every ablation is a config
    override that also costs nothing. A weight may also be an array, such as one that
    fades with the step; its term is always built.
    """

    def wanted(weight):
        return isinstance(weight, jax.Array) or weight != 0

    values, found = {}, {}
    for name in terms:
        if wanted(weights[name]):
            term = terms[name]()
            values[name], beside = term if isinstance(term, tuple) else (term, {})
            found |= beside
    total = sum(weights[name] * value for name, value in values.items())
    return total, values | found


def stateless(
    key: jax.Array, params: PyTree, model_state: PyTree, spec: BatchSpec
) -> tuple[dict, dict]:
    """The ``init`` of a method without parameters or state of its own."""
    del key, params, model_state, spec
    return {}, {}


def upsampled_probabilities(logits: jax.Array, images: jax.Array) -> jax.Array:
    """Softmax of align-corners upsampled logits: ``[B, h, w, C]`` to ``[B, H, W, C]``."""
    size = images.shape[1:3]
    return jax.nn.softmax(resample.bilinear(logits, size), axis=-1)


def segmentation(
    outputs: Outputs, images: Images, *, auxiliary: float = 0.0, gamma: float = 0.0
) -> jax.Array:
    """Cross-entropy at the resolution of the label: ``L(main) + auxiliary L(aux)``.

    Args:
      outputs: of the network on ``images``.
      images: labelled.
      auxiliary: weight of the second head; 0.1 for the multi-level networks of
        AdaptSegNet, ADVENT and MaxSquare, 1 for the two equal heads of CLAN.
      gamma: exponent of the focal loss of CLAN and Feature To Adapt, with their clamp,
        see `losses.focal_cross_entropy`; 0 for cross-entropy.
    """

    def head(logits):
        logits = resample.bilinear(logits, images.label.shape[1:3])
        if gamma == 0:
            return losses.cross_entropy(logits, images.label)
        return losses.focal_cross_entropy(
            logits, images.label, gamma=gamma, smallest=FOCAL_CLAMP
        )

    value = head(outputs.logits)
    if auxiliary != 0:
        value += auxiliary * head(outputs.aux_logits)
    return value


def heads(auxiliary: float) -> tuple[str, ...]:
    """The networks for a loss whose second head has this weight: all for 0."""
    return HEADS if auxiliary == 0 else ("multi_level", "two_heads")


def both_domains(
    params: PyTree, batch: Batch, ctx: Context
) -> tuple[Outputs, Outputs, PyTree]:
    """The two passes in train mode of most methods: source first, then target.

    Returns:
      Outputs on the source, outputs on the target, BatchNorm statistics after both.
    """
    model = params["model"]
    source, model_state = ctx.forward(model, ctx.model_state, batch.source.image, True)
    target, model_state = ctx.forward(model, model_state, batch.target.image, True)
    return source, target, model_state


def sharpness(
    outputs: Outputs,
    images: jax.Array,
    *,
    ratio: float | None,
    measure: Callable[..., jax.Array] = losses.max_squares,
    divisor: str = "pixels_and_classes",
) -> jax.Array:
    """A loss on the main head's probabilities at image resolution, without labels.

    Args:
      outputs: of the network on ``images``.
      images: ``[B, H, W, 3]``.
      ratio: exponent of the image-wise class weights, None for none.
      measure: `losses.max_squares` or `losses.entropy`.
      divisor: of it.
    """
    probabilities = upsampled_probabilities(outputs.logits, images)
    if ratio is None:
        return measure(probabilities, divisor=divisor)
    weights = losses.image_weights(
        jax.lax.stop_gradient(probabilities).argmax(axis=-1),
        num_classes=probabilities.shape[-1],
        ratio=ratio,
    )
    return measure(probabilities, weights, divisor=divisor)

"""Shared by several methods: weighted terms and losses at image resolution."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax

from lsr_jax import losses
from lsr_jax.ops import resample, windows
from lsr_jax.types import HEADS, Batch, Context, Images, Method, Outputs, PyTree

FOCAL_CLAMP = 1e-9
DETAIL = 0.1  # weight of HRDA's detail in a cross-entropy

Term = jax.Array | tuple[jax.Array, Mapping[str, jax.Array]]
"""A scalar of the loss, or a pair of it and the `diagnostics` that it brings."""


def weighted(
    terms: Mapping[str, Callable[[], Term]],
    weights: Mapping[str, float | jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """``sum_k weights[k] * terms[k]()``, the unweighted terms, and their diagnostics.

    A term of weight 0 is not built. A weight may be an array, such as one that fades
    with the step; its term is always built.
    """
    values, found = {}, {}
    for name in terms:
        if isinstance(weights[name], jax.Array) or weights[name] != 0:
            term = terms[name]()
            values[name], beside = term if isinstance(term, tuple) else (term, {})
            found |= beside
    total = sum(weights[name] * value for name, value in values.items())
    return total, values | found


def stateless(*_) -> tuple[dict, dict]:
    """The ``init`` of a method without parameters or state of its own."""
    return {}, {}


def prepare_inner(method: Method) -> Callable | None:
    """``prepare`` of a method around ``method``, whose state is the field ``method``."""
    if method.prepare is None:
        return None

    def prepare(state, preparation):
        return state._replace(method=method.prepare(state.method, preparation))

    return prepare


def upsampled_probabilities(logits: jax.Array, images: jax.Array) -> jax.Array:
    """Softmax of align-corners upsampled logits: ``[B, h, w, C]`` to ``[B, H, W, C]``."""
    size = images.shape[1:3]
    return jax.nn.softmax(resample.bilinear(logits, size), axis=-1)


def segmentation(
    outputs: Outputs, images: Images, *, auxiliary: float = 0.0, gamma: float = 0.0
) -> jax.Array:
    """Cross-entropy at the resolution of the label: ``L(main) + auxiliary L(aux)``.

    ``auxiliary`` is 0.1 for the multi-level networks of AdaptSegNet, ADVENT and MaxSquare,
    1 for the two equal heads of CLAN. ``gamma`` is the exponent of the focal loss of CLAN
    and Feature To Adapt, with their clamp, see `losses.focal_cross_entropy`.
    """

    def head(logits, label):
        logits = resample.bilinear(logits, label.shape[1:3])
        if gamma == 0:
            return losses.cross_entropy(logits, label)
        return losses.focal_cross_entropy(
            logits, label, gamma=gamma, smallest=FOCAL_CLAMP
        )

    label = images.label
    value = head(outputs.logits, label)
    if outputs.detail is not None:
        logits, corners = outputs.detail
        label_there = windows.cut(label, corners, logits.shape[1:3])
        value = (1 - DETAIL) * value + DETAIL * head(logits, label_there)
    if auxiliary != 0:
        value += auxiliary * head(outputs.aux_logits, label)
    return value


def weighted_segmentation(
    outputs: Outputs, label: jax.Array, weights: jax.Array
) -> jax.Array:
    """`losses.weighted_cross_entropy` of the main head at the label's resolution.

    With HRDA's detail ``0.9 L(fused) + 0.1 L(detail)``, the second one on the window
    (``decode_heads/hrda_head.py::losses``).
    """
    logits = resample.bilinear(outputs.logits, label.shape[1:3])
    value = losses.weighted_cross_entropy(logits, label, weights)
    if outputs.detail is None:
        return value
    logits, corners = outputs.detail
    cut = functools.partial(windows.cut, corners=corners, size=logits.shape[1:3])
    detail = losses.weighted_cross_entropy(logits, cut(label), cut(weights))
    return (1 - DETAIL) * value + DETAIL * detail


def heads(auxiliary: float) -> tuple[str, ...]:
    """The networks for a loss whose second head has this weight: all for 0."""
    return HEADS if auxiliary == 0 else ("multi_level", "two_heads")


def both_domains(
    params: PyTree, batch: Batch, ctx: Context
) -> tuple[Outputs, Outputs, PyTree]:
    """Source and target pass in train mode, and the BatchNorm statistics after both."""
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

    ``measure`` is `losses.max_squares` or `losses.entropy`, with its ``divisor``;
    ``ratio`` the exponent of `losses.image_weights`, None for no weights.
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

"""Micro-batches: the network sees a batch in parts, to save memory.

The loss still sees the whole batch: features and logits of all parts are concatenated,
so prototypes, histograms, norms and every other term that is not a mean over images keep
their exact meaning. Only one part's activations inside the network exist at a time; the
backward pass recomputes each part and adds up the gradients of the parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from lsr_jax.errors import InputError


def in_parts(forward: Callable, count: int, *, group: int = 1) -> Callable:
    """``forward`` over ``count`` parts of the batch, one after the other.

    The ``group`` consecutive images that BatchNorm normalises together stay in one part.
    Outputs are in the order of the images and equal up to rounding; the model state is
    averaged over the parts. In evaluation mode it is ``forward``.
    """
    if count == 1:
        return forward

    def whole(params, model_state, images, train, rng=None):
        if not train:
            return forward(params, model_state, images, train, rng)
        check_divides(images.shape[0], count, group)

        # Inside a scan nothing can be merged with the forward pass anyway.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def part(params, model_state, images, index):
            key = None if rng is None else jax.random.fold_in(rng, index)
            return forward(params, model_state, images, train, key)

        def body(total, inputs):
            outputs, moved = part(params, model_state, *inputs)
            return jax.tree.map(jnp.add, total, moved), outputs

        zeros = jax.tree.map(jnp.zeros_like, model_state)
        indices = jnp.arange(count, dtype=jnp.int32)
        total, outputs = jax.lax.scan(
            body, zeros, (split(images, count, group), indices)
        )
        mean = jax.tree.map(lambda x: x / jnp.asarray(count, x.dtype), total)
        return jax.tree.map(lambda x: join(x, group), outputs), mean

    return whole


def split(images: jax.Array, count: int, group: int) -> jax.Array:
    """``[B, ...]`` to ``[count, B / count, ...]``: group ``i`` goes to part ``i % count``.

    Every device, which holds consecutive images, thus works on a share of every part.
    """
    parts = images.reshape(-1, count, group, *images.shape[1:])
    parts = jnp.moveaxis(parts, 1, 0)
    return parts.reshape(count, -1, *images.shape[1:])


def join(parts: jax.Array, group: int) -> jax.Array:
    """The inverse of `split`: ``[count, B / count, ...]`` to ``[B, ...]``."""
    count, _, *rest = parts.shape
    parts = parts.reshape(count, -1, group, *rest)
    return jnp.moveaxis(parts, 0, 1).reshape(-1, *rest)


def check_divides(batch_size: int, count: int, group: int) -> None:
    """Raise InputError unless the batch is ``count`` equal parts of whole groups."""
    if batch_size % (count * group):
        whole = f"groups of {group} images" if group > 1 else "images"
        raise InputError(
            f"micro_batches: {count} does not split a batch of {batch_size} into equal "
            f"parts of whole {whole}; use a divisor"
        )


def group_size(model: Mapping, parts: int) -> int:
    """Images that BatchNorm normalises together, from the ``model`` section of a config.

    Raises:
      InputError: BatchNorm takes its statistics over the whole batch, which no part sees.
    """
    trains = model["batch_norm"] != "eval" and not model["backbone"].startswith("vgg")
    if not trains or parts == 1:
        return 1
    if model["bn_group_size"] is None:
        raise InputError(
            f"micro_batches={parts} needs model.bn_group_size, a divisor of batch_size / "
            "micro_batches (1 for the originals' batch of one)"
        )
    return model["bn_group_size"]

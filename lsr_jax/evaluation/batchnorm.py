"""BatchNorm statistics re-estimated on unlabelled images of the target domain."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lsr_jax.errors import InputError
from lsr_jax.evaluation.predictor import Batches
from lsr_jax.training import sharding
from lsr_jax.types import Forward, PyTree


def estimator(
    forward: Forward,
    preprocess: Callable[[jax.Array], jax.Array],
    *,
    mesh: Mesh,
    momentum: float = 0.9,
) -> Callable[[PyTree, PyTree, Batches], PyTree]:
    """Build ``(params, model_state, batches) -> model_state`` with new statistics.

    Each batch passes in train mode from running statistics of zero, which leaves
    ``(1 - momentum) b`` of its mean and unbiased variance ``b``. The result is the mean
    of ``b`` over all batches, weighted by their images: nothing of the old statistics
    remains and the order of the batches does not matter. Places of images that are not
    valid are filled with valid ones of the same batch.

    Args:
      forward: the network; its ``model_state`` is BatchNorm running statistics.
      preprocess: uint8 ``[B, H, W, 3]`` -> network input.
      mesh: splits every batch over its axis ``data``.
      momentum: weight of the old value in the running statistics.

    Raises:
      InputError: when called: there is no image, or the network does not update its
        statistics in train mode.
    """

    @jax.jit
    def update(params, zeros, average, image, share):
        _, state = forward(params, zeros, preprocess(image), True)
        return jax.tree.map(
            lambda old, new: old + share * (new / (1 - momentum) - old), average, state
        )

    def estimate(params: PyTree, model_state: PyTree, batches: Batches) -> PyTree:
        params, model_state = sharding.replicate((params, model_state), mesh)
        average = zeros = jax.tree.map(jnp.zeros_like, model_state)
        seen = 0
        for images, valid, _ in batches:
            present = np.flatnonzero(valid)
            if not present.size:
                continue
            seen += present.size
            image = np.asarray(images.image)[np.resize(present, len(images.image))]
            share = np.float32(present.size / seen)
            image = sharding.shard_whole_batch(image, mesh)
            average = update(params, zeros, average, image, share)
        if not seen:
            raise InputError(
                "BatchNorm statistics: no target image found; check the split and the "
                "data folder"
            )
        leaves = jax.tree.leaves(average)
        if leaves and not any(np.any(leaf) for leaf in leaves):
            raise InputError(
                "BatchNorm statistics: the network does not update them in train mode; "
                "evaluate it with running statistics"
            )
        return average

    return estimate

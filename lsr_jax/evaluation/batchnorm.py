"""BatchNorm statistics re-estimated on unlabelled images of the target domain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lsr_jax.errors import InputError
from lsr_jax.evaluation.predictor import Batches
from lsr_jax.training import sharding
from lsr_jax.types import Forward, PyTree

GROUP = 16  # images that are normalised together; no batch size or device changes it


def estimator(
    forward: Forward,
    preprocess: Callable[[jax.Array], jax.Array],
    *,
    mesh: Mesh,
) -> Callable[[PyTree, PyTree, Batches], PyTree]:
    """Build ``(params, model_state, batches) -> model_state`` with new statistics.

    Groups of `GROUP` images pass in train mode, the last one with what is left. The running
    statistics become ``k old + (1 - k) new``, which gives their mean ``m`` and unbiased
    variance ``v``; where a layer is used several times, as for HRDA's context and detail,
    they are averages with the weights of the running ones. Over images, the groups pool to
    mean ``E[m]`` and variance ``E[v] + E[m^2] - E[m]^2``. Nothing of the old statistics
    remains, padding does not count, and neither the batches nor the devices matter.

    Args:
      forward: the network; its ``model_state`` is BatchNorm running statistics, trees
        of ``{"mean", "var"}``.
      preprocess: uint8 ``[B, H, W, 3]`` -> network input.
      mesh: the devices.

    Raises:
      InputError: when called: there is no image, or the network does not update its
        statistics in train mode.
    """

    @jax.jit
    def update(params, zeros, pooled, image, share):
        def moved(old):
            return forward(params, old, preprocess(image), True)[1]

        ones = jax.tree.map(jnp.ones_like, zeros)
        state, kept = jax.jvp(moved, (zeros,), (ones,))  # linear in the old statistics
        group = jax.tree.map(
            lambda value, k: jnp.where(k < 1, value / (1 - k), 0), state, kept
        )
        return _pool(pooled, group, share)

    def estimate(params: PyTree, model_state: PyTree, batches: Batches) -> PyTree:
        params, model_state = sharding.replicate((params, model_state), mesh)
        pooled = zeros = jax.tree.map(jnp.zeros_like, model_state)
        seen = 0
        for image in _groups(batches):
            seen += len(image)
            share = np.float32(len(image) / seen)
            divisible = len(image) % mesh.devices.size == 0
            place = sharding.shard_whole_batch if divisible else sharding.replicate
            pooled = update(params, zeros, pooled, place(image, mesh), share)
        if not seen:
            raise InputError(
                "BatchNorm statistics: no target image found; check the split and the "
                "data folder"
            )
        leaves = jax.tree.leaves(pooled)
        if leaves and not any(np.any(leaf) for leaf in leaves):
            raise InputError(
                "BatchNorm statistics: the network does not update them in train mode; "
                "evaluate it with running statistics"
            )
        return pooled

    return estimate


def _pool(old, new, share):
    """Statistics of two sets of images as one; ``share`` of them are ``new``."""
    if isinstance(old, Mapping) and set(old) == {"mean", "var"}:
        gap = new["mean"] - old["mean"]
        within = old["var"] + share * (new["var"] - old["var"])
        between = share * (1 - share) * jnp.square(gap)
        return {"mean": old["mean"] + share * gap, "var": within + between}
    return {name: _pool(old[name], new[name], share) for name in old}


def _groups(batches: Batches) -> Iterator[np.ndarray]:
    """The valid images of all batches, `GROUP` at a time."""
    waiting = []
    for images, valid, _ in batches:
        waiting += list(np.asarray(images.image)[np.asarray(valid)])
        while len(waiting) >= GROUP:
            yield np.stack(waiting[:GROUP])
            del waiting[:GROUP]
    if waiting:
        yield np.stack(waiting)

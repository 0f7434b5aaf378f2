"""Evaluation of one network: scores of `Predictor`, and BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lsr_jax.errors import InputError
from lsr_jax.evaluation import predictor
from lsr_jax.evaluation.predictor import Averaging, Batches, Predictor
from lsr_jax.types import Forward, Outputs, PyTree


class Evaluator(Predictor):
    """Predictions, confusion matrices and BatchNorm statistics of one network.

    It holds no parameters, so one evaluator serves all checkpoints and stages of a run
    and each image size is compiled once.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        num_classes: int,
        preprocess: Callable[[jax.Array], jax.Array],
        prediction: Callable[[Outputs], jax.Array] = predictor.main_head,
        averaging: Averaging = predictor.ONE_VIEW,
        mesh: Mesh | None = None,
        bn_momentum: float = 0.9,
    ):
        """Describes the network.

        Args:
          forward: the network; its ``model_state`` is BatchNorm running statistics.
          num_classes: ``C``.
          preprocess: uint8 ``[B, H, W, 3]`` -> network input, traced with the network.
          prediction: ``Outputs -> [B, h, w, C]``, the logits to evaluate.
          averaging: over views of every image, see `scoring`.
          mesh: splits every batch over its axis ``data``; the batch size must then be a
            multiple of the size of that axis.
          bn_momentum: weight of the old value in the running statistics.
        """
        self.network_scores = predictor.network(
            forward, preprocess, prediction=prediction, averaging=averaging
        )
        super().__init__(self.network_scores, num_classes=num_classes, mesh=mesh)
        self._forward = forward
        self._preprocess = preprocess
        self._bn_weight = 1 - bn_momentum
        self._statistics = jax.jit(self._statistics)

    def target_statistics(
        self, params: PyTree, model_state: PyTree, batches: Batches
    ) -> PyTree:
        """BatchNorm statistics of the given images; parameters and labels untouched.

        Each batch passes in train mode from running statistics of zero, which leaves
        ``(1 - momentum) b`` of its mean and unbiased variance ``b``. The result is the
        mean of ``b`` over all batches, weighted by their images: nothing of the old
        statistics remains and the order of the batches does not matter.

        Args:
          params: parameters of the network.
          model_state: gives structure and shapes only.
          batches: images; labels may be None. The places of images that are not valid
            are filled with valid ones of the same batch.

        Returns:
          The new ``model_state``.

        Raises:
          InputError: where there is no image, or the network does not update its
            statistics in train mode, so that there is nothing to re-estimate.
        """
        params = self._replicate(params)
        zeros = jax.tree.map(jnp.zeros_like, self._replicate(model_state))
        average, seen = zeros, 0
        for images, valid, _ in batches:
            present = np.flatnonzero(valid)
            if not present.size:
                continue
            seen += present.size
            image = np.asarray(images.image)[np.resize(present, len(images.image))]
            share = np.float32(present.size / seen)
            average = self._statistics(
                params, zeros, average, self._split(image), share
            )
        if not seen:
            raise InputError(
                "BatchNorm statistics: expected images of the target domain, found none; "
                "check the split and the data folder"
            )
        leaves = jax.tree.leaves(average)
        if leaves and not any(np.any(leaf) for leaf in leaves):
            raise InputError(
                "BatchNorm statistics: expected a network that updates them in train "
                "mode, found one that keeps them; evaluate it with running statistics"
            )
        return average

    def _statistics(self, params, zeros, average, image, share):
        _, state = self._forward(params, zeros, self._preprocess(image), True)
        return jax.tree.map(
            lambda old, new: old + share * (new / self._bn_weight - old), average, state
        )

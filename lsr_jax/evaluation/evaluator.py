"""Evaluation of a network over a set of images, jitted once per image size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lsr_jax import resample
from lsr_jax.errors import InputError
from lsr_jax.evaluation import metrics
from lsr_jax.types import Forward, Images, PyTree

Protocol = Literal["native", "resized"]
Batches = Iterable[tuple[Images, np.ndarray, Any]]
"""``(images, valid [B], ids)``; ``valid`` is False where an image only fills up."""


class Evaluator:
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
        mesh: Mesh | None = None,
        bn_momentum: float = 0.9,
    ):
        """Describes the network.

        Args:
          forward: the network; its ``model_state`` is BatchNorm running statistics.
          num_classes: ``C``.
          preprocess: uint8 ``[B, H, W, 3]`` -> network input, traced with the network.
          mesh: splits every batch over its axis ``data``; the batch size must then be a
            multiple of the size of that axis.
          bn_momentum: weight of the old value in the running statistics.
        """
        self._forward = forward
        self._num_classes = num_classes
        self._preprocess = preprocess
        self._mesh = mesh
        self._bn_weight = 1 - bn_momentum
        self._count = jax.jit(self._count, static_argnames="protocol")
        whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        self._label = jax.jit(self._label, static_argnames="size", out_shardings=whole)
        self._statistics = jax.jit(self._statistics)

    def confusion(
        self,
        params: PyTree,
        model_state: PyTree,
        batches: Batches,
        *,
        protocol: Protocol = "native",
    ) -> np.ndarray:
        """Confusion matrix over ``batches`` in evaluation mode.

        Args:
          params: parameters of the network.
          model_state: the statistics to normalise with.
          batches: labelled images.
          protocol: "native" enlarges the prediction to the label as it is stored
            (AdaptSegNet, ADVENT, CLAN, BDL, CAG), "resized" shrinks the label to the
            network input as PIL's nearest does (MaxSquare, OCE, LSR).

        Returns:
          int64 ``[C, C]``, rows = truth.
        """
        if protocol not in ("native", "resized"):
            raise ValueError(f"protocol must be native or resized, got {protocol!r}")
        params, model_state = self._replicate((params, model_state))
        total = np.zeros((self._num_classes, self._num_classes), np.int64)
        previous = None
        for images, valid, _ in batches:
            inputs = self._split((images.image, images.label, np.asarray(valid)))
            counts = self._count(params, model_state, *inputs, protocol=protocol)
            # Read one batch late: the device works while the host loads the next.
            if previous is not None:
                total += np.asarray(previous)
            previous = counts
        return total if previous is None else total + np.asarray(previous)

    def predict(
        self,
        params: PyTree,
        model_state: PyTree,
        images: np.ndarray,
        *,
        size: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """Class of every pixel, any number of images.

        Args:
          params: parameters of the network.
          model_state: the statistics to normalise with.
          images: uint8 ``[B, H, W, 3]``.
          size: size of the result, that of the images by default.

        Returns:
          uint8 ``[B, H, W]``.
        """
        number = len(images)
        devices = 1 if self._mesh is None else self._mesh.shape["data"]
        filled = np.asarray(images)[np.arange(-(-number // devices) * devices) % number]
        labels = self._label(
            *self._replicate((params, model_state)),
            self._split(filled),
            size=size or images.shape[1:3],
        )
        return np.asarray(labels)[:number]

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

    def _logits(self, params, model_state, image):
        inputs = self._preprocess(image)
        outputs, _ = self._forward(params, model_state, inputs, False)
        return outputs.logits.astype(jnp.float32)

    def _label(self, params, model_state, image, *, size):
        logits = self._logits(params, model_state, image)
        enlarged = resample.bilinear(logits, size)
        return jnp.argmax(enlarged, axis=-1).astype(jnp.uint8)

    def _count(self, params, model_state, image, label, valid, *, protocol):
        if protocol == "resized":
            label = resample.nearest(label, image.shape[1:3])
        predictions = self._label(params, model_state, image, size=label.shape[1:])
        return metrics.confusion_matrix(label, predictions, self._num_classes, valid)

    def _statistics(self, params, zeros, average, image, share):
        _, state = self._forward(params, zeros, self._preprocess(image), True)
        return jax.tree.map(
            lambda old, new: old + share * (new / self._bn_weight - old), average, state
        )

    def _replicate(self, tree):
        return self._place(tree, PartitionSpec())

    def _split(self, tree):
        return self._place(tree, PartitionSpec("data"))

    def _place(self, tree, spec):
        if self._mesh is None:
            return tree
        return jax.device_put(tree, NamedSharding(self._mesh, spec))

"""Predictions and confusion matrices over sets of images, jitted once per image size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lsr_jax import placement, resample
from lsr_jax.evaluation import metrics
from lsr_jax.evaluation.scoring import Scores, Size
from lsr_jax.types import Images, PyTree

Protocol = Literal["native", "resized"]
PROTOCOLS: tuple[Protocol, ...] = ("native", "resized")
Batches = Iterable[tuple[Images, np.ndarray, Any]]
"""``(images, valid [B], ids)``; ``valid`` is False where an image only fills up."""


class Predictor:
    """Classes of pixels from scores. It holds no parameters.

    The network is compiled once for each size of its input; what compares with labels
    or enlarges to another size is compiled apart.
    """

    def __init__(self, scores: Scores, *, num_classes: int, mesh: Mesh | None = None):
        """Describes what is run.

        Args:
          scores: of a network or an ensemble.
          num_classes: ``C``.
          mesh: splits every batch over its axis ``data``; the batch size must then be a
            multiple of the size of that axis.
        """
        self.num_classes = num_classes
        self._mesh = mesh
        self._merge = scores.merge
        self._views = jax.jit(scores.views)
        # Whole on every device, so that every process can read the results.
        whole = None if mesh is None else placement.replicated(mesh)
        self._count = jax.jit(self._count, static_argnames="sizes", out_shardings=whole)
        self._label = jax.jit(self._label, static_argnames="size", out_shardings=whole)
        self._score = jax.jit(scores.merge, static_argnums=1, out_shardings=whole)

    def confusion(
        self,
        params: PyTree,
        model_state: PyTree,
        batches: Batches,
        *,
        protocol: Protocol = "native",
    ) -> np.ndarray:
        """Confusion matrix over ``batches`` under one protocol; see `confusions`.

        Returns:
          int64 ``[C, C]``, rows = truth.
        """
        found = self.confusions(params, model_state, batches, protocols=(protocol,))
        return found[(protocol,)]

    def confusions(
        self,
        params: PyTree,
        model_state: PyTree,
        batches: Batches,
        *,
        protocols: Sequence[Protocol] = PROTOCOLS,
    ) -> dict[tuple[Protocol, ...], np.ndarray]:
        """Confusion matrices over ``batches``, in evaluation mode, the network run once.

        Args:
          params: parameters of the network.
          model_state: the statistics to normalise with.
          batches: labelled images.
          protocols: "native" enlarges the prediction to the label as it is stored
            (AdaptSegNet, ADVENT, CLAN, BDL, CAG), "resized" shrinks the label to the
            network input as PIL's nearest does (MaxSquare, OCE, LSR).

        Returns:
          int64 ``[C, C]``, rows = truth, for each protocol: ``{(name,): matrix}``. Where
          all labels have the size of the images the protocols are the same, and are
          counted once: ``{("native", "resized"): matrix}``.
        """
        unknown = set(protocols) - set(PROTOCOLS)
        if unknown or not protocols:
            raise ValueError(f"protocols must be of {PROTOCOLS}, got {protocols!r}")
        params, model_state = self._replicate((params, model_state))
        empty = np.zeros((self.num_classes, self.num_classes), np.int64)
        total = {protocol: empty.copy() for protocol in protocols}
        alike, previous = True, None
        for images, valid, _ in batches:
            size = images.image.shape[1:3]
            wanted = {"native": images.label.shape[1:], "resized": size}
            wanted = {protocol: wanted[protocol] for protocol in protocols}
            sizes = tuple(dict.fromkeys(wanted.values()))
            alike &= images.label.shape[1:] == size
            image, label, valid = self._split(
                (images.image, images.label, np.asarray(valid))
            )
            maps = self._views(params, model_state, image)
            counts = self._count(maps, label, valid, sizes=sizes)
            # Read one batch late: the device works while the host loads the next.
            if previous is not None:
                _add(total, *previous)
            previous = wanted, dict(zip(sizes, counts, strict=True))
        if previous is not None:
            _add(total, *previous)
        if alike:
            return {tuple(protocols): total[protocols[0]]}
        return {(protocol,): matrix for protocol, matrix in total.items()}

    def predict(
        self,
        params: PyTree,
        model_state: PyTree,
        images: np.ndarray,
        *,
        size: Size | None = None,
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
        maps = self.views(params, model_state, images)
        return self.labels(maps, size or images.shape[1:3])[: len(images)]

    def views(self, params: PyTree, model_state: PyTree, images: np.ndarray) -> PyTree:
        """The first half of the scores; rows are repeated until the devices divide them.

        Args:
          params: parameters of the network.
          model_state: the statistics to normalise with.
          images: uint8 ``[B, H, W, 3]``.

        Returns:
          A tree of ``[B or more, h, w, C]``.
        """
        number = len(images)
        devices = 1 if self._mesh is None else self._mesh.shape["data"]
        filled = np.asarray(images)[np.arange(-(-number // devices) * devices) % number]
        params, model_state = self._replicate((params, model_state))
        return self._views(params, model_state, self._split(filled))

    def labels(self, maps: PyTree, size: Size) -> np.ndarray:
        """The second half, decided: uint8 ``[B, *size]``."""
        return np.asarray(self._label(maps, size=tuple(size)))

    def scores(self, maps: PyTree, size: Size) -> np.ndarray:
        """The second half: float32 ``[B, *size, C]``."""
        return np.asarray(self._score(maps, tuple(size)))

    def _label(self, maps, *, size):
        return jnp.argmax(self._merge(maps, size), axis=-1).astype(jnp.uint8)

    def _count(self, maps, label, valid, *, sizes):
        def count(size):
            truth = label
            if label.shape[1:] != size:
                truth = resample.nearest(label, size)
            predictions = self._label(maps, size=size)
            return metrics.confusion_matrix(truth, predictions, self.num_classes, valid)

        return [count(size) for size in sizes]

    def _replicate(self, tree):
        return (
            tree if self._mesh is None else placement.put_replicated(tree, self._mesh)
        )

    def _split(self, tree):
        return tree if self._mesh is None else placement.put_split(tree, self._mesh)


def _add(total, wanted, counts):
    for protocol, size in wanted.items():
        total[protocol] += np.asarray(counts[size])

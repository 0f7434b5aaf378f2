"""OCE's centroids of both domains, and the labels that say which features make them."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from lsr_jax import prototypes, pseudo_labels, resample
from lsr_jax.methods import common
from lsr_jax.prototypes import Prototypes
from lsr_jax.types import Batch, Outputs, PyTree


def labels(
    source: Outputs, target: Outputs, batch: Batch, *, rule: str, source_labels: str
) -> tuple[jax.Array, jax.Array]:
    """Labels of the features of both domains, ``[B, h, w]`` each.

    Args:
      source: outputs of the network on the source.
      target: the same on the target.
      batch: whose images give the size of the predictions, and the source its labels.
      rule: how predictions shrink, see `pseudo_labels.shrunken`.
      source_labels: "prediction", or "ground_truth" shrunk by nearest neighbour.
    """

    def predicted(outputs, images):
        probabilities = common.upsampled_probabilities(outputs.logits, images)
        size = outputs.features.shape[1:3]
        return pseudo_labels.shrunken(probabilities, size=size, rule=rule)

    if source_labels == "ground_truth":
        size = source.features.shape[1:3]
        first = resample.nearest(batch.source.label, size, rule="torch")
    else:
        first = predicted(source, batch.source.image)
    return first, predicted(target, batch.target.image)


def refresh(
    state: PyTree,
    features: Sequence[jax.Array],
    labels: Sequence[Sequence[jax.Array]],
    num_classes: int,
    momentum: float,
) -> list[Prototypes]:
    """The centroids after every refreshing of a step.

    Args:
      state: `Prototypes` of the step before; without momentum they do not matter.
      features: ``[B, h, w, D]`` of source and target.
      labels: for every refreshing the labels ``[B, h, w]`` of source and target.
      num_classes: ``C``.
      momentum: weight of the old centroid.
    """
    found = []
    for pair in labels:
        means, counts = prototypes.joint_class_means(
            *zip(features, pair, strict=True), num_classes=num_classes
        )
        if momentum == 0:
            state = prototypes.init(*means.shape, dtype=means.dtype)
        state = prototypes.update(
            state, means, counts, momentum=momentum, initial="itself"
        )
        found.append(state)
    return found

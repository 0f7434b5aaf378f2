"""Where the paper of LSR and its released code part: both settings, and the choices.

`PAPER` is eq. 1 to 8 of the CVPRW paper. `RELEASED` is ``tools/train_UDA.py`` with
``utils/losses.py`` of LTTM/LSR under the flags of its README, the journal variant;
``docs/reproducibility.md`` says what each difference does to the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lsr_jax import losses, pseudo_labels, resample
from lsr_jax.methods import common
from lsr_jax.prototypes import Prototypes
from lsr_jax.types import Outputs

PAPER = {
    "histogram_window": "full",
    "class_frequency": "none",
    "target_labels": "histogram",
    "prototype_initial": "zero",
    "clustering_distance": "squared_l2",
    "perpendicularity_of": "batch",
    "norm_target": "previous",
    "norm_relative": False,
    "norm_active_only": False,
    "norm_delta": 0.002,
}
RELEASED = {
    "histogram_window": "diagonal",
    "class_frequency": "gta5",
    "target_labels": "double_prototype",
    "prototype_initial": "first_seen",
    "clustering_distance": "l1_mean",
    "perpendicularity_of": "smoothed",
    "norm_target": "current",
    "norm_relative": True,
    "norm_active_only": True,
    "norm_delta": 0.1,
}
CHOICES = {
    "histogram_window": ("full", "diagonal"),
    "class_frequency": ("none", *pseudo_labels.CLASS_FREQUENCY),
    "target_labels": ("histogram", "prototype", "double_prototype"),
    "prototype_initial": ("zero", "first_seen"),
    "clustering_distance": ("squared_l2", "l2_mean", "l1_mean", "cosine"),
    "perpendicularity_of": ("batch", "smoothed"),
    "norm_target": ("previous", "current", "class"),
}


def check(**chosen: str) -> None:
    """Raises InputError for a value that is none of its key's `CHOICES`."""
    for key, value in chosen.items():
        common.check_choice(key, value, CHOICES[key])


def target_labels(
    outputs: Outputs,
    image_size: tuple[int, int],
    prototypes: Prototypes,
    *,
    kind: str,
    confidence: float,
    histogram: Mapping[str, Any],
) -> jax.Array:
    """Pseudo-labels of the target features, ``[B, h, w]``, 255 below the confidence.

    Args:
      outputs: of the network on the target images.
      image_size: ``(H, W)``.
      prototypes: smoothed, of this step.
      kind: "histogram" of the predicted map, the paper (``predHistDown``);
        "prototype", the nearest one (``predPDDown``); "double_prototype", the same with
        the lost class index of the released default.
      confidence: ``T_p``.
      histogram: threshold and window, of the first kind.
    """
    if kind == "histogram":
        return pseudo_labels.confident(
            resample.bilinear(outputs.logits, image_size),
            size=outputs.features.shape[1:3],
            threshold=confidence,
            histogram_threshold=histogram["threshold"],
            window=histogram["window"],
        )
    return pseudo_labels.nearest_prototype(
        outputs.features,
        prototypes.mean,
        prototypes.seen,
        threshold=confidence,
        compact_index=kind == "double_prototype",
    )


def wanted_norm(
    features: jax.Array,
    labels: jax.Array,
    previous: jax.Array,
    *,
    kind: str,
    num_classes: int,
) -> jax.Array:
    """The norm to which features are moved, before the margin.

    Args:
      features: ``[B, h, w, D]`` of the source.
      labels: ``[B, h, w]``.
      previous: mean source norm of the step before, 0 in the first.
      kind: "previous", the paper; "current", the mean of these features; "class", the
        same for every class, ``[C]``.
      num_classes: ``C``.
    """
    if kind == "class":
        return losses.class_mean_norms(features, labels, num_classes=num_classes)
    current = losses.mean_norm(features)
    if kind == "current":
        return current
    return jnp.where(previous == 0, current, previous)


def perpendicularity(
    means: jax.Array,
    counts: jax.Array,
    smoothed: Prototypes,
    order: jax.Array,
    *,
    kind: str,
) -> jax.Array:
    """`losses.perpendicularity` of the "batch" prototypes, symmetric (the paper).

    Or of the "smoothed" ones of all classes ever seen, visited in ``order`` with the
    earlier one of each pair detached (the released code).
    """
    if kind == "batch":
        return losses.perpendicularity(means, counts > 0)
    return losses.perpendicularity(smoothed.mean, smoothed.seen, order=order)


def visiting_order(key: jax.Array, num_classes: int) -> jax.Array:
    """The random order in which the released perpendicularity visits the classes.

    Args:
      key: of the step; the network's dropout has another one of its keys.
      num_classes: ``C``.
    """
    return jax.random.permutation(jax.random.fold_in(key, 1), num_classes)

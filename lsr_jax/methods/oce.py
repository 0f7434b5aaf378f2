"""OCE (WACV 2021): orthogonal and clustered embeddings of both domains.

    L = CE_s + lambda_C (L_con^s + L_con^t - L_spa) + lambda_O L_or + lambda_S L_sp
        + lambda_EM L_EM^t

Centroids are the class means of source and target features together, with the network's
own predictions as labels. Nothing is detached: the gradient moves them as well.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated, Literal

import jax

from lsr_jax import losses
from lsr_jax.keywords import (
    Fraction,
    MaximisedWeight,
    Momentum,
    Positive,
    Range,
    UnitExponent,
    Weight,
)
from lsr_jax.methods import common
from lsr_jax.ops import diagnostics, prototypes, pseudo_labels, resample
from lsr_jax.ops.prototypes import Prototypes
from lsr_jax.types import Aux, Batch, Method, Outputs, PyTree

PRESETS = {
    "paper": {
        "distance_order": 2,
        "distance_of": "vectors",
        "reduce": "sum",
        "labels": "nearest",
    },
    "released": {
        "distance_order": 1,
        "distance_of": "block",
        "reduce": "mean",
        "labels": "both",
    },
}
# The terms that use labels of features and their centroids.
EMBEDDED = {
    *("contraction_source", "contraction_target", "spacing"),
    *("orthogonality", "sparsity"),
}


def make(
    *,
    segmentation: Weight = 1.0,
    clustering: Weight = 0.02,
    contraction_source: Weight = 1.0,
    contraction_target: Weight = 1.0,
    spacing: MaximisedWeight = 1.0,
    orthogonality: Weight = 2.0,
    sparsity: Weight = 0.5,
    entropy: Weight = 0.1,
    entropy_ratio: UnitExponent = 0.2,
    distance_order: Literal[1, 2] = 1,
    distance_of: Literal["block", "vectors"] = "block",
    reduce: Literal["mean", "sum"] = "mean",
    temperature: Positive = 1.0,
    sparsity_threshold: Fraction = 0.5,
    sparsity_exponent: Annotated[int, Range(least=1, unit="exponent")] = 2,
    labels: Literal["both", "bilinear", "nearest"] = "both",
    source_labels: Literal["prediction", "ground_truth"] = "prediction",
    prototype_momentum: Momentum = 0.0,
) -> Method:
    """OCE (WACV 2021): orthogonal and clustered embeddings of both domains.

    Defaults are those of the released code on GTA5 with ResNet101.

    The slides have L2 distances and sums where the code has means over all entries. Their
    weights are unpublished: those of the code belong to its means, and the preset "paper"
    needs others. At the sizes of GTA5 to Cityscapes its distances are at least
    ``sqrt(2,048)`` times as large, its orthogonality ``23,036`` cells times the classes
    that exist, its sparsity ``2,048`` channels times these.

    Args:
      segmentation: weight of ``CE_s``.
      clustering: lambda_C of the three clustering terms.
      contraction_source: factor on lambda_C, of `losses.contraction` on the source.
      contraction_target: the same on the target.
      spacing: the same of `losses.spacing`, which is maximised.
      orthogonality: lambda_O of `losses.orthogonality`.
      sparsity: lambda_S of `losses.sparsity`.
      entropy: lambda_EM, image-weighted MaxSquare on the target.
      entropy_ratio: exponent of its class weights; 0 weighs every pixel alike.
      distance_order: p of `losses.contraction`, 1 as the code, 2 as the slides.
      distance_of: of `losses.contraction`, "block" as the code, "vectors" as the slides.
      reduce: "mean" over all entries of orthogonality and sparsity as the code; "sum" as
        the slides, over the features of both domains as well as over the classes.
      temperature: T of the orthogonality.
      sparsity_threshold: rho.
      sparsity_exponent: of the distance to rho.
      labels: how predictions become labels of features, see `pseudo_labels.shrunken`:
        "both" as ``utils/losses.py``, centroids of "bilinear" labels for the clustering
        and again of "nearest" labels for the rest; or one rule for all terms.
      source_labels: "prediction", or "ground_truth" shrunk by nearest neighbour.
      prototype_momentum: weight of the old centroid (one minus the original's
        coefficient), of which the gradient leaves only the rest; applied at every
        refreshing, with "both" labels twice a step. 0: no centroid outlives its step.
    """
    rules = ("bilinear", "nearest") if labels == "both" else (labels,)
    weights = {
        "segmentation": segmentation,
        "contraction_source": clustering * contraction_source,
        "contraction_target": clustering * contraction_target,
        "spacing": -clustering * spacing,
        "orthogonality": orthogonality,
        "sparsity": sparsity,
        "entropy": entropy,
    }

    def init(key, params, model_state, spec):
        del key, params, model_state
        if prototype_momentum == 0:
            return {}, {}
        return {}, prototypes.init(spec.num_classes, spec.feature_dim)

    def loss(params, state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)
        images = batch.target.image
        features = source.features, target.features
        num_classes = source.logits.shape[-1]
        shrunk = [
            centroid_labels(
                source, target, batch, rule=rule, source_labels=source_labels
            )
            for rule in rules
        ]
        centroids = refresh(state, features, shrunk, num_classes, prototype_momentum)
        source_label, target_label = shrunk[0]
        first, last = centroids[0], centroids[-1]
        distance = {"order": distance_order, "distance_of": distance_of}
        contract = functools.partial(
            losses.contraction, centroids=first.mean, seen=first.seen, **distance
        )
        terms = {
            "segmentation": lambda: common.segmentation(source, batch.source),
            "contraction_source": lambda: contract(features[0], source_label),
            "contraction_target": lambda: contract(features[1], target_label),
            "spacing": lambda: losses.spacing(*first, **distance),
            "orthogonality": lambda: losses.orthogonality(
                features, *last, temperature=temperature, reduce=reduce
            ),
            "sparsity": lambda: losses.sparsity(
                *last,
                threshold=sparsity_threshold,
                exponent=sparsity_exponent,
                reduce=reduce,
            ),
            "entropy": lambda: common.sharpness(target, images, ratio=entropy_ratio),
        }
        total, metrics = common.weighted(terms, weights)
        if metrics.keys() & EMBEDDED:
            metrics |= diagnostics.prototypes(*last)
            metrics |= diagnostics.pseudo_labels(target_label, num_classes=num_classes)
        state = last if prototype_momentum else state
        outputs = {"source": source, "target": target}
        return total, Aux(metrics, state, model_state, outputs)

    return Method(init, loss)


def centroid_labels(
    source: Outputs, target: Outputs, batch: Batch, *, rule: str, source_labels: str
) -> tuple[jax.Array, jax.Array]:
    """Labels of the features of both domains, ``[B, h, w]`` each; arguments as in `make`."""

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
    """The centroids after each update of a step, from the `Prototypes` before it.

    ``features`` are ``[B, h, w, D]`` of source and target, ``labels`` their labels
    ``[B, h, w]`` for each update. Without momentum ``state`` is ignored.
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

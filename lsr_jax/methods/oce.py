"""OCE (WACV 2021): orthogonal and clustered embeddings of both domains.

    L = CE_s + lambda_C (L_con^s + L_con^t - L_spa) + lambda_O L_or + lambda_S L_sp
        + lambda_EM L_EM^t

Centroids are the class means of source and target features together, under labels that
are the network's own predictions. Nothing is detached: they are pulled as well.
"""

from __future__ import annotations

import functools

import jax

from lsr_jax import losses, prototypes, pseudo_labels, resample
from lsr_jax.methods import common
from lsr_jax.prototypes import Prototypes
from lsr_jax.types import Aux, Method

PRESETS = {
    "paper": {"distance_order": 2, "labels": "nearest"},
    "released": {"distance_order": 1, "labels": "both"},
}
CHOICES = {
    "labels": ("both", "bilinear", "nearest"),
    "source_labels": ("prediction", "ground_truth"),
    "distance_order": (1, 2),
}


def make(
    *,
    clustering: float = 0.02,
    contraction_source: float = 1.0,
    contraction_target: float = 1.0,
    spacing: float = 1.0,
    orthogonality: float = 2.0,
    sparsity: float = 0.5,
    entropy: float = 0.1,
    entropy_ratio: float = 0.2,
    distance_order: int = 1,
    temperature: float = 1.0,
    sparsity_threshold: float = 0.5,
    sparsity_exponent: int = 2,
    labels: str = "both",
    source_labels: str = "prediction",
    prototype_momentum: float = 0.0,
) -> Method:
    """The OCE objective; defaults are the released code's on GTA5 with ResNet101.

    Args:
      clustering: lambda_C of the three clustering terms.
      contraction_source: factor on lambda_C, of `losses.contraction` on the source.
      contraction_target: the same on the target.
      spacing: the same of `losses.spacing`, which is maximised.
      orthogonality: lambda_O of `losses.orthogonality`. The slides sum over features and
        classes; the published weights belong to the mean of the code.
      sparsity: lambda_S of `losses.sparsity`; mean and sum as above.
      entropy: lambda_EM, image-weighted MaxSquare on the target.
      entropy_ratio: exponent of its class weights; 0 weighs every pixel alike.
      distance_order: of the clustering, 1 as the code, 2 as the slides.
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

    Raises:
      InputError: an unknown choice.
    """
    chosen = {
        "labels": labels,
        "source_labels": source_labels,
        "distance_order": distance_order,
    }
    for key, value in chosen.items():
        common.check_choice(key, value, CHOICES[key])
    rules = ("bilinear", "nearest") if labels == "both" else (labels,)
    weights = {
        "segmentation": 1.0,
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
        truth = batch.source.label if source_labels == "ground_truth" else None

        def shrink(rule):
            return (
                feature_labels(source, batch.source.image, rule=rule, truth=truth),
                feature_labels(target, images, rule=rule),
            )

        features = source.features, target.features
        shrunk = [shrink(rule) for rule in rules]
        centroids = refresh(
            state, features, shrunk, source.logits.shape[-1], prototype_momentum
        )
        (source_label, target_label), first, last = (
            shrunk[0],
            centroids[0],
            centroids[-1],
        )
        contract = functools.partial(
            losses.contraction,
            centroids=first.mean,
            seen=first.seen,
            order=distance_order,
        )
        terms = {
            "segmentation": lambda: common.segmentation(source, batch.source),
            "contraction_source": lambda: contract(features[0], source_label),
            "contraction_target": lambda: contract(features[1], target_label),
            "spacing": lambda: losses.spacing(*first, order=distance_order),
            "orthogonality": lambda: losses.orthogonality(
                features, *last, temperature=temperature
            ),
            "sparsity": lambda: losses.sparsity(
                *last, threshold=sparsity_threshold, exponent=sparsity_exponent
            ),
            "entropy": lambda: common.max_square_term(
                target, images, ratio=entropy_ratio
            ),
        }
        total, metrics = common.weighted(terms, weights)
        state = last if prototype_momentum else state
        return total, Aux(metrics, state, model_state)

    return Method(init, loss)


def feature_labels(outputs, images, *, rule, truth=None) -> jax.Array:
    """Labels ``[B, h, w]`` of a domain's features, from the prediction or the truth."""
    size = outputs.features.shape[1:3]
    if truth is not None:
        return resample.nearest(truth, size, rule="torch")
    probabilities = common.upsampled_probabilities(outputs.logits, images)
    return pseudo_labels.shrunken(probabilities, size=size, rule=rule)


def refresh(state, features, labels, num_classes, momentum) -> list[Prototypes]:
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

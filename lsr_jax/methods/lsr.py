"""LSR (CVPRW 2021): cluster, orthogonalise and lengthen the features of both domains.

    L = CE_s + lambda_C (L_C^s + L_C^t) + lambda_P L_P + lambda_N (L_N^s + L_N^t)
        + lambda_EM L_EM^t

The preset "paper" is eq. 1 to 8 of the CVPRW paper, "released" is ``tools/train_UDA.py``
with ``utils/losses.py`` of LTTM/LSR under the flags of its README, the journal variant.
They differ in most terms; each difference is a keyword of `make`, and
``docs/reproducibility.md`` says what it does to the numbers.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax import losses
from lsr_jax.errors import InputError
from lsr_jax.keywords import (
    Fraction,
    Momentum,
    Probability,
    Range,
    UnitExponent,
    Weight,
)
from lsr_jax.methods import common
from lsr_jax.ops import diagnostics, prototypes, pseudo_labels, resample
from lsr_jax.ops.prototypes import Prototypes
from lsr_jax.types import Aux, Method, Outputs

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
PRESETS = {"paper": PAPER, "released": RELEASED}


class LSRState(NamedTuple):
    """Smoothed prototypes, and the mean source norm of the last step (0: none yet)."""

    prototypes: Prototypes
    source_norm: jax.Array


def make(
    *,
    segmentation: Weight = 1.0,
    clustering: Weight = 0.1,
    perpendicularity: Weight = 0.2,
    norm: Weight = 0.025,
    entropy: Weight = 0.1,
    entropy_ratio: UnitExponent = 0.2,
    confidence: Probability = 0.5,
    histogram_threshold: Fraction = 0.5,
    histogram_window: Literal["full", "diagonal"] = "full",
    class_frequency: Literal["none", "gta5", "synthia", "cityscapes13"] = "none",
    target_labels: Literal["histogram", "prototype", "double_prototype"] = "histogram",
    prototype_momentum: Momentum = 0.8,
    prototype_initial: Literal["zero", "first_seen"] = "zero",
    clustering_distance: Literal[
        "squared_l2", "l2_mean", "l1_mean", "cosine"
    ] = "squared_l2",
    perpendicularity_of: Literal["batch", "smoothed"] = "batch",
    norm_target: Literal["previous", "current", "class"] = "previous",
    norm_relative: bool = False,
    norm_active_only: bool = False,
    norm_delta: Annotated[float, Range(unit="in units of the norm")] = 0.002,
) -> Method:
    """LSR (CVPRW 2021): cluster, orthogonalise and lengthen the features of both domains.

    Defaults are the paper's terms with the README's weights.

    Args:
      segmentation: weight of ``CE_s``.
      clustering: lambda_C, eq. 5 on both domains, averaged over all C classes as the
        equation is written (and the code runs).
      perpendicularity: lambda_P, eq. 6.
      norm: lambda_N, eq. 7 (source) and 8 (target).
      entropy: lambda_EM, image-weighted MaxSquare on the target (LSR+ of the paper).
      entropy_ratio: exponent of its class weights.
      confidence: T_p, below which a target cell gets no label.
      histogram_threshold: T_h of the label downsampling.
      histogram_window: "full" or "diagonal", see `pseudo_labels.histogram_downsample`.
      class_frequency: a key of `pseudo_labels.CLASS_FREQUENCY`, or "none"; source only.
      target_labels: see `label_target_features`.
      prototype_momentum: eta, weight of the old prototype.
      prototype_initial: "zero" or "first_seen", see `prototypes.update`.
      clustering_distance: see `losses.clustering`.
      perpendicularity_of: see `perpendicularity_term`.
      norm_target: see `wanted_norm`; with "previous" only target norms below it
        count, with the others both sides on both domains.
      norm_relative: divide by the wanted norm.
      norm_active_only: only channels above the mean of their cell.
      norm_delta: Delta_f, in units of the norm.

    Raises:
      InputError: from ``init``, frequencies of another number of classes.
    """
    weights = {
        "segmentation": segmentation,
        "clustering_source": clustering,
        "clustering_target": clustering,
        "perpendicularity": perpendicularity,
        "norm_source": norm,
        "norm_target": norm,
        "entropy": entropy,
    }
    frequency = pseudo_labels.CLASS_FREQUENCY.get(class_frequency)
    target_side = "below" if norm_target == "previous" else "both"

    def init(key, params, model_state, spec):
        del key, params, model_state
        if frequency is not None and len(frequency) != spec.num_classes:
            raise InputError(
                f"method.class_frequency: expected shares of {spec.num_classes} classes, "
                f"found {class_frequency!r} with {len(frequency)}; name another or 'none'"
            )
        start = prototypes.init(spec.num_classes, spec.feature_dim)
        return {}, LSRState(start, jnp.zeros(()))

    def loss(params, state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)
        images = batch.target.image
        num_classes = source.logits.shape[-1]

        source_label = pseudo_labels.histogram_downsample(
            batch.source.label,
            size=source.features.shape[1:3],
            num_classes=num_classes,
            threshold=histogram_threshold,
            window=histogram_window,
            class_frequency=frequency,
        )
        means, counts = prototypes.class_means(
            source.features, source_label, num_classes=num_classes
        )
        smoothed = prototypes.update(
            state.prototypes,
            means,
            counts,
            momentum=prototype_momentum,
            initial=prototype_initial,
        )
        target_label = label_target_features(
            target,
            images.shape[1:3],
            smoothed,
            kind=target_labels,
            confidence=confidence,
            histogram_threshold=histogram_threshold,
            window=histogram_window,
        )
        wanted = wanted_norm(
            source.features,
            source_label,
            state.source_norm,
            kind=norm_target,
            num_classes=num_classes,
        )
        cluster = functools.partial(
            losses.clustering,
            prototypes=smoothed.mean,
            seen=smoothed.seen,
            distance=clustering_distance,
            classes="all",
        )
        align = functools.partial(
            losses.norm_alignment,
            target_norm=wanted,
            delta=norm_delta,
            relative=norm_relative,
            active_only=norm_active_only,
        )
        by_class = norm_target == "class"
        order = visiting_order(ctx.rng, num_classes)
        terms = {
            "segmentation": lambda: common.segmentation(source, batch.source),
            "clustering_source": lambda: cluster(source.features, source_label),
            "clustering_target": lambda: cluster(target.features, target_label),
            "perpendicularity": lambda: perpendicularity_term(
                means, counts, smoothed, order, kind=perpendicularity_of
            ),
            "norm_source": lambda: align(
                source.features, labels=source_label if by_class else None
            ),
            "norm_target": lambda: align(
                target.features,
                labels=target_label if by_class else None,
                side=target_side,
            ),
            "entropy": lambda: common.sharpness(target, images, ratio=entropy_ratio),
        }
        total, metrics = common.weighted(terms, weights)
        metrics |= diagnostics.prototypes(*smoothed)
        # Diagnostics must not build labels that no term reads.
        if clustering != 0 or (by_class and norm != 0):
            metrics |= diagnostics.pseudo_labels(target_label, num_classes=num_classes)
        state = LSRState(smoothed, losses.mean_norm(source.features))
        outputs = {"source": source, "target": target}
        return total, Aux(metrics, state, model_state, outputs)

    return Method(init, loss)


def label_target_features(
    outputs: Outputs,
    image_size: tuple[int, int],
    prototypes: Prototypes,
    *,
    kind: str,
    confidence: float,
    **histogram: Any,
) -> jax.Array:
    """Pseudo-labels of the target features, ``[B, h, w]``, 255 below the confidence.

    ``kind``: "histogram" of the predicted map, the paper (``predHistDown``); "prototype",
    the nearest one (``predPDDown``); "double_prototype", the same with the released
    default's index of the class among the classes seen.
    """
    if kind == "histogram":
        return pseudo_labels.confident(
            resample.bilinear(outputs.logits, image_size),
            size=outputs.features.shape[1:3],
            threshold=confidence,
            **histogram,
        )
    compact = kind == "double_prototype"
    return pseudo_labels.nearest_prototype(
        outputs.features, *prototypes, threshold=confidence, compact_index=compact
    )


def wanted_norm(features, labels, previous, *, kind: str, num_classes: int):
    """The norm towards which features are moved, before the margin is added.

    ``kind``: "previous", the mean source norm of the step before (the paper; in the first
    step, where that is 0, the current one); "current", the mean norm of these source
    features; "class", the same for every class, ``[C]``.
    """
    if kind == "class":
        return losses.class_mean_norms(features, labels, num_classes=num_classes)
    current = losses.mean_norm(features)
    if kind == "current":
        return current
    return jnp.where(previous == 0, current, previous)


def perpendicularity_term(means, counts, smoothed: Prototypes, order, *, kind: str):
    """`losses.perpendicularity` of the "batch" prototypes, symmetric (the paper).

    Or of the "smoothed" ones of all classes ever seen, visited in ``order`` with the
    earlier one of each pair detached (the released code).
    """
    if kind == "batch":
        return losses.perpendicularity(means, counts > 0)
    return losses.perpendicularity(smoothed.mean, smoothed.seen, order=order)


def visiting_order(key: jax.Array, num_classes: int) -> jax.Array:
    """The random order in which the released perpendicularity visits the classes."""
    return jax.random.permutation(jax.random.fold_in(key, 1), num_classes)

"""LSR (CVPRW 2021): cluster, orthogonalise and lengthen the features of both domains.

    L = CE_s + lambda_C (L_C^s + L_C^t) + lambda_P L_P + lambda_N (L_N^s + L_N^t)
        + lambda_EM L_EM^t

The released code (the journal variant) differs from the paper in most terms; each
difference is a keyword of `make`, and `PRESETS` holds both sets.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax import losses, prototypes, pseudo_labels, resample
from lsr_jax.methods import common
from lsr_jax.prototypes import Prototypes
from lsr_jax.types import Aux, Method

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
# tools/train_UDA.py and utils/losses.py of LTTM/LSR with the flags of its README.
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
    clustering: float = 0.1,
    perpendicularity: float = 0.2,
    norm: float = 0.025,
    entropy: float = 0.1,
    entropy_ratio: float = 0.2,
    confidence: float = 0.5,
    histogram_threshold: float = 0.5,
    histogram_window: str = "full",
    class_frequency: str = "none",
    target_labels: str = "histogram",
    prototype_momentum: float = 0.8,
    prototype_initial: str = "zero",
    clustering_distance: str = "squared_l2",
    perpendicularity_of: str = "batch",
    norm_target: str = "previous",
    norm_relative: bool = False,
    norm_active_only: bool = False,
    norm_delta: float = 0.002,
) -> Method:
    """The LSR objective; defaults are the paper's terms with the README's weights.

    Args:
      clustering: lambda_C, eq. 5 on both domains.
      perpendicularity: lambda_P, eq. 6.
      norm: lambda_N, eq. 7 (source) and 8 (target).
      entropy: lambda_EM, image-weighted MaxSquare on the target (LSR+ of the paper).
      entropy_ratio: exponent of its class weights.
      confidence: T_p, below which a target cell gets no label.
      histogram_threshold: T_h of the label downsampling.
      histogram_window: "full" or "diagonal", see `pseudo_labels.histogram_downsample`.
      class_frequency: a key of `pseudo_labels.CLASS_FREQUENCY`, or "none".
      target_labels: "histogram" of the predicted map; "prototype", the nearest one;
        "double_prototype", the released default with its lost class index.
      prototype_momentum: eta, weight of the old prototype.
      prototype_initial: "zero" or "first_seen".
      clustering_distance: see `losses.clustering`. "squared_l2" averages over all C
        classes as eq. 5 is written, and so does the released code.
      perpendicularity_of: "batch" prototypes, symmetric; or the "smoothed" ones of all
        classes ever seen, visited in random order with the earlier one detached.
      norm_target: mean source norm of the "previous" step, and on the target only norms
        below it; or of the "current" step, both sides on both domains; or "class", the
        current norm of each class.
      norm_relative: divide by the target norm.
      norm_active_only: only channels above the mean of their cell.
      norm_delta: Delta_f, in units of the norm.
    """
    weights = {
        "segmentation": 1.0,
        "clustering_source": clustering,
        "clustering_target": clustering,
        "perpendicularity": perpendicularity,
        "norm_source": norm,
        "norm_target": norm,
        "entropy": entropy,
    }

    def init(key, params, spec):
        del key, params
        start = prototypes.init(spec.num_classes, spec.feature_dim)
        return {}, LSRState(start, jnp.zeros(()))

    def label_target(target, images, smoothed):
        size = target.features.shape[1:3]
        if target_labels == "histogram":
            return pseudo_labels.confident(
                resample.bilinear(target.logits, images.shape[1:3]),
                size=size,
                threshold=confidence,
                histogram_threshold=histogram_threshold,
                window=histogram_window,
            )
        return pseudo_labels.nearest_prototype(
            target.features,
            smoothed.mean,
            smoothed.seen,
            threshold=confidence,
            compact_index=target_labels == "double_prototype",
        )

    def cluster(features, labels, smoothed):
        return losses.clustering(
            features,
            labels,
            smoothed.mean,
            smoothed.seen,
            distance=clustering_distance,
            classes="all",
        )

    def align(features, wanted, labels, side):
        return losses.norm_alignment(
            features,
            wanted,
            delta=norm_delta,
            side=side,
            relative=norm_relative,
            active_only=norm_active_only,
            labels=labels if norm_target == "class" else None,
        )

    def loss(params, state, batch, ctx):
        model = params["model"]
        source, model_state = ctx.forward(
            model, ctx.model_state, batch.source.image, True
        )
        target, model_state = ctx.forward(model, model_state, batch.target.image, True)
        num_classes = source.logits.shape[-1]

        source_label = pseudo_labels.histogram_downsample(
            batch.source.label,
            size=source.features.shape[1:3],
            num_classes=num_classes,
            threshold=histogram_threshold,
            window=histogram_window,
            class_frequency=pseudo_labels.CLASS_FREQUENCY.get(class_frequency),
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
        target_label = label_target(target, batch.target.image, smoothed)
        source_norm = jax.lax.stop_gradient(losses.mean_norm(source.features))
        if norm_target == "class":
            wanted = losses.class_mean_norms(
                source.features, source_label, num_classes=num_classes
            )
        elif norm_target == "previous":
            first = state.source_norm == 0
            wanted = jnp.where(first, source_norm, state.source_norm)
        else:
            wanted = source_norm
        target_side = "below" if norm_target == "previous" else "both"

        def perpendicular():
            if perpendicularity_of == "batch":
                return losses.perpendicularity(means, counts > 0)
            order = visiting_order(ctx.rng, num_classes)
            return losses.perpendicularity(smoothed.mean, smoothed.seen, order=order)

        terms = {
            "segmentation": lambda: common.segmentation(source, batch.source),
            "clustering_source": lambda: cluster(
                source.features, source_label, smoothed
            ),
            "clustering_target": lambda: cluster(
                target.features, target_label, smoothed
            ),
            "perpendicularity": perpendicular,
            "norm_source": lambda: align(source.features, wanted, source_label, "both"),
            "norm_target": lambda: align(
                target.features, wanted, target_label, target_side
            ),
            "entropy": lambda: common.max_square_term(
                target, batch.target.image, ratio=entropy_ratio
            ),
        }
        total, metrics = common.weighted(terms, weights)
        return total, Aux(metrics, LSRState(smoothed, source_norm), model_state)

    return Method(init, loss)


def visiting_order(key: jax.Array, num_classes: int) -> jax.Array:
    """The random order in which the released perpendicularity visits the classes."""
    return jax.random.permutation(key, num_classes)

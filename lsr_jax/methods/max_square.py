"""MaxSquare (ICCV 2019): sharpen target predictions by maximising squared probabilities.

    L = CE_s + lambda_seg CE_s(aux) + lambda_T L_T + lambda_seg lambda_T CE_t(aux, y)

``L_T`` is the maximum squares loss or one of the entropies that its code offers for
comparison, ``y`` the labels that both heads of a multi-level network produce together.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax

from lsr_jax import losses
from lsr_jax.keywords import Probability, UnitExponent, Weight
from lsr_jax.methods import common
from lsr_jax.ops import diagnostics, pseudo_labels, resample
from lsr_jax.types import Aux, Method

MEASURES = {"max_square": losses.max_squares, "entropy": losses.entropy}
PRESETS = {
    "paper": {"divisor": "pixels"},
    "released": {"divisor": "pixels_and_classes"},
    # Sec. 4 of the paper: MaxSquare + IW + Multi. Its source model has both heads too.
    # The threshold is the benchmark's: 0.95, between real cities 0.98.
    "multi_level": {
        "entropy": 0.09,
        "image_weighting": 0.2,
        "auxiliary": 0.1,
        "guidance": 0.009,
    },
}


def make(
    *,
    segmentation: Weight = 1.0,
    kind: Literal["max_square", "entropy", "hard"] = "max_square",
    entropy: Weight = 0.1,
    image_weighting: UnitExponent | None = 0.2,
    divisor: Literal["pixels_and_classes", "pixels"] = "pixels_and_classes",
    auxiliary: Weight = 0.0,
    guidance: Weight = 0.0,
    threshold: Probability = 0.95,
) -> Method:
    """MaxSquare (ICCV 2019): sharpen target predictions by maximising squared probabilities.

    ``L = CE(source) + entropy * L_T(target)``, and the terms of the second head.

    Args:
      segmentation: weight of both heads' cross-entropy.
      kind: of ``L_T``, at image resolution: "max_square", `losses.max_squares`;
        "entropy", `losses.entropy`; "hard", cross-entropy on the confident arg-max.
      entropy: lambda_T, the weight of ``L_T``.
      image_weighting: exponent of the image-wise class weights; None gives the
        unweighted mean, for MaxSquare with a factor 1/2 more (``utils/loss.py``).
        "hard" has none, here as there, and does not read it.
      divisor: of ``L_T``: "pixels_and_classes" as the code, "pixels" as the paper's
        equation, which is ``C`` times as much; with image-wise weights too, of which
        nothing but the factor ``1 / C`` changes. The published weights were used with
        the code. "hard" is a mean over pixels and does not read it.
      auxiliary: lambda_seg, weight of the source cross-entropy of the second head.
      guidance: lambda_seg lambda_T, weight of the second head's cross-entropy on the
        labels of `pseudo_labels.thresholded`. The second head has no ``L_T`` and the
        main head no cross-entropy on these labels (``tools/solve_gta5.py``).
      threshold: confidence of "hard" and of the guidance; 0.98 between real cities.
    """
    weights = {"segmentation": segmentation, "entropy": entropy, "guidance": guidance}

    def loss(params, state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)
        images = batch.target.image

        def confident():
            main = common.upsampled_probabilities(target.logits, images)
            label = pseudo_labels.thresholded(main, threshold=threshold)
            return on_labels(target.logits, label)

        def guide():
            pair = (target.logits, target.aux_logits)
            main, second = (common.upsampled_probabilities(z, images) for z in pair)
            label = pseudo_labels.thresholded(main, second, threshold=threshold)
            return on_labels(target.aux_logits, label, rule="guidance")

        sharpen = functools.partial(
            common.sharpness,
            target,
            images,
            ratio=image_weighting,
            measure=MEASURES.get(kind),
            divisor=divisor,
        )
        terms = {
            "segmentation": lambda: common.segmentation(
                source, batch.source, auxiliary=auxiliary
            ),
            "entropy": confident if kind == "hard" else sharpen,
            "guidance": guide,
        }
        total, metrics = common.weighted(terms, weights)
        outputs = {"source": source, "target": target}
        return total, Aux(metrics, state, model_state, outputs)

    return Method(common.stateless, loss, heads=common.heads(max(auxiliary, guidance)))


def on_labels(logits: jax.Array, label: jax.Array, **rule: str) -> common.Term:
    """Cross-entropy of logits ``[B, h, w, C]`` on labels ``[B, H, W]`` made by the network.

    Beside it what became of the labels, see `diagnostics.pseudo_labels` for ``rule``.
    """
    kept = diagnostics.pseudo_labels(label, num_classes=logits.shape[-1], **rule)
    return losses.cross_entropy(resample.bilinear(logits, label.shape[1:]), label), kept

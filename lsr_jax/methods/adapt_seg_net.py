"""AdaptSegNet (CVPR 2018): the loss of `adversarial.aligned` on class probabilities."""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax

from lsr_jax.errors import InputError
from lsr_jax.keywords import Weight
from lsr_jax.methods import adversarial as adversarial_terms
from lsr_jax.methods import common
from lsr_jax.ops import resample
from lsr_jax.types import Method, Outputs

SINGLE = {"auxiliary": 0.0, "auxiliary_adversarial": 0.0}
PRESETS = {
    "single": {**SINGLE, "adversarial": 0.001},
    "least_squares": {**SINGLE, "adversarial": 0.01, "kind": "least_squares"},
    "feature": {**SINGLE, "adversarial": 0.001, "space": "feature"},
    # The repository's note for torch 0.4 and later: the published weights are too large.
    "torch_0_4": {"adversarial": 0.0005, "auxiliary_adversarial": 0.00005},
}


def make(
    *,
    segmentation: Weight = 1.0,
    adversarial: Weight = 0.001,
    auxiliary_adversarial: Weight = 0.0002,
    auxiliary: Weight = 0.1,
    discriminator: Weight = 0.5,
    kind: Literal["cross_entropy", "least_squares"] = "cross_entropy",
    space: Literal["output", "feature"] = "output",
) -> Method:
    """AdaptSegNet (CVPR 2018): adversarial alignment of predictions, or of features.

    Defaults are the multi-level objective in output space, with the paper's weights.

    Feature-level adaptation has published scores, but neither code nor numbers behind
    them. Here one discriminator with the widths, the rate and the weight of output
    space sees the features of layer4 at their own resolution; where a side has fewer
    than 32 cells, it is enlarged to 32 (align-corners), so that a logit is left.

    Args:
      segmentation: weight of both heads' cross-entropy.
      adversarial: weight of the network's adversarial loss on the main head.
      auxiliary_adversarial: the same on the second head.
      auxiliary: weight of the second head's cross-entropy, beside ``segmentation``.
      discriminator: factor on each discriminator's loss; with 0 it does not learn.
      kind: "cross_entropy", or "least_squares" (``--gan LS``).
      space: what a discriminator sees: the "output", softmax maps at image resolution
        (``train_gta2cityscapes_multi.py``), or the "feature" map.

    Raises:
      InputError: a second level in feature space.
    """
    if space == "feature" and auxiliary_adversarial != 0:
        raise InputError(
            "method.auxiliary_adversarial: expected 0 with method.space=feature, which "
            f"has one level; found {auxiliary_adversarial}"
        )

    def predictions(outputs: Outputs, images: jax.Array, level: str) -> jax.Array:
        logits = adversarial_terms.at_level(outputs, level)
        return common.upsampled_probabilities(logits, images)

    def features(outputs: Outputs, images: jax.Array, level: str) -> jax.Array:
        del images, level
        cells = outputs.features.shape[1:3]
        size = tuple(max(side, adversarial_terms.SMALLEST) for side in cells)
        return resample.bilinear(outputs.features, size)

    aligned = partial(
        adversarial_terms.aligned,
        adversarial={"main": adversarial, "aux": auxiliary_adversarial},
        auxiliary=auxiliary,
        segmentation=segmentation,
        discriminator=discriminator,
        kind=kind,
    )
    if space == "feature":
        return aligned(features, channels=lambda spec: spec.feature_dim)
    return aligned(predictions)

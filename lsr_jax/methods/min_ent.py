"""MinEnt (ADVENT, CVPR 2019): minimise the entropy of the target predictions.

    L = CE(main_s) + auxiliary CE(aux_s) + entropy E(main_t) + auxiliary_entropy E(aux_t)

with E the mean entropy of a pixel's prediction in units of the largest possible.
"""

from __future__ import annotations

from lsr_jax import losses
from lsr_jax.methods import common
from lsr_jax.types import Aux, Method

PRESETS = {"single": {"auxiliary": 0.0, "auxiliary_entropy": 0.0}}


def make(
    *,
    segmentation: float = 1.0,
    entropy: float = 0.001,
    auxiliary_entropy: float = 0.0002,
    auxiliary: float = 0.1,
) -> Method:
    """The multi-level objective; the preset "single" has one head.

    The released loop (``train_UDA.py::train_minent``) only runs with two heads.

    Args:
      segmentation: weight of the source's cross-entropy, of both heads.
      entropy: weight of `losses.normalised_entropy` of the main head at image
        resolution.
      auxiliary_entropy: weight of the same of the second head.
      auxiliary: weight of the second head's cross-entropy.
    """
    weights = {
        "segmentation": segmentation,
        "entropy_main": entropy,
        "entropy_aux": auxiliary_entropy,
    }

    def loss(params, state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)

        def entropy_of(logits):
            return losses.normalised_entropy(
                common.upsampled_probabilities(logits, batch.target.image)
            )

        terms = {
            "segmentation": lambda: common.segmentation(
                source, batch.source, auxiliary=auxiliary
            ),
            "entropy_main": lambda: entropy_of(target.logits),
            "entropy_aux": lambda: entropy_of(target.aux_logits),
        }
        total, metrics = common.weighted(terms, weights)
        return total, Aux(metrics, state, model_state)

    heads = common.heads(auxiliary or auxiliary_entropy)
    return Method(common.stateless, loss, heads=heads)

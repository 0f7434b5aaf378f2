"""ADVENT (CVPR 2019): minimise the entropy of the target predictions, or align it.

MinEnt, with E the mean entropy of a pixel's prediction in units of the largest possible::

    L = CE(main_s) + auxiliary CE(aux_s) + entropy E(main_t) + auxiliary_entropy E(aux_t)

AdvEnt, with I the self-information of every class, pixel by pixel::

    L = CE(main_s) + auxiliary CE(aux_s)
        + adversarial BCE(D_main(I_t), source) + auxiliary_adversarial BCE(D_aux(I_t), source)
        + discriminator sum_k [BCE(D_k(I_s), source) + BCE(D_k(I_t), target)]
"""

from __future__ import annotations

import jax

from lsr_jax import losses
from lsr_jax.keywords import Weight
from lsr_jax.methods import common
from lsr_jax.methods.adversarial import aligned, at_level
from lsr_jax.types import Aux, Method, Outputs

MIN_ENT_PRESETS = {"single": {"auxiliary": 0.0, "auxiliary_entropy": 0.0}}
ADV_ENT_PRESETS = {"single": {"auxiliary": 0.0, "auxiliary_adversarial": 0.0}}


def min_ent(
    *,
    segmentation: Weight = 1.0,
    entropy: Weight = 0.001,
    auxiliary_entropy: Weight = 0.0002,
    auxiliary: Weight = 0.1,
) -> Method:
    """MinEnt (ADVENT, CVPR 2019): minimise the entropy of the target predictions.

    Defaults are the multi-level objective; the preset "single" has one head. The
    released loop (``train_UDA.py::train_minent``) only runs with two heads.

    Args:
      segmentation: weight of both cross-entropies.
      entropy: weight of `losses.normalised_entropy` at image resolution.
      auxiliary_entropy: the same of the second head.
      auxiliary: weight of the second head's cross-entropy, beside ``segmentation``.
    """
    weights = {
        "segmentation": segmentation,
        "entropy_main": entropy,
        "entropy_aux": auxiliary_entropy,
    }

    def loss(params, state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)

        def entropy_of(logits):
            found = common.upsampled_probabilities(logits, batch.target.image)
            return losses.normalised_entropy(found)

        terms = {
            "segmentation": lambda: common.segmentation(
                source, batch.source, auxiliary=auxiliary
            ),
            "entropy_main": lambda: entropy_of(target.logits),
            "entropy_aux": lambda: entropy_of(target.aux_logits),
        }
        total, metrics = common.weighted(terms, weights)
        outputs = {"source": source, "target": target}
        return total, Aux(metrics, state, model_state, outputs)

    heads = common.heads(auxiliary or auxiliary_entropy)
    return Method(common.stateless, loss, heads=heads)


def adv_ent(
    *,
    segmentation: Weight = 1.0,
    adversarial: Weight = 0.001,
    auxiliary_adversarial: Weight = 0.0002,
    auxiliary: Weight = 0.1,
    discriminator: Weight = 0.5,
) -> Method:
    """AdvEnt (ADVENT, CVPR 2019): adversarial alignment of self-information maps.

    Defaults are the multi-level objective; the preset "single" has one head. A
    discriminator sees ``I = losses.self_information(p)`` at image resolution, all C
    channels (``train_UDA.py::train_advent``).

    Keywords as of `adapt_seg_net.make`.
    """

    def view(outputs: Outputs, images: jax.Array, level: str) -> jax.Array:
        logits = at_level(outputs, level)
        return losses.self_information(common.upsampled_probabilities(logits, images))

    return aligned(
        view,
        adversarial={"main": adversarial, "aux": auxiliary_adversarial},
        auxiliary=auxiliary,
        segmentation=segmentation,
        discriminator=discriminator,
    )

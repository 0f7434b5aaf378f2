"""AdvEnt (ADVENT, CVPR 2019): adversarial alignment of self-information maps.

    L = CE(main_s) + auxiliary CE(aux_s)
        + adversarial BCE(D_main(I_t), source) + auxiliary_adversarial BCE(D_aux(I_t), source)
        + discriminator sum_k [BCE(D_k(I_s), source) + BCE(D_k(I_t), target)]

with I the self-information of every class, pixel by pixel.
"""

from __future__ import annotations

import jax

from lsr_jax import losses
from lsr_jax.methods import adversarial as methods_adversarial
from lsr_jax.methods import common
from lsr_jax.types import Method, Outputs

PRESETS = {"single": {"auxiliary": 0.0, "auxiliary_adversarial": 0.0}}


def make(
    *,
    segmentation: float = 1.0,
    adversarial: float = 0.001,
    auxiliary_adversarial: float = 0.0002,
    auxiliary: float = 0.1,
    discriminator: float = 0.5,
) -> Method:
    """The multi-level objective; the preset "single" has one head.

    A discriminator sees ``I = losses.self_information(p)`` at image resolution, all C
    channels (``train_UDA.py::train_advent``).

    Args:
      segmentation: weight of the source's cross-entropy, of both heads.
      adversarial: weight of the network's adversarial loss on the main head.
      auxiliary_adversarial: weight of the same on the second head.
      auxiliary: weight of the second head's cross-entropy, beside ``segmentation``.
      discriminator: factor on each discriminator's loss; with 0 it does not learn.
    """

    def view(outputs: Outputs, images: jax.Array, level: str) -> jax.Array:
        logits = methods_adversarial.at_level(outputs, level)
        return losses.self_information(common.upsampled_probabilities(logits, images))

    return methods_adversarial.aligned(
        view,
        adversarial={"main": adversarial, "aux": auxiliary_adversarial},
        auxiliary=auxiliary,
        segmentation=segmentation,
        discriminator=discriminator,
    )

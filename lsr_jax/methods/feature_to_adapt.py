"""Feature To Adapt: longer features make a network transfer; alone, or on top of CLAN.

L = L_CLAN + norm damp_n (N_s + N_t),    damp_n = 1 - norm_rate step / decay_steps
"""

from __future__ import annotations

from typing import Literal

from lsr_jax.keywords import Count, CountOrZero, Exponent, NonNegative, Weight
from lsr_jax.methods import clan, feature_norm
from lsr_jax.types import Method

PRESETS = {
    "paper": {
        "norm_reference": "previous",
        "gamma": 0.0,
        "weight_discrepancy": 0.01,
        "warmup_steps": 7500,
        "discriminator_warmup_steps": 7500,
    },
    "released": {
        "norm_reference": "current",
        "gamma": 2.0,
        "weight_discrepancy": 0.018,
        "warmup_steps": 0,
        "discriminator_warmup_steps": 7500,
    },
    "norm_only": {"adversarial": 0.0, "weight_discrepancy": 0.0},
}


def make(
    *,
    norm: Weight = 0.00015,
    norm_delta: feature_norm.Delta = 0.12,
    norm_rate: feature_norm.Rate = 1.5,
    norm_reference: Literal["current", "previous"] = "current",
    segmentation: Weight = 1.0,
    adversarial: Weight = 0.001,
    discriminator: Weight = 1.0,
    weight_discrepancy: Weight = 0.018,
    strength: NonNegative = 40.0,
    epsilon: NonNegative = 0.4,
    gamma: Exponent = 2.0,
    warmup_steps: CountOrZero = 0,
    discriminator_warmup_steps: CountOrZero = 7500,
    decay_steps: Count = 150_000,
) -> Method:
    """Feature To Adapt: longer features make a network transfer; alone, or on top of CLAN.

    Defaults are the released ``train.py``.

    The preset "paper" takes the equations of the paper with the numbers of the code
    where the paper's are not known: earlier features from the earlier network,
    cross-entropy, the weight discrepancy at the paper's 0.01, not doubled, and one
    warm-up for both players as in CLAN. "norm_only" has no adversary: the
    segmentation loss of two heads and the norm loss.

    Args:
      norm: lambda_norm, see `feature_norm.norm` for it and the next three.
      norm_delta: Delta_r, in units of the norm.
      norm_rate: its damping is negative from step 100,000 on.
      norm_reference: the earlier features.
      segmentation: see `clan.make` for it and the others.
      adversarial: weight.
      discriminator: weight.
      weight_discrepancy: twice 0.009 in the code.
      strength: lambda_local.
      epsilon: the adversarial weight where the heads agree.
      gamma: exponent of the focal loss.
      warmup_steps: the released code weighs the network's loss from step 1 on.
      discriminator_warmup_steps: and the discriminator's only after this step.
      decay_steps: steps of both dampings.
    """
    method = clan.make(
        segmentation=segmentation,
        adversarial=adversarial,
        discriminator=discriminator,
        weight_discrepancy=weight_discrepancy,
        strength=strength,
        epsilon=epsilon,
        gamma=gamma,
        warmup_steps=warmup_steps,
        discriminator_warmup_steps=discriminator_warmup_steps,
        decay_steps=decay_steps,
    )
    return feature_norm.norm(
        method,
        weight=norm,
        delta=norm_delta,
        rate=norm_rate,
        decay_steps=decay_steps,
        reference=norm_reference,
        name="norm",
    )

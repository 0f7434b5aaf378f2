"""CLAN (CVPR 2019): adversarial alignment, stronger where two classifiers disagree.

    L = L_seg(z1_s) + L_seg(z2_s)
        + adversarial damp mean(omega BCE(D(p_t), source))
        + weight_discrepancy damp (cos(W1, W2) + 1)
        + discriminator [mean BCE(D(p_s), source) + mean(omega BCE(D(p_t), target))],

with ``p = softmax(z1 + z2)``, ``omega = epsilon + strength (1 - cos(p1_t, p2_t))`` once
the warm-up is over and 1 before, and ``damp = 1 - step / decay_steps``.
"""

from __future__ import annotations

from functools import partial

import jax

from lsr_jax import losses
from lsr_jax.keywords import Count, CountOrZero, Exponent, NonNegative, Weight
from lsr_jax.methods import adversarial as adversarial_terms
from lsr_jax.methods import common
from lsr_jax.ops import resample
from lsr_jax.types import Aux, Method, Outputs

PRESETS = {
    "paper": {"gamma": 0.0, "weight_discrepancy": 0.01},
    "released": {"gamma": 2.0, "weight_discrepancy": 0.02},
}


def make(
    *,
    segmentation: Weight = 1.0,
    adversarial: Weight = 0.001,
    discriminator: Weight = 1.0,
    weight_discrepancy: Weight = 0.01,
    strength: NonNegative = 40.0,
    epsilon: NonNegative = 0.4,
    gamma: Exponent = 0.0,
    warmup_steps: CountOrZero = 5000,
    discriminator_warmup_steps: CountOrZero = 5000,
    decay_steps: Count | None = 100_000,
) -> Method:
    """CLAN (CVPR 2019): adversarial alignment, stronger where two classifiers disagree.

    The network has two equal heads. Defaults are the paper's terms and weights; warm-up
    and damping are those of ``CLAN_train.py`` in both presets.

    Args:
      segmentation: weight of the source's loss, of both heads.
      adversarial: weight of the network's adversarial loss. With 0 there is no
        discriminator.
      discriminator: factor on the discriminator's loss; with 0 it does not learn.
      weight_discrepancy: weight of `losses.weight_discrepancy` of the heads; the
        released code doubles the paper's 0.01.
      strength: lambda_local, 40 for GTA5, 10 for SYNTHIA.
      epsilon: the weight where the heads agree.
      gamma: exponent of the focal loss of both heads; 0, cross-entropy, is the paper,
        2 the released ``utils/loss.py``.
      warmup_steps: the network's adversarial loss has ``omega = 1`` up to and with this
        step. After it the gradient also flows through ``omega``.
      discriminator_warmup_steps: the same of the discriminator's loss, where ``omega`` is
        constant.
      decay_steps: steps to a damping of 0; None: no damping.
    """

    def loss(params, state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)
        images, model = batch.target.image, params["model"]

        def both(outputs: Outputs, images: jax.Array) -> jax.Array:
            logits = outputs.logits + outputs.aux_logits
            return jax.nn.softmax(resample.bilinear(logits, images.shape[1:3]))

        omega = partial(
            losses.local_weights,
            common.upsampled_probabilities(target.logits, images),
            common.upsampled_probabilities(target.aux_logits, images),
            epsilon=epsilon,
            strength=strength,
        )
        fade = 1
        if decay_steps is not None:
            fade = losses.damping(ctx.step, decay_steps=decay_steps)
        weights = {
            "segmentation": segmentation,
            "adversarial": adversarial and adversarial * fade,
            "weight_discrepancy": weight_discrepancy and weight_discrepancy * fade,
            "discriminator": discriminator if adversarial != 0 else 0.0,
        }
        terms = {
            "segmentation": lambda: common.segmentation(
                source, batch.source, auxiliary=1.0, gamma=gamma
            ),
            "adversarial": lambda: adversarial_terms.network_loss(
                params["disc"]["main"],
                both(target, images),
                omega(detached=False, active=ctx.step > warmup_steps),
                enlarge=True,
            ),
            "weight_discrepancy": lambda: losses.weight_discrepancy(
                model["head"], model["aux_head"]
            ),
            "discriminator": lambda: adversarial_terms.discriminator_loss(
                params["disc"]["main"],
                both(source, batch.source.image),
                both(target, images),
                omega(detached=True, active=ctx.step > discriminator_warmup_steps),
                enlarge=True,
            ),
        }
        total, metrics = common.weighted(terms, weights)
        outputs = {"source": source, "target": target}
        return total, Aux(metrics, state, model_state, outputs)

    init = adversarial_terms.discriminators(("main",) if adversarial else ())
    return Method(init, loss, heads=("two_heads",))

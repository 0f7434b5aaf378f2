"""BDL's adaptation (CVPR 2019): output space adversary, then rounds of self-training.

Without its image translation, which is a data set and not a loss.
"""

from __future__ import annotations

from lsr_jax import diagnostics
from lsr_jax.methods import bdl_labels, common, game
from lsr_jax.types import Aux, Method


def make(
    *,
    segmentation: float = 1.0,
    adversarial: float = 0.001,
    discriminator: float = 0.5,
    self_training: float = 1.0,
    portion: float = 0.5,
    cap: float = 0.9,
) -> Method:
    """``L = CE(source) + a BCE(D(p_t), source) + s CE(target, pseudo-labels)``.

    The discriminator minimises half of ``BCE(D(p_s), source)`` and half of ``BCE(D(p_t),
    target)``; ``p`` are class probabilities at image resolution (``BDL.py``). The
    pseudo-labels are written once, before step 0, by the stage's labeller (``SSL.py``).

    Args:
      segmentation: weight of the source's cross-entropy.
      adversarial: ``a``; 0 builds no discriminator.
      discriminator: factor on the discriminator's loss; with 0 it does not learn.
      self_training: ``s``; 0 is the stage before the first round, without pseudo-labels.
      portion: of the pixels of a class that get no label, see
        `self_training.class_thresholds`.
      cap: the largest threshold.
    """
    weights = {
        "segmentation": segmentation,
        "adversarial": adversarial,
        "discriminator": discriminator if adversarial != 0 else 0.0,
        "self_training": self_training,
    }

    def init(key, params, model_state, spec):
        del params, model_state
        levels = {"main": adversarial} if adversarial != 0 else {}
        return game.init(key, levels, spec.num_classes, spec), {}

    def prepare(state, given):
        bdl_labels.write(given, portion=portion, cap=cap)
        return state

    def loss(params, state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)

        def view(outputs, images):
            return common.upsampled_probabilities(outputs.logits, images.image)

        terms = {
            "segmentation": lambda: common.segmentation(source, batch.source),
            "adversarial": lambda: game.network_loss(
                params["disc"]["main"], view(target, batch.target)
            ),
            "discriminator": lambda: game.discriminator_loss(
                params["disc"]["main"],
                view(source, batch.source),
                view(target, batch.target),
            ),
            "self_training": lambda: (
                common.segmentation(target, batch.target),
                diagnostics.pseudo_labels(
                    batch.target.label, num_classes=target.logits.shape[-1]
                ),
            ),
        }
        total, metrics = common.weighted(terms, weights)
        return total, Aux(metrics, state, model_state)

    if self_training == 0:
        return Method(init, loss)
    return Method(init, loss, prepare, pseudo_labelled=True)

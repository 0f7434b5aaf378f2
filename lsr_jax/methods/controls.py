"""Controls: cross-entropy on labelled images alone, which methods are compared with."""

from __future__ import annotations

from lsr_jax.keywords import Exponent, Weight
from lsr_jax.methods import common
from lsr_jax.types import Aux, Method


def source_only(*, auxiliary: Weight = 0.0, gamma: Exponent = 0.0) -> Method:
    """Cross-entropy on the source: pre-training, and the lower bound of every table.

    The target is neither loaded nor passed through the network.

    Args:
      auxiliary: weight of the second head; networks of MaxSquare's multi-level guidance
        are pre-trained with 0.1, those with two equal heads with 1.
      gamma: exponent of the focal loss, 0 for cross-entropy.
    """
    return _supervised("source", auxiliary, gamma)


def source_continued(*, auxiliary: Weight = 0.0, gamma: Exponent = 0.0) -> Method:
    """Source cross-entropy for as many more steps as a method gets: what longer training adds.

    Keywords as of `source_only`.
    """
    return _supervised("source", auxiliary, gamma)


def target_only(*, auxiliary: Weight = 0.0, gamma: Exponent = 0.0) -> Method:
    """Cross-entropy on the labelled target: the oracle, the upper bound of every table.

    The only method that reads target labels. Keywords as of `source_only`.
    """
    return _supervised("target", auxiliary, gamma)


def batchnorm_only(*, auxiliary: Weight = 0.0, gamma: Exponent = 0.0) -> Method:
    """Source cross-entropy while the target only passes through: the fair control.

    Every adaptation method sends target images through the network in train mode, which
    moves the BatchNorm running statistics towards the target. This control does the same
    without a loss on them, so what a method adds is its difference to this row. Keywords
    as of `source_only`.
    """

    def loss(params, state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)
        value = common.segmentation(
            source, batch.source, auxiliary=auxiliary, gamma=gamma
        )
        outputs = {"source": source, "target": target}
        return value, Aux({"segmentation": value}, state, model_state, outputs)

    return Method(common.stateless, loss, heads=common.heads(auxiliary))


def _supervised(domain: str, auxiliary: float, gamma: float) -> Method:
    """Cross-entropy on the labels of one domain, the only one that is loaded."""

    def loss(params, state, batch, ctx):
        images = getattr(batch, domain)
        outputs, model_state = ctx.forward(
            params["model"], ctx.model_state, images.image, True
        )
        value = common.segmentation(outputs, images, auxiliary=auxiliary, gamma=gamma)
        metrics = {"segmentation": value}
        return value, Aux(metrics, state, model_state, {domain: outputs})

    return Method(
        common.stateless,
        loss,
        domains=(domain,),
        labelled=(domain,),
        heads=common.heads(auxiliary),
    )

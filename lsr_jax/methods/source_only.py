"""Cross-entropy on the source: pre-training, and the lower bound of every table."""

from __future__ import annotations

from lsr_jax.methods import common
from lsr_jax.types import Aux, Method


def make(*, auxiliary: float = 0.0, gamma: float = 0.0) -> Method:
    """``L = CE(source)``; the target is neither loaded nor passed through the network.

    Args:
      auxiliary: weight of the second head; networks of MaxSquare's multi-level guidance
        are pre-trained with 0.1, those with two equal heads with 1.
      gamma: exponent of the focal loss, 0 for cross-entropy.
    """

    def loss(params, state, batch, ctx):
        source, model_state = ctx.forward(
            params["model"], ctx.model_state, batch.source.image, True
        )
        value = common.segmentation(
            source, batch.source, auxiliary=auxiliary, gamma=gamma
        )
        return value, Aux({"segmentation": value}, state, model_state)

    return Method(
        common.stateless,
        loss,
        domains=("source",),
        heads=common.heads(auxiliary),
    )

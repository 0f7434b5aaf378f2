"""Cross-entropy on the labelled target: the oracle, the upper bound of every table."""

from __future__ import annotations

from lsr_jax.methods import common
from lsr_jax.types import Aux, Method


def make(*, auxiliary: float = 0.0, gamma: float = 0.0) -> Method:
    """``L = CE(target)``: the only method that may read target labels.

    Args:
      auxiliary: weight of the second head, see `source_only.make`.
      gamma: exponent of the focal loss, 0 for cross-entropy.
    """

    def loss(params, state, batch, ctx):
        target, model_state = ctx.forward(
            params["model"], ctx.model_state, batch.target.image, True
        )
        value = common.segmentation(
            target, batch.target, auxiliary=auxiliary, gamma=gamma
        )
        return value, Aux({"segmentation": value}, state, model_state)

    return Method(
        common.stateless,
        loss,
        domains=("target",),
        labelled=("target",),
        heads=common.heads(auxiliary),
    )

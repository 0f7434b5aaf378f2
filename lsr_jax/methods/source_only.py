"""Cross-entropy on the source: pre-training, and the lower bound of every table."""

from __future__ import annotations

from lsr_jax.methods import common
from lsr_jax.types import Aux, Method


def make() -> Method:
    """``L = CE(source)``; the target is neither loaded nor passed through the network."""

    def loss(params, state, batch, ctx):
        source, model_state = ctx.forward(
            params["model"], ctx.model_state, batch.source.image, True
        )
        value = common.segmentation(source, batch.source)
        return value, Aux({"segmentation": value}, state, model_state)

    return Method(common.stateless, loss, domains=("source",))

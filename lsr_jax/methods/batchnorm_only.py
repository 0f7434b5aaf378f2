"""Source cross-entropy while the target only passes through: the fair control.

Every method here sends target images through the network in train mode, which moves the
BatchNorm running statistics towards the target. This control does the same and has no
loss on them, so what a method adds is its difference to this row.
"""

from __future__ import annotations

from lsr_jax.methods import common
from lsr_jax.types import Aux, Method


def make() -> Method:
    """``L = CE(source)``, running statistics updated by source, then target."""

    def loss(params, state, batch, ctx):
        model = params["model"]
        source, model_state = ctx.forward(
            model, ctx.model_state, batch.source.image, True
        )
        _, model_state = ctx.forward(model, model_state, batch.target.image, True)
        value = common.segmentation(source, batch.source)
        return value, Aux({"segmentation": value}, state, model_state)

    return Method(common.stateless, loss)

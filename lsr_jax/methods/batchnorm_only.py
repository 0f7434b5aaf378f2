"""Source cross-entropy while the target only passes through: the fair control.

Every method here sends target images through the network in train mode, which moves the
BatchNorm running statistics towards the target. This control does the same and has no
loss on them, so what a method adds is its difference to this row.
"""

from __future__ import annotations

from lsr_jax.methods import common
from lsr_jax.types import Aux, Method


def make(*, auxiliary: float = 0.0, gamma: float = 0.0) -> Method:
    """``L = CE(source)``, running statistics updated by source, then target.

    Args:
      auxiliary: weight of the second head, see `source_only.make`.
      gamma: exponent of the focal loss, 0 for cross-entropy.
    """

    def loss(params, state, batch, ctx):
        source, _, model_state = common.both_domains(params, batch, ctx)
        value = common.segmentation(
            source, batch.source, auxiliary=auxiliary, gamma=gamma
        )
        return value, Aux({"segmentation": value}, state, model_state)

    return Method(common.stateless, loss, heads=common.heads(auxiliary))

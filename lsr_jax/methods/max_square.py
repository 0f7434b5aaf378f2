"""MaxSquare (ICCV 2019): sharpen target predictions by maximising squared probabilities."""

from __future__ import annotations

from lsr_jax.methods import common
from lsr_jax.types import Aux, Method


def make(*, entropy: float = 0.1, image_weighting: float | None = 0.2) -> Method:
    """``L = CE(source) + entropy * MaxSquare(target)``.

    Args:
      entropy: weight of the target term, `losses.max_squares` at image resolution.
      image_weighting: exponent of the image-wise class weights; None gives the
        unweighted term, which has a factor 1/2 more (MaxSquareLoss `utils/loss.py`).
    """
    weights = {"segmentation": 1.0, "entropy": entropy}

    def loss(params, state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)
        terms = {
            "segmentation": lambda: common.segmentation(source, batch.source),
            "entropy": lambda: common.max_square_term(
                target, batch.target.image, ratio=image_weighting
            ),
        }
        total, metrics = common.weighted(terms, weights)
        return total, Aux(metrics, state, model_state)

    return Method(common.stateless, loss)

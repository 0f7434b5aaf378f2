"""SWD (CVPR 2019), three updates of heads and generator taken as one.

The paper takes three steps in turn, as MCD: (1) all parameters minimise
``L_s = CE(head 1) + CE(head 2)``; (2) the heads alone minimise ``L_s - lambda D``, with
``D`` the discrepancy of their outputs on the target; (3) the generator, here the
backbone, minimises ``lambda D``. With all gradients taken around the same parameters
this is one update: the heads go down ``2 dL_s - lambda dD``, the generator down
``dL_s + lambda dD``.

That is what is done here, in one scalar ``L_s + lambda D`` whose gradient is scaled on
the way into the heads: by 2 on the source, by -1 on the target. The released demo
(``swd.py``) groups its four updates into one session call without an order; this is their
reading without the race. The paper's sequence would take three updates and as many passes
a step, and not compare with methods that update once.

A weight of 0 takes ``D`` away and leaves the rest of the update: the heads still go down
``2 dL_s`` and the target still passes through the network in train mode. So it is not
`batchnorm_only`, which goes down ``dL_s`` everywhere, with ``auxiliary=1`` for two heads.
"""

from __future__ import annotations

from typing import Literal

import jax

from lsr_jax import losses
from lsr_jax.keywords import Count, Weight
from lsr_jax.methods import common
from lsr_jax.ops import numerics
from lsr_jax.types import Aux, Method, PyTree

HEAD_PARTS = ("head", "aux_head")  # of the parameters of a network


def make(
    *,
    segmentation: Weight = 1.0,
    discrepancy: Weight = 1.0,
    measure: Literal["sliced_wasserstein", "absolute"] = "sliced_wasserstein",
    directions: Count = 128,
) -> Method:
    """SWD (CVPR 2019): two heads that disagree on the target, a generator that unites them.

    ``L = CE(head 1) + CE(head 2) + discrepancy * D(target)``, with the gradients of the
    heads scaled by 2 on the source and by -1 on the target.

    Args:
      segmentation: weight of both heads' cross-entropy.
      discrepancy: lambda. No weight is published, and 1 is none: ``D`` falls with the
        number of classes (some 1e-3 for 19, where MCD has 0.06), so this is to be
        chosen for the data at hand. 0 leaves the doubled gradients of the heads.
      measure: "sliced_wasserstein" of the class probabilities of all cells of the
        feature map; "absolute", MCD (CVPR 2018), with which the demo compares.
      directions: M, how many random projections, drawn afresh in every step.
    """
    weights = {"segmentation": segmentation, "discrepancy": discrepancy}

    def loss(params, state, batch, ctx):
        on_source, on_target = opponents(params["model"])
        source, model_state = ctx.forward(
            on_source, ctx.model_state, batch.source.image, True
        )
        target, model_state = ctx.forward(
            on_target, model_state, batch.target.image, True
        )

        def disagreement():
            pair = (target.logits, target.aux_logits)
            first, second = (jax.nn.softmax(logits) for logits in pair)
            if measure == "absolute":
                return losses.absolute_discrepancy(first, second)
            # Not a bare split: the step folds its dropout key out of the same key.
            key = jax.random.fold_in(ctx.rng, 1)
            drawn = losses.random_directions(key, first.shape[-1], count=directions)
            return losses.sliced_wasserstein(first, second, drawn)

        terms = {
            "segmentation": lambda: common.segmentation(
                source, batch.source, auxiliary=1.0
            ),
            "discrepancy": disagreement,
        }
        total, metrics = common.weighted(terms, weights)
        outputs = {"source": source, "target": target}
        return total, Aux(metrics, state, model_state, outputs)

    return Method(common.stateless, loss, heads=("two_heads",))


def opponents(model: PyTree) -> tuple[PyTree, PyTree]:
    """The network's parameters as the source pass and the target pass see them.

    The same values; gradients reach the heads 2 fold from the source pass and -1 fold
    from the target pass, and everything else as they are.
    """
    return tuple(
        model
        | {name: numerics.scaled_gradient(model[name], factor) for name in HEAD_PARTS}
        for factor in (2.0, -1.0)
    )

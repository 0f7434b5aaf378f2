"""SAPNet (ECCV 2020): a spatial attention pyramid tells the domains apart.

    L = segmentation CE_s + domain [CE(D(F_s, G_s), source) + CE(D(F_t, G_t), target)]

A reconstruction, not held against an original. The paper reports semantic segmentation;
its released code (isrc-cas/domain-adaption) has detection and instance segmentation only.
From that code are the classifier ``D``, the loss, and the gradient reversal with which
one optimizer step trains both: the classifier descends the domain terms and the network
ascends them, through ``F`` and ``G``. In detection ``G`` are the logits of the region
proposals. Here ``F`` are the features of layer4 and ``G`` the logits of the main head;
that the paper has these for segmentation is not known.
"""

from __future__ import annotations

from typing import Annotated

import jax

from lsr_jax import losses, models
from lsr_jax.keywords import Count, NonNegative, Range, Weight
from lsr_jax.methods import common
from lsr_jax.ops import diagnostics, numerics
from lsr_jax.types import Aux, Method, Outputs

Windows = Annotated[tuple[int, ...], Range(least=1, unit="cells")]
Rate = Annotated[float, Range(most=1, excluded=1, unit="a probability")]


def make(
    *,
    segmentation: Weight = 1.0,
    domain: Weight = 0.1,
    reversal: NonNegative = 1.0,
    windows: Windows = (3, 9, 15, 21, 27, 33, 37),
    stride: Count = 2,
    dropout: Rate = 0.5,
) -> Method:
    """SAPNet (ECCV 2020), a reconstruction, not held against an original.

    Defaults are those of the detection code, whose values for segmentation are not
    published. It has no preset: neither "paper" nor "released" settings exist.

    Args:
      segmentation: weight of the source's cross-entropy.
      domain: weight of the domain classification of both domains, ``w``. The detection
        code has 1.0, 0.1 and 0.01 for different pairs; 0.1 is that of Sim10k to
        Cityscapes, from rendered to real images.
      reversal: factor of the reversed gradient that reaches the network; with 0 the
        classifier alone learns from the domains.
      windows: of the pyramid, in cells of the feature map, one for each level.
      stride: of the windows, in cells.
      dropout: rate in the classifier's embedding.

    Raises:
      InputError: from ``loss``, a window that is larger than the feature map.
    """
    weights = {"segmentation": segmentation, "domain": domain}

    def classifier(channels: int, guidance: int):
        return models.attention_pyramid(
            channels, guidance, windows=windows, stride=stride, dropout=dropout
        )

    def init(key, params, model_state, spec):
        del params, model_state
        if domain == 0:
            return {}, {}
        draw, _ = classifier(spec.feature_dim, spec.num_classes)
        return {"disc": {"main": draw(key)}}, {}

    def loss(params, state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)

        def domain_logits(outputs: Outputs, number: int) -> jax.Array:
            maps = numerics.scaled_gradient(
                (outputs.features, outputs.logits), -reversal
            )
            _, apply = classifier(*(x.shape[-1] for x in maps))
            # Not a bare split: the step folds its dropout key out of the same key.
            key = jax.random.fold_in(ctx.rng, number)
            return apply(params["disc"]["main"], *maps, key)

        def classification():
            logits = domain_logits(source, 1), domain_logits(target, 2)
            value = sum(
                losses.domain_loss(x, domain=name)
                for name, x in zip(("source", "target"), logits, strict=True)
            )
            return value, diagnostics.discriminator(*logits)

        terms = {
            "segmentation": lambda: common.segmentation(source, batch.source),
            "domain": classification,
        }
        total, metrics = common.weighted(terms, weights)
        outputs = {"source": source, "target": target}
        return total, Aux(metrics, state, model_state, outputs)

    return Method(init, loss)

"""DeepLabV2: a dilated backbone and one or two ASPP classifiers on its layers."""

from __future__ import annotations

import jax
from flax import linen as nn

from lsr_jax import types
from lsr_jax.models import initialisation, layers
from lsr_jax.models.backbone import Backbone


class ASPP(nn.Module):
    """Sum of 3x3 convolutions with bias, one for each dilation that runs."""

    num_classes: int
    dilations: tuple[int, ...]
    options: layers.Options

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """``[B, h, w, D] -> [B, h, w, C]``."""
        branches = [
            layers.Conv(
                self.num_classes,
                3,
                use_bias=True,
                padding=dilation,
                dilation=dilation,
                dtype=self.options.dtype,
                name=f"conv2d_list_{index}",
            )(features).astype(self.options.wide)
            for index, dilation in enumerate(self.dilations)
        ]
        return sum(branches[1:], start=branches[0])


class DeepLabV2(nn.Module):
    """Backbone and heads; the second head is on the first output of the backbone."""

    backbone: nn.Module
    head: ASPP
    aux_head: ASPP | None = None

    def __call__(self, images: jax.Array, train: bool) -> types.Outputs:
        """``[B, H, W, 3]`` network input to float32 features and logits."""
        levels = self.backbone(images, train)
        aux = None if self.aux_head is None else self.aux_head(levels[0])
        features = levels[-1].astype(self.head.options.wide)
        return types.Outputs(features, self.head(levels[-1]), aux)


def initial(backbone: Backbone) -> dict[str, initialisation.Rule]:
    """Rules of the initial weights, by ``initialisation`` of `build`."""
    return {
        "scratch": initialisation.parts(
            backbone.initial["scratch"], initialisation.small_classifier
        ),
        "released": initialisation.parts(
            backbone.initial["released"], initialisation.released_classifier
        ),
    }

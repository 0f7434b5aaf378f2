"""DeepLabV2: a dilated backbone and one or two ASPP classifiers on its layers."""

from __future__ import annotations

import jax
from flax import linen as nn

from lsr_jax import types
from lsr_jax.models import layers


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
    """Backbone and heads; ``aux_level`` is the layer under the second head."""

    backbone: nn.Module
    head: ASPP
    aux_head: ASPP | None
    aux_level: int

    def __call__(self, images: jax.Array, train: bool) -> types.Outputs:
        """``[B, H, W, 3]`` network input to float32 features and logits."""
        levels = dict(zip((3, 4), self.backbone(images, train), strict=True))
        aux = None if self.aux_head is None else self.aux_head(levels[self.aux_level])
        features = levels[4].astype(self.head.options.wide)
        return types.Outputs(features, self.head(levels[4]), aux)

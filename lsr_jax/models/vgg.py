"""DeepLab on VGG-13 and VGG-16, output stride 8.

torchvision's ``features`` without its last two pools, the last group of convolutions
dilated by 2, then fc6 and fc7 as 3x3 convolutions with dilation 4. The names
``features_i`` carry the indices of the original ``nn.Sequential``, pools and ReLUs
counted.
"""

from __future__ import annotations

import jax
from flax import linen as nn

from lsr_jax.models import layers

FEATURES = 1024
WIDTHS = (64, 128, 256, 512, 512)
GROUPS = {"vgg16": (2, 2, 3, 3, 3), "vgg13": (2, 2, 2, 2, 2)}
POOLED_GROUPS = 3


class VGG(nn.Module):
    """The convolutions of ``variant``; returns the ReLU output of fc7, >= 0."""

    variant: str
    options: layers.Options

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[None, jax.Array]:
        """``[B, H, W, 3] -> (None, [B, H//8, W//8, 1024])``; there is no layer3."""
        index = 0
        for group, (width, count) in enumerate(
            zip(WIDTHS, GROUPS[self.variant], strict=True)
        ):
            dilation = 1 if group <= POOLED_GROUPS else 2
            for _ in range(count):
                x = self._conv(x, index, width, dilation)
                index += 2
            if group < POOLED_GROUPS:
                x = nn.max_pool(x, (2, 2), (2, 2))
                index += 1
        for _ in range(2):
            x = self._conv(x, index, FEATURES, dilation=4)
            index += 2
        return None, x

    def _conv(self, x, index, width, dilation):
        conv = layers.Conv(
            width,
            3,
            use_bias=True,
            padding=dilation,
            dilation=dilation,
            dtype=self.options.dtype,
            name=f"features_{index}",
        )
        return nn.relu(conv(x))


def feature_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the feature map: three pools that round down."""
    return tuple(side // 8 for side in image_size)

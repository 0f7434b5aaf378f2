"""DeepLab on VGG-13 and VGG-16, output stride 8.

torchvision's ``features`` without its last two pools, the last group of convolutions
dilated by 2, then fc6 and fc7 as 3x3 convolutions with dilation 4. The names
``features_i`` carry the indices of the original ``nn.Sequential``, pools and ReLUs
counted.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
from flax import linen as nn

from lsr_jax.models import initialisation, layers
from lsr_jax.models.backbone import Backbone

FEATURES = 1024
WIDTHS = (64, 128, 256, 512, 512)
POOLED_GROUPS = 3


class VGG(nn.Module):
    """Groups of convolutions, fc6 and fc7; returns the ReLU output of fc7, >= 0."""

    groups: tuple[int, ...]
    options: layers.Options

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """``[B, H, W, 3] -> [[B, H//8, W//8, 1024]]``."""
        index = 0
        for group, (width, count) in enumerate(zip(WIDTHS, self.groups, strict=True)):
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
        return [x]

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


def released(path: str, shape: tuple[int, ...], fan_in: int):
    """torchvision's initial weights; fc6 and fc7 as PyTorch's default."""
    if shape[-1] == FEATURES:
        return initialisation.torch_default(path, shape, fan_in)
    if path.endswith("kernel"):
        return initialisation.normal(math.sqrt(2.0 / (9 * shape[-1])))
    return initialisation.constant(0)


@dataclasses.dataclass(frozen=True)
class Architecture(Backbone):
    """Number of convolutions in each of the five groups."""

    groups: tuple[int, int, int, int, int]

    repeated = ((r"(^|/)backbone/features", 2),)
    initial: ClassVar = {"scratch": initialisation.he_normal, "released": released}

    @property
    def channels(self):
        """Only layer4, which is fc7."""
        return {4: FEATURES}

    def body(self, options, levels, *, architecture, freeze_stem_affine):
        """A `VGG`; it has no BatchNorm to freeze."""
        return VGG(self.groups, options)

    def feature_size(self, image_size):
        """Three pools that round down."""
        return tuple(side // 8 for side in image_size)

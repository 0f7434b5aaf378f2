"""The dilated, Caffe-style ResNet of DeepLabV2, output stride 8.

Differences from torchvision's network: the stride sits on the first 1x1 convolution of
a block, the max-pool rounds up, and layer3 and layer4 dilate (2 and 4, every block)
instead of striding. So an image of ``H`` pixels gives ``H/8 + 1`` feature rows when 8
divides ``H``.
"""

from __future__ import annotations

import dataclasses

import jax
from flax import linen as nn

from lsr_jax.models import layers

EXPANSION = 4
STRIDES = (1, 2, 1, 1)
DILATIONS = (1, 1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Widths and depths: stem channels, width of layer1 (doubling), blocks a layer."""

    stem: int
    width: int
    blocks: tuple[int, int, int, int]

    def channels(self, layer: int) -> int:
        """Output channels of ``layer`` 1 to 4."""
        return EXPANSION * self.width * 2 ** (layer - 1)


ARCHITECTURES = {
    "resnet101": Architecture(64, 64, (3, 4, 23, 3)),
    "resnet50": Architecture(64, 64, (3, 4, 6, 3)),
    # Trainable from scratch on a CPU: 512 feature channels.
    "mini": Architecture(32, 16, (1, 1, 2, 1)),
}


class Bottleneck(nn.Module):
    """1x1 (stride) - 3x3 (dilation) - 1x1 to ``4 width`` channels, plus the shortcut."""

    width: int
    options: layers.Options
    stride: int = 1
    dilation: int = 1
    project: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, h, w, in] -> [B, ceil(h/stride), ceil(w/stride), 4 width]``."""
        norm = self._norm
        y = nn.relu(norm("bn1")(self._conv("conv1", self.width, self.stride)(x), train))
        y = nn.relu(norm("bn2")(self._conv("conv2", self.width, kernel=3)(y), train))
        last = norm("bn3")
        y = last(self._conv("conv3", EXPANSION * self.width)(y), train)
        if self.project:
            shortcut = self._conv(
                "downsample_conv", EXPANSION * self.width, self.stride
            )
            x = norm("downsample_bn")(shortcut(x), train)
        return nn.relu(x + y)

    def _conv(self, name, features, stride=1, kernel=1):
        dilation = self.dilation if kernel == 3 else 1
        return layers.Conv(
            features,
            kernel,
            stride=stride,
            padding=dilation if kernel == 3 else 0,
            dilation=dilation,
            dtype=self.options.dtype,
            name=name,
        )

    def _norm(self, name):
        return layers.BatchNorm(self.options, name=name)


class ResNet(nn.Module):
    """Stem and four layers; returns the outputs of layer3 and layer4, both >= 0."""

    architecture: Architecture
    options: layers.Options
    freeze_stem_affine: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """``[B, H, W, 3] -> ([B, h, w, D/2], [B, h, w, D])``."""
        x = layers.Conv(
            self.architecture.stem,
            7,
            stride=2,
            padding=3,
            dtype=self.options.dtype,
            name="conv1",
        )(x)
        norm = layers.BatchNorm(self.options, self.freeze_stem_affine, name="bn1")
        x = layers.ceil_mode_max_pool(nn.relu(norm(x, train)))
        outputs = []
        for layer in range(4):
            x = self._layer(layer, x, train)
            outputs.append(x)
        return outputs[2], outputs[3]

    def _layer(self, layer, x, train):
        block = Bottleneck
        if self.options.remat:
            block = nn.remat(Bottleneck, static_argnums=(2,))
        for index in range(self.architecture.blocks[layer]):
            x = block(
                self.architecture.width * 2**layer,
                self.options,
                stride=STRIDES[layer] if index == 0 else 1,
                dilation=DILATIONS[layer],
                project=index == 0,
                name=f"layer{layer + 1}_{index}",
            )(x, train)
        return x


def feature_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the feature map of an ``(H, W)`` image."""
    return tuple(_side(side) for side in image_size)


def _side(side):
    stem = (side - 1) // 2 + 1
    pooled = stem // 2 + 1
    return (pooled - 1) // 2 + 1

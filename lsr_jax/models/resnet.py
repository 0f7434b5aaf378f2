"""The dilated ResNets of DeepLabV2 (output stride 8) and DeepLabV3+ (16).

DeepLabV2's differs from torchvision's network: the stride sits on the first 1x1
convolution of a block, the max-pool rounds up, and layer3 and layer4 dilate (2 and 4,
every block) instead of striding. So an image of ``H`` pixels gives ``H/8 + 1`` feature
rows when 8 divides ``H``. In DeepLabV3+'s only layer4 dilates, each of its blocks more
than the one before.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
from flax import linen as nn

from lsr_jax.models import initialisation, layers
from lsr_jax.models.backbone import Backbone

EXPANSION = 4


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a network strides and dilates.

    Attributes:
      strides: of the first block of layer1 to layer4.
      dilations: of the 3x3 convolutions of layer1 to layer4.
      grid: factors of the dilations of the blocks of layer4, one after the other.
      caffe: the stride sits on the first 1x1 convolution of a block and the max-pool
        rounds up; else as torchvision: it sits on the 3x3, the pool rounds down.
      contract: the first block of a dilated layer has half of its dilation.
    """

    strides: tuple[int, int, int, int]
    dilations: tuple[int, int, int, int]
    grid: tuple[int, ...]
    caffe: bool
    contract: bool = False


VARIANTS = {
    "deeplabv2": Variant((1, 2, 1, 1), (1, 1, 2, 4), (1,), caffe=True),
    "deeplabv3plus": Variant((1, 2, 2, 1), (1, 1, 1, 2), (1, 2, 4), caffe=False),
    # mmseg's DeepLabV2, which DAFormer, HRDA and MIC compare with.
    "v1c": Variant((1, 2, 1, 1), (1, 1, 2, 4), (1,), caffe=False, contract=True),
}


class Bottleneck(nn.Module):
    """1x1 - 3x3 (dilation) - 1x1 to ``4 width`` channels, plus the shortcut."""

    width: int
    options: layers.Options
    stride: int = 1
    dilation: int = 1
    project: bool = False
    caffe: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, h, w, in] -> [B, ceil(h/stride), ceil(w/stride), 4 width]``."""
        norm = self._norm
        first, second = (self.stride, 1) if self.caffe else (1, self.stride)
        y = nn.relu(norm("bn1")(self._conv("conv1", self.width, first)(x), train))
        y = nn.relu(norm("bn2")(self._conv("conv2", self.width, second, 3)(y), train))
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
    """Stem and four layers; returns the outputs of ``levels`` of them, all >= 0."""

    architecture: Architecture
    options: layers.Options
    freeze_stem_affine: bool
    variant: Variant
    levels: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """``[B, H, W, 3]`` to the ``[B, h, w, channels]`` of each level."""
        width = self.architecture.stem
        if self.architecture.v1c:
            x = self._unit(x, train, "stem_0", "stem_1", width // 2, 3, stride=2)
            x = self._unit(x, train, "stem_3", "stem_4", width // 2, 3)
            x = self._unit(x, train, "stem_6", "stem_7", width, 3)
        else:
            x = self._unit(x, train, "conv1", "bn1", width, 7, stride=2)
        x = layers.max_pool(x, ceil_mode=self.variant.caffe)
        outputs = []
        for layer in range(4):
            x = self._layer(layer, x, train)
            outputs.append(x)
        return [outputs[level - 1] for level in self.levels]

    def _unit(self, x, train, conv, norm, width, size, stride=1):
        x = layers.Conv(
            width,
            size,
            stride=stride,
            padding=size // 2,
            dtype=self.options.dtype,
            name=conv,
        )(x)
        norm = layers.BatchNorm(self.options, self.freeze_stem_affine, name=norm)
        return nn.relu(norm(x, train))

    def _layer(self, layer, x, train):
        block = Bottleneck
        if self.options.remat:
            block = nn.remat(Bottleneck, static_argnums=(2,))
        variant = self.variant
        grid = variant.grid if layer == 3 else (1,)
        for index in range(self.architecture.blocks[layer]):
            dilation = variant.dilations[layer] * grid[index % len(grid)]
            if variant.contract and index == 0:
                dilation = max(dilation // 2, 1)
            x = block(
                self.architecture.width * 2**layer,
                self.options,
                stride=variant.strides[layer] if index == 0 else 1,
                dilation=dilation,
                project=index == 0,
                caffe=variant.caffe,
                name=f"layer{layer + 1}_{index}",
            )(x, train)
        return x


def scratch(path: str, shape: tuple[int, ...], fan_in: int):
    """He-normal convolutions; every residual block starts as the identity."""
    if path.endswith("bn3/scale"):
        return initialisation.constant(0)
    return initialisation.he_normal(path, shape, fan_in)


@dataclasses.dataclass(frozen=True)
class Architecture(Backbone):
    """Widths and depths: stem channels, width of layer1 (doubling), blocks a layer.

    ``v1c``: the stem has three 3x3 convolutions, as mmseg's ResNetV1c.
    """

    stem: int
    width: int
    blocks: tuple[int, int, int, int]
    v1c: bool = False

    repeated = (
        (r"(^|/)backbone/layer\d+_\d+/downsample", 4),
        (r"(^|/)backbone/layer", 3),
    )
    initial: ClassVar = {
        "scratch": scratch,
        "released": initialisation.small_classifier,
    }

    @property
    def channels(self):
        """Of layer1 to layer4."""
        return {n: EXPANSION * self.width * 2 ** (n - 1) for n in (1, 2, 3, 4)}

    @property
    def half_pixel(self):
        """Whether it is a network of mmseg."""
        return self.v1c

    def body(self, options, levels, *, architecture, freeze_stem_affine):
        """A `ResNet`, strided and dilated for ``architecture``."""
        variant = VARIANTS["v1c" if self.v1c else architecture]
        return ResNet(self, options, freeze_stem_affine, variant, levels)

    def feature_size(self, image_size):
        """The stem, a pool that rounds up (v1c: down), and layer2."""

        def rows(side):
            stem = (side - 1) // 2 + 1
            pooled = -(-stem // 2) if self.v1c else stem // 2 + 1
            return (pooled - 1) // 2 + 1

        return tuple(map(rows, image_size))

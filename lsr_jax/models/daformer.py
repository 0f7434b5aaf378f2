"""DAFormer (Hoyer et al., CVPR 2022): a Mix Transformer and a context-aware decoder.

The four stages of the encoder become maps of equal size and width, which one of four
layers fuses; the paper's is a pyramid of depthwise separable convolutions. Maps are
enlarged with half-pixel corners, the logits up to the image
(``mmseg/models/decode_heads/daformer_head.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from lsr_jax import types
from lsr_jax.models import initialisation, layers
from lsr_jax.models.deeplab import Unit
from lsr_jax.models.initialisation import Rule
from lsr_jax.ops import resample

DILATIONS = (1, 6, 12, 18)
ISA_GRID = 8  # rows and columns of the cells that interlaced attention groups


class DepthwiseUnit(nn.Module):
    """Depthwise 3x3 convolution without bias, BatchNorm, ReLU."""

    dilation: int
    options: layers.Options

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, h, w, D] -> [B, h, w, D]``."""
        conv = layers.DepthwiseConv(
            self.dilation, False, self.options.dtype, name="conv"
        )
        return nn.relu(layers.BatchNorm(self.options, name="bn")(conv(x), train))


class SeparableUnit(nn.Module):
    """Depthwise unit, then a 1x1 one."""

    features: int
    dilation: int
    options: layers.Options

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, h, w, in] -> [B, h, w, features]``."""
        depthwise = DepthwiseUnit(self.dilation, self.options, name="depthwise_conv")
        pointwise = Unit(self.features, 1, self.options, name="pointwise_conv")
        return pointwise(depthwise(x, train), train)


class Pyramid(nn.Module):
    """Convolutions of several dilations side by side, and a 3x3 one over all of them."""

    features: int
    separable: bool
    options: layers.Options

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, h, w, in] -> [B, h, w, features]``."""
        branches = []
        for index, dilation in enumerate(DILATIONS):
            name = f"aspp_modules_{index}"
            if self.separable and dilation > 1:
                unit = SeparableUnit(self.features, dilation, self.options, name=name)
            else:
                size = 1 if dilation == 1 else 3
                unit = Unit(self.features, size, self.options, dilation, name=name)
            branches.append(unit(x, train))
        bottleneck = Unit(self.features, 3, self.options, name="bottleneck")
        return bottleneck(jnp.concatenate(branches, axis=-1), train)


class SelfAttention(nn.Module):
    """Attention of one head over all cells of a map."""

    options: layers.Options

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, h, w, D] -> [B, h, w, D]``."""
        channels, options = x.shape[-1], self.options
        query = Unit(channels, 1, options, name="query_project")(x, train)
        key = Unit(channels, 1, options, name="key_project")(x, train)
        value = layers.Conv(
            channels, 1, use_bias=True, dtype=options.dtype, name="value_project"
        )(x)
        cells = (
            array.reshape(x.shape[0], -1, 1, channels) for array in (query, key, value)
        )
        mixed = layers.attention(*cells, options.dtype).reshape(x.shape)
        return Unit(channels, 1, options, name="output_project")(mixed, train)


class InterlacedAttention(nn.Module):
    """Attention between cells of equal place in their blocks, then within blocks.

    Interlaced sparse self-attention (Huang et al., 2019); blocks are 8x8 cells.
    """

    features: int
    options: layers.Options

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, h, w, in] -> [B, h, w, features]``."""
        x = Unit(self.features, 1, self.options, name="in_conv")(x, train)
        batch, height, width, channels = x.shape
        before = tuple(-side % ISA_GRID // 2 for side in (height, width))
        rows, columns = (-(-side // ISA_GRID) for side in (height, width))
        after = (
            rows * ISA_GRID - height - before[0],
            columns * ISA_GRID - width - before[1],
        )
        padding = ((0, 0), *zip(before, after, strict=True), (0, 0))
        blocks = (batch, rows, ISA_GRID, columns, ISA_GRID, channels)
        y = jnp.pad(x, padding).reshape(blocks).transpose(0, 2, 4, 1, 3, 5)
        far = SelfAttention(self.options, name="global_relation")
        y = far(y.reshape(-1, rows, columns, channels), train)
        y = y.reshape(batch, ISA_GRID, ISA_GRID, rows, columns, channels)
        y = y.transpose(0, 3, 4, 1, 2, 5)
        near = SelfAttention(self.options, name="local_relation")
        y = near(y.reshape(-1, ISA_GRID, ISA_GRID, channels), train)
        y = y.reshape(batch, rows, columns, ISA_GRID, ISA_GRID, channels)
        y = y.transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(batch, rows * ISA_GRID, columns * ISA_GRID, channels)
        y = y[:, before[0] :, before[1] :][:, :height, :width]
        return y


class Head(nn.Module):
    """Maps of one width, fusion, classifier.

    Attributes:
      num_classes: ``C``.
      embedding: channels of every stage's map.
      width: channels of the features.
      fusion: "sepaspp" (the paper's), "aspp", "conv1" or "isa": its ablations.
      dropout: share of the features' channels that training leaves out.
      options: of all layers.
    """

    num_classes: int
    embedding: int
    width: int
    fusion: str
    dropout: float
    options: layers.Options

    @nn.compact
    def __call__(
        self, stages: list[jax.Array], train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Features ``[B, h, w, width]`` and logits ``[B, h, w, C]`` of the first stage.

        Args:
          stages: ``[B, h/2^i, w/2^i, in]``, outputs of the encoder.
          train: BatchNorm of the batch; dropout where there is a key for it.
        """
        options = self.options
        maps = [
            resample.bilinear(
                layers.Linear(self.embedding, options, name=f"embed_layers_{index}")(x),
                stages[0].shape[1:3],
                corners="half_pixel",
            ).astype(options.compute)
            for index, x in enumerate(stages)
        ]
        fuse = {
            "sepaspp": lambda name: Pyramid(self.width, True, options, name=name),
            "aspp": lambda name: Pyramid(self.width, False, options, name=name),
            "conv1": lambda name: Unit(self.width, 1, options, name=name),
            "isa": lambda name: InterlacedAttention(self.width, options, name=name),
        }[self.fusion]("fuse_layer")
        features = fuse(jnp.concatenate(maps, axis=-1), train)
        drops = train and self.has_rng("dropout")
        channels = nn.Dropout(self.dropout, broadcast_dims=(1, 2))
        logits = layers.Conv(
            self.num_classes, 1, use_bias=True, dtype=options.dtype, name="conv_seg"
        )(channels(features, deterministic=not drops))
        return features.astype(options.wide), logits.astype(options.wide)


class DAFormer(nn.Module):
    """Encoder, which returns four stages, and head."""

    backbone: nn.Module
    head: Head

    def __call__(self, images: jax.Array, train: bool) -> types.Outputs:
        """``[B, H, W, 3]`` network input to float32 features and logits of the image."""
        stages = self.backbone(images, train)
        features, logits = decode(self.head, stages, train)
        logits = resample.bilinear(logits, images.shape[1:3], corners="half_pixel")
        encoder = stages[-1].astype(self.head.options.wide)
        return types.Outputs(features, logits, encoder=encoder)


def decode(
    head: Head, stages: list[jax.Array], train: bool
) -> tuple[jax.Array, jax.Array]:
    """Features and logits of a head, for `multi_resolution`."""
    return head(stages, train)


def initial(body: Mapping[str, Rule]) -> dict[str, Rule]:
    """Rules of all initial weights, from those of the backbone."""
    return {name: initialisation.parts(rule, _head) for name, rule in body.items()}


def _head(path, shape, fan_in):
    """He-normal by fan_out; linear layers as PyTorch's default; classifier N(0, 0.01)."""
    if "/conv_seg/" in path:
        return initialisation.small_classifier(path, shape, fan_in)
    if "/embed_layers" in path:
        return initialisation.torch_default(path, shape, fan_in)
    if path.endswith("kernel"):
        return initialisation.normal(math.sqrt(2.0 / (math.prod(shape[:2]) * shape[3])))
    return initialisation.constant(path.endswith("scale"))

"""DeepLabV2 and DeepLabV3+: a dilated backbone and its heads.

DeepLabV3+ (Chen et al., ECCV 2018) is on a ResNet of output stride 16, as CAG runs it. Its
features are what the last convolution classifies: a quarter of the image's rows and
columns, as wide as layer1, after a ReLU and, in training, a dropout of 0.1.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from lsr_jax import types
from lsr_jax.models import initialisation, layers
from lsr_jax.models.initialisation import Rule
from lsr_jax.ops import resample


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
    """Backbone and heads; the second head is on the first output of the backbone.

    With ``half_pixel`` the logits are enlarged to the image with half-pixel corners.
    """

    backbone: nn.Module
    head: ASPP
    aux_head: ASPP | None = None
    half_pixel: bool = False

    def __call__(self, images: jax.Array, train: bool) -> types.Outputs:
        """``[B, H, W, 3]`` network input to float32 features and logits."""
        levels = self.backbone(images, train)
        aux = None if self.aux_head is None else self.aux_head(levels[0])
        features = levels[-1].astype(self.head.options.wide)
        logits = [self.head(levels[-1]), aux]
        if self.half_pixel:
            enlarge = functools.partial(
                resample.bilinear, size=images.shape[1:3], corners="half_pixel"
            )
            logits = jax.tree.map(enlarge, logits)
        return types.Outputs(features, *logits)


class Unit(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; the size stays."""

    features: int
    kernel_size: int
    options: layers.Options
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """``[B, h, w, in] -> [B, h, w, features]``."""
        x = layers.Conv(
            self.features,
            self.kernel_size,
            padding=self.dilation * (self.kernel_size // 2),
            dilation=self.dilation,
            dtype=self.options.dtype,
            name="conv",
        )(x)
        return nn.relu(layers.BatchNorm(self.options, name="bn")(x, train))


class Head(nn.Module):
    """ASPP, decoder and classifier; ``width`` channels, 3/16 of them for the details."""

    num_classes: int
    width: int
    dilations: tuple[int, ...]
    options: layers.Options

    @nn.compact
    def __call__(
        self, details: jax.Array, context: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Features and logits at the resolution of ``details``.

        Args:
          details: ``[B, h, w, in]``, output of layer1.
          context: ``[B, h/4, w/4, in]``, output of layer4.
          train: BatchNorm of the batch; dropout where there is a key for it.
        """
        x = self._pyramid(context, train)
        x = self._drop(self._unit("fused", 1)(x, train), 0.5, train)
        x = resample.bilinear(x, details.shape[1:3]).astype(self.options.compute)
        details = self._unit("details", 1, 3 * self.width // 16)(details, train)
        x = jnp.concatenate([x, details], axis=-1)
        x = self._drop(self._unit("decoder1", 3)(x, train), 0.5, train)
        x = self._drop(self._unit("decoder2", 3)(x, train), 0.1, train)
        logits = layers.Conv(
            self.num_classes,
            1,
            use_bias=True,
            dtype=self.options.dtype,
            name="classifier",
        )(x)
        return x.astype(self.options.wide), logits.astype(self.options.wide)

    def _pyramid(self, x, train):
        branches = [self._unit("aspp1", 1)(x, train)]
        for number, dilation in enumerate(self.dilations, 2):
            unit = self._unit(f"aspp{number}", 3, dilation=dilation)
            branches.append(unit(x, train))
        mean = x.astype(self.options.wide).mean((1, 2), keepdims=True)
        pooled = self._unit("pooled", 1)(mean, train)
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        return jnp.concatenate(branches, axis=-1)

    def _unit(self, name, kernel_size, features=None, dilation=1):
        return Unit(
            features or self.width, kernel_size, self.options, dilation, name=name
        )

    def _drop(self, x, rate, train):
        drops = train and self.has_rng("dropout")
        return nn.Dropout(rate)(x, deterministic=not drops)


class DeepLabV3Plus(nn.Module):
    """Backbone, which returns layer1 and layer4, and head."""

    backbone: nn.Module
    head: Head

    def __call__(self, images: jax.Array, train: bool) -> types.Outputs:
        """``[B, H, W, 3]`` network input to float32 features and logits."""
        details, context = self.backbone(images, train)
        return types.Outputs(*self.head(details, context, train))


def decode_v2(
    head: ASPP, levels: list[jax.Array], train: bool
) -> tuple[jax.Array, jax.Array]:
    """Features and logits of DeepLabV2's head, for `multi_resolution`."""
    del train
    return levels[-1].astype(head.options.wide), head(levels[-1])


def initial_v2(body: Mapping[str, Rule]) -> dict[str, Rule]:
    """Rules of all initial weights, from those of the backbone."""
    heads = {
        "scratch": initialisation.small_classifier,
        "released": initialisation.released_classifier,
    }
    return {name: initialisation.parts(body[name], heads[name]) for name in heads}


def initial_v3plus(body: Mapping[str, Rule]) -> dict[str, Rule]:
    """The same of DeepLabV3+; "released" is CAG's whole network."""
    return {
        "scratch": initialisation.parts(body["scratch"], _scratch_head),
        "released": _kaiming,
    }


def _scratch_head(path, shape, fan_in):
    if path.startswith("head/classifier/"):
        return initialisation.small_classifier(path, shape, fan_in)
    return initialisation.he_normal(path, shape, fan_in)


def _kaiming(path, shape, fan_in):
    """CAG's whole network: He-normal, PyTorch's bias of the last convolution."""
    if path.endswith("bias") and fan_in:
        return initialisation.torch_default(path, shape, fan_in)
    return initialisation.he_normal(path, shape, fan_in)


def feature_size_v3plus(image_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the feature map: the stem and a pool that rounds down."""
    return tuple(-(-side // 4) for side in image_size)

"""Mix Transformer (MiT, Xie et al., NeurIPS 2021), the encoder of SegFormer and DAFormer.

Four stages at strides 4, 8, 16 and 32: a strided convolution, blocks of attention over
reduced keys and of a feed-forward part with a depthwise convolution, a LayerNorm. There
is no positional embedding and no class token. LayerNorm divides by
``sqrt(var + 1e-5)`` behind convolutions and by ``sqrt(var + 1e-6)`` elsewhere
(``mmseg/models/backbones/mix_transformer.py``).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lsr_jax.models import initialisation, layers
from lsr_jax.models.backbone import Backbone

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)  # of the rows and columns that keys come from
EXPANSION = 4  # of the feed-forward part
PATCHES = ((7, 4), (3, 2), (3, 2), (3, 2))  # kernel and stride of each stage


class PatchEmbedding(nn.Module):
    """Strided convolution and LayerNorm; the patches overlap."""

    features: int
    kernel_size: int
    stride: int
    options: layers.Options

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, H, W, in] -> [B, ceil(H/stride), ceil(W/stride), features]``."""
        x = layers.Conv(
            self.features,
            self.kernel_size,
            use_bias=True,
            stride=self.stride,
            padding=self.kernel_size // 2,
            dtype=self.options.dtype,
            name="proj",
        )(x)
        return layers.LayerNorm(1e-5, self.options, name="norm")(x)


class Attention(nn.Module):
    """Multi-head attention of all cells to the cells of a map ``reduction`` smaller."""

    heads: int
    reduction: int
    options: layers.Options

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, h, w, D] -> [B, h, w, D]``; rows and columns that remain are not read."""
        channels, options = x.shape[-1], self.options
        reduced = x
        if self.reduction > 1:
            reduced = layers.Conv(
                channels,
                self.reduction,
                use_bias=True,
                stride=self.reduction,
                dtype=options.dtype,
                name="sr",
            )(x)
            reduced = layers.LayerNorm(1e-5, options, name="norm")(reduced)
        query = layers.Linear(channels, options, name="q")(x)
        key_value = layers.Linear(2 * channels, options, name="kv")(reduced)
        query, key, value = (
            array.reshape(x.shape[0], -1, self.heads, channels // self.heads)
            for array in (query, *jnp.split(key_value, 2, axis=-1))
        )
        mixed = layers.attention(query, key, value, options.dtype).reshape(x.shape)
        return layers.Linear(channels, options, name="proj")(mixed)


class FeedForward(nn.Module):
    """Linear, depthwise 3x3 convolution, GELU (with erf), linear."""

    options: layers.Options

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, h, w, D] -> [B, h, w, D]``."""
        channels, options = x.shape[-1], self.options
        x = layers.Linear(EXPANSION * channels, options, name="fc1")(x)
        x = layers.DepthwiseConv(1, True, options.dtype, name="dwconv")(x)
        x = nn.gelu(x, approximate=False)
        return layers.Linear(channels, options, name="fc2")(x)


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``."""

    heads: int
    reduction: int
    options: layers.Options

    @nn.compact
    def __call__(self, x: jax.Array, factors: jax.Array) -> jax.Array:
        """``[B, h, w, D] -> [B, h, w, D]``; ``factors`` ``[2, B, 1, 1, 1]`` of the branches."""
        attention = Attention(self.heads, self.reduction, self.options, name="attn")
        feed_forward = FeedForward(self.options, name="mlp")
        for index, branch in enumerate((attention, feed_forward)):
            norm = layers.LayerNorm(1e-6, self.options, name=f"norm{index + 1}")
            x += factors[index] * branch(norm(x))
        return x


class MixTransformer(nn.Module):
    """Four stages; returns the normalised outputs of ``levels`` of them."""

    architecture: Architecture
    options: layers.Options
    levels: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        """``[B, H, W, 3]`` to the ``[B, h, w, width]`` of each level, signed.

        In training with a dropout key each branch of a block is left out with the
        probability of `Architecture.drop_rates`, for each image, and else divided by one
        less it.
        """
        depths = self.architecture.depths
        factors = self._factors(x.shape[0], train)
        factors = jnp.split(factors, np.cumsum(depths)[:-1])
        outputs = []
        for stage, (kernel, stride) in enumerate(PATCHES):
            x = PatchEmbedding(
                self.architecture.widths[stage],
                kernel,
                stride,
                self.options,
                name=f"patch_embed{stage + 1}",
            )(x)
            x = self._blocks(stage, x, factors[stage])
            x = layers.LayerNorm(1e-6, self.options, name=f"norm{stage + 1}")(x)
            outputs.append(x)
        return [outputs[level - 1] for level in self.levels]

    def _factors(self, batch, train):
        """``[blocks, 2, batch, 1, 1, 1]``."""
        rates = jnp.asarray(self.architecture.drop_rates(self.options.drop_path))
        shape = (rates.size, 2, batch, 1, 1, 1)
        if not (train and self.has_rng("dropout")):
            return jnp.ones(shape, self.options.compute)
        rates = rates.reshape(-1, *[1] * (len(shape) - 1))
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - rates, shape)
        return jnp.where(kept, 1 / (1 - rates), 0).astype(self.options.compute)

    def _blocks(self, stage, x, factors):
        names = [f"block{stage + 1}_{index}" for index in range(len(factors))]
        arguments = HEADS[stage], REDUCTIONS[stage], self.options
        scan = self.options.scan_blocks and jax.default_backend() != "cpu"
        if not scan or self.is_initializing():
            block = nn.remat(Block) if self.options.remat else Block
            for name, factor in zip(names, factors, strict=True):
                x = block(*arguments, name=name)(x, factor)
            return x
        block = Block(*arguments, parent=None)
        params = [self.variables["params"][name] for name in names]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        # XLA recomputes nothing across two loops; the forward loop would keep every array.
        kept = None if self.options.remat else _is_product

        @functools.partial(jax.checkpoint, prevent_cse=False, policy=kept)
        def body(x, scanned):
            params, factor = scanned
            return block.apply({"params": params}, x, factor), None

        return jax.lax.scan(body, x, (stacked, factors))[0]


def _is_product(primitive, *_, **__):
    return primitive.name in ("dot_general", "conv_general_dilated")


def initial(path: str, shape: tuple[int, ...], fan_in: int):
    """Linear N(0, 0.02), convolutions N(0, sqrt(2 / (k^2 out / groups))), zero biases."""
    if not path.endswith("kernel"):
        return initialisation.constant(path.endswith("scale"))
    if len(shape) == 2:
        return initialisation.normal(0.02)
    features = 1 if "dwconv" in path else shape[-1]
    return initialisation.normal(math.sqrt(2.0 / (shape[0] * shape[1] * features)))


@dataclasses.dataclass(frozen=True)
class Architecture(Backbone):
    """Channels and numbers of blocks of the four stages, channels of DAFormer's head."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    head_width: int = 256

    repeated = ()
    half_pixel = True
    initial: ClassVar = {"scratch": initial, "released": initial}

    @property
    def channels(self):
        """Of the four stages."""
        return dict(enumerate(self.widths, 1))

    def body(self, options, levels, *, architecture, freeze_stem_affine):
        """A `MixTransformer`; it has no BatchNorm to freeze."""
        return MixTransformer(self, options, levels)

    def feature_size(self, image_size):
        """Rows and columns of the first stage."""
        return tuple(-(-side // 4) for side in image_size)

    def drop_rates(self, rate: float) -> list[float]:
        """Of every block: from 0 to ``rate``, in equal steps."""
        return np.linspace(0, rate, sum(self.depths)).tolist()

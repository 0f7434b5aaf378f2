"""The convolutional discriminator of the adversarial methods."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from lsr_jax.models import initialisation, layers
from lsr_jax.ops import resample

WIDTHS = {"conv1": 64, "conv2": 128, "conv3": 256, "conv4": 512, "classifier": 1}
SLOPE = 0.2


class Discriminator(nn.Module):
    """Five 4x4 convolutions of stride 2, LeakyReLU 0.2 between them."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, H, W, in] -> [B, H//32, W//32, 1]`` logits."""
        for name, width in WIDTHS.items():
            x = layers.Conv(
                width,
                4,
                use_bias=True,
                stride=2,
                padding=1,
                dtype=resample.at_least_float32(x).dtype.name,
                name=name,
            )(x)
            if name != "classifier":
                x = nn.leaky_relu(x, SLOPE)
        return x


def discriminator(in_channels: int) -> tuple[Callable, Callable]:
    """Builds the discriminator of AdaptSegNet, ADVENT, CLAN, BDL and Feature-To-Adapt.

    Convolutions 4x4, stride 2, padding 1, to 64, 128, 256, 512 and 1 channels, with
    PyTorch's default initialisation.

    Returns:
      ``init(key) -> params`` and ``apply(params, maps) -> logits`` with maps
      ``[B, H, W, in_channels]`` and logits ``[B, H//32, W//32, 1]``. It computes in
      float32; for float64 maps in float64, for comparisons.
    """
    module = Discriminator()
    shape = jax.ShapeDtypeStruct((1, 32, 32, in_channels), jnp.float32)

    def init(key):
        variables = jax.eval_shape(module.init, jax.random.key(0), shape)
        return initialisation.draw(
            key, variables["params"], initialisation.torch_default
        )

    def apply(params, maps):
        return module.apply({"params": params}, maps)

    return init, apply

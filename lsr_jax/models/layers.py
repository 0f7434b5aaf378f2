"""Convolution, batch normalisation and pooling with the conventions of PyTorch.

Flax pads and normalises a little differently from the PyTorch originals, whose numbers
the tests compare with.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn import initializers

from lsr_jax import errors
from lsr_jax.models import convolution

# What is stored, and how float32 is multiplied. XLA's own choice for float32 is TF32 on
# NVIDIA GPUs from Ampere on and bfloat16 on TPUs; "high" is TF32, or three bfloat16
# products on a TPU, and "highest" is float32 everywhere.
PRECISIONS = {
    "float32": ("float32", lax.Precision.HIGHEST),
    "tf32": ("float32", lax.Precision.HIGH),
    "bfloat16": ("bfloat16", lax.Precision.DEFAULT),
    "float64": ("float64", lax.Precision.HIGHEST),
}
EPSILON = 1e-5
MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of all layers of a network; ``build`` documents the fields."""

    batch_norm: str = "train"
    unbiased_variance: bool = True
    bn_group_size: int | None = None
    dtype: str = "float32"
    remat: bool = False
    drop_path: float = 0.0
    scan_blocks: bool = True

    @property
    def compute(self):
        """Dtype of activations."""
        return PRECISIONS[self.dtype][0]

    @property
    def wide(self):
        """Dtype of statistics and outputs: at least float32."""
        return "float64" if self.dtype == "float64" else "float32"


class Conv(nn.Module):
    """``torch.nn.Conv2d``, ``[B, H, W, in] -> [B, h, w, features]``; the kernel is HWIO.

    Parameters stay float32 and are cast for the product as ``dtype``, a key of
    `PRECISIONS`, says. Initial values are zeros here; `build` draws them.
    """

    features: int
    kernel_size: int
    use_bias: bool = False
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves ``x``; the result has the compute dtype."""
        compute, precision = PRECISIONS[self.dtype]
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", initializers.zeros, shape)
        x = convolution.convolve(
            x.astype(compute),
            kernel.astype(compute),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            precision=precision,
        )
        if not self.use_bias:
            return x
        bias = self.param("bias", initializers.zeros, (self.features,))
        return x + bias.astype(compute)


class DepthwiseConv(nn.Module):
    """3x3 convolution of every channel by itself, ``[B, H, W, D] -> [B, H, W, D]``.

    The kernel is ``[3, 3, 1, D]``, zeros pad the image.
    """

    dilation: int
    use_bias: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves ``x``; the result has the compute dtype."""
        compute, precision = PRECISIONS[self.dtype]
        channels = x.shape[-1]
        kernel = self.param("kernel", initializers.zeros, (3, 3, 1, channels))
        x = convolution.depthwise(
            x.astype(compute),
            kernel.astype(compute),
            dilation=self.dilation,
            precision=precision,
        )
        if not self.use_bias:
            return x
        bias = self.param("bias", initializers.zeros, (channels,))
        return x + bias.astype(compute)


class Linear(nn.Module):
    """``x W + b`` over the channels, as ``torch.nn.Linear``; the kernel is [in, out]."""

    features: int
    options: Options

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[..., in] -> [..., features]`` in the compute dtype."""
        compute, precision = PRECISIONS[self.options.dtype]
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", initializers.zeros, shape)
        bias = self.param("bias", initializers.zeros, (self.features,))
        x = jnp.matmul(x.astype(compute), kernel.astype(compute), precision=precision)
        return x + bias.astype(compute)


class LayerNorm(nn.Module):
    """``(x - mean) / sqrt(var + epsilon) * scale + bias`` over the channels of a cell.

    Mean and (biased) variance are float32 whatever the compute dtype.
    """

    epsilon: float
    options: Options

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises ``x [..., D]``."""
        channels, wide = x.shape[-1:], self.options.wide
        scale = self.param("scale", initializers.ones, channels).astype(wide)
        bias = self.param("bias", initializers.zeros, channels).astype(wide)
        y, *_ = normalise(x, scale, bias, (x.ndim - 1,), self.epsilon)
        return y.astype(self.options.compute)


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, dtype: str
) -> jax.Array:
    """``softmax(query key^T / sqrt(D)) value`` of every head.

    Args:
      query: ``[B, T, heads, D]``.
      key: ``[B, S, heads, D]``.
      value: ``[B, S, heads, D]``.
      dtype: a key of `PRECISIONS`. The softmax is float32, or float64.

    Returns:
      ``[B, T, heads, D]``.
    """
    precision = PRECISIONS[dtype][1]
    if dtype == "float64":  # jax.nn.dot_product_attention has a float32 softmax
        scores = jnp.einsum("bthd,bshd->bhts", query, key, precision=precision)
        weights = jax.nn.softmax(scores / math.sqrt(query.shape[-1]))
        return jnp.einsum("bhts,bshd->bthd", weights, value, precision=precision)
    # It promotes bfloat16 to float32 by itself.
    with (
        jax.default_matmul_precision(precision.name.lower()),
        jax.numpy_dtype_promotion("standard"),
    ):
        return jax.nn.dot_product_attention(query, key, value)


class BatchNorm(nn.Module):
    """Batch normalisation as ``torch.nn.BatchNorm2d``, eps 1e-5.

    ``y = (x - mean) / sqrt(var + eps) * scale + bias`` per channel. In training, mean
    and (biased) variance are those of the batch, and the running statistics become
    ``0.9 old + 0.1 batch``, with the variance divided by ``n - 1`` if
    ``unbiased_variance`` (PyTorch) or by ``n`` (Flax). Statistics are float32 whatever
    the compute dtype, and of the whole batch, also where it is split over devices.

    With ``bn_group_size`` = g, each g consecutive images are normalised by themselves
    (g = 1: the per-image statistics of the originals), and the running statistics move
    towards the mean of the groups' statistics.
    """

    options: Options
    frozen_affine: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises ``x [B, H, W, C]``.

        Raises:
          InputError: ``bn_group_size`` does not divide B, or a channel of a group has
            a single value, which leaves no unbiased variance.
        """
        channels = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", initializers.ones, channels)
        bias = self.param("bias", initializers.zeros, channels)
        if self.frozen_affine or self.options.batch_norm == "frozen_affine":
            scale, bias = lax.stop_gradient((scale, bias))

        wide = self.options.wide
        scale, bias = scale.astype(wide), bias.astype(wide)
        if not train or self.options.batch_norm == "eval":
            factor = lax.rsqrt(var.value.astype(wide) + EPSILON) * scale
            y = (x.astype(wide) - mean.value.astype(wide)) * factor + bias
            return y.astype(self.options.compute)
        groups = self._grouped(x)
        y, batch_mean, batch_var = normalise(groups, scale, bias, (1, 2, 3), EPSILON)
        if not self.is_initializing():
            mean.value = self._moved(mean.value, batch_mean)
            var.value = self._moved(var.value, batch_var * self._bessel(groups))
        return y.astype(self.options.compute).reshape(x.shape)

    def _grouped(self, x):
        size = self.options.bn_group_size or x.shape[0]
        if x.shape[0] % size:
            raise errors.InputError(
                f"model.bn_group_size: {size} does not divide the batch of "
                f"{x.shape[0]} images; choose a divisor or None for the whole batch"
            )
        return x.reshape(-1, size, *x.shape[1:])

    def _bessel(self, groups):
        if not self.options.unbiased_variance:
            return 1.0
        count = math.prod(groups.shape[1:4])
        if count == 1:
            raise errors.InputError(
                "model.unbiased_variance: one value per channel has no unbiased "
                "variance; use larger images, a larger batch or False"
            )
        return count / (count - 1)

    def _moved(self, old, batch):
        batch = batch.mean(0).reshape(old.shape).astype(old.dtype)
        return MOMENTUM * old + (1.0 - MOMENTUM) * batch


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalise(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    axes: tuple[int, ...],
    epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias``, mean and variance over ``axes``.

    Its gradient keeps ``x`` in its own dtype and takes fewer sums than that of the formula:
    ``dx = (g - mean(g) - y mean(g y)) / sqrt(var + epsilon)``, where ``g`` is the gradient of
    the result times ``scale``, and ``y`` the normalised ``x``.

    Args:
      x: ``[..., C]``.
      scale: ``[C]``, float32 or float64; so is everything that is computed.
      bias: ``[C]``.
      axes: of ``x``.
      epsilon: is added to the biased variance.

    Returns:
      The result; mean and biased variance with ``axes`` of size 1, which pass no gradient on.
    """
    wide = x.astype(scale.dtype)
    mean = wide.mean(axes, keepdims=True)
    centred = wide - mean
    var = jnp.square(centred).mean(axes, keepdims=True)
    return centred * (lax.rsqrt(var + epsilon) * scale) + bias, mean, var


def _normalise_forward(x, scale, bias, axes, epsilon):
    found = normalise(x, scale, bias, axes, epsilon)
    return found, (x, scale, *found[1:])


def _normalise_backward(axes, epsilon, kept, gradients):
    x, scale, mean, var = kept
    dy, *_ = gradients
    inverse = lax.rsqrt(var + epsilon)
    y = (x.astype(scale.dtype) - mean) * inverse
    of_channels = x.ndim - 1 in axes  # statistics of all channels together
    g, factor = (dy * scale, inverse) if of_channels else (dy, inverse * scale)
    sums = g.sum(axes, keepdims=True), (g * y).sum(axes, keepdims=True)
    count = math.prod(x.shape[axis] for axis in axes)
    dx = factor * (g - (sums[0] + y * sums[1]) / count)
    dbias, dscale = (dy, dy * y) if of_channels else sums
    others = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), dscale.sum(others), dbias.sum(others)


normalise.defvjp(_normalise_forward, _normalise_backward)


def max_pool(x: jax.Array, *, ceil_mode: bool) -> jax.Array:
    """Max-pool 3x3, stride 2, padding 1: a -> ceil((a-1)/2) + 1, or floor of the same.

    For ``x >= 0`` only (zeros pad it). Written as maxima of slices, rows then columns,
    because the gradient of a windowed maximum is slow on a CPU; equal maxima share the
    gradient, where PyTorch gives it to the first.
    """
    height, width = (
        side // 2 + 1 if ceil_mode else -(-side // 2) for side in x.shape[1:3]
    )
    after = (2 * height - x.shape[1], 2 * width - x.shape[2])
    x = jnp.pad(x, ((0, 0), (1, after[0]), (1, after[1]), (0, 0)))
    x = jnp.maximum(jnp.maximum(x[:, :-1:2], x[:, 1::2]), x[:, 2::2])
    return jnp.maximum(jnp.maximum(x[:, :, :-1:2], x[:, :, 1::2]), x[:, :, 2::2])

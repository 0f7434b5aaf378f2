"""Two-dimensional convolution, with faster forms for CPUs.

XLA's convolution on a CPU is slow for 1x1 kernels, for three-channel images and in the
gradients of kernels. The matrix products below give the same sums (float32 rounding
aside) several times faster there. On GPUs and TPUs, whose libraries have kernels for
these shapes, XLA's own convolution is used.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from lsr_jax.ops import resample

MANY = 128  # channels from which the products of `_many_backward` are faster


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    precision: lax.Precision = lax.Precision.HIGHEST,
) -> jax.Array:
    """``torch.nn.functional.conv2d`` of ``[B, H, W, in]`` with ``[k, k, in, out]``.

    ``h = (H + 2 padding - dilation (k - 1) - 1) // stride + 1`` rows, columns alike.
    """
    size, _, channels, features = kernel.shape
    if jax.default_backend() == "cpu":
        if size == 1 and padding == 0:
            return _matmul(x[:, ::stride, ::stride], kernel[0, 0], precision)
        if stride == 2 and dilation == 1 and channels <= 4:
            return _by_blocks(x, kernel, padding, precision)
        if stride == 1 and size * size * features < channels:
            return _multiply_then_shift(x, kernel, padding, dilation, precision)
        if stride == 1 and min(channels, features) >= MANY:
            return _of_many_channels(x, kernel, padding, dilation, precision)
    return _convolve(x, kernel, padding, dilation, precision, stride)


def depthwise(
    x: jax.Array,
    kernel: jax.Array,
    *,
    dilation: int = 1,
    precision: lax.Precision = lax.Precision.HIGHEST,
) -> jax.Array:
    """Convolution of every channel with a kernel of its own; the size stays.

    XLA's grouped convolution takes many times as long on a CPU as shifted products.

    Args:
      x: ``[B, H, W, D]``.
      kernel: ``[k, k, 1, D]``, k odd.
      dilation: distance between two taps of the kernel.
      precision: of the products of float32 numbers.

    Returns:
      ``[B, H, W, D]``.
    """
    size, channels = kernel.shape[0], x.shape[-1]
    padding = dilation * (size // 2)
    if jax.default_backend() != "cpu":
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(1, 1),
            padding=((padding, padding),) * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=channels,
            precision=precision,
        )
    height, width = x.shape[1:3]
    padded = _bordered(x, padding)
    return sum(
        padded[:, dilation * i :, dilation * j :][:, :height, :width] * kernel[i, j, 0]
        for i in range(size)
        for j in range(size)
    )


def _bordered(x, padding):
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def _convolve(x, kernel, padding, dilation, precision, stride=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding),) * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _of_many_channels(x, kernel, padding, dilation, precision):
    return _convolve(x, kernel, padding, dilation, precision)


def _many_forward(x, kernel, padding, dilation, precision):
    return _of_many_channels(x, kernel, padding, dilation, precision), (x, kernel)


def _many_backward(padding, dilation, precision, kept, gradient):
    x, kernel = kept
    _, pull = jax.vjp(lambda x: _convolve(x, kernel, padding, dilation, precision), x)
    size, _, channels, features = kernel.shape
    height, width = gradient.shape[1:3]
    x = _bordered(x, padding)
    # One transposed array serves the products of all taps.
    rows = lax.optimization_barrier(gradient.reshape(-1, features).T)

    def tap(i, j):
        moved = x[:, dilation * i :, dilation * j :][:, :height, :width]
        return jnp.matmul(rows, moved.reshape(-1, channels), precision=precision)

    # Not in a loop: XLA does not order the all-reduces inside of one among those outside,
    # and the devices of a CPU could deadlock.
    taps = jnp.stack([tap(i, j) for i in range(size) for j in range(size)])
    taps = taps.transpose(0, 2, 1)
    return *pull(gradient), taps.reshape(kernel.shape)


_of_many_channels.defvjp(_many_forward, _many_backward)


def _matmul(x, matrix, precision):
    flat = _product(x.reshape(-1, x.shape[-1]), matrix, precision)
    return flat.reshape(*x.shape[:-1], matrix.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x, matrix, precision):
    return jnp.matmul(x, matrix, precision=precision)


def _product_forward(x, matrix, precision):
    return _product(x, matrix, precision), (x, matrix)


def _product_backward(precision, kept, gradient):
    x, matrix = kept
    narrow, wide = sorted((x, gradient), key=lambda array: array.shape[1])
    # XLA transposes the left side. The barrier keeps it from exchanging the sides.
    product = jnp.matmul(narrow.T, wide, precision=precision)
    if narrow is gradient:
        product = lax.optimization_barrier(product).T
    return jnp.matmul(gradient, matrix.T, precision=precision), product


_product.defvjp(_product_forward, _product_backward)


def _by_blocks(x, kernel, padding, precision):
    """Stride 2 as stride 1 over 2x2 blocks of pixels, which become channels."""
    batch, *image_size, channels = x.shape
    size, features = kernel.shape[0], kernel.shape[-1]
    half = (size + 1) // 2
    kernel = jnp.pad(kernel, ((0, 2 * half - size),) * 2 + ((0, 0),) * 2)
    kernel = kernel.reshape(half, 2, half, 2, channels, features)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(half, half, -1, features)

    height, width = ((n + 2 * padding - size) // 2 + half for n in image_size)
    end = (2 * height - image_size[0], 2 * width - image_size[1])
    border = [(padding, n - padding, 0) for n in end]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *border, (0, 0, 0)])
    x = x.reshape(batch, height, 2, width, 2, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, -1)
    return convolve(x, kernel, precision=precision)


def _multiply_then_shift(x, kernel, padding, dilation, precision):
    """All taps in one product, then the sum of the shifted taps; for few features."""
    size, _, channels, features = kernel.shape
    taps = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    taps = _matmul(x, taps, precision)
    taps = _bordered(taps, padding)
    taps = taps.reshape(*taps.shape[:3], size, size, features)
    height, width = (side - dilation * (size - 1) for side in taps.shape[1:3])
    # Half precision would lose digits in every one of the k^2 additions.
    wide = resample.at_least_float32(taps)
    total = sum(
        wide[:, dilation * i :, dilation * j :, i, j][:, :height, :width]
        for i in range(size)
        for j in range(size)
    )
    return total.astype(taps.dtype)

"""The domain classifier of SAPNet: a pyramid of pooled features with spatial attention."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from lsr_jax.errors import InputError
from lsr_jax.models import initialisation, layers
from lsr_jax.ops import resample

WIDTH = 256  # of the embedding, the attention trunk and the vectors of the levels
HIDDEN = 128  # of the attention of a level, and of the fusion


class ImageNorm(nn.Module):
    """``(x - mean) / sqrt(var + 1e-5) * scale + bias`` with the statistics of each image.

    Mean and (biased) variance are over the positions of a channel of one image.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises ``x [B, h, w, D]``."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:]).astype(x.dtype)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:]).astype(x.dtype)
        centred = x - x.mean((1, 2), keepdims=True)
        var = jnp.square(centred).mean((1, 2), keepdims=True)
        return centred * (jax.lax.rsqrt(var + layers.EPSILON) * scale) + bias


class AttentionPyramid(nn.Module):
    """See `attention_pyramid`."""

    windows: tuple[int, ...]
    stride: int
    dropout: float

    @nn.compact
    def __call__(
        self, features: jax.Array, guidance: jax.Array, key: jax.Array
    ) -> jax.Array:
        """``[B, h, w, D]`` and ``[B, h', w', A]`` to ``[B, 1, 1, 1]``."""
        size, channels = features.shape[1:3], features.shape[-1]
        check_windows(self.windows, size)
        features = resample.at_least_float32(features)
        conv = functools.partial(layers.Conv, dtype=features.dtype.name)
        wide = functools.partial(conv, kernel_size=3, padding=1)
        drop = nn.Dropout(self.dropout, deterministic=False)
        widths = (channels, WIDTH, WIDTH)

        embedded = features
        for number, width in enumerate(widths, start=1):
            embedded = wide(width, name=f"embedding{number}")(embedded)
            embedded = nn.relu(ImageNorm(name=f"norm{number}")(embedded))
            embedded = drop(embedded, rng=jax.random.fold_in(key, number))

        # A convolution of both inputs, concatenated, is the sum of one of each.
        guidance = resample.bilinear(guidance, size).astype(features.dtype)
        trunk = wide(channels, use_bias=True, name="trunk1")(features)
        trunk = nn.relu(trunk + wide(channels, name="guidance")(guidance))
        for number, width in enumerate(widths[1:], start=2):
            trunk = nn.relu(wide(width, use_bias=True, name=f"trunk{number}")(trunk))

        vectors = []
        point = functools.partial(conv, kernel_size=1)
        for level, window in enumerate(self.windows, start=1):
            pooled = resample.window_average(embedded, window, self.stride)
            scores = resample.bilinear(trunk, pooled.shape[1:3])
            for number, width in enumerate((HIDDEN, HIDDEN, 1), start=1):
                name = f"attention{level}_{number}"
                scores = point(width, use_bias=True, name=name)(scores)
                scores = nn.relu(scores) if width > 1 else scores
            weights = jax.nn.softmax(scores, axis=(1, 2))
            vectors.append((weights * pooled).sum((1, 2), keepdims=True))
        vectors = jnp.stack(vectors, axis=-2)  # [B, 1, 1, K, WIDTH]

        hidden = nn.relu(point(HIDDEN, name="fusion1")(vectors.sum(-2)))
        shares = point(len(self.windows) * WIDTH, name="fusion2")(hidden)
        shares = jax.nn.softmax(shares.reshape(vectors.shape), axis=-2)
        fused = (shares * vectors).sum(-2)
        scores = point(2, use_bias=True, name="classifier")(fused)
        return scores[..., 1:] - scores[..., :1]


def check_windows(windows: Sequence[int], size: tuple[int, int]) -> None:
    """Raise InputError for a window that is larger than a side of the feature map."""
    if max(windows) > min(size):
        raise InputError(
            f"method.windows: expected at most {min(size)}, the smaller side of the "
            f"feature map of {size[0]}x{size[1]} cells; found {max(windows)}; choose "
            "smaller windows, or larger images"
        )


def attention_pyramid(
    channels: int,
    guidance: int,
    *,
    windows: Sequence[int],
    stride: int,
    dropout: float,
) -> tuple[Callable, Callable]:
    """Builds the domain classifier of SAPNet, which decides once for a whole image.

    For features ``F`` and guidance ``G``, enlarged to the size of ``F`` with aligned
    corners:

    - ``E(F)``: three 3x3 convolutions to D, 256, 256 channels without bias, each with
      normalisation, ReLU and dropout.
    - ``S([F, G])``: three 3x3 convolutions to D, 256, 256 channels with bias and ReLU.
    - Level k: ``P_k``, means of ``E(F)`` in windows of ``windows[k]`` cells at distances
      of ``stride`` cells, without padding; ``a_k``, the softmax over all positions of
      1x1 convolutions 256-128-128-1 with ReLU between them, of ``S`` resized to the
      size of ``P_k`` with aligned corners; ``v_k = sum_p a_k(p) P_k(p)``.
    - ``v = sum_k b_k v_k``, with ``b`` the softmax over the levels, for each channel, of
      ``W_2 relu(W_1 sum_k v_k)``, to 128 and to ``256 K`` numbers.
    - A linear layer to two scores: the logit is that of the target minus that of the
      source.

    As ``detection/modeling/faster_rcnn.py`` of isrc-cas/domain-adaption (Li et al., ECCV
    2020) with two choices of our own, both because its batch of one image leaves
    BatchNorm undefined or dependent on the number of images. In ``E`` each image is
    normalised with its own statistics over ``h w`` positions, with no running
    statistics, as nothing is classified after training. In the fusion there is no
    normalisation: it would see one value per channel of an image.

    Args:
      channels: ``D`` of the features.
      guidance: channels ``A`` of the guidance.
      windows: sides of the windows in cells, one for each level.
      stride: of the windows, in cells.
      dropout: rate in ``E``.

    Returns:
      ``init(key) -> params``, with PyTorch's default initialisation, and
      ``apply(params, features, guidance, key) -> logits`` for ``[B, h, w, D]``,
      ``[B, h', w', A]`` and the key of the dropout; logits are ``[B, 1, 1, 1]``. It
      computes in float32; for float64 features in float64, for comparisons. ``apply``
      raises InputError for a window that is larger than a side of the features.
    """
    module = AttentionPyramid(tuple(windows), stride, dropout)
    side = max(windows)

    def rule(path, shape, fan_in):
        if "norm" in path:
            return initialisation.constant(path.endswith("scale"))
        if path.startswith(("trunk1/", "guidance/")):  # one convolution of both
            fan_in = math.prod((3, 3, channels + guidance))
        return initialisation.torch_default(path, shape, fan_in)

    def init(key):
        features, guide = (
            jax.ShapeDtypeStruct((1, side, side, depth), jnp.float32)
            for depth in (channels, guidance)
        )
        shapes = jax.eval_shape(
            module.init, jax.random.key(0), features, guide, jax.random.key(0)
        )
        return initialisation.draw(key, shapes["params"], rule)

    def apply(params, features, guide, key):
        return module.apply({"params": params}, features, guide, key)

    return init, apply

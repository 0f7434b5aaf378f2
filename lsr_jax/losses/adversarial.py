"""Adversarial alignment: the losses of both players, CLAN's weights and discrepancies.

A discriminator names the source 0, the target 1. The network is trained with the loss of
its target maps as ``domain="source"``.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from lsr_jax.ops import numerics, resample
from lsr_jax.types import PyTree

_HIGHEST = jax.lax.Precision.HIGHEST


def domain_loss(
    logits: jax.Array,
    weights: jax.Array | None = None,
    *,
    domain: Literal["source", "target"],
    kind: Literal["cross_entropy", "least_squares"] = "cross_entropy",
) -> jax.Array:
    """Loss of a discriminator's output where it should name ``domain``.

    With ``t`` 0 for source and 1 for target, the mean over all positions of
    ``omega (softplus(d) - t d)``, the binary cross-entropy, or ``omega (d - t)^2``.

    Args:
      logits: ``[B, h, w, 1]``, ``d``. CLAN and Feature To Adapt upsample them to the
        image first.
      weights: ``[B, h, w]``, ``omega``, of `local_weights` in CLAN; 1 by default. The
        gradient passes through them.
      domain: "source" or "target". A discriminator minimises the loss of the source maps
        as "source" plus that of the target maps as "target" (AdaptSegNet, ADVENT, BDL:
        each times 1/2).
      kind: "least_squares" is AdaptSegNet's option ``--gan LS``, on the raw logits.

    Raises:
      ValueError: any other ``domain`` or ``kind``.
    """
    if domain not in ("source", "target"):
        raise ValueError(f"domain must be 'source' or 'target', got {domain!r}")
    logits = resample.at_least_float32(logits)[..., 0]
    if kind == "cross_entropy":
        # softplus(d) - d is softplus(-d), without the difference.
        losses = jax.nn.softplus(-logits if domain == "target" else logits)
    elif kind == "least_squares":
        losses = jnp.square(logits - 1 if domain == "target" else logits)
    else:
        raise ValueError(
            f"kind must be 'cross_entropy' or 'least_squares', got {kind!r}"
        )
    if weights is not None:
        losses = weights.astype(losses.dtype) * losses
    return losses.mean()


def cosine_discrepancy(first: jax.Array, second: jax.Array) -> jax.Array:
    """``1 - cos(p1(x), p2(x))`` over the classes, ``[B, H, W, C]`` twice to ``[B, H, W]``.

    CLAN (CVPR 2019), ``CLAN_train.py::weightmap``, which only works for one image.
    """
    first, second = resample.at_least_float32(first), resample.at_least_float32(second)
    return 1 - (numerics.unit(first) * numerics.unit(second)).sum(axis=-1)


def local_weights(
    first: jax.Array,
    second: jax.Array,
    *,
    epsilon: float,
    strength: float,
    detached: bool,
    active: jax.Array | bool = True,
) -> jax.Array:
    """Weights of CLAN's adversarial loss: more where the two heads disagree.

    ``omega = epsilon + lambda_local (1 - cos(p1, p2))``, for `domain_loss`.

    Args:
      first: ``[B, H, W, C]`` probabilities of one head.
      second: the same of the other.
      epsilon: 0.4 in CLAN.
      strength: ``lambda_local``, 40 for GTA5, 10 for SYNTHIA.
      detached: whether the weights are constants. ``CLAN_train.py`` detaches them in
        the discriminator's step only: in the network's step the gradient also pulls the
        heads together where the discriminator wins.
      active: False gives 1 everywhere: the plain loss of the warm-up, in CLAN up to and
        with step 5000.

    Returns:
      ``[B, H, W]``.
    """
    if detached:
        first, second = jax.lax.stop_gradient((first, second))
    weights = epsilon + strength * cosine_discrepancy(first, second)
    return jnp.where(active, weights, 1)


def weight_discrepancy(first: PyTree, second: PyTree) -> jax.Array:
    """``cos(W1, W2) + 1`` of all parameters of two heads, kernels and biases.

    In CLAN it keeps the two views apart (``CLAN_train.py``, which weighs it by
    ``2 lambda_weight damping``). A head of zeros has cosine 0.

    Raises:
      ValueError: the trees differ.
    """

    def dot(x, y):
        products = jax.tree.map(lambda a, b: jnp.vdot(a, b, precision=_HIGHEST), x, y)
        return sum(jax.tree.leaves(products))

    squares = dot(first, first) * dot(second, second)
    positive = squares > 0
    length = jnp.sqrt(jnp.where(positive, squares, 1))
    return 1 + jnp.where(positive, dot(first, second) / length, 0)

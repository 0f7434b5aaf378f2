"""CLAN (CVPR 2019): discrepancy of two heads, of their outputs and of their weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lsr_jax.ops import numerics, resample
from lsr_jax.types import PyTree

_HIGHEST = jax.lax.Precision.HIGHEST


def cosine_discrepancy(first: jax.Array, second: jax.Array) -> jax.Array:
    """``1 - cos(p1(x), p2(x))`` over the classes, ``[B, H, W, C]`` twice to ``[B, H, W]``.

    CLAN, ``CLAN_train.py::weightmap``, which only works for one image.
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

    ``omega = epsilon + lambda_local (1 - cos(p1, p2))``, to be passed to
    `adversarial.domain_loss`.

    Args:
      first: ``[B, H, W, C]`` probabilities of one head.
      second: ``[B, H, W, C]`` of the other.
      epsilon: the weight where they agree, 0.4 in CLAN.
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

    Args:
      first: parameters of one head.
      second: parameters of the other, the same tree.

    Raises:
      ValueError: where the trees differ.
    """

    def dot(x, y):
        products = jax.tree.map(lambda a, b: jnp.vdot(a, b, precision=_HIGHEST), x, y)
        return sum(jax.tree.leaves(products))

    squares = dot(first, first) * dot(second, second)
    positive = squares > 0
    length = jnp.sqrt(jnp.where(positive, squares, 1))
    return 1 + jnp.where(positive, dot(first, second) / length, 0)

"""Losses of a network and of a discriminator that classifies the domains.

One convention for all: a discriminator's logit is 0 for source, 1 for target. The
network is trained with the loss of its target maps as ``domain="source"``.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from lsr_jax.ops import resample

Domain = Literal["source", "target"]


def domain_loss(
    logits: jax.Array,
    weights: jax.Array | None = None,
    *,
    domain: Domain,
    kind: Literal["cross_entropy", "least_squares"] = "cross_entropy",
) -> jax.Array:
    """Loss of a discriminator's output where it should name ``domain``.

    With ``t`` 0 for source and 1 for target, the mean over all positions of
    ``omega (softplus(d) - t d)``, the binary cross-entropy, or ``omega (d - t)^2``.

    Args:
      logits: ``[B, h, w, 1]`` of the discriminator, ``d``. AdaptSegNet, ADVENT and BDL
        take them as they come out; CLAN and Feature To Adapt upsample them to the image
        first.
      weights: ``[B, h, w]``, ``omega``, of `local_weights` in CLAN; 1 by default. The
        gradient passes through them.
      domain: which domain to name. Half of the discriminator's loss is the source maps
        as "source", half the target maps as "target" (AdaptSegNet, ADVENT, BDL: each
        times 1/2; CLAN, Feature To Adapt: each in full).
      kind: "least_squares" is AdaptSegNet's option ``--gan LS``, on the raw logits.
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

"""Network and discriminator of an adversarial method, trained by one scalar.

The network's loss takes the discriminator as a constant, the discriminator's loss takes
the maps as constants. The gradient of their sum therefore holds for each player the
gradient of its own loss and nothing else. The originals get the same from separate
backward passes, with both optimisers stepping after both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax

from lsr_jax import losses, models
from lsr_jax.errors import InputError
from lsr_jax.methods import common
from lsr_jax.ops import diagnostics, resample
from lsr_jax.types import Aux, BatchSpec, Method, Outputs, PyTree

SMALLEST = 32


def discriminators(
    levels: Sequence[str],
    channels: Callable[[BatchSpec], int] = lambda spec: spec.num_classes,
) -> Callable[..., tuple[dict, dict]]:
    """The ``init`` of a method with ``{"disc": {level: parameters}}`` and no state.

    It raises InputError for images from which no discriminator output is left.
    """

    def init(key, params, model_state, spec):
        if not levels:
            return {}, {}
        for domain in ("source", "target"):
            size = getattr(spec, f"{domain}_size")
            if min(size) < SMALLEST:
                raise InputError(
                    f"data.{domain}.size: a discriminator needs at least {SMALLEST} "
                    f"pixels a side; found {size[0]}x{size[1]}; prepare larger images"
                )
        draw, _ = models.discriminator(channels(spec))
        keys = jax.random.split(key, len(levels))
        return {"disc": dict(zip(levels, map(draw, keys), strict=True))}, {}

    return init


def domain_logits(
    discriminator: PyTree, maps: jax.Array, *, enlarge: bool
) -> jax.Array:
    """The discriminator's logits for ``[B, H, W, K]``; enlarged, they are at ``(H, W)``."""
    _, apply = models.discriminator(maps.shape[-1])
    logits = apply(discriminator, maps)
    return resample.bilinear(logits, maps.shape[1:3]) if enlarge else logits


def network_loss(
    discriminator: PyTree,
    target: jax.Array,
    weights: jax.Array | None = None,
    *,
    kind: str = "cross_entropy",
    enlarge: bool = False,
) -> jax.Array:
    """Loss of the network: target maps ``[B, H, W, K]`` should be classified as source.

    ``weights`` and ``kind`` as in `losses.domain_loss`.
    """
    logits = domain_logits(
        jax.lax.stop_gradient(discriminator), target, enlarge=enlarge
    )
    return losses.domain_loss(logits, weights, domain="source", kind=kind)


def discriminator_loss(
    discriminator: PyTree,
    source: jax.Array,
    target: jax.Array,
    weights: jax.Array | None = None,
    *,
    kind: str = "cross_entropy",
    enlarge: bool = False,
    level: str = "",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """``L(D(source), source) + L(D(target), target)``; ``weights`` are on the target.

    Beside it `diagnostics.discriminator`, under the names of ``level``.
    """
    source, target, weights = jax.lax.stop_gradient((source, target, weights))
    logits = [
        domain_logits(discriminator, maps, enlarge=enlarge) for maps in (source, target)
    ]
    loss = losses.domain_loss(logits[0], domain="source", kind=kind)
    loss += losses.domain_loss(logits[1], weights, domain="target", kind=kind)
    return loss, diagnostics.discriminator(*logits, kind=kind, level=level)


def aligned(
    view: Callable[[Outputs, jax.Array, str], jax.Array],
    *,
    adversarial: Mapping[str, float],
    auxiliary: float,
    segmentation: float,
    discriminator: float,
    kind: str = "cross_entropy",
    channels: Callable[[BatchSpec], int] = lambda spec: spec.num_classes,
) -> Method:
    """One discriminator for each level whose maps are aligned: AdaptSegNet and ADVENT.

    ``L = segmentation [CE(main) + auxiliary CE(aux)]
    + sum_k adversarial_k L(D_k(t_k), source)
    + discriminator sum_k [L(D_k(s_k), source) + L(D_k(t_k), target)]``.

    Args:
      view: ``(outputs, images, level) -> [B, H, W, K]``, what a discriminator sees.
      adversarial: weights of the levels "main" and "aux"; 0 leaves a level out.
      auxiliary: as the next three, see the formula.
      segmentation: weight.
      discriminator: weight.
      kind: of `losses.domain_loss`.
      channels: ``K``.
    """
    levels = {level: weight for level, weight in adversarial.items() if weight != 0}
    weights = {"segmentation": segmentation}
    for level, weight in levels.items():
        weights[f"adversarial_{level}"] = weight
        weights[f"discriminator_{level}"] = discriminator

    def loss(params, state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)
        terms = {
            "segmentation": lambda: common.segmentation(
                source, batch.source, auxiliary=auxiliary
            )
        }
        for level in levels:
            disc = params["disc"][level]
            fake = view(target, batch.target.image, level)
            real = view(source, batch.source.image, level)
            terms |= {
                f"adversarial_{level}": partial(network_loss, disc, fake, kind=kind),
                f"discriminator_{level}": partial(
                    discriminator_loss, disc, real, fake, kind=kind, level=level
                ),
            }
        total, metrics = common.weighted(terms, weights)
        outputs = {"source": source, "target": target}
        return total, Aux(metrics, state, model_state, outputs)

    init = discriminators(tuple(levels), channels)
    return Method(init, loss, heads=common.heads(auxiliary or adversarial["aux"]))


def at_level(outputs: Outputs, level: str) -> jax.Array:
    """The logits of the main head or of the second one, ``[B, h, w, C]``."""
    return outputs.logits if level == "main" else outputs.aux_logits

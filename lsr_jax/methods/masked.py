"""Masked image consistency, MIC (CVPR 2023), added to any method."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax.augment import strong
from lsr_jax.keywords import Count, HalfRange, Probability, Weight
from lsr_jax.methods import common, dacs
from lsr_jax.ops import classmix
from lsr_jax.types import Method, PyTree


class WithTeacher(NamedTuple):
    """The state of the method, and the teacher that labels the target."""

    method: PyTree
    teacher: dacs.Teacher


def masked(
    method: Method,
    *,
    weight: Weight = 0.0,
    ratio: Probability = 0.7,
    block: Count = 64,
    confidence: Probability = 0.968,
    teacher_momentum: dacs.Ceiling = 0.999,
    jitter: HalfRange = 0.2,
    jitter_probability: Probability = 0.8,
    blur_sigma: strong.Sigma = (0.15, 1.15),
    blur_probability: Probability = 0.5,
) -> Method:
    """Add ``weight CE_w(student(m x_t), y_t)`` to the loss of a method.

    The teacher ``y_t`` is a moving average of the network, ``m`` a mask of blocks and
    ``w`` the share of confident pixels of the batch, as MIC adds it to AdvSeg and MinEnt
    (``mmseg/models/uda/masking_consistency_module.py``). `dacs` has the same term with
    the teacher that it has anyway.

    Args:
      method: what the term is added to; it now also gets target images.
      weight: lambda; with 0 the method is returned unchanged.
      ratio: share of masked blocks, and
      block: their side in pixels, see `masking.block_mask`. MIC has 64 for crops of
        1024 pixels, 32 for 512.
      confidence: of the teacher, from which a pixel counts into the share.
      teacher_momentum: ceiling of the weight of the old teacher, see `dacs.average`.
      jitter: see `strong.augment`, which changes the image before it is masked.
      jitter_probability: see there.
      blur_sigma: see there.
      blur_probability: see there.
    """
    if weight == 0:
        return method
    effects = {
        "jitter": jitter,
        "jitter_probability": jitter_probability,
        "blur_sigma": blur_sigma,
        "blur_probability": blur_probability,
    }

    def init(key, params, model_state, spec):
        extra, state = method.init(key, params, model_state, spec)
        return extra, WithTeacher(state, dacs.Teacher(params, model_state))

    def loss(params, state, batch, ctx):
        total, aux = method.loss(params, state.method, batch, ctx)
        student, image = params["model"], batch.target.image
        teacher = dacs.follow(
            state.teacher, student, ctx.step, teacher_momentum, ramp_from=0
        )
        label, confident, teacher = dacs.predict(teacher, image, ctx)
        pixel_weights = classmix.pixel_weights(
            jnp.zeros(label.shape, bool),
            confident,
            threshold=confidence,
            trusted=batch.target.trusted,
        )
        # The method has split or folded smaller numbers out of the same key.
        key = jax.random.fold_in(ctx.rng, 1000)
        image = dacs.hidden(key, image, ctx, block=block, ratio=ratio, effects=effects)
        outputs, model_state = ctx.forward(student, aux.model_state, image, True)
        term = common.weighted_segmentation(outputs, label, pixel_weights)
        return total + weight * term, aux._replace(
            metrics={**aux.metrics, "masked_consistency": term},
            method_state=WithTeacher(aux.method_state, teacher),
            model_state=model_state,
        )

    return method._replace(
        init=init,
        loss=loss,
        prepare=common.prepare_inner(method),
        domains=tuple(dict.fromkeys((*method.domains, "target"))),
    )

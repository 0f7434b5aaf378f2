"""Self-training with a mean teacher: DACS, DAFormer, HRDA and MIC.

    L = CE_s + lambda_M CE_w(student(x_m), y_m) + lambda_FD FD + lambda_C CE_w(student(m x_t), y_t)

``x_m`` shows the pixels of half of the classes of a source image on a target image, with
colour jitter and blur; ``y_m`` are the source's labels there and the teacher's predictions
``y_t`` elsewhere, where ``w`` is the share of confident ones. DAFormer (CVPR 2022) adds
the distance ``FD`` to ImageNet's features, MIC (CVPR 2023) the target under a block mask
``m``. HRDA (ECCV 2022) is a network, see ``detail`` of `models.build`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax import losses
from lsr_jax.augment import strong
from lsr_jax.errors import InputError
from lsr_jax.keywords import (
    Count,
    CountOrZero,
    HalfRange,
    Probability,
    Range,
    Weight,
)
from lsr_jax.methods import common
from lsr_jax.ops import classmix, diagnostics, masking, pseudo_labels
from lsr_jax.types import Aux, Context, Frozen, Method, Outputs, PyTree

Ceiling = Annotated[float, Range(most=1, unit="weight of the old value")]
Classes = Annotated[tuple[int, ...], Range(most=254, unit="ids of classes")]
THINGS = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)
"""Traffic lights and signs, riders and persons, vehicles, of Cityscapes' 19 classes."""
DAFORMER = {
    "source_divisor": "pixels",
    "classes_of": "batch",
    "teacher_momentum": 0.999,
    "ramp_from": 0,
    "feature_distance": 0.005,
    "jitter": 0.2,
}
PRESETS = {
    # One network that labels for itself, and the whole loss of an image weighed.
    "paper": {
        "teacher_momentum": 0.0,
        "share": "image",
        "weigh_source": True,
        "void": False,
    },
    "released": {
        "teacher_momentum": 0.99,
        "share": "batch",
        "weigh_source": False,
        "void": True,
    },
    "daformer": DAFORMER,
    "hrda": DAFORMER,
    "mic": {**DAFORMER, "masked": 1.0},
}


class Encoder(NamedTuple):
    """The backbone's parameters and the BatchNorm statistics that a stage began with."""

    params: PyTree
    model_state: PyTree

    def features(self, student: PyTree, images: jax.Array, ctx: Context) -> jax.Array:
        """Its last stage on images in evaluation mode; the heads are not computed."""
        params = jax.lax.stop_gradient({**student, "backbone": self.params})
        return encoded(ctx.forward(params, self.model_state, images, False)[0])


class Teacher(NamedTuple):
    """Parameters and BatchNorm running statistics; starts as a copy of the student.

    ``encoder`` is a frozen `Encoder` where the features of the start are needed, else ().
    """

    params: PyTree
    model_state: PyTree
    encoder: PyTree = ()


def make(
    *,
    segmentation: Weight = 1.0,
    mixed: Weight = 1.0,
    feature_distance: Weight = 0.0,
    masked: Weight = 0.0,
    source_divisor: Literal["valid", "pixels"] = "valid",
    confidence: Probability = 0.968,
    teacher_momentum: Ceiling = 0.99,
    ramp_from: CountOrZero = 1,
    share: Literal["batch", "image", "pixel"] = "batch",
    weigh_source: bool = False,
    void: bool = True,
    classes_of: Literal["image", "batch"] = "image",
    distance_classes: Classes = THINGS,
    distance_ratio: Probability = 0.75,
    mask_ratio: Probability = 0.7,
    mask_block: Count = 64,
    mask_augmented: bool = True,
    jitter: HalfRange = 0.25,
    jitter_probability: Probability = 0.8,
    blur_sigma: strong.Sigma = (0.15, 1.15),
    blur_probability: Probability = 0.5,
) -> Method:
    """Self-training by class mixing, DACS (WACV 2021), DAFormer, HRDA, MIC.

    The defaults are those of DACS's released code.

    Args:
      segmentation: weight of ``CE(source)``.
      mixed: lambda_M. At 0 the mixed image still passes through the network.
      feature_distance: lambda_FD of `losses.feature_distance`, between the encoder's
        last stage on the source and that of the encoder as the stage began.
      masked: lambda_C, of the cross-entropy on masked target images.
      source_divisor: whether ``CE(source)`` is the mean over "valid" pixels, as DACS, or
        the sum over them divided by all "pixels", as DAFormer.
      confidence: of the teacher, from which a pixel counts into the share.
      teacher_momentum: ceiling of the weight of the old teacher, see `average`; 0 makes
        the student its own teacher.
      share: see `classmix.pixel_weights`.
      weigh_source: whether the pasted pixels are weighed by it too; they count 1 else.
      ramp_from: step ``f`` at which the teacher's weight ``1 - 1 / (i - f + 1)`` is 0:
        1 for DACS, 0 for DAFormer.
      void: whether 255 counts as a class of the source, see `classmix.draw_classes`.
      classes_of: the "image" (DACS) or "batch" (DAFormer) whose classes are halved.
      distance_classes: ids of the classes whose features are held.
      distance_ratio: share of a cell that one of them covers.
      mask_ratio: share of masked blocks, and
      mask_block: their side in pixels, see `masking.block_mask`.
      mask_augmented: whether the image is jittered and blurred before it is masked.
      jitter: strength of `strong.colour_jitter`; 0 for none.
      jitter_probability: of each image.
      blur_sigma: range of the deviation of `strong.blur`, in pixels.
      blur_probability: of each image; 0 for none.
    """
    weights = {
        "segmentation": segmentation,
        "mixed": mixed,
        "feature_distance": feature_distance,
        "masked": masked,
    }

    def init(key, params, model_state, spec):
        del key, spec
        encoder = ()
        if feature_distance:
            encoder = Frozen(Encoder(params["backbone"], model_state))
        return {}, Teacher(params, model_state, encoder)

    effects = {
        "jitter": jitter,
        "jitter_probability": jitter_probability,
        "blur_sigma": blur_sigma,
        "blur_probability": blur_probability,
    }

    def loss(params, state, batch, ctx):
        sizes = [images.image.shape[1:3] for images in batch]
        if sizes[0] != sizes[1]:
            raise InputError(
                f"method: dacs mixes images of one size (found {sizes[0]} and {sizes[1]}); "
                "set augment.source.crop and augment.target.crop to one size"
            )
        student = params["model"]
        source, model_state = ctx.forward(
            student, ctx.model_state, batch.source.image, True
        )
        state = follow(state, student, ctx.step, teacher_momentum, ramp_from=ramp_from)
        pseudo_label, confident, state = predict(state, batch.target.image, ctx)
        num_classes = source.logits.shape[-1]
        metrics = {
            "confident": (confident >= confidence).mean(dtype=jnp.float32),
            "target_classes": diagnostics.classes(
                pseudo_label, num_classes=num_classes
            ),
        }
        weigh = functools.partial(
            classmix.pixel_weights,
            confidence=confident,
            threshold=confidence,
            share=share,
            trusted=batch.target.trusted,
        )

        # Not a bare split: the step folds its dropout key out of the same key.
        keys = jax.random.split(jax.random.fold_in(ctx.rng, 1))
        chosen = classmix.draw_classes(
            keys[0],
            batch.source.label,
            num_classes=num_classes,
            void=void,
            of=classes_of,
        )
        pasted = classmix.mask(batch.source.label, chosen)
        image = classmix.mix(pasted, batch.source.image, batch.target.image)
        mixed_outputs, model_state = ctx.forward(
            student, model_state, augmented(keys[1], image, ctx, effects), True
        )
        nothing = jnp.zeros_like(pasted)
        if masked:
            image = hidden(
                jax.random.fold_in(ctx.rng, 2),
                batch.target.image,
                ctx,
                block=mask_block,
                ratio=mask_ratio,
                effects=effects if mask_augmented else None,
            )
            masked_outputs, model_state = ctx.forward(student, model_state, image, True)

        def supervised():
            if source_divisor == "valid":
                return common.segmentation(source, batch.source)
            ones = jnp.ones(batch.source.label.shape, source.logits.dtype)
            return common.weighted_segmentation(source, batch.source.label, ones)

        def distance():
            reference = state.encoder.value.features(student, batch.source.image, ctx)
            factor = batch.source.label.shape[-1] // reference.shape[2]
            cells = tuple(side // factor for side in batch.source.label.shape[1:])
            if cells != reference.shape[1:3]:
                raise InputError(
                    "method.feature_distance: needs a network with half-pixel corners (a "
                    f"Mix Transformer, a ResNet v1c), found {reference.shape[1:3]} cells "
                    f"for an image of {cells} cells of {factor} pixels; set it to 0"
                )
            majority = losses.majority_labels(
                batch.source.label,
                factor,
                num_classes=num_classes,
                ratio=distance_ratio,
            )
            cells = jnp.isin(majority, jnp.asarray(distance_classes, majority.dtype))
            value = losses.feature_distance(encoded(source), reference, cells)
            return value, {"distance_cells": cells.mean(dtype=jnp.float32)}

        terms = {
            "segmentation": supervised,
            "mixed": lambda: common.weighted_segmentation(
                mixed_outputs,
                classmix.mix(pasted, batch.source.label, pseudo_label),
                weigh(nothing if weigh_source else pasted),
            ),
            "feature_distance": distance,
            "masked": lambda: common.weighted_segmentation(
                masked_outputs, pseudo_label, weigh(nothing)
            ),
        }
        total, values = common.weighted(terms, weights)
        return total, Aux(values | metrics, state, model_state, {"source": source})

    return Method(init, loss)


def augmented(
    key: jax.Array, image: jax.Array, ctx: Context, effects: Mapping
) -> jax.Array:
    """Network input after `strong.augment` with ``effects`` of its RGB."""
    image = strong.augment(key, ctx.pixels.restore(image), **effects)
    return ctx.pixels.normalise(image)


def hidden(
    key: jax.Array,
    image: jax.Array,
    ctx: Context,
    *,
    block: int,
    ratio: float,
    effects: Mapping | None,
) -> jax.Array:
    """MIC's input: `augmented` unless ``effects`` is None, 0 where blocks are masked."""
    mask_key, key = jax.random.split(key)
    if effects is not None:
        image = augmented(key, image, ctx, effects)
    visible = masking.block_mask(mask_key, image.shape[:3], block=block, ratio=ratio)
    return jnp.where(visible[..., None], image, 0)


def encoded(outputs: Outputs) -> jax.Array:
    """The output of the last stage of the encoder."""
    return outputs.features if outputs.encoder is None else outputs.encoder


def follow(
    state: Teacher,
    student: PyTree,
    step: jax.Array,
    ceiling: float,
    *,
    ramp_from: int = 1,
) -> Teacher:
    """The teacher at the start of step ``i``: `average` of it and the student.

    DACS averages after its optimiser's step. Here the average is taken first in the next
    step, of the same weights, so it lags by one step in a checkpoint and nowhere else;
    its number is that of our step less one. DAFormer averages where we do. Up to step
    ``ramp_from`` the teacher is a copy. No gradient passes.
    """
    student = jax.lax.stop_gradient(student)
    step = jnp.maximum(step - ramp_from, 0)
    return state._replace(params=average(state.params, student, step, ceiling))


def average(
    teacher: PyTree, student: PyTree, step: jax.Array, ceiling: float
) -> PyTree:
    """``a T + (1 - a) S`` with ``a = min(1 - 1 / (step + 1), ceiling)``, step from 0.

    ``trainUDA.py::update_ema_variables``; over parameters only: BatchNorm statistics are
    neither copied nor averaged.
    """
    old = jnp.minimum(1 - 1 / (jnp.asarray(step, float) + 1), ceiling)

    def leaf(before, now):
        weight = old.astype(before.dtype)
        return weight * before + (1 - weight) * now

    return jax.tree.map(leaf, teacher, student)


def predict(
    state: Teacher, images: jax.Array, ctx: Context
) -> tuple[jax.Array, jax.Array, Teacher]:
    """Labels and confidences ``[B, H, W]`` of the teacher, and the teacher after them.

    It stays in train mode, without dropout: images are labelled with the statistics of their
    own batch.
    """
    outputs, model_state = ctx.forward(
        state.params, state.model_state, images, True, dropout=False
    )
    probabilities = common.upsampled_probabilities(outputs.logits, images)
    label = pseudo_labels.thresholded(probabilities, threshold=0.0)
    return label, probabilities.max(axis=-1), state._replace(model_state=model_state)

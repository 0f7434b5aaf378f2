"""Self-training by class mixing (DACS, WACV 2021), and its mean teacher.

    L = CE_s + lambda_M CE_w(student(x_m), y_m)

``x_m`` shows the pixels of half of the classes of a source image on a target image, with
colour jitter and blur; ``y_m`` are the source's labels there and the teacher's predictions
elsewhere, where ``w`` is the share of confident ones.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax import losses
from lsr_jax.augment import strong
from lsr_jax.errors import InputError
from lsr_jax.keywords import HalfRange, Probability, Range, Weight
from lsr_jax.methods import common
from lsr_jax.ops import classmix, diagnostics, pseudo_labels, resample
from lsr_jax.types import Aux, Context, Method, PyTree

Ceiling = Annotated[float, Range(most=1, unit="weight of the old value")]
Sigma = Annotated[
    tuple[float, float], Range(excluded=0, increasing=True, unit="pixels")
]
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
}


class Teacher(NamedTuple):
    """Parameters and BatchNorm running statistics; starts as a copy of the student."""

    params: PyTree
    model_state: PyTree


def make(
    *,
    segmentation: Weight = 1.0,
    mixed: Weight = 1.0,
    confidence: Probability = 0.968,
    teacher_momentum: Ceiling = 0.99,
    share: Literal["batch", "image", "pixel"] = "batch",
    weigh_source: bool = False,
    void: bool = True,
    jitter: HalfRange = 0.25,
    jitter_probability: Probability = 0.8,
    blur_sigma: Sigma = (0.15, 1.15),
    blur_probability: Probability = 0.5,
) -> Method:
    """Self-training by class mixing, DACS (WACV 2021): half of the source onto the target.

    ``L = CE(source) + mixed * CE(mixed image)``; defaults are the released code's.

    Args:
      segmentation: weight of ``CE(source)``.
      mixed: lambda_M. At 0 the mixed image still passes through the network.
      confidence: of the teacher, from which a pixel counts into the share.
      teacher_momentum: ceiling of the weight of the old teacher, see `average`; 0 makes
        the student its own teacher.
      share: see `classmix.pixel_weights`.
      weigh_source: whether the pasted pixels are weighed by it too; they count 1 else.
      void: whether 255 counts as a class of the source, see `classmix.draw_classes`.
      jitter: strength of `strong.colour_jitter`; 0 for none.
      jitter_probability: of each mixed image.
      blur_sigma: range of the deviation of `strong.blur`, in pixels.
      blur_probability: of each mixed image; 0 for none.
    """
    weights = {"segmentation": segmentation, "mixed": mixed}

    def init(key, params, model_state, spec):
        del key, spec
        return {}, Teacher(params, model_state)

    def augmented(key, image, ctx: Context):
        image = ctx.pixels.restore(image)
        jitter_key, blur_key = jax.random.split(key)
        if jitter:
            image = strong.colour_jitter(
                jitter_key, image, strength=jitter, probability=jitter_probability
            )
        if blur_probability:
            image = strong.blur(
                blur_key, image, sigma=blur_sigma, probability=blur_probability
            )
        return ctx.pixels.normalise(image)

    def loss(params, state, batch, ctx):
        sizes = [images.image.shape[1:3] for images in batch]
        if sizes[0] != sizes[1]:
            raise InputError(
                f"method: dacs mixes images of one size (found {sizes[0]} and {sizes[1]}); "
                "set augment.source.crop and augment.target.crop to one size"
            )
        source, model_state = ctx.forward(
            params["model"], ctx.model_state, batch.source.image, True
        )
        state = follow(state, params["model"], ctx.step, teacher_momentum)
        label, confident, state = predict(state, batch.target.image, ctx)
        num_classes = source.logits.shape[-1]
        diagnosed = {
            "confident": (confident >= confidence).mean(dtype=jnp.float32),
            "target_classes": diagnostics.classes(label, num_classes=num_classes),
        }

        # Not a bare split: the step folds its dropout key out of the same key.
        keys = jax.random.split(jax.random.fold_in(ctx.rng, 1))
        chosen = classmix.draw_classes(
            keys[0], batch.source.label, num_classes=num_classes, void=void
        )
        pasted = classmix.mask(batch.source.label, chosen)
        image = classmix.mix(pasted, batch.source.image, batch.target.image)
        label = classmix.mix(pasted, batch.source.label, label)
        pixel_weights = classmix.pixel_weights(
            jnp.zeros_like(pasted) if weigh_source else pasted,
            confident,
            threshold=confidence,
            share=share,
        )
        student, model_state = ctx.forward(
            params["model"], model_state, augmented(keys[1], image, ctx), True
        )
        terms = {
            "segmentation": lambda: common.segmentation(source, batch.source),
            "mixed": lambda: losses.weighted_cross_entropy(
                resample.bilinear(student.logits, image.shape[1:3]),
                label,
                pixel_weights,
            ),
        }
        total, metrics = common.weighted(terms, weights)
        return total, Aux(metrics | diagnosed, state, model_state, {"source": source})

    return Method(init, loss)


def follow(state: Teacher, student: PyTree, step: jax.Array, ceiling: float) -> Teacher:
    """The teacher at the start of step ``i``: what DACS has at the end of ``i - 1``.

    DACS averages after its optimiser's step. Here the average is taken first in the next
    step, of the same weights, so it lags by one step in a checkpoint and nowhere else. In
    step 0 the weight of the teacher is 0, as in step 1: it starts as a copy. No gradient
    passes.
    """
    student = jax.lax.stop_gradient(student)
    params = average(state.params, student, jnp.maximum(step - 1, 0), ceiling)
    return state._replace(params=params)


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

    It stays in train mode: images are labelled with the statistics of their own batch.
    """
    outputs, model_state = ctx.forward(state.params, state.model_state, images, True)
    probabilities = common.upsampled_probabilities(outputs.logits, images)
    label = pseudo_labels.thresholded(probabilities, threshold=0.0)
    return label, probabilities.max(axis=-1), Teacher(state.params, model_state)

"""Mean teacher: the network that labels the target in DACS.

Its parameters are a moving average of the student's. Its BatchNorm statistics are those
of the target images that it has labelled.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax.methods import common
from lsr_jax.ops import pseudo_labels
from lsr_jax.types import Context, PyTree


class Teacher(NamedTuple):
    """Parameters and BatchNorm running statistics; starts as a copy of the student."""

    params: PyTree
    model_state: PyTree


def follow(state: Teacher, student: PyTree, step: jax.Array, ceiling: float) -> Teacher:
    """The teacher at the start of step ``i``: what DACS has at the end of ``i - 1``.

    DACS averages after its optimiser's step, with the weights that this step has just
    made. They are the parameters of our next step, in which the average is taken before
    anything else; so it lags by one step in a checkpoint and nowhere else. In step 0 the
    weight of the teacher is 0, as in step 1: it starts as a copy. No gradient passes.
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

"""The training state: one tree that determines the rest of a stage."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import struct

from lsr_jax.types import BatchSpec, Method, PyTree


@struct.dataclass
class TrainState:
    """Input and output of a step; donated, replicated and checkpointed as a whole.

    Attributes:
      step: int32, steps done in this stage.
      params: ``{"model": ...}`` and what the method adds, such as ``"disc"``.
      model_state: BatchNorm running statistics.
      method_state: prototypes, anchors, teachers: whatever the method needs.
      opt_state: of the optimiser over all of ``params``.
      rng: the stage's key; a step folds its number into it.
      skipped: int32, steps that were not finite and left everything as it was.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    method_state: PyTree
    opt_state: PyTree
    rng: jax.Array
    skipped: jax.Array


def with_method(
    model_params: PyTree,
    model_state: PyTree,
    method: Method,
    spec: BatchSpec,
    key: jax.Array,
) -> tuple[PyTree, PyTree]:
    """All parameters of a stage, the method's own included, and the method's state."""
    extra, method_state = method.init(key, model_params, model_state, spec)
    return {"model": model_params, **extra}, method_state


def create(
    params: PyTree,
    model_state: PyTree,
    method_state: PyTree,
    optimizer: optax.GradientTransformation,
    rng: jax.Array,
) -> TrainState:
    """The state before step 0.

    Everything is copied: a method may keep the model's parameters (a teacher, a
    pseudo-labeler), and a donated buffer must have one owner.
    """
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        method_state=method_state,
        opt_state=optimizer.init(params),
        rng=rng,
        skipped=jnp.zeros((), jnp.int32),
    )
    return jax.tree.map(jnp.copy, state)

"""The step-wise norm loss of Feature To Adapt, and the damping of its weight."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lsr_jax.ops import numerics, resample


def stepwise_norm(
    features: jax.Array, previous: jax.Array | None = None, *, delta: float
) -> jax.Array:
    """Squared distance of the norms of features to their earlier norms plus a step.

    ``mean_x (||f(x; theta_0)|| + delta - ||f(x; theta)||)^2`` over all cells.

    Args:
      features: ``[B, h, w, D]`` of the current parameters.
      previous: the same of the earlier parameters, as the paper, without gradient. None
        takes ``features`` themselves, as the released
        ``train.py::get_L2norm_loss_self_driven``: the value is always ``delta^2`` and the
        gradient ``-2 delta f / ||f||`` over the number of cells (0 for zero vectors).
      delta: 0.12 in the released code.
    """
    norm = numerics.safe_norm(resample.at_least_float32(features))
    start = norm
    if previous is not None:
        start = numerics.safe_norm(previous.astype(norm.dtype))
    # In this order the difference of equal norms is exactly 0.
    return jnp.square(jax.lax.stop_gradient(start) - norm + delta).mean()


def damping(step: jax.Array, *, decay_steps: int, rate: float = 1.0) -> jax.Array:
    """``1 - rate step / decay_steps``: the factor that fades out a loss.

    CLAN and Feature To Adapt fade the adversarial loss and the weight discrepancy over
    100,000 and 150,000 steps. Feature To Adapt fades the norm loss with ``rate`` 1.5: its
    ``train.py`` does not stop at 0, so from two thirds of the steps on norms are pushed
    down.
    """
    dtype = jnp.result_type(float)
    return 1 - rate * jnp.asarray(step).astype(dtype) / decay_steps

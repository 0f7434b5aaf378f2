"""Discrepancy of two heads' outputs: SWD (CVPR 2019) and MCD (CVPR 2018)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from lsr_jax.ops import numerics, resample

_HIGHEST = jax.lax.Precision.HIGHEST


def sliced_wasserstein(
    first: jax.Array, second: jax.Array, directions: jax.Array | None = None
) -> jax.Array:
    """Sliced Wasserstein discrepancy of two heads' outputs (Lee et al., CVPR 2019).

    ``mean_{r, m} (sort(p1 theta_m)_r - sort(p2 theta_m)_r)^2``: every direction projects
    both sets of outputs, which are paired by rank and not by pixel. The gradient takes
    the order as constant (``swd.py::discrepancy_slice_wasserstein``). Its size falls
    with the number of classes: a weight on it is a real choice.

    Args:
      first: ``[..., C]``, all leading axes are samples.
      second: ``[..., C]``, as many.
      directions: ``[C, M]``, as of `random_directions`; each column is divided by its
        length. None compares column by column, as the original for a single output.

    Raises:
      ValueError: the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"the outputs differ: {first.shape} and {second.shape}")
    outputs = jnp.stack([first, second]).reshape(2, -1, first.shape[-1])
    outputs = resample.at_least_float32(outputs)
    if directions is not None:
        units = numerics.unit(directions.astype(outputs.dtype).T)
        outputs = jnp.einsum("knc,mc->knm", outputs, units, precision=_HIGHEST)
    ordered = jnp.sort(outputs, axis=1)
    return jnp.square(ordered[0] - ordered[1]).mean()


def random_directions(
    key: jax.Array, num_classes: int, *, count: int = 128
) -> jax.Array:
    """Standard normal ``[C, M]`` for `sliced_wasserstein`; draw afresh at every step."""
    return jax.random.normal(key, (num_classes, count))


def absolute_discrepancy(first: jax.Array, second: jax.Array) -> jax.Array:
    """``mean |p1 - p2|`` of two heads' outputs, pixel by pixel: MCD (``swd.py``)."""
    first, second = resample.at_least_float32(first), resample.at_least_float32(second)
    return numerics.absolute(first - second).mean()

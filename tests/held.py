"""Holds a loss to its recorded value, gradients and float64 value."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def widen(tree):
    """The recorded float32 inputs, in float64 (under ``jax.enable_x64``)."""
    return jax.tree.map(lambda x: x.astype("float64") if is_single(x) else x, tree)


def is_single(x):
    return getattr(x, "dtype", None) == jnp.float32


@functools.cache
def compiled(loss):
    def of(moving, fixed):
        return loss(**moving, **fixed)

    return jax.jit(of), jax.jit(jax.value_and_grad(of))


def computed(loss, inputs, fixed, *, wide=True):
    """``(value, gradients, float64 value)`` of ``loss(**inputs, **fixed)`` in numpy."""
    value_of, value_and_grad = compiled(loss)
    value, gradients = value_and_grad(inputs, fixed)
    precise = None
    if wide:
        with jax.enable_x64(True):
            precise = np.asarray(value_of(widen(inputs), widen(fixed)))
    return np.asarray(value), jax.tree.map(np.asarray, gradients), precise


def holds(golden, stem, loss, inputs, *, wide=True, **fixed):
    """A loss against ``<stem>value``, ``<stem>value_f64`` and its gradients.

    Args:
      golden: the fixture.
      stem: of the keys.
      loss: a function; it is compiled once.
      inputs: ``{name: (array, the end of the key of its gradient)}``.
      wide: whether ``<stem>value_f64`` exists.
      **fixed: the other inputs.

    Returns:
      what `computed` returns, for `holds_scaled`.
    """
    arrays = {name: array for name, (array, _) in inputs.items()}
    results = computed(loss, arrays, fixed, wide=wide)
    holds_scaled(golden, stem, results, inputs, 1)
    return results


def holds_scaled(golden, stem, results, inputs, factor):
    """The same of ``factor`` times a loss: a mean that was recorded as a sum."""
    value, gradients, precise = results
    golden.holds(f"{stem}value", factor * value)
    for name, (_, key) in inputs.items():
        golden.holds_gradient(f"{stem}{key}", factor * gradients[name])
    if precise is not None:
        golden.holds(f"{stem}value_f64", factor * precise)

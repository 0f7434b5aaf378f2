"""Holds a loss to its recorded value, gradients and float64 value."""

import functools

import jax
import jax.numpy as jnp


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


def holds(golden, stem, loss, gradients, *, wide=True, value="value", **fixed):
    """``loss(**inputs)``: value and gradients in float32, value in float64.

    Args:
      golden: the fixture.
      stem: of the keys: ``<stem>value``, ``<stem>value_f64``.
      loss: a function that is compiled once.
      gradients: ``{name of an input: (its array, the key of its gradient)}``.
      wide: whether ``<stem>value_f64`` exists.
      value: the end of the key of the value.
      **fixed: the other inputs.
    """
    moving = {name: array for name, (array, _) in gradients.items()}
    value_of, value_and_grad = compiled(loss)
    ours, found = value_and_grad(moving, fixed)
    golden.holds(f"{stem}{value}", ours)
    for name, (_, key) in gradients.items():
        golden.holds_gradient(f"{stem}{key}", found[name])
    if wide:
        with jax.enable_x64(True):
            ours = value_of(widen(moving), widen(fixed))
            golden.holds(f"{stem}{value}_f64", ours)

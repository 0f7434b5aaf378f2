"""Initial weights: one random draw for the whole tree, scaled by rules on names.

One draw, because XLA compiles a random number generator for every array that is asked
for, and a ResNet-101 has more than a hundred.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lsr_jax.types import PyTree

Transform = Callable[[jax.Array], jax.Array]
Rule = Callable[[str, tuple[int, ...], int], Transform]
"""``(path, shape, fan_in) -> transform`` from standard normal numbers to weights.

``fan_in`` is that of the kernel beside the leaf, 0 beside none.
"""


def draw(key: jax.Array, shapes: PyTree, rule: Rule) -> PyTree:
    """Draw weights of ``shapes``, whose leaves are named kernel, bias or scale."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    kernels = {
        path[:-1]: math.prod(leaf.shape[:-1])
        for path, leaf in leaves
        if path[-1].key == "kernel"
    }

    @jax.jit
    def fill(key):
        numbers = jax.random.normal(key, (sum(leaf.size for _, leaf in leaves),))
        start, weights = 0, []
        for path, leaf in leaves:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            transform = rule(name, leaf.shape, kernels.get(path[:-1], 0))
            own = numbers[start : start + leaf.size].reshape(leaf.shape)
            weights.append(transform(own))
            start += leaf.size
        return weights

    return jax.tree.unflatten(tree, fill(key))


def running_statistics(shapes: PyTree) -> PyTree:
    """Running mean 0 and variance 1."""

    def start(path, leaf):
        return (jnp.ones if path[-1].key == "var" else jnp.zeros)(leaf.shape)

    return jax.tree_util.tree_map_with_path(start, shapes)


def normal(deviation: float) -> Transform:
    """``N(0, deviation)``."""
    return lambda numbers: deviation * numbers


def constant(value: float) -> Transform:
    """The same value everywhere."""
    return lambda numbers: jnp.full_like(numbers, float(value))


def he_normal(path: str, shape: tuple[int, ...], fan_in: int) -> Transform:
    """He-normal convolutions, zero biases, scales 1."""
    if path.endswith("kernel"):
        return normal(math.sqrt(2.0 / fan_in))
    return constant(path.endswith("scale"))


def torch_default(path: str, shape: tuple[int, ...], fan_in: int) -> Transform:
    """PyTorch's convolution: kernel and bias from U(-b, b), ``b = 1/sqrt(fan_in)``."""
    bound = 1.0 / math.sqrt(fan_in)
    return lambda numbers: bound * jax.scipy.special.erf(numbers / math.sqrt(2.0))


def small_classifier(path: str, shape: tuple[int, ...], fan_in: int) -> Transform:
    """N(0, 0.01) kernels, zero biases, scales 1."""
    if path.endswith("kernel"):
        return normal(0.01)
    return constant(path.endswith("scale"))


def released_classifier(path: str, shape: tuple[int, ...], fan_in: int) -> Transform:
    """N(0, 0.01) kernels, biases as PyTorch's default."""
    rule = small_classifier if path.endswith("kernel") else torch_default
    return rule(path, shape, fan_in)


def parts(backbone: Rule, heads: Rule) -> Rule:
    """One rule for the parameters under ``backbone/`` and another for the heads."""

    def rule(path, shape, fan_in):
        part = backbone if path.startswith("backbone/") else heads
        return part(path, shape, fan_in)

    return rule

"""Initial weights: one random draw for the whole tree, scaled by rules on names.

One draw, because XLA compiles a random number generator for every array it is asked
for, and a ResNet-101 asks for more than a hundred.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lsr_jax import types

Rule = Callable[[str, tuple[int, ...], int], Callable[[jax.Array], jax.Array]]


def draw(key: jax.Array, shapes: types.PyTree, rule: Rule) -> types.PyTree:
    """Fills the tree ``shapes``.

    Args:
      key: a random key.
      shapes: nested dict of ``ShapeDtypeStruct``; leaves are named kernel, bias, scale.
      rule: ``(path, shape, fan_in) -> transform``, where ``transform`` takes standard
        normal numbers of that shape to the weights. ``fan_in`` is that of the kernel
        beside the leaf, 0 beside none.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    kernels = {
        path[:-1]: math.prod(leaf.shape[:-1])
        for path, leaf in leaves
        if path[-1].key == "kernel"
    }
    transforms = [
        rule(
            jax.tree_util.keystr(path, simple=True, separator="/"),
            leaf.shape,
            kernels.get(path[:-1], 0),
        )
        for path, leaf in leaves
    ]

    @jax.jit
    def fill(key):
        sizes = [math.prod(leaf.shape) for _, leaf in leaves]
        numbers = jax.random.normal(key, (sum(sizes),))
        offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        return [
            transform(numbers[start : start + size].reshape(leaf.shape))
            for transform, start, size, (_, leaf) in zip(
                transforms, offsets, sizes, leaves, strict=True
            )
        ]

    return jax.tree.unflatten(tree, fill(key))


def running_statistics(shapes: types.PyTree) -> types.PyTree:
    """Running mean 0 and variance 1."""

    def start(path, leaf):
        return (jnp.ones if path[-1].key == "var" else jnp.zeros)(leaf.shape)

    return jax.tree_util.tree_map_with_path(start, shapes)


def scratch(path: str, shape: tuple[int, ...], fan_in: int):
    """He-normal convolutions, classifiers N(0, 0.01), residual blocks the identity."""
    if path.endswith("kernel"):
        return _normal(0.01 if _classifies(path) else math.sqrt(2.0 / fan_in))
    return _constant(path.endswith("scale") and not path.endswith("bn3/scale"))


def released(path: str, shape: tuple[int, ...], fan_in: int):
    """N(0, 0.01) and PyTorch's biases in the heads; VGG bodies as torchvision's."""
    if path.endswith("kernel"):
        if "/features_" not in path:
            return _normal(0.01)
        if shape[-1] == 1024:
            return torch_default(path, shape, fan_in)
        return _normal(math.sqrt(2.0 / (9 * shape[-1])))
    if path.endswith("bias") and (_classifies(path) or shape == (1024,)) and fan_in:
        return torch_default(path, shape, fan_in)
    return _constant(path.endswith("scale"))


def kaiming(path: str, shape: tuple[int, ...], fan_in: int):
    """He-normal convolutions, PyTorch's bias of the last one: CAG's whole network."""
    if path.endswith("kernel"):
        return _normal(math.sqrt(2.0 / fan_in))
    if path.endswith("bias") and fan_in:
        return torch_default(path, shape, fan_in)
    return _constant(path.endswith("scale"))


def torch_default(path: str, shape: tuple[int, ...], fan_in: int):
    """PyTorch's convolution: kernel and bias from U(-b, b), ``b = 1/sqrt(fan_in)``."""
    bound = 1.0 / math.sqrt(fan_in)
    return lambda normal: bound * jax.scipy.special.erf(normal / math.sqrt(2.0))


def _classifies(path):
    return bool(re.match(r"(aux_)?head/(conv2d_list_\d|classifier)/", path))


def _normal(deviation):
    return lambda normal: deviation * normal


def _constant(value):
    return lambda normal: jnp.full_like(normal, float(value))


RULES = {
    "deeplabv2": {"scratch": scratch, "released": released},
    "deeplabv3plus": {"scratch": scratch, "released": kaiming},
}

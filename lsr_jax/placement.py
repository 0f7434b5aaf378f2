"""Two placements on one mesh: batches split on axis ``data``, everything else replicated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lsr_jax.types import PyTree


def replicated(mesh: Mesh) -> NamedSharding:
    """The placement of states, parameters and metrics."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The placement of batches: the leading axis over ``data``."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_replicated(tree: PyTree, mesh: Mesh) -> PyTree:
    """The tree with every leaf on all devices; every process has to hold the same."""
    return _put(tree, replicated(mesh))


def put_split(tree: PyTree, mesh: Mesh) -> PyTree:
    """A batch that every process holds whole, its rows spread over the devices."""
    return _put(tree, split(mesh))


def _put(tree, placement: NamedSharding):
    """`jax.device_put`; with several processes each fills its own devices.

    There `jax.device_put` would send every array around to compare it.
    """
    if placement.is_fully_addressable:
        return jax.device_put(tree, placement)
    return jax.tree.map(lambda leaf: _put_own(leaf, placement), tree)


def _put_own(leaf, placement: NamedSharding) -> jax.Array:
    """One leaf, of which this process fills its own devices."""
    if isinstance(leaf, jax.Array) and leaf.sharding == placement:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put_own(jax.random.key_data(leaf), placement)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, placement, lambda i: value[i])

"""Two placements on one mesh: batches split on axis ``data``, everything else replicated."""

from __future__ import annotations

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lsr_jax.types import PyTree


def replicated(mesh: Mesh) -> NamedSharding:
    """The placement of states, parameters and metrics."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The placement of batches: the leading axis over ``data``."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_replicated(tree: PyTree, mesh: Mesh) -> PyTree:
    """The tree with every leaf on all devices."""
    return jax.device_put(tree, replicated(mesh))


def put_split(tree: PyTree, mesh: Mesh) -> PyTree:
    """A batch that this process holds whole, its rows spread over the devices."""
    return jax.device_put(tree, split(mesh))

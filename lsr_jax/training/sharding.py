"""Two placements on one mesh: batches split on axis ``data``, everything else replicated.

One mesh, two placements: batches split on axis ``data``, everything else replicated.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lsr_jax import keywords
from lsr_jax.errors import InputError
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


__all__ = [
    "check_batch_size",
    "compile_step",
    "make_mesh",
    "put_batch",
    "put_replicated",
    "put_split",
    "replicated",
    "share_cpu",
    "split",
]


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh over the first ``num_devices`` devices (all by default).

    The axis is Auto: under jit, sums over a sharded batch (BatchNorm, prototypes,
    losses) are global without further code.

    Raises:
      InputError: fewer devices at hand than asked for, or a process without any.
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise InputError(
            f"num_devices: expected 1 to {len(devices)} on this machine, found {count}"
        )
    idle = set(range(jax.process_count())) - {d.process_index for d in devices[:count]}
    if idle:
        raise InputError(
            f"num_devices: expected devices of all {jax.process_count()} processes, "
            f"found {count}, which leaves none to process {min(idle)}; start fewer "
            "processes, or leave num_devices at None"
        )
    return jax.make_mesh(
        (count,),
        ("data",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=devices[:count],
    )


def share_cpu(count: int) -> None:
    """Let JAX show a CPU as ``count`` devices, before it is used for the first time.

    One program leaves much of a CPU idle; two, each with half of the batch, do not.
    Accelerators are not touched.

    Raises:
      InputError: no device at all, or more than there can be.
    """
    keywords.check_value("cpu_devices", count, keywords.CpuDevices)
    if jax.config.jax_num_cpu_devices != count:
        jax.config.update("jax_num_cpu_devices", count)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise InputError unless the mesh divides the batch."""
    count = mesh.devices.size
    if batch_size % count:
        raise InputError(
            f"batch_size: expected a multiple of the {count} devices, found "
            f"{batch_size}; change batch_size or set num_devices"
        )


def put_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """This process's rows of a batch of numpy arrays as one global, split array each."""
    placement = split(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(placement, x), batch
    )


def compile_step(step: Callable, mesh: Mesh) -> Callable:
    """The jitted step: state donated and replicated, batch split, metrics replicated."""
    whole, parts = replicated(mesh), split(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, parts),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )

"""One mesh, two placements: batches split on axis ``data``, everything else replicated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lsr_jax import keywords
from lsr_jax.errors import InputError
from lsr_jax.types import PyTree


def make_mesh(
    num_devices: int | None = None, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over the first ``num_devices`` devices (all by default) of ``devices``.

    ``devices`` are those of this run by default; a description of absent ones
    (`jax.experimental.topologies`) gives a mesh to compile for.

    The axis is Auto: under jit, sums over a sharded batch (BatchNorm, prototypes,
    losses) are global without further code.

    Raises:
      InputError: fewer devices than asked for, or a process without any.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise InputError(
            f"num_devices: expected 1 to {len(devices)} on this machine, found {count}"
        )
    idle = set(range(jax.process_count())) - {d.process_index for d in devices[:count]}
    if idle:
        raise InputError(
            f"num_devices: {count} devices leave none to process {min(idle)} of "
            f"{jax.process_count()}; start fewer processes, or set num_devices to None"
        )
    axis = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((count,), ("data",), axis_types=axis, devices=devices[:count])


def share_cpu(count: int) -> None:
    """Let JAX show a CPU as ``count`` devices; call it before JAX is used.

    One program leaves much of a CPU idle; two, each with half of the batch, do not.
    """
    keywords.check_value("cpu_devices", count, keywords.CpuDevices)
    if jax.config.jax_num_cpu_devices != count:
        jax.config.update("jax_num_cpu_devices", count)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise InputError unless the devices divide the batch."""
    count = mesh.devices.size
    if batch_size % count:
        raise InputError(
            f"batch_size: expected a multiple of the {count} devices, found "
            f"{batch_size}; change batch_size or set num_devices"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of states, parameters and metrics."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The sharding of batches: the leading axis over ``data``."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """The tree with every leaf on all devices; every process has to hold the same."""
    return _put(tree, replicated(mesh))


def replicated_shapes(shapes: PyTree, mesh: Mesh) -> PyTree:
    """Shapes and dtypes with the replicated sharding."""
    placement = replicated(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement), shapes
    )


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """This process's rows of a batch of numpy arrays, as one global sharded array each."""
    placement = split(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(placement, x), batch
    )


def shard_whole_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """A batch that every process holds whole, its rows spread over the devices."""
    return _put(batch, split(mesh))


def _put(tree, placement: NamedSharding):
    """`jax.device_put`; with several processes each fills its own devices.

    There `jax.device_put` would send every array around to compare it.
    """
    if placement.is_fully_addressable:
        return jax.device_put(tree, placement)

    def put(leaf):
        if isinstance(leaf, jax.Array) and leaf.sharding == placement:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, placement, lambda i: value[i])

    return jax.tree.map(put, tree)


def jit_step(step: Callable, mesh: Mesh) -> Callable:
    """The jitted step: state donated and replicated, batch split, metrics replicated."""
    whole, parts = replicated(mesh), split(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, parts),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )

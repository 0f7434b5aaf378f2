"""JAX's settings, and the compiled step with its memory and cost."""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax

from lsr_jax import files
from lsr_jax.errors import InputError
from lsr_jax.training import sharding

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory")
# Settings that change the numbers of a run: environment variables must not.
NUMERICS = {
    "jax_default_matmul_precision": None,
    "jax_default_prng_impl": "threefry2x32",
    "jax_enable_x64": False,
    "jax_threefry_partitionable": True,
}
# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def configure(cpu_devices: int) -> None:
    """Set up JAX for a command, see `sharding.share_cpu`; call it before JAX is used."""
    sharding.share_cpu(cpu_devices)
    for name, value in NUMERICS.items():
        jax.config.update(name, value)
    use_persistent_cache()
    keep_memory(cpu_devices)


def keep_memory(devices: int) -> None:
    """Keep the memory of arrays that are freed for the next ones, where glibc allocates it.

    A program of XLA on a CPU allocates its temporary arrays anew each time it runs, and each
    of their pages would be a page fault again. Only malloc's main arena keeps arrays above
    64 MB, so that all threads of one device use it. The threads of several devices would
    contend for its lock; they have arenas of their own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(M_MMAP_MAX, 0)  # all arrays lie in arenas,
    mallopt(M_TRIM_THRESHOLD, -1)  # whose ends are not returned
    if devices == 1:
        mallopt(M_ARENA_MAX, 1)


def use_persistent_cache() -> None:
    """Cache compiled programs on disk, so that the next run starts at once.

    In ``JAX_COMPILATION_CACHE_DIR`` if that is set, else in ``~/.cache/lsr_jax/programs``.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    try:
        folder = files.expanded("~/.cache/lsr_jax/programs")
        jax.config.update("jax_compilation_cache_dir", str(folder))
    except InputError:
        problem = "compiled programs are not cached: no home folder"
        print(f"{problem}; set JAX_COMPILATION_CACHE_DIR", file=sys.stderr)


class Cost(NamedTuple):
    """What one step takes on each device.

    Attributes:
      compile_seconds: lowering and compilation, or reading the persistent cache.
      peak_bytes: arguments, results and temporaries; donated buffers count once.
      temporary_bytes: of these, what exists only within the step.
      flops: floating-point operations as the step is written; XLA counts the body of a
        loop (micro-batches) once.
    """

    compile_seconds: float
    peak_bytes: int
    temporary_bytes: int
    flops: float


def compile_traced(traced: jax.stages.Traced) -> tuple[Callable, Cost]:
    """The compiled step and its cost; see `memory_advice`."""
    start = time.perf_counter()
    with memory_advice():
        lowered = traced.lower()
        compiled = lowered.compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    # Of the lowered program: XLA's rewriting hides what it hands to libraries.
    flops = (lowered.cost_analysis() or {}).get("flops", math.nan)
    devices = len(jax.tree.leaves(compiled.input_shardings)[0].device_set)
    return compiled, Cost(
        compile_seconds=seconds,
        peak_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        flops=float(flops) / devices,
    )


@contextlib.contextmanager
def memory_advice() -> Iterator[None]:
    """Turn a device's out-of-memory error into InputError with advice."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"out of memory on {jax.devices()[0].device_kind}: {reason[:200]}; set "
            "model.dtype=bfloat16, model.remat=True or micro_batches of the stage to a "
            "divisor of its batch_size, lower its batch_size, or use smaller images"
        ) from error

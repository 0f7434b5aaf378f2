"""Several processes, one run: started by `jax.distributed`, one of them writes.

Every process runs the same program on the same batch numbers; its pipeline delivers its
share of each batch, and the step is compiled for all devices of all processes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from lsr_jax.errors import InputError

# How long a process that has ended waits for the others before it gives up.
SHUTDOWN_SECONDS = 60


def initialize(
    *,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Join the other processes; call it before JAX is used for the first time.

    Without arguments JAX finds them where it can: on Cloud TPUs, under Slurm, Open MPI
    and Kubernetes, and the address in ``JAX_COORDINATOR_ADDRESS``.

    Raises:
      InputError: some of the three are missing and cannot be found, or are impossible.
    """
    if process_id is not None and not 0 <= process_id < (num_processes or math.inf):
        raise InputError(
            f"--process_id: out of range (found {process_id}, expected from 0 and below "
            f"--num_processes={num_processes})"
        )
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        raise InputError(
            f"--distributed: {error}; JAX does not recognise this cluster: give "
            "--coordinator_address=HOST:PORT, --num_processes and --process_id"
        ) from error


def is_main() -> bool:
    """Whether this process writes logs, tables and the files of the run."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Wait until every process has reached the point of that name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is True in some process; every process has to call it."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def from_main(numbers: Sequence[int]) -> list[int]:
    """The numbers of process 0 in every process, which all have to call it."""
    if jax.process_count() == 1:
        return list(numbers)
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    own = np.resize(np.array([*numbers, 0], np.int32), count)
    return multihost_utils.broadcast_one_to_all(own).tolist()


@contextlib.contextmanager
def together(name: str) -> Iterator[None]:
    """A block that no process leaves before all of them have."""
    try:
        yield
    finally:
        wait(name)


@contextlib.contextmanager
def main_first(name: str) -> Iterator[None]:
    """A block that process 0 runs before the others, which find what it wrote.

    If process 0 fails, the others go on and meet the same error themselves.
    """
    if not is_main():
        wait(name)
    try:
        yield
    finally:
        if is_main():
            wait(name)

"""Worker processes: spawned, with bounded look-ahead, ended with their parent."""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, resource_tracker

import cv2

from lsr_jax.errors import TrainingError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def make_pool(workers: int) -> Iterator[Executor | None]:
    """Yields a pool for `ordered`, or None for one worker: then this process works.

    Processes are spawned, since JAX does not survive a fork: the calling script needs
    the ``if __name__ == "__main__"`` guard.

    Raises:
      TrainingError: a worker process died.
    """
    if workers < 2:
        yield None
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_init_worker
    )

    def children():
        return set(multiprocessing.active_children()) - others

    def start():
        while len(children()) < workers:
            pool.submit(time.sleep, 0.1)  # starts a worker, unless one is idle

    try:
        with signal_safe_thread() as thread:
            thread.submit(start).result()
        # If a worker is killed while it writes a result, the executor waits for the rest
        # as long as this process or another worker has the other end of the pipe.
        pool._result_queue._writer.close()
        found = (children(),)
        threading.Thread(target=_kill_after_first, args=found, daemon=True).start()
        yield pool
    except BrokenProcessPool as error:
        raise TrainingError(
            "a worker process died, perhaps for lack of memory; run the same command "
            "again, with fewer workers if memory is short"
        ) from error
    finally:
        # Workers ignore the SIGTERM that the executor would send, and lose nothing.
        for process in children():
            process.kill()
        pool.shutdown(cancel_futures=True)


def ordered(
    pool: Executor | None, function: Callable, jobs: Iterable, *, ahead: int = 32
) -> Iterator:
    """Like ``map(function, jobs)``, with at most `ahead` results computed in advance."""
    if pool is None:
        yield from map(function, jobs)
        return
    futures = collections.deque()
    for job in jobs:
        futures.append(pool.submit(function, job))
        if len(futures) > ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def signal_safe_thread() -> Executor:
    """Returns a thread in which SIGTERM and SIGINT are blocked, to start processes in.

    A signal handler that raises runs in the main thread, so it cannot interrupt the
    start half-way. The processes inherit the blocked signals, so a signal to the whole
    process group cannot end them before they have called `end_with_parent`.
    """
    return ThreadPoolExecutor(1, initializer=_block_signals)


def end_with_parent() -> None:
    """Makes a worker process ignore SIGTERM and SIGINT, and exit when its parent exits.

    A scheduler signals the whole process group. Without this, workers would die first
    and the parent would fail before it has saved.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _block_signals() -> None:
    resource_tracker.ensure_running()  # starting it would unblock the signals again
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _exit_after_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _kill_after_first(workers) -> None:
    connection.wait([worker.sentinel for worker in workers])
    for worker in workers:
        worker.kill()


def _init_worker() -> None:
    end_with_parent()
    cv2.setNumThreads(1)

"""Worker processes: spawned, bounded, and never older than the process they work for."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import cv2


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_pool(workers: int) -> concurrent.futures.Executor | None:
    """Processes for `ordered`; None where one is enough, which is this process.

    They are spawned, since JAX does not survive a fork: the calling script needs the
    ``if __name__ == "__main__"`` guard.
    """
    if workers < 2:
        return None
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_begin)


def ordered(
    pool: concurrent.futures.Executor | None,
    function: Callable,
    jobs: Iterable,
    *,
    ahead: int = 32,
) -> Iterator:
    """``map(function, jobs)``, computed by the pool where there is one.

    At most `ahead` results wait: the reader may be slower than the pool, and memory
    must not grow.
    """
    if pool is None:
        yield from map(function, jobs)
        return
    waiting: deque[concurrent.futures.Future] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def end_with_parent() -> None:
    """Lets the parent decide when this process ends, and ends it when the parent is gone.

    A scheduler signals the whole process group: without this the workers would die first
    and take the parent with them before it has saved.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    """A parent that was killed cannot end its workers; they would wait for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _begin() -> None:
    end_with_parent()
    cv2.setNumThreads(1)

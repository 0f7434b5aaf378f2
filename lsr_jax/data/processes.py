"""Worker processes: spawned, bounded, and never older than the process they work for."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection, resource_tracker

import cv2

from lsr_jax.errors import TrainingError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Pool:
    """Processes for `ordered`, each at the other end of a pipe of its own.

    The standard library's pools share one: a process that is killed while it writes
    leaves its reader and the other processes waiting for ever.
    """

    # Bytes are sent here, no objects: `Connection.send` looks into a `BytesIO`, and an
    # error that holds on to both crashes Python 3.12 in its end (cpython 77894).

    def __init__(self):
        self._processes: dict[connection.Connection, multiprocessing.Process] = {}
        self._jobs: dict[connection.Connection, int] = {}

    def start(self, workers: int) -> None:
        """Start so many processes."""
        context = multiprocessing.get_context("spawn")
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process

    def end(self) -> None:
        """Kill them: they have nothing to lose."""
        for process in self._processes.values():
            process.kill()
        for pipe, process in self._processes.items():
            process.join()
            pipe.close()

    def idle(self) -> list[connection.Connection]:
        """Pipes of the processes without a job."""
        return [pipe for pipe in self._processes if pipe not in self._jobs]

    def busy(self) -> bool:
        """Whether a process has a job."""
        return bool(self._jobs)

    def begin(self, pipe: connection.Connection, number: int, *job) -> None:
        """Give an idle process ``(function, argument)``.

        Raises:
          TrainingError: it has died.
        """
        with self._alive(pipe):
            pipe.send_bytes(pickle.dumps(job))
        self._jobs[pipe] = number

    def answers(self, *, wait: bool) -> dict[int, tuple]:
        """``{number: (result, error)}`` of jobs that are done; waits for one if asked to.

        Raises:
          TrainingError: a process with a job has died.
        """
        found = {}
        for pipe in connection.wait(self._jobs, None if wait else 0):
            with self._alive(pipe):
                found[self._jobs.pop(pipe)] = pickle.loads(pipe.recv_bytes())
        return found

    @contextlib.contextmanager
    def _alive(self, pipe):
        try:
            yield
        except (EOFError, OSError) as error:
            process = self._processes[pipe]
            process.join(1)
            raise TrainingError(
                f"a worker process died (exit code {process.exitcode}), perhaps for lack "
                "of memory; the same command begins this data set again, and prepared "
                "ahead with fewer --workers it needs less"
            ) from error


@contextlib.contextmanager
def make_pool(workers: int) -> Iterator[Pool | None]:
    """Processes for `ordered`; None where one is enough, which is this process.

    They are spawned, since JAX does not survive a fork: the calling script needs the
    ``if __name__ == "__main__"`` guard. However the context is left, they are gone.
    """
    if workers < 2:
        yield None
        return
    pool = Pool()
    with undisturbed() as thread:
        try:
            thread.submit(pool.start, workers).result()
            yield pool
        finally:
            thread.submit(pool.end)


def ordered(
    pool: Pool | None, function: Callable, jobs: Iterable, *, ahead: int = 32
) -> Iterator:
    """``map(function, jobs)``, computed by the pool where there is one.

    At most `ahead` results wait: the reader may be slower than the pool, and memory
    must not grow.

    Raises:
      TrainingError: a process of the pool has died.
    """
    if pool is None:
        yield from map(function, jobs)
        return
    while pool.busy():  # for a reader that left early
        pool.answers(wait=True)
    jobs, done, begun, wanted = iter(jobs), {}, 0, 0
    while True:
        room = wanted + ahead + 1 - begun
        for pipe, job in zip(pool.idle(), itertools.islice(jobs, room), strict=False):
            pool.begin(pipe, begun, function, job)
            begun += 1
        if wanted == begun:
            return
        done |= pool.answers(wait=wanted not in done)
        if wanted in done:
            result, error = done.pop(wanted)
            if error:
                raise error
            yield result
            wanted += 1


def undisturbed() -> concurrent.futures.Executor:
    """A thread to start processes in, which no SIGTERM or SIGINT disturbs.

    A signal's handler may raise, but runs in the main thread only, so nothing is left
    half started. And processes inherit what the thread that starts them blocks: one to
    the whole group does not end them before they have come to `end_with_parent`.
    """
    return concurrent.futures.ThreadPoolExecutor(1, initializer=_block)


def _block():
    resource_tracker.ensure_running()  # its start would unblock them again
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def end_with_parent() -> None:
    """Lets the parent decide when this process ends, and ends it when the parent is gone.

    A scheduler signals the whole process group: without this the workers would die first
    and take the parent with them before it has saved.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    """A parent that was killed cannot end its workers; they would wait for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _serve(pipe: connection.Connection) -> None:
    """Do the jobs that come through a pipe until it is closed."""
    end_with_parent()
    cv2.setNumThreads(1)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            function, job = pipe.recv()
            try:
                answer = function(job), None
            except Exception as error:
                error.add_note(traceback.format_exc())
                answer = None, error
            pipe.send(answer)

"""Iterating over batches: the threads and processes that read them ahead, and their end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import grain
from absl import flags

from lsr_jax.data import processes
from lsr_jax.errors import TrainingError

# Two decoders and four batches ahead. Grain's own default, 16 and 500, holds gigabytes.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
_WORKER_BUFFER = 2
# What Grain says of a worker that did not end by itself.
_DEAD = re.compile(r"Worker process was terminated unexpectedly with (exit code -?\d+)")


class Batches(Iterator):
    """An iterator over batches that owns threads and processes: close it after use."""

    def __init__(self, dataset: grain.MapDataset, finish: Callable, workers: int = 0):
        """Reads ahead when asked for the first batch.

        Args:
          dataset: of batches.
          finish: what is done to each of them in this thread.
          workers: processes that decode; 0 decodes in threads of this process.

        Raises:
          TrainingError: while iterating: a worker process died.
        """
        dataset = dataset.to_iter_dataset(_READ)
        if workers:
            dataset = _in_processes(dataset, workers)
        self._iterator = iter(dataset)
        self._read = _from_processes(self._iterator) if workers else self._iterator
        self._finish = finish

    def __next__(self):
        return self._finish(next(self._read))

    def close(self):
        """Ends the workers and frees their shared memory."""
        self._iterator.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def _in_processes(dataset, workers):
    # Grain's workers read absl flags, which only absl.app.run parses.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=_WORKER_BUFFER
    )
    return dataset.mp_prefetch(options, worker_init_fn=_worker_init)


def _worker_init(index, count):
    processes.end_with_parent()


def _from_processes(iterator):
    try:
        with processes.undisturbed() as thread:
            # Grain starts them when it is asked for the first batch. That is kept in no
            # variable: its shared memory would live as long.
            yield thread.submit(next, iterator).result()
        yield from iterator
    except RuntimeError as error:
        found = _DEAD.match(str(error))
        if not found:
            raise
        raise TrainingError(
            f"data.workers: a worker process died ({found[1]}), perhaps for lack of "
            "memory; the same command continues, also with fewer data.workers"
        ) from error

"""Iterating over batches: the threads and processes that read them ahead, and their end.

From records to batches of uint8 on the host: shuffled, decoded, in step with training.

A source is random access to records, see `records`. What a step sees of it depends on the
seed and the step number alone: not on workers, hosts, restarts or the other domain. No
source may call JAX: a worker process would claim the accelerator.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator

import grain
import numpy as np
from absl import flags

from lsr_jax.data import processes, records
from lsr_jax.errors import InputError, TrainingError
from lsr_jax.types import Batch, Images

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
        with processes.signal_safe_thread() as thread:
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


def train_batches(
    source: records.Source | None,
    target: records.Source | None,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    source_labels: bool = True,
    target_labels: bool = False,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Endless batches for training, from `start_step` on.

    Each domain is shuffled anew every epoch, with an order of its own; batches run on
    over the end of an epoch. The batches of all hosts, one after the other, are the batch
    of one host.

    Args:
      source: records of the source domain, None if the method does not read them.
      target: records of the target domain, or None.
      batch_size: images of each domain in a step, over all hosts.
      seed: of the order, at least 0.
      start_step: number of the first step.
      source_labels: whether the method may read source labels; if not, they are dropped
        before they are decoded.
      target_labels: the same for target labels.
      workers: processes that decode; 0 decodes in threads of this process.
      process_index: number of this host.
      process_count: number of hosts.

    Returns:
      An iterator over ``(Batch, ids)``: numpy uint8 images and labels of this host, and
      the ids of each domain's images, ``{"source": (...), "target": (...)}``.

    Raises:
      InputError: there is nothing to read, or the batch cannot be split over the hosts;
        while iterating: a record that cannot be used, named by its id.
      TrainingError: while iterating: a worker process died.
    """
    _check_batch_size(batch_size, process_count)
    streams = {}
    for name, data, labelled, own_seed in (
        # Two streams of one seed would draw the same order.
        ("source", source, source_labels, 2 * seed),
        ("target", target, target_labels, 2 * seed + 1),
    ):
        if data is not None:
            _check_records(data, name)
            share = batch_size // process_count
            stream = _shuffled(data, seed=own_seed, batch_size=share, labelled=labelled)
            streams[name] = stream[process_index::process_count]
    if not streams:
        raise InputError("data: expected a source or a target domain, found neither")
    dataset = grain.experimental.ZipMapDataset(list(streams.values()))[start_step:]

    def finish(stacked):
        domains = dict(zip(streams, stacked, strict=True))
        batch = Batch(_images(domains.get("source")), _images(domains.get("target")))
        return batch, {name: domain["id"] for name, domain in domains.items()}

    return Batches(dataset, finish, workers)


def eval_batches(source: records.Source, *, batch_size: int) -> Batches:
    """Every record once and in order; the last batch is filled up with the last record.

    Labels may be larger than the images: benchmarks are reported on labels as they came.

    Returns:
      An iterator over ``(Images, valid, ids)``: numpy uint8, label None if the records
      have none; bool ``[B]``, False for what was filled up; B ids.

    Raises:
      InputError: there are no records; while iterating: a record that cannot be used.
    """
    _check_batch_size(batch_size, 1)
    _check_records(source, "evaluation")
    dataset = grain.MapDataset.source(_Filled(source, batch_size))
    dataset = dataset.map(
        functools.partial(
            records.decode, labelled="label" in source[0], same_size=False
        )
    )
    return _in_order(dataset, batch_size, size=None)


def ordered_batches(
    source: records.Source, *, batch_size: int, labelled: bool
) -> Batches:
    """`eval_batches` of records as `train_batches` reads them, each once and in order.

    A label has the size of its image, or, if not `labelled`, is dropped before it is
    decoded. A record that cannot be used is not valid where the source says "skip";
    another one stands in its place.

    Returns:
      See `eval_batches`.

    Raises:
      InputError: there are no records; while iterating: a record that cannot be used.
    """
    _check_batch_size(batch_size, 1)
    _check_records(source, "training")
    examples = _Filled(records.Decoded(source, labelled=labelled), batch_size)
    dataset = grain.MapDataset.source(examples)
    return _in_order(dataset, batch_size, size=records.image_size(source))


def _in_order(dataset, batch_size, *, size):
    dataset = dataset.batch(
        batch_size,
        drop_remainder=True,
        batch_fn=functools.partial(records.stack, size=size),
    )

    def finish(stacked):
        return _images(stacked), stacked["valid"], stacked["id"]

    return Batches(dataset, finish)


def _shuffled(source, *, seed, batch_size, labelled):
    examples = records.Decoded(source, labelled=labelled)
    dataset = grain.MapDataset.source(examples).seed(seed).shuffle().repeat()
    # One size for the whole run: the step is compiled once.
    stack = functools.partial(records.stack, size=records.image_size(source))
    return dataset.batch(batch_size, drop_remainder=True, batch_fn=stack)


class _Filled:
    """The records, and the last one again until the last batch is full."""

    def __init__(self, source: records.Source, batch_size: int):
        self._source = source
        self._batch_size = batch_size

    def __len__(self):
        return -(-len(self._source) // self._batch_size) * self._batch_size

    def __getitem__(self, index):
        record = self._source[min(index, len(self._source) - 1)]
        inside = index < len(self._source)
        return {**record, "valid": inside and record.get("valid", True)}


def _images(stacked):
    if stacked is None:
        return None
    label = stacked.get("label")
    return Images(_own(stacked["image"]), None if label is None else _own(label))


def _own(array):
    """The array itself, or a copy if it lies in memory shared with a worker.

    Shared memory lives as long as its array; what a device holds of it must not.
    """
    return array if type(array) is np.ndarray else np.array(array)


def _check_batch_size(batch_size, process_count):
    if batch_size < 1 or batch_size % process_count:
        raise InputError(
            f"batch_size: expected a positive multiple of {process_count} (hosts), found "
            f"{batch_size}"
        )


def _check_records(source, name):
    if not len(source):
        raise InputError(f"data: expected records in the {name} set, found none")

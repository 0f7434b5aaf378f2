"""From records to batches of uint8 on the host: shuffled, decoded, in step with training.

What a step sees of a source depends on the seed and the step number alone: not on
workers, hosts, restarts or the other domain. No source may call JAX: a worker process
would claim the accelerator.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator

import grain
import numpy as np
from absl import flags

from lsr_jax.data import processes, records, sampling
from lsr_jax.errors import InputError, TrainingError
from lsr_jax.types import Batch, Images

# Two decoders and four batches ahead. Grain's own default, 16 and 500, holds gigabytes.
_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
_WORKER_BUFFER = 2
# Grain's message about a worker process that died.
_DEAD = re.compile(r"Worker process was terminated unexpectedly with (exit code -?\d+)")


def train_batches(
    source: records.Source | None,
    target: records.Source | None,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    source_labels: bool = True,
    target_labels: bool = False,
    rare: sampling.RareClasses | None = None,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Returns endless batches for training, from `start_step` on.

    Each domain is shuffled anew every epoch, with an order of its own; batches run on
    over the end of an epoch. With ``rare`` there are no epochs: source images are drawn for
    a class each, target images alike, both with replacement. The batches of all hosts, one
    after the other, are the batch of one host.

    Args:
      source, target: records of each domain, None if the method does not read them.
      batch_size: images of each domain in a step, over all hosts.
      seed: of the order, at least 0.
      start_step: number of the first step.
      source_labels, target_labels: whether the method reads labels of that domain; if
        not, they are dropped before they are decoded.
      rare: the distribution of source images, see `sampling.rare_classes`.
      workers: processes that decode; 0 decodes in threads of this process.
      process_index, process_count: number of this host, and of all hosts.

    Returns:
      An iterator over ``(Batch, ids)``: numpy uint8 images and labels of this host, and
      the ids of each domain's images, ``{"source": (...), "target": (...)}``.

    Raises:
      InputError: there is nothing to read, or the batch cannot be split over the hosts;
        while iterating: a record that cannot be used, named by its id.
      TrainingError: while iterating: a worker process died.
    """
    streams = {}
    for name, data, own_seed, labelled, drawn in (
        # Two streams of one seed would draw the same order.
        ("source", source, 2 * seed, source_labels, rare),
        ("target", target, 2 * seed + 1, target_labels, None),
    ):
        if data is None:
            continue
        _check(data, name, batch_size, process_count)
        examples = records.Decoded(data, labelled=labelled)
        if rare is None:
            stream = grain.MapDataset.source(examples).seed(own_seed).shuffle().repeat()
        else:
            stream = grain.MapDataset.source(sampling.Drawn(examples, own_seed, drawn))
        # One size for the whole run: the step is compiled once.
        stream = stream.batch(
            batch_size // process_count,
            drop_remainder=True,
            batch_fn=functools.partial(records.stack, size=records.image_size(data)),
        )
        streams[name] = stream[process_index::process_count]
    if not streams:
        raise InputError("data: neither a source nor a target domain")
    dataset = grain.experimental.ZipMapDataset(list(streams.values()))[start_step:]

    def finish(stacked):
        domains = dict(zip(streams, stacked, strict=True))
        batch = Batch(_images(domains.get("source")), _images(domains.get("target")))
        return batch, {name: domain["id"] for name, domain in domains.items()}

    return Batches(dataset, finish, workers)


def eval_batches(source: records.Source, *, batch_size: int) -> Batches:
    """Returns every record once and in order; the last one is repeated to fill a batch.

    Labels may be larger than the images: benchmarks are reported on labels as they came.
    A record that cannot be used is not valid where the source says "skip"; another one
    stands in its place.

    Returns:
      An iterator over ``(Images, valid, ids)``: numpy uint8, label None if the records
      have none; bool ``[B]``, False for repetitions; B ids.

    Raises:
      InputError: there are no records; while iterating: a record that cannot be used.
    """
    _check(source, "evaluation", batch_size)
    labelled = records.is_labelled(source)
    return _in_order(source, batch_size, labelled=labelled, same_size=False)


def ordered_batches(
    source: records.Source, *, batch_size: int, labelled: bool
) -> Batches:
    """Returns `eval_batches` of records as `train_batches` reads them.

    A label has the size of its image, or, if not `labelled`, is dropped before it is
    decoded.

    Raises:
      InputError: there are no records; while iterating: a record that cannot be used.
    """
    _check(source, "training", batch_size)
    return _in_order(source, batch_size, labelled=labelled, same_size=True)


class Batches(Iterator):
    """An iterator over batches that owns threads and processes: close it after use."""

    def __init__(self, dataset: grain.MapDataset, finish: Callable, workers: int = 0):
        """Prepares to read ahead, which starts with the first batch.

        `finish` is applied to each batch in this thread. `workers` processes decode; 0
        decodes in threads of this process.
        """
        dataset = dataset.to_iter_dataset(_READ)
        if workers:
            # Grain's workers read absl flags, which only absl.app.run parses.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(workers, _WORKER_BUFFER)
            dataset = dataset.mp_prefetch(options, worker_init_fn=_init_worker)
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


def _in_order(source, batch_size, *, labelled, same_size):
    examples = records.Decoded(source, labelled=labelled, same_size=same_size)
    size = records.image_size(source) if same_size else None
    count = len(source)

    def padded(index):
        example = examples[min(index, count - 1)]
        return {**example, "valid": index < count and example["valid"]}

    dataset = grain.MapDataset.range(-(-count // batch_size) * batch_size).map(padded)
    stack = functools.partial(records.stack, size=size)
    dataset = dataset.batch(batch_size, drop_remainder=True, batch_fn=stack)
    return Batches(dataset, lambda b: (_images(b), b["valid"], b["id"]))


def _images(stacked):
    if stacked is None:
        return None
    # An array in the shared memory of a worker is copied: the memory lives as long as
    # the array, and a device may hold on to it for longer.
    own = {
        key: array if type(array) is np.ndarray else np.array(array)
        for key in ("image", "label", "drawn")
        if (array := stacked.get(key)) is not None
    }
    return Images(own["image"], own.get("label"), drawn=own.get("drawn"))


def _init_worker(index, count):
    processes.end_with_parent()


def _from_processes(iterator):
    try:
        with processes.signal_safe_thread() as thread:
            # Grain starts its workers when it is asked for the first batch. No variable
            # holds that batch: its shared memory would live as long.
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


def _check(source, name, batch_size, process_count=1):
    if not len(source):
        raise InputError(f"data: the {name} set has no records")
    if batch_size < 1 or batch_size % process_count:
        raise InputError(
            f"batch_size: expected a positive multiple of {process_count} (hosts), found "
            f"{batch_size}"
        )

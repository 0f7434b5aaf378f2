"""TensorBoard events of a stage: scalars, histograms and images.

Images are written before the first step, histograms and goodput whenever a state is
saved, where the loop waits for it anyway. None of them is in ``metrics.jsonl``, which is
the same bytes after an interruption; these need not be.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from lsr_jax.data import label_spaces
from lsr_jax.data.label_spaces import LabelSpace
from lsr_jax.ops import numerics
from lsr_jax.ops.prototypes import Prototypes
from lsr_jax.types import Batch, Images, PyTree

BINS = 30  # as many as TensorBoard draws


class Events(contextlib.AbstractContextManager):
    """One new event file, ``folder/events.out.tfevents.*``.

    Written by the calling thread, so that a full disk raises here.
    """

    def __init__(self, folder: Path, *, first: int):
        """Opens the file; TensorBoard ignores older ones from step ``first`` on."""
        self._file = event_file_writer.EventsWriter(
            str(folder / "events"), f".{os.getpid()}"
        )
        begin = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(first, session_log=begin)

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one number per name."""
        for name, value in values.items():
            self._write(step, summary=summary.scalar(name, value))
        self._file.flush()

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """The distribution of finite values of any shape; at least one."""
        self._write(step, summary=summary.histogram(name, values, bins=BINS))
        self._file.flush()

    def image(self, step: int, name: str, pixels: np.ndarray, description: str) -> None:
        """A uint8 ``[H, W, 3]`` image as PNG, and what it shows in words."""
        content = summary.image(name, pixels, dataformats="HWC")
        content.value[0].metadata.summary_description = description
        self._write(step, summary=content)
        self._file.flush()

    def _write(self, step: int, **content) -> None:
        event = event_pb2.Event(wall_time=time.time(), step=step, **content)
        self._file.write_event(event)


class Board:
    """Writes the events of one stage; without a file it does nothing."""

    def __init__(self, events: Events | None, space: LabelSpace):
        self._events = events
        self._space = space

    def batch(
        self, step: int, batch: Batch, ids: Mapping[str, tuple[str, ...]]
    ) -> None:
        """The first uint8 image of each domain with its label, before augmentation."""
        if self._events is None:
            return
        for domain, images in batch._asdict().items():
            if images is not None:
                name = f"before_augmentation/{domain}"
                description = f"{ids[domain][0]}, before augmentation"
                pixels = picture(images, self._space)
                self._events.image(step, name, pixels, description)

    def state(
        self, step: int, method_state: PyTree, goodput: Mapping[str, float]
    ) -> None:
        """Norms of all `Prototypes` in a state, their angles in degrees, and the goodput.

        ``method_state`` must not have been donated to the next step yet.
        """
        if self._events is None:
            return
        self._events.scalars(step, goodput)
        for name, vectors in seen_prototypes(method_state):
            angles = numerics.angles(vectors)[np.triu_indices(len(vectors), k=1)]
            found = {"norms": numerics.norms(vectors), "angles": angles}
            for kind, values in found.items():
                values = values[np.isfinite(values)]
                if values.size:
                    self._events.histogram(step, f"{name}/{kind}", values)


def picture(images: Images, space: LabelSpace) -> np.ndarray:
    """The first image of a batch, uint8 RGB; to the right of it its coloured label."""
    image = first(images.image)
    if images.label is None:
        return image
    label = label_spaces.colorize(first(images.label), space)
    return np.concatenate([image, label], axis=1)


def first(rows: jax.Array) -> np.ndarray:
    """The first row of this process's share of an array that is split by rows."""
    shards = rows.addressable_shards
    lowest = min(shards, key=lambda shard: shard.index[0].start or 0)
    return np.asarray(lowest.data)[0]


def seen_prototypes(method_state: PyTree) -> Iterator[tuple[str, np.ndarray]]:
    """Name and ``[seen, D]`` means of all `Prototypes` in the state of a method."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        method_state, is_leaf=lambda node: isinstance(node, Prototypes)
    )
    for path, leaf in leaves:
        if isinstance(leaf, Prototypes):
            mean, seen = jax.device_get(leaf)
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            yield name or "prototypes", mean[seen]

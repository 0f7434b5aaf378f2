"""What the loop shows in TensorBoard beside the metrics of the steps.

Images before the first step; histograms and goodput whenever a state is saved, where
the loop waits for it anyway: in between, the device has the state. Nothing of it is in
``metrics.jsonl``, which is the same bytes after an interruption; these need not be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import jax
import numpy as np

from lsr_jax import geometry
from lsr_jax.data import labels
from lsr_jax.data.labels import LabelSpace
from lsr_jax.prototypes import Prototypes
from lsr_jax.training.events import Events
from lsr_jax.types import Batch, Images, PyTree


class Board:
    """Writes the events of one stage; without a file, on all processes but one, nothing."""

    def __init__(self, events: Events | None, space: LabelSpace):
        """Takes the open event file and the classes whose colours labels get."""
        self._events = events
        self._space = space

    def batch(
        self, step: int, batch: Batch, ids: Mapping[str, tuple[str, ...]]
    ) -> None:
        """The first image of each domain as it was read, with its label if there is one.

        Augmentation is a part of the compiled step; this is what goes into it.

        Args:
          step: the one that the batch is for.
          batch: uint8, on the devices.
          ids: of the images of this process, by domain.
        """
        if self._events is None:
            return
        for domain, images in batch._asdict().items():
            if images is not None:
                pixels = picture(images, self._space)
                text = f"{ids[domain][0]}, before augmentation"
                name = f"before_augmentation/{domain}"
                self._events.image(step, name, pixels, text)

    def state(
        self, step: int, method_state: PyTree, goodput: Mapping[str, float]
    ) -> None:
        """Norms of the prototypes and angles between them (degrees), and the goodput.

        Args:
          step: after which the state is.
          method_state: of a finished step, not yet donated to the next. Every
            `Prototypes` in it is shown, under the name that it has there.
          goodput: of `Goodput.metrics`.
        """
        if self._events is None:
            return
        self._events.scalars(step, goodput)
        for name, vectors in seen_prototypes(method_state):
            pairs = np.triu_indices(len(vectors), k=1)
            shown = {
                "norms": geometry.norms(vectors),
                "angles": geometry.angles(vectors)[pairs],
            }
            for kind, values in shown.items():
                values = values[np.isfinite(values)]
                if values.size:
                    self._events.histogram(step, f"{name}/{kind}", values)


def picture(images: Images, space: LabelSpace) -> np.ndarray:
    """The first image of a batch, uint8 RGB; to the right of it its coloured label."""
    image = first(images.image)
    if images.label is None:
        return image
    label = labels.colorize(first(images.label), space)
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

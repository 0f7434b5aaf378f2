"""Turning the pairs of a data set into records, and noting what they were.

Nothing here imports JAX or TFDS, so that worker processes start quickly.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import NamedTuple

import numpy as np

from lsr_jax.data import encoded, listing, processes, reading
from lsr_jax.data.encoded import Record, Tally
from lsr_jax.data.headers import BadExample
from lsr_jax.data.layouts import Layout
from lsr_jax.data.reading import Pair, Reader, Size
from lsr_jax.errors import InputError

MOST_SKIPPED = 16  # at least one pair in so many must be usable
_NO_LABEL = np.full((1, 1), 255, np.uint8)  # records of a split have one shape


class Converted(NamedTuple):
    """A record and the ``(H, W)`` of the image as it was downloaded."""

    record: Record
    size: tuple[int, int]


def convert(
    pair: Pair, *, reader: Reader, size: Size, native_labels: bool
) -> Converted | BadExample:
    """Reads, checks, resizes and encodes one pair; says what is wrong with a bad one."""
    try:
        image, label = reader.pair(pair)
        data = reader.data(pair.image)
    except BadExample as error:
        return error
    original = image.shape[:2]
    if size is not None:
        image = reading.resize_image(image, size)
        data = encoded.png(image)
    pixels = np.zeros(256, np.int64)
    if label is not None:
        label = reading.resize_label(label, None if native_labels else size)
        pixels = np.bincount(label.ravel(), minlength=256)
    label = _NO_LABEL if label is None else label
    record = Record(
        id=pair.image,
        image=data,
        label=encoded.png(label),
        sha256=encoded.digest(image, label),
        pixels=pixels,
    )
    return Converted(record, original)


class Split:
    """The conversion of one split, and what is to be said about it afterwards."""

    def __init__(self, name: str, layout: Layout, found: listing.Listing):
        self.name, self.layout, self.found = name, layout, found
        self.labelled = any(pair.label for pair in found.pairs)
        self.skipped: dict[str, str] = {}
        self.sizes: Counter = Counter()
        self.tally = Tally()

    def convert(self, reader: Reader, size: Size):
        """What converts a pair of this split."""
        native = self.layout.parts[self.name].native_labels
        return partial(convert, reader=reader, size=size, native_labels=native)

    def records(self, reader, size, pool, *, skip, bar):
        """All good records in order.

        Raises:
          InputError: a pair cannot be used and is not to be skipped.
        """
        good = []
        for pair in self.found.pairs:
            if self.labelled and pair.label is None:
                self._drop(pair, self.found.problems[pair.image], skip)
            else:
                good.append(pair)
        results = processes.ordered(pool, self.convert(reader, size), good)
        for pair, result in zip(good, results, strict=True):
            bar.update()
            if isinstance(result, BadExample):
                self._drop(pair, result, skip)
                continue
            self.sizes["{1}x{0}".format(*result.size)] += 1
            yield from self.tally.watch([result.record])
        if self.tally.count * MOST_SKIPPED < len(self.found.pairs):
            raise InputError(
                f"{self.layout.name} {self.name}: expected pairs that can be used, found "
                f"{self.tally.count} of {len(self.found.pairs)}; run python -m "
                f"lsr_jax.data.check {self.layout.name}"
            )

    def _drop(self, pair, error, skip):
        if not skip:
            raise InputError(f"{error}; or prepare with --on-bad-example skip")
        self.skipped[pair.image] = str(error)

    def names(self) -> str:
        """All images in order, skipped or not, a line each."""
        return "".join(f"{pair.image}\n" for pair in self.found.pairs)

    def facts(self) -> dict:
        """Its entry in the manifest."""
        pixels = Counter()
        for raw, name in self.layout.ids.items():
            pixels[name] += int(self.tally.pixels[raw])
        ignored = int(self.tally.pixels.sum()) - sum(pixels.values())
        return {
            "count": self.tally.count,
            "official_count": self.layout.parts[self.name].count,
            "sha256": self.tally.sha256,
            "names_sha256": encoded.sha256(self.names().encode()),
            "labelled": self.labelled,
            "native_labels": self.layout.parts[self.name].native_labels,
            "sizes": dict(self.sizes),
            "pixels": {**pixels, "ignored": ignored},
            "skipped": self.skipped,
        }

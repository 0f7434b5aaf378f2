"""Data sets read straight from the folders or archives as downloaded.

Slower than prepared records, with the same results: images resized by PIL's bicubic,
labels by PIL's nearest.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from lsr_jax.data import listing, reading
from lsr_jax.data.headers import BadExample
from lsr_jax.data.labels import LabelSpace
from lsr_jax.data.layouts import Layout
from lsr_jax.data.reading import Pair, Reader, Size
from lsr_jax.errors import InputError

ON_BAD_EXAMPLE = ("stop", "skip")


class Raw:
    """A data set as downloaded."""

    def __init__(
        self,
        layout: Layout,
        root: str | os.PathLike,
        *,
        space: LabelSpace,
        size: Size = None,
        on_bad_example: str = "stop",
    ):
        """Finds the files; see `sources.open_domain` for the arguments.

        Raises:
          InputError: nothing of the kind lies there.
        """
        self._layout = layout
        self._files = listing.open_files(layout, root)
        self._reader = Reader(self._files, layout)
        self._space, self._size, self._on_bad = space, size, on_bad_example
        self._listings: dict[str, listing.Listing] = {}
        self._opened: dict[str, RawSource] = {}

    def open(self, split: str) -> RawSource:
        """One split or list, after a glance at the header of every file.

        Raises:
          InputError: an unknown split, nothing in it, or, unless bad examples are to be
            skipped, a pair that cannot be used.
        """
        if split not in self._opened:
            self._opened[split] = self._open(split)
        return self._opened[split]

    def _open(self, split):
        pairs, bad = self._pairs(split)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            problems = dict(zip(pairs, pool.map(self._glance, pairs), strict=True))
        bad |= {pair.image: why for pair, why in problems.items() if why}
        if bad and self._on_bad == "stop":
            raise InputError(next(iter(bad.values())))
        if bad:
            which = f"{len(bad)} of {self._layout.name}, {split}"
            first = next(iter(bad.values()))
            print(f"skipped ({which}), first: {first}", file=sys.stderr)
        return RawSource(
            [pair for pair in pairs if pair.image not in bad],
            self._reader,
            lut=self._space.lut,
            size=self._size,
            native_labels=self._native_labels(pairs[0]),
            on_bad_example=self._on_bad,
        )

    def _pairs(self, split):
        """The pairs of a split or list, and ``name -> what is wrong`` of lonely files."""
        if listing.is_list(split):
            return listing.read_list(split), {}
        name = listing.part_of(self._layout, split)
        part = self._layout.parts[name]
        if name not in self._listings:
            self._listings[name] = listing.list_part(self._files, part)
        found = self._listings[name]
        if not found.pairs:
            raise InputError(
                f"{self._files.where('')}: expected {part.images} for split {split!r}, "
                "found none; choose another split or add the files"
            )
        images = [pair.image for pair in found.pairs]
        wanted = set(listing.chosen(images, self._layout.subsets.get(split)))
        pairs = [pair for pair in found.pairs if pair.image in wanted]
        if not pairs:
            raise InputError(
                f"{self._files.where('')}: expected images for split {split!r}, found "
                f"none among {len(images)}; choose another split"
            )
        # Without a single label it is an unlabelled split.
        labelled = any(pair.label for pair in found.pairs)
        others = set(images) - wanted
        problems = found.problems.items() if labelled else ()
        return pairs, {name: str(why) for name, why in problems if name not in others}

    def _native_labels(self, pair: Pair) -> bool:
        part = listing.part_of_image(self._layout, pair.image)
        return part is not None and part.native_labels

    def fingerprint(self, splits: Iterable[str]) -> str:
        """sha256 over names and sizes of the files; their content is not read."""
        lines = hashlib.sha256(f"{self._size} {self._space.name}\n".encode())
        for split in splits:
            for pair in self.open(split).pairs:
                sizes = [self._files.ends(name)[2] for name in filter(None, pair)]
                lines.update(f"{split} {pair} {sizes}\n".encode())
        return lines.hexdigest()

    def _glance(self, pair: Pair) -> str | None:
        try:
            self._reader.glance(pair)
        except BadExample as error:
            return str(error)
        return None


class RawSource:
    """Records read from the files of a data set; see `records`."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        reader: Reader,
        *,
        lut: np.ndarray,
        size: Size,
        native_labels: bool,
        on_bad_example: str,
    ):
        self.pairs = pairs
        self.on_bad_example = on_bad_example
        self._reader, self._lut, self._size = reader, lut, size
        self._label_size = None if native_labels else size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        pair = self.pairs[index]
        image = self._reader.image(pair.image)
        record = {
            "image": reading.resize_image(image, self._size),
            "id": pair.image,
        }
        if pair.label is not None:
            record["label"] = partial(self._label, pair, image.shape[:2])
            record["lut"] = self._lut
        return record

    def _label(self, pair, image_size):
        label = self._reader.label_of(pair, image_size)
        return reading.resize_label(label, self._label_size)

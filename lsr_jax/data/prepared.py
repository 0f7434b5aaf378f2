"""Folders that `prepare` made: records of a real data set at training size."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from lsr_jax.data import headers, listing, reading, storage
from lsr_jax.data.encoded import sha256
from lsr_jax.data.labels import LabelSpace
from lsr_jax.data.layouts import Layout
from lsr_jax.data.reading import Size
from lsr_jax.errors import InputError

VERSION = "1.0.0"  # a new one where the conversion changes
_FACTS = {"dataset": str, "ids": dict, "size": list | None}
_SPLIT_FACTS = {"labelled": bool, "native_labels": bool, "skipped": dict}


def folder_name(size: Size) -> str:
    """``(720, 1280)`` -> ``"1280x720"``, None -> ``"full"``."""
    return "full" if size is None else f"{size[1]}x{size[0]}"


def names_file(split: str) -> str:
    """The file of a prepared folder that lists all images of a split, skipped or not."""
    return f"{split}.names"


def command(layout: Layout) -> str:
    """What prepares a data set, for messages."""
    return f"python -m lsr_jax.data.prepare {layout.name}"


def read_manifest(folder: pathlib.Path, layout: Layout) -> dict:
    """What a folder holds.

    Raises:
      InputError: it cannot be read, or was changed.
    """
    return storage.read_manifest(
        folder, command=command(layout), facts=_FACTS, split_facts=_SPLIT_FACTS
    )


def find_prepared(
    root: pathlib.Path, layout: Layout, size: Size
) -> pathlib.Path | None:
    """The prepared folder at or below `root`, None where there is none."""
    below = root / layout.name
    candidates = (root, below / folder_name(size) / VERSION, below / "full" / VERSION)
    for folder in candidates:
        if (folder / storage.MANIFEST).is_file():
            return folder
    return None


class Prepared:
    """A folder that `prepare` made."""

    def __init__(
        self,
        layout: Layout,
        folder: pathlib.Path,
        *,
        space: LabelSpace,
        size: Size = None,
        on_bad_example: str = "stop",
    ):
        """Reads the manifest; see `sources.open_domain` for the arguments.

        Raises:
          InputError: the folder holds another data set, size or id map.
        """
        self._layout, self._folder = layout, folder
        self._space, self._on_bad = space, on_bad_example
        self.manifest = read_manifest(folder, layout)
        ids = {str(raw): name for raw, name in layout.ids.items()}
        stored = self.manifest["size"] and tuple(self.manifest["size"])
        facts = (
            ("data set", layout.name, self.manifest["dataset"]),
            ("id map", ids, self.manifest["ids"]),
        )
        for what, expected, found in facts:
            if expected != found:
                raise InputError(
                    f"{folder}: expected the {what} {expected}, found {found}; "
                    "prepare it again or choose another root"
                )
        if stored and size and stored != size:
            raise InputError(
                f"{folder}: expected images of {folder_name(size)} (width x height), "
                f"found {folder_name(stored)}; prepare that size or change the config"
            )
        self._size = None if stored else size

    def open(self, split: str) -> PreparedSource:
        """One split or list.

        Raises:
          InputError: an unknown split, a list that names other images, or a damaged
            folder.
        """
        part, wanted = self._wanted(split)
        splits = self.manifest["splits"]
        counts = {name: facts["count"] for name, facts in splits.items()}
        records = storage.open_split(
            self._folder, part, command=command(self._layout), counts=counts
        )
        facts = splits[part]
        rows = {name: row for row, name in enumerate(self._stored(part))}
        chosen = [Row(rows[name], name) for name in wanted if name in rows]
        if not chosen:
            raise InputError(
                f"{self._folder}: expected images for split {split!r}, found none among "
                f"{len(rows)}; choose another split"
            )
        return PreparedSource(
            records,
            chosen,
            lut=self._space.lut if facts["labelled"] else None,
            size=self._size,
            native_labels=facts["native_labels"],
            on_bad_example=self._on_bad,
            damage=partial(storage.reading, self._folder, command(self._layout)),
        )

    def fingerprint(self, splits: Iterable[str]) -> str:
        """sha256 over the content of all records and the choice among them."""
        text = f"{self.manifest['sha256']} {self._size} {self._space.name}"
        chosen = [(split, self._wanted(split)) for split in splits]
        return hashlib.sha256(f"{text} {chosen}".encode()).hexdigest()

    def _wanted(self, split):
        """The part a split is taken from, and the names of its images."""
        if not listing.is_list(split):
            part = listing.part_of(self._layout, split)
            subset = self._layout.subsets.get(split)
            return part, listing.chosen(self._names(part), subset)
        wanted = [pair.image for pair in listing.read_list(split)]
        for part in self.manifest["splits"]:
            if wanted[0] in self._all[part]:
                break
        for name in wanted:
            if name not in self._all[part]:
                raise InputError(
                    f"{split}: expected images of one split of {self._folder}, found "
                    f"{name}; correct the list"
                )
        return part, wanted

    @cached_property
    def _all(self):
        return {part: frozenset(self._names(part)) for part in self.manifest["splits"]}

    def _names(self, part):
        if part not in self.manifest["splits"]:
            raise InputError(
                f"{self._folder}: expected the split {part!r}, found "
                f"{', '.join(self.manifest['splits'])}; prepare it"
            )
        facts = self.manifest["splits"][part]
        file = names_file(part)
        with storage.reading(self._folder, command(self._layout)):
            content = (self._folder / file).read_bytes()
            names = content.decode().split("\n")[:-1]
            if len(names) != facts["count"] + len(facts["skipped"]):
                raise ValueError(f"another number of lines in {file}")
            # Older folders have no hash; there the id of a record is looked at.
            if facts.get("names_sha256") not in (None, sha256(content)):
                raise ValueError(f"another content of {file}")
        return names

    def _stored(self, part):
        skipped = self.manifest["splits"][part]["skipped"]
        return [name for name in self._names(part) if name not in skipped]


class Row(NamedTuple):
    """Where an image of a split is stored, and its name."""

    number: int
    name: str


class PreparedSource:
    """Records of a prepared folder; see `records`."""

    def __init__(
        self,
        records: Sequence[dict],
        rows: Sequence[Row],
        *,
        lut: np.ndarray | None,
        size: Size,
        native_labels: bool,
        on_bad_example: str,
        damage: Callable[[], AbstractContextManager],
    ):
        self.on_bad_example = on_bad_example
        self._records, self._rows, self._lut = records, rows, lut
        self._damage = damage
        self._size = size
        self._label_size = None if native_labels else size

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict:
        row = self._rows[index]
        with self._damage():
            stored = self._records[row.number]
            record = {"image": stored["image"], "id": stored["id"].decode()}
            if record["id"] != row.name:
                raise ValueError(f"{record['id']} in the place of {row.name}")
        if self._lut is not None:
            record |= {"label": stored["label"], "lut": self._lut}
        if self._size is not None or not record["image"].startswith(headers.PNG):
            image = reading.decode_image(record["image"], record["id"])
            record["image"] = reading.resize_image(image, self._size)
        if self._size is not None and self._lut is not None:
            record["label"] = partial(self._label, stored["label"], record["id"])
        return record

    def _label(self, data, name):
        label = reading.decode_label(data, name, "grey")
        return reading.resize_label(label, self._label_size)

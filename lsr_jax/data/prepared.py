"""Prepared data sets: folders of ArrayRecord files and a manifest, without TensorFlow.

A folder appears under its final name only when it is complete.

Folders that `prepare` made: records of a real data set at training size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from lsr_jax import errors, files
from lsr_jax.data import custom, image_io
from lsr_jax.data.image_io import Record, Size, sha256
from lsr_jax.data.label_spaces import LabelSpace
from lsr_jax.data.layouts import Layout
from lsr_jax.errors import InputError

MANIFEST = "manifest.json"
_FACTS = {"sha256": str, "splits": dict}
_SPLIT_FACTS = {"sha256": str, "count": int}
_NOTHING: Mapping = {}


def write_once(
    target: pathlib.Path,
    *,
    name: str,
    splits: Mapping[str, Callable[[], Iterable[Record]]],
    size: tuple[int | None, int | None],
    manifest: Callable[[], dict],
    texts: Callable[[], Mapping[str, str]] = dict,
    shards: int | None = None,
) -> None:
    """Writes a prepared folder, unless it is there already.

    What a killed run left behind is removed; a second process waits for the first.

    Args:
      target: the folder; its name is a version such as ``1.0.0``.
      name: of the data set in the files' names.
      splits: split name -> its records in order.
      size: ``(H, W)`` of the images, None where they differ.
      manifest: its content, asked for after the last record.
      texts: further files, name -> content, asked for after the last record.
      shards: files a split; by default as TFDS thinks fit.

    Raises:
      OSError: the folder cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.parent / ".lock"):
        if (target / MANIFEST).is_file():
            return
        scratch = target.parent / ".partial"
        for leftover in (scratch, target):
            shutil.rmtree(leftover, ignore_errors=True)
        # TFDS would show a bar for every split and shard, and print the scratch folder.
        tfds.disable_progress_bar()
        builder = _builder(name, target.name, splits, size, scratch)
        options = tfds.download.DownloadConfig(num_shards=shards)
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=options)
        built = pathlib.Path(builder.data_path)
        for file, text in texts().items():
            (built / file).write_bytes(text.encode())
        (built / MANIFEST).write_text(json.dumps(manifest(), indent=2) + "\n")
        os.replace(built, target)
        shutil.rmtree(scratch)


def reading(
    prepared: str | os.PathLike, command: str
) -> contextlib.AbstractContextManager[None]:
    """Turns whatever is raised over a damaged folder into an InputError.

    Args:
      prepared: the folder.
      command: what makes such a folder.
    """
    remedy = f"remove {prepared} and run {command}"
    return files.reading(prepared, "a prepared data set that is whole", remedy)


def read_manifest(
    prepared: str | os.PathLike,
    *,
    command: str,
    facts: Mapping[str, Any] = _NOTHING,
    split_facts: Mapping[str, Any] = _NOTHING,
) -> dict:
    """What a prepared folder holds.

    Args:
      prepared: the folder.
      command: what makes such a folder, for the message.
      facts: further keys that it must have, and the types of their values.
      split_facts: the same for every split.

    Raises:
      InputError: where there is no readable manifest, or one that was changed.
    """
    path = pathlib.Path(prepared) / MANIFEST
    kind = "the manifest of a prepared data set"
    manifest = files.read_json(path, kind, f"run {command}")
    with files.reading(path, kind, f"remove {prepared} and run {command}"):
        _check(manifest, {**_FACTS, **facts})
        for split in manifest["splits"].values():
            _check(split, {**_SPLIT_FACTS, **split_facts})
        if image_io.combined_sha256(manifest["splits"]) != manifest["sha256"]:
            raise ValueError("a sha256 that is not that of its splits")
    return manifest


def open_split(
    prepared: str | os.PathLike, split: str, *, command: str, counts: Mapping[str, int]
) -> Sequence[dict]:
    """Opens one split for random access.

    Args:
      prepared: the folder.
      split: a name in its manifest.
      command: what makes such a folder, for messages.
      counts: number of records of every split in its manifest.

    Returns:
      A picklable sequence of ``{"image": bytes, "label": bytes, "id": bytes}`` as stored,
      in the order in which they were written. Reading a damaged record raises
      InputError.

    Raises:
      InputError: where there is no such split, or a file of it is missing.
    """
    if split not in counts:
        raise errors.InputError(
            f"{prepared}: expected a split of {', '.join(counts)}, found {split!r};"
            " correct the split's name"
        )
    folder = pathlib.Path(prepared)
    skip = tfds.decode.SkipDecoding()
    with reading(folder, command):
        builder = tfds.builder_from_directory(os.fspath(folder))
        for name in builder.info.splits[split].filenames:
            if not (folder / name).is_file():
                raise ValueError(f"no file {name}")
        stored = builder.as_data_source(split, decoders={"image": skip, "label": skip})
        if len(stored) != counts[split]:
            raise ValueError(f"{len(stored)} instead of {counts[split]} in {split}")
    return _Stored(stored, folder, command)


@dataclasses.dataclass(frozen=True)
class _Stored(Sequence):
    """Records of a split; what is damaged is found when it is read."""

    records: Sequence[dict]
    folder: pathlib.Path
    command: str

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        place = range(len(self))[index]
        with reading(self.folder, self.command):
            record = self.records[place]
            # Of a file that was cut TFDS gives records without content.
            _check(record, {"image": bytes, "label": bytes, "id": bytes})
            return record


def _check(found, wanted):
    """Raises ValueError for a key that is missing or of another type."""
    if not isinstance(found, dict):
        raise ValueError(files.quoted(found))
    for key, kind in wanted.items():
        if not isinstance(found.get(key), kind):
            raise ValueError(f"{files.quoted(found.get(key))} for {key!r}")


class _Info(tfds.core.DatasetInfo):
    """Facts about data that were made here."""

    def initialize_from_bucket(self) -> None:
        """There are none to fetch; TFDS would leave an empty temporary folder."""


def _builder(dataset, version, splits, size, data_dir):
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Writes records as they come; what they are is decided outside."""

        name = dataset
        VERSION = tfds.core.Version(version)
        # TFDS would look beside the code for checksums of downloads (there are none), by
        # way of a package that it does not declare.
        code_path = None

        def _info(self) -> tfds.core.DatasetInfo:
            def image(shape):
                return tfds.features.Image(shape=shape, encoding_format="png")

            features = tfds.features.FeaturesDict(
                {
                    "image": image((*size, 3)),
                    # Evaluation keeps labels larger than the images.
                    "label": image((None, None, 1)),
                    "id": tfds.features.Text(),
                }
            )
            return _Info(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            for index, record in enumerate(splits[split]()):
                image, label = record.image, record.label
                yield index, {"image": image, "label": label, "id": record.id}

    return Builder(data_dir=data_dir, file_format="array_record")


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[None]:
    """Waits until no other process holds the lock; the system frees it on any death."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


VERSION = "1.0.0"  # a new one where the conversion changes
_PREPARED_FACTS = {"dataset": str, "ids": dict, "size": list | None}
_PREPARED_SPLIT_FACTS = {"labelled": bool, "native_labels": bool, "skipped": dict}


def folder_name(size: Size) -> str:
    """``(720, 1280)`` -> ``"1280x720"``, None -> ``"full"``."""
    return "full" if size is None else f"{size[1]}x{size[0]}"


def names_file(split: str) -> str:
    """The file of a prepared folder that lists all images of a split, skipped or not."""
    return f"{split}.names"


def command(layout: Layout) -> str:
    """What prepares a data set, for messages."""
    return f"python -m lsr_jax.data.prepare {layout.name}"


def read_prepared_manifest(folder: pathlib.Path, layout: Layout) -> dict:
    """What a folder holds.

    Raises:
      InputError: it cannot be read, or was changed.
    """
    return read_manifest(
        folder,
        command=command(layout),
        facts=_PREPARED_FACTS,
        split_facts=_PREPARED_SPLIT_FACTS,
    )


def find_prepared(
    root: pathlib.Path, layout: Layout, size: Size
) -> pathlib.Path | None:
    """The prepared folder at or below `root`, None where there is none."""
    below = root / layout.name
    candidates = (root, below / folder_name(size) / VERSION, below / "full" / VERSION)
    for folder in candidates:
        if (folder / MANIFEST).is_file():
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
        self.manifest = read_prepared_manifest(folder, layout)
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
        records = open_split(
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
            damage=partial(reading, self._folder, command(self._layout)),
        )

    def fingerprint(self, splits: Iterable[str]) -> str:
        """sha256 over the content of all records and the choice among them."""
        text = f"{self.manifest['sha256']} {self._size} {self._space.name}"
        chosen = [(split, self._wanted(split)) for split in splits]
        return hashlib.sha256(f"{text} {chosen}".encode()).hexdigest()

    def _wanted(self, split):
        """The part a split is taken from, and the names of its images."""
        if not custom.is_list(split):
            part = custom.part_of(self._layout, split)
            subset = self._layout.subsets.get(split)
            return part, custom.chosen(self._names(part), subset)
        wanted = [pair.image for pair in custom.read_list(split)]
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
        with reading(self._folder, command(self._layout)):
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
        if self._size is not None or not record["image"].startswith(image_io.PNG):
            image = image_io.decode_image(record["image"], record["id"])
            record["image"] = image_io.resize_image(image, self._size)
        if self._size is not None and self._lut is not None:
            record["label"] = partial(self._label, stored["label"], record["id"])
        return record

    def _label(self, data, name):
        label = image_io.decode_label(data, name, "grey")
        return image_io.resize_label(label, self._label_size)

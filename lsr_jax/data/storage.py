"""Prepared data sets: folders of ArrayRecord files and a manifest, without TensorFlow.

A folder appears under its final name only when it is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from lsr_jax import decoding, errors
from lsr_jax.data import encoded
from lsr_jax.data.encoded import Record

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
    return decoding.reading(prepared, "a prepared data set that is whole", remedy)


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
    manifest = decoding.read_json(path, kind, f"run {command}")
    with decoding.reading(path, kind, f"remove {prepared} and run {command}"):
        _check(manifest, {**_FACTS, **facts})
        for split in manifest["splits"].values():
            _check(split, {**_SPLIT_FACTS, **split_facts})
        if encoded.combined_sha256(manifest["splits"]) != manifest["sha256"]:
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
        raise ValueError(decoding.quoted(found))
    for key, kind in wanted.items():
        if not isinstance(found.get(key), kind):
            raise ValueError(f"{decoding.quoted(found.get(key))} for {key!r}")


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

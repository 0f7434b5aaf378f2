"""The stored format: a folder of ArrayRecord files written by TFDS, and a manifest.

A folder has the name of a version, such as ``1.0.0``, and appears only when it is
complete. It is written and read without TensorFlow. Worker processes import this module;
TFDS is imported where it is used, so that they start quickly.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from lsr_jax import files
from lsr_jax.data.image_io import Size
from lsr_jax.data.layouts import Layout
from lsr_jax.errors import InputError

MANIFEST = "manifest.json"
VERSION = "1.0.0"  # of converted real data; change it when the conversion changes
NAMES = "{}.names"  # lists all images of a split, also skipped ones
PIXELS = "{}.pixels.npz"  # pixels of every label value in every image of a split


class Record(NamedTuple):
    """One encoded image with its label.

    Attributes:
      id: name of the image, in error messages and lists.
      image: PNG or JPEG, RGB; or the bytes of the file as downloaded.
      label: PNG, 8-bit grey.
      sha256: `digest` of the decoded image and label.
      pixels: ``[256]`` number of pixels of each label value, in the label as downloaded.
    """

    id: str
    image: bytes
    label: bytes
    sha256: str
    pixels: np.ndarray


def digest(*arrays: np.ndarray) -> str:
    """Returns the hex sha256 of the bytes of image ``[H, W, 3]``, then label ``[H, W]``."""
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def write_once(
    target: pathlib.Path,
    *,
    name: str,
    splits: Mapping[str, Callable[[], Iterable[Record]]],
    size: tuple[int | None, int | None],
    manifest: Mapping,
    facts: Callable[[str, np.ndarray], Mapping],
    texts: Mapping[str, str] | None = None,
    shards: int | None = None,
) -> None:
    """Writes a folder, unless it exists already.

    Removes what a killed run left behind. A second process waits for the first. Stores the
    pixels ``[N, 256]`` of all records of a split, see `read_pixels`. Adds to the manifest
    ``splits``, with the ``count`` of records and the ``sha256`` of the lines
    ``"<id> <sha256>"``, and the ``sha256`` of the lines ``"<split> <sha256>"``.

    Args:
      target: the folder; its name is a version such as ``1.0.0``.
      name: of the data set, in the names of the files.
      splits: split name -> function that returns its records in order.
      size: ``(H, W)`` of the images, None where they differ.
      manifest: first keys of the manifest.
      facts: returns further keys of a split from its name and the number of pixels
        ``[256]`` of each label value; called after the last record.
      texts: further files, name -> content.
      shards: number of files a split; by default TFDS decides.

    Raises:
      OSError: the folder cannot be written.
    """
    import tensorflow_datasets as tfds

    entries: dict[str, dict] = {}
    pixels: dict[str, np.ndarray] = {}

    def examples(split):
        counts, lines = [], hashlib.sha256()
        for index, record in enumerate(splits[split]()):
            image, label = record.image, record.label
            yield index, {"image": image, "label": label, "id": record.id}
            counts.append(record.pixels.astype(np.int32))
            lines.update(f"{record.id} {record.sha256}\n".encode())
        pixels[split] = np.reshape(counts, (len(counts), 256))
        counted = {"count": len(counts), "sha256": lines.hexdigest()}
        entries[split] = {**counted, **facts(split, pixels[split].sum(0))}

    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released by the OS when the process ends
        if (target / MANIFEST).is_file():
            return
        scratch = target.parent / ".partial"
        for leftover in (scratch, target):
            shutil.rmtree(leftover, ignore_errors=True)
        # TFDS would show a bar for every split and shard, and print the scratch folder.
        tfds.disable_progress_bar()
        sources = {split: partial(examples, split) for split in splits}
        builder = _make_builder(name, target.name, sources, size, scratch)
        options = tfds.download.DownloadConfig(num_shards=shards)
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=options)
        built = pathlib.Path(builder.data_path)
        for file, text in (texts or {}).items():
            (built / file).write_bytes(text.encode())
        for split, counts in pixels.items():
            np.savez_compressed(built / PIXELS.format(split), pixels=counts)
        whole = {**manifest, "sha256": _combined(entries), "splits": entries}
        (built / MANIFEST).write_text(json.dumps(whole, indent=2) + "\n")
        os.replace(built, target)
        shutil.rmtree(scratch)


def folder_name(size: Size) -> str:
    """Formats ``(720, 1280)`` as ``"1280x720"``, None as ``"full"``."""
    return "full" if size is None else f"{size[1]}x{size[0]}"


def read_pixels(folder: pathlib.Path, split: str, *, count: int, command: str):
    """Returns the pixels ``[count, 256]`` of each label value in each record of a split.

    Raises:
      InputError: the folder has none, as those of earlier versions, or it is damaged.
    """
    file = PIXELS.format(split)
    with reading(folder, command, file, "the pixels of each class"):
        with np.load(folder / file) as stored:
            pixels = stored["pixels"]
        if pixels.shape != (count, 256):
            raise ValueError(f"an array of {pixels.shape} for {count} records")
    return pixels


def find(root: pathlib.Path, layout: Layout, size: Size) -> pathlib.Path | None:
    """Finds the prepared folder of a data set at or below `root`."""
    below = root / layout.name
    candidates = (root, below / folder_name(size) / VERSION, below / "full" / VERSION)
    return next((path for path in candidates if (path / MANIFEST).is_file()), None)


def reading(
    folder: str | os.PathLike,
    command: str,
    file: str = "",
    expected: str = "a prepared data set that is whole",
) -> contextlib.AbstractContextManager[None]:
    """Turns any exception about a damaged folder, or a `file` in it, into an InputError.

    The message says that `command` writes the folder again.
    """
    where = pathlib.Path(folder, file)
    return files.reading(where, expected, f"remove {folder} and run {command}")


def read_manifest(folder: str | os.PathLike, *, command: str) -> dict:
    """Returns the manifest of a folder; see `reading` for the arguments.

    Raises:
      InputError: there is none, or it was changed.
    """
    with reading(folder, command, MANIFEST, "the manifest of a prepared data set"):
        manifest = json.loads(pathlib.Path(folder, MANIFEST).read_text("utf-8"))
        if _combined(manifest["splits"]) != manifest["sha256"]:
            raise ValueError("a sha256 that is not that of its splits")
        for name, split in manifest["splits"].items():
            if type(split["count"]) is not int:
                raise ValueError(f"no number of records of {name}")
    return manifest


def check_identity(
    folder: str | os.PathLike, manifest: Mapping, expected: Mapping
) -> None:
    """Raises InputError if a folder was written from other files, or with other labels."""
    for key, value in expected.items():
        if key not in manifest:
            raise InputError(
                f"{folder}: expected its {key} in {MANIFEST}, found none: written by an "
                "earlier version, or changed; remove it and prepare it again"
            )
        found = manifest[key]
        if found == value:
            continue
        if isinstance(value, dict):  # of long ones, what differs
            same = {k for k in value if k in found and found[k] == value[k]}
            value, found = (
                {k: v for k, v in one.items() if k not in same}
                for one in (value, found)
            )
        raise InputError(
            f"{folder}: expected the {key} {value}, found {found}; remove it and prepare "
            "it again, or choose another folder"
        )


@dataclasses.dataclass(frozen=True)
class StoredSplit(Sequence):
    """Records of a split: ``{"image": bytes, "label": bytes, "id": bytes}`` as stored.

    Picklable. Reading a damaged record raises InputError.
    """

    records: Sequence[dict]
    folder: pathlib.Path
    command: str

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]
        with self.reading():
            record = self.records[index]
            for key in ("image", "label", "id"):
                # From a truncated file TFDS returns records without content.
                if not isinstance(record.get(key), bytes):
                    raise ValueError(f"no {key} in record {index}")
            return record

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """Returns `reading` of its folder."""
        return reading(self.folder, self.command)


def open_split(
    folder: str | os.PathLike, split: str, *, command: str, counts: Mapping[str, int]
) -> StoredSplit:
    """Opens one split for random access.

    The manifest of the folder has `counts`, the number of records of every split.

    Raises:
      InputError: there is no such split, or a file is missing or damaged.
    """
    import tensorflow_datasets as tfds

    if split not in counts:
        raise InputError(
            f"{folder}: expected a split of {', '.join(counts)}, found {split!r};"
            " correct the split's name"
        )
    folder = pathlib.Path(folder)
    skip = tfds.decode.SkipDecoding()
    with reading(folder, command):
        builder = tfds.builder_from_directory(os.fspath(folder))
        for name in builder.info.splits[split].filenames:
            if not (folder / name).is_file():
                raise ValueError(f"no file {name}")
        stored = builder.as_data_source(split, decoders={"image": skip, "label": skip})
        if len(stored) != counts[split]:
            raise ValueError(f"{len(stored)} instead of {counts[split]} in {split}")
    return StoredSplit(stored, folder, command)


def _combined(splits):
    lines = "".join(f"{name} {splits[name]['sha256']}\n" for name in sorted(splits))
    return hashlib.sha256(lines.encode()).hexdigest()


def _make_builder(dataset, version, splits, size, data_dir):
    import tensorflow_datasets as tfds

    class Info(tfds.core.DatasetInfo):
        def initialize_from_bucket(self) -> None:
            """Skips the download of statistics; TFDS would leave a temporary folder."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version(version)
        # Else TFDS looks for checksums of downloads (there are none) beside the code, by
        # way of a package that it does not declare.
        code_path = None

        def _info(self):
            def image(shape):
                return tfds.features.Image(shape=shape, encoding_format="png")

            features = tfds.features.FeaturesDict(
                {
                    "image": image((*size, 3)),
                    # For evaluation, labels may be larger than the images.
                    "label": image((None, None, 1)),
                    "id": tfds.features.Text(),
                }
            )
            return Info(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            return splits[split]()

    return Builder(data_dir=data_dir, file_format="array_record")

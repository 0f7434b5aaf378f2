"""Pseudo-labels on disk: one grey PNG of trainIds for every record of a split."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lsr_jax import files
from lsr_jax.data import image_io, records
from lsr_jax.data.archives import Folder
from lsr_jax.errors import InputError
from lsr_jax.files import naming, text

FOLDER = "pseudo_labels"
HASHES = "sha256.json"  # of every file, by its name
REMEDY = "remove the stage's folder to write them again"


def path_of(folder: Path, index: int) -> Path:
    """The file with the label of record ``index`` of the split."""
    return folder / f"{index:06d}.png"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``folder`` when all is written.

    Whoever is interrupted leaves no ``folder``, or a whole one. It holds the hashes of its
    labels: a round of training reads them for hours after they were written.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    hashes = {path.name: digest(path.read_bytes()) for path in unfinished.glob("*.png")}
    text(unfinished / HASHES, json.dumps(hashes, indent=1, sort_keys=True) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)


def write(folder: Path, index: int, label: np.ndarray) -> None:
    """Write uint8 ``[H, W]`` trainIds, 255 = ignore, as the label of a record."""
    path = path_of(folder, index)
    with naming(path):
        path.write_bytes(image_io.png(label))


def digest(content: bytes) -> str:
    """sha256 of a file."""
    return hashlib.sha256(content).hexdigest()


def read(path: Path, expected: str) -> bytes:
    """A file with the digest ``expected``.

    Raises:
      InputError: there is no such file, or it has changed.
    """
    content = Folder(path.parent).read(path.name)
    if digest(content) != expected:
        raise InputError(
            f"{path}: expected the pseudo-label as it was written, found other bytes; "
            f"{REMEDY}"
        )
    return content


class Relabelled:
    """A source whose records have the labels of ``folder`` instead of their own.

    The labels have the size of the images, and are read only as they were written.
    """

    def __init__(self, source: records.Source, folder: Path):
        """Opens the folder.

        Raises:
          InputError: it is missing, or was not written by `writing`.
        """
        self._hashes = files.read_json(
            folder / HASHES, "the hashes of pseudo-labels", REMEDY
        )
        self.on_bad_example = getattr(source, "on_bad_example", "stop")
        self._source = source
        self._folder = folder

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = {
            name: value
            for name, value in self._source[index].items()
            if name not in ("label", "lut")
        }
        path = path_of(self._folder, index)
        if path.name not in self._hashes:
            raise InputError(
                f"{path}: expected the pseudo-label of {record['id']}, found none; {REMEDY}"
            )
        label = functools.partial(read, path, self._hashes[path.name])
        return {**record, "label": label}

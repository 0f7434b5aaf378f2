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

FOLDER = "pseudo_labels"
HASHES = "sha256.json"  # of every file, by its name
REMEDY = "remove the stage's folder to write them again"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Yields a folder to write into, which becomes `folder` when all is written.

    If the block is interrupted, an older `folder` stays as it was. The hashes of all
    labels are stored with them: training reads the files for hours after this.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    hashes = {p.name: _sha256(p.read_bytes()) for p in unfinished.glob("*.png")}
    files.text(unfinished / HASHES, json.dumps(hashes, indent=1, sort_keys=True) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)


def write(folder: Path, index: int, label: np.ndarray) -> None:
    """Writes uint8 ``[H, W]`` trainIds, 255 = ignore, as the label of a record."""
    path = folder / _name(index)
    with files.naming(path):
        path.write_bytes(image_io.png(label))


class Relabelled:
    """A source whose records have the labels of `folder` instead of their own.

    The labels have the size of the images. A missing or changed label is an InputError.
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
        record = self._source[index]
        name = _name(index)
        if name not in self._hashes:
            raise InputError(
                f"{self._folder / name}: the pseudo-label of {record['id']} is missing; "
                f"{REMEDY}"
            )
        other = {key: record[key] for key in record.keys() - {"label", "lut"}}
        return {**other, "label": functools.partial(self._read, name)}

    def _read(self, name):
        content = Folder(self._folder).read(name)
        if _sha256(content) != self._hashes[name]:
            raise InputError(
                f"{self._folder / name}: the pseudo-label has changed since it was "
                f"written; {REMEDY}"
            )
        return content


def _name(index):
    return f"{index:06d}.png"


def _sha256(content):
    return hashlib.sha256(content).hexdigest()

"""Encoded pairs of image and label, counted and hashed on their way to the disk.

Nothing here imports JAX or TFDS, so that worker processes start quickly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import cv2
import numpy as np


class Record(NamedTuple):
    """One encoded pair.

    Attributes:
      id: names the image, in messages and in lists.
      image: PNG, RGB; or the bytes of the file as it came.
      label: PNG, 8-bit grey.
      sha256: hex digest of the decoded image and label.
      pixels: ``[256]`` number of pixels of each label value.
    """

    id: str
    image: bytes
    label: bytes
    sha256: str
    pixels: np.ndarray


def digest(*arrays: np.ndarray) -> str:
    """Hex sha256 over the bytes of image ``[H, W, 3]``, then label ``[H, W]``."""
    return sha256(b"".join(array.tobytes() for array in arrays))


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


class Tally:
    """Counts the records of a split while they pass."""

    def __init__(self):
        self._lines = hashlib.sha256()
        self.count = 0
        self.pixels = np.zeros(256, np.int64)

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        """The same records, counted."""
        for record in records:
            yield record
            self._lines.update(f"{record.id} {record.sha256}\n".encode())
            self.pixels += record.pixels
            self.count += 1

    @property
    def sha256(self) -> str:
        """Over the lines ``"<id> <sha256>"`` in the order of the records."""
        return self._lines.hexdigest()


def combined_sha256(splits: Mapping[str, Mapping]) -> str:
    """Over the lines ``"<split> <sha256>"`` in the order of the names."""
    lines = "".join(f"{name} {splits[name]['sha256']}\n" for name in sorted(splits))
    return hashlib.sha256(lines.encode()).hexdigest()


def png(pixels: np.ndarray) -> bytes:
    """Encodes grey ``[H, W]`` or RGB ``[H, W, 3]`` of 8 bits, without loss."""
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1]
    # On grainy images run lengths are both faster and smaller than full matching.
    run_lengths = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, *run_lengths]
    _, encoded = cv2.imencode(".png", pixels, options)
    return encoded.tobytes()

"""Contact sheets: pictures beside their coloured labels, and a legend."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from lsr_jax.data.labels import Color
from lsr_jax.errors import InputError

GAP = 4  # white pixels between pictures
_COLUMN, _ROW = 90, 18  # pixels of an entry of the legend


def compose(
    rows: Sequence[Sequence[np.ndarray]],
    classes: Sequence[str],
    colors: Sequence[Color],
) -> np.ndarray:
    """Pictures of one size in rows, a legend below: uint8 RGB."""
    lines = [np.concatenate([_framed(cell) for cell in row], 1) for row in rows]
    return np.concatenate([*lines, _legend(lines[0].shape[1], classes, colors)], 0)


def write(path: str | os.PathLike, sheet: np.ndarray) -> None:
    """Writes a PNG.

    Raises:
      InputError: the path has another suffix or cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix != ".png" or not path.parent.is_dir():
        raise InputError(
            f"{path}: expected a .png file in a folder that exists; choose another path"
        )
    if not cv2.imwrite(os.fspath(path), sheet[..., ::-1]):
        raise InputError(f"{path}: cannot be written; choose another path")


def _framed(picture: np.ndarray) -> np.ndarray:
    edges = ((0, GAP), (0, GAP), (0, 0))
    return np.pad(picture, edges, constant_values=255)


def _legend(width, classes, colors) -> np.ndarray:
    """Colour swatches with class names, in as many rows as they need."""
    columns = max(1, width // _COLUMN)
    rows = -(-len(classes) // columns)
    strip = np.full((rows * _ROW, width, 3), 255, np.uint8)
    for index, (name, color) in enumerate(zip(classes, colors, strict=True)):
        top, left = index // columns * _ROW, index % columns * _COLUMN
        strip[top + 3 : top + 15, left + 2 : left + 14] = color
        place, font = (left + 17, top + 13), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(strip, name, place, font, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return strip

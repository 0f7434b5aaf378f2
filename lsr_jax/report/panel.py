"""Pictures: what the numbers look like. Files are the same bytes on every run."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import IdentityTransform

from lsr_jax import files

CELL = 400  # pixels a cell is wide, about
GAP = 8
MARGIN = 24
TITLE = 40
SWATCH = 18
LEGEND_LINE = 34
FONT = 17
DPI = 128  # a power of two, so that inches times dpi are whole pixels again
INK = "#222222"


def panel(
    images: np.ndarray,
    truths: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    names: Sequence[str],
    colors: np.ndarray,
    path: str | os.PathLike,
) -> None:
    """Writes a PNG: rows are images; columns the image, the truth and each prediction.

    Pixels are kept square and sharp (nearest), small images are enlarged by a whole
    number. The legend names the classes that occur; ignored pixels are black.

    Args:
      images: uint8 ``[N, H, W, 3]``.
      truths: ``[N, ., .]`` class indices, 255 = ignore, at any size.
      predictions: title -> ``[N, ., .]`` class indices, in the order of the columns.
      names: the ``C`` classes.
      colors: uint8 ``[C, 3]``.
      path: the file to write; its folder is made.
    """
    size = _cell_size(*images.shape[1:3])
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(names)] = colors
    maps = [np.asarray(truths), *map(np.asarray, predictions.values())]
    columns = [images, *(palette[labels] for labels in maps)]
    cells = [[nearest(one, size) for one in column] for column in columns]
    grid = _grid(cells)

    present = np.unique(np.concatenate([np.unique(labels) for labels in maps]))
    entries = [(names[c], palette[c]) for c in present if c < len(names)]
    if present[-1] >= len(names):
        entries.append(("ignored", palette[-1]))
    titles = ["image", "ground truth", *predictions]
    _save(_compose(grid, titles, entries, size[1] + GAP), path)


def _cell_size(height: int, width: int) -> tuple[int, int]:
    """Enlarged by a whole number, or shrunk to the width of a cell."""
    scale = round(CELL / width) or CELL / width
    return round(height * scale), round(width * scale)


def nearest(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixel under the centre of each new one."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for old, new in zip(image.shape[:2], size, strict=True)
    )
    return image[rows[:, None], columns]


def _grid(columns: list[list[np.ndarray]]) -> np.ndarray:
    """Cells side by side on white."""
    count, (height, width, _) = len(columns[0]), columns[0][0].shape
    grid = np.full(
        (count * (height + GAP) - GAP, len(columns) * (width + GAP) - GAP, 3), 255
    ).astype(np.uint8)
    for x, column in enumerate(columns):
        for y, cell in enumerate(column):
            top, left = y * (height + GAP), x * (width + GAP)
            grid[top : top + height, left : left + width] = cell
    return grid


def _compose(grid, titles, entries, pitch) -> Figure:
    """Titles above the grid and the legend below; all positions are whole pixels."""
    height, width, _ = grid.shape
    needed = 3 * SWATCH + max(len(name) for name, _ in entries) * FONT * 0.6
    lines = -(-len(entries) // max(1, int(width // needed)))
    in_line = -(-len(entries) // lines)
    bottom = MARGIN + lines * LEGEND_LINE + GAP
    size = (2 * MARGIN + width, bottom + height + TITLE + MARGIN)
    figure = Figure(figsize=np.divide(size, DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.figimage(grid, MARGIN, bottom, origin="upper")

    for number, title in enumerate(titles):
        x, y = MARGIN + number * pitch, bottom + height + TITLE // 2
        _write(figure, x, y, title, weight="bold")
    for number, (name, color) in enumerate(entries):
        line, place = divmod(number, in_line)
        x = MARGIN + place * width // in_line
        y = bottom - GAP - line * LEGEND_LINE - LEGEND_LINE // 2
        _swatch(figure, x, y - SWATCH // 2, color)
        _write(figure, x + SWATCH + GAP, y, name)
    return figure


def _write(figure, x, y, text, weight="normal"):
    style = {"fontsize": FONT * 72 / DPI, "color": INK, "weight": weight}
    figure.text(x, y, text, va="center", transform=IdentityTransform(), **style)


def _swatch(figure, x, y, color):
    style = {"facecolor": np.divide(color, 255), "antialiased": False}
    square = Rectangle((x, y), SWATCH, SWATCH, transform=IdentityTransform(), **style)
    figure.add_artist(square)


def _save(figure: Figure, path: str | os.PathLike) -> None:
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib, which is the default.
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})

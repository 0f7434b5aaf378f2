"""How every figure looks, and how it is saved: the same bytes on every run.

Colours alone tell no two things apart: there are eight that colour-blind readers tell
apart (Okabe and Ito), and each further thing gets another marker, dash or hatch.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lsr_jax import writing

COLORS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#7A7000",
    "#000000",
)
MARKERS = ("o", "^", "s", "D")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
INK = "#222222"
GREY = "#8A8A8A"
PALE = "#DDDDDD"
DPI = 160
FORMATS = ("png", "svg", "pdf")
# Without dates and versions; the identifiers in an SVG come from the salt.
METADATA = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
STYLE = {
    "svg.hashsalt": "lsr_jax",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
}
# Decorates every function that draws: settings are read when an artist is made.
styled = matplotlib.rc_context(STYLE)


class Look(NamedTuple):
    """What tells one thing from the others in a figure."""

    color: str
    marker: str
    dash: str | tuple


def look(number: int) -> Look:
    """The look of thing ``number``; 32 of them differ."""
    turn, place = divmod(number, len(COLORS))
    turn %= len(MARKERS)
    return Look(COLORS[place], MARKERS[turn], DASHES[turn])


def grid(count: int) -> tuple[int, int]:
    """Rows and columns for so many panels: at most three side by side, four as 2 x 2."""
    columns = 2 if count == 4 else min(count, 3)
    return -(-count // columns), columns


def new(width: float, height: float) -> Figure:
    """An empty figure of so many inches that keeps its texts apart."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def bars(axes: Axes, series: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    """One group of bars a name, one bar a series in each; NaN leaves a gap."""
    width = 0.8 / len(series)
    for number, (title, values) in enumerate(series.items()):
        places = np.arange(len(names)) + (number - (len(series) - 1) / 2) * width
        axes.bar(places, values, width, color=look(number).color, label=title)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_xlim(-0.6, len(names) - 0.4)


@styled
def save(figure: Figure, stem: str | os.PathLike, formats=FORMATS) -> list[str]:
    """Writes ``stem.png`` and the vector files beside it; returns their names."""
    stem = pathlib.Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    # Texts are kept apart once, not in every format anew.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    names = []
    for kind in formats:
        path = stem.with_name(f"{stem.name}.{kind}")
        with writing.replacing(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=METADATA[kind])
        names.append(path.name)
    return names

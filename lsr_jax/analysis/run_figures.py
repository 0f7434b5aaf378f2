"""Figures of a run: what its losses did, and which classes it confuses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lsr_jax.analysis import drawing
from lsr_jax.errors import InputError

FEWEST = 0.005  # smaller shares of a class are not written into their cell

Curves = dict[str, tuple[np.ndarray, np.ndarray]]


def read_curves(path: Path) -> Curves:
    """``{metric: (steps, values)}`` of a stage's ``metrics.jsonl``; empty without one.

    Raises:
      InputError: a line that is none of the log's.
    """
    found: dict[str, list] = {}
    lines = path.read_text().splitlines(True) if path.is_file() else []
    for line in lines:
        if not line.endswith("\n"):  # the last one, of a run that is under way
            break
        try:
            entry = json.loads(line)
            step = entry.pop("step")
        except (ValueError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{path}: expected a line of metrics, found {line[:60]!r}; restore it"
            ) from error
        for name, value in entry.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, []).append((step, value))
    return {name: tuple(np.array(pairs).T) for name, pairs in found.items()}


@drawing.styled
def training_curves(stages: Mapping[str, Curves]) -> Figure:
    """Every logged metric over the steps of its stage, one small panel a metric.

    Args:
      stages: stage -> what `read_curves` found.
    """
    metrics = list(dict.fromkeys(name for curves in stages.values() for name in curves))
    rows, columns = drawing.grid(len(metrics))
    figure = drawing.new(3.2 * columns + 0.3, 1.9 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for place, metric in zip(axes, metrics, strict=False):
        for number, (stage, curves) in enumerate(stages.items()):
            if metric not in curves:
                continue
            color, marker, dash = drawing.look(number)
            steps, values = curves[metric]
            # A marker where there is no line to see.
            place.plot(
                steps,
                values,
                color=color,
                linestyle=dash,
                marker=marker if len(steps) < 12 else "",
                markersize=3,
                label=stage,
            )
        place.set_title(metric.replace("_", " "), fontsize=9)
        place.grid(True)
        place.margins(x=0.03)
        place.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for place in axes[len(metrics) :]:
        place.set_visible(False)
    for place in axes[max(0, len(metrics) - columns) : len(metrics)]:
        place.set_xlabel("step of the stage")
    handles = {}
    for place in axes[: len(metrics)]:
        lines, names = place.get_legend_handles_labels()
        handles.update(zip(names, lines, strict=True))
    ordered = [stage for stage in stages if stage in handles]
    figure.legend(
        [handles[stage] for stage in ordered],
        ordered,
        loc="outside upper left",
        ncols=max(1, 2 * columns),
    )
    return figure


@drawing.styled
def confusion(shares: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Where the pixels of each true class went, in percent; one panel a stage.

    Args:
      shares: title -> ``[C, C]`` of `features.row_shares`, NaN rows for absent classes.
      names: the ``C`` classes.
    """
    columns = min(len(shares), 2)
    rows = -(-len(shares) // columns)
    side = 1.5 + 0.26 * len(names)
    figure = drawing.new(side * columns, (side + 0.6) * rows)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for place, (title, matrix) in zip(axes, shares.items(), strict=False):
        place.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
        for (y, x), share in np.ndenumerate(matrix):
            if share >= FEWEST:
                color = "white" if share > 0.55 else drawing.INK
                text = f"{100 * share:.0f}"
                place.text(
                    x, y, text, ha="center", va="center", fontsize=5.5, color=color
                )
        for y in np.flatnonzero(np.isnan(matrix).all(axis=1)):
            place.axhspan(y - 0.5, y + 0.5, color=drawing.PALE, linewidth=0)
        place.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        place.set_yticks(range(len(names)), names, fontsize=7)
        place.set_xlabel("predicted")
        place.set_ylabel("true")
        place.set_title(title)
        place.tick_params(length=0)
    for place in axes[len(shares) :]:
        place.set_visible(False)
    return figure

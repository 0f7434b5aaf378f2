"""Figures of a study: every method with its seeds, by class, and what each term is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lsr_jax.analysis import drawing

WRITTEN = 0.05  # points; smaller differences stay unwritten


class Estimate(NamedTuple):
    """What a study found for one number, in percent.

    Attributes:
      seeds: the value of every seed.
      mean: of them.
      half: half of the confidence interval, NaN for one seed.
    """

    seeds: Sequence[float]
    mean: float
    half: float


@drawing.styled
def methods(
    found: Mapping[str, Mapping[str, Estimate]], control: str | None, measure: str
) -> Figure:
    """One row a method: its seeds, their mean and its 95 % confidence interval.

    Args:
      found: method -> series (such as BatchNorm statistics) -> estimate.
      control: its mean in the first series is drawn as a line through all rows.
      measure: what the axis shows, with its unit.
    """
    names = list(found)
    series = list(dict.fromkeys(s for estimates in found.values() for s in estimates))
    figure = drawing.new(6.4, 1.2 + 0.42 * len(names))
    axes = figure.subplots()
    for row, name in enumerate(names):
        for number, key in enumerate(series):
            if key not in found[name]:
                continue
            estimate = found[name][key]
            color = drawing.look(number).color
            marker = drawing.MARKERS[number % len(drawing.MARKERS)]
            y = row + (number - (len(series) - 1) / 2) * 0.3
            half = np.nan_to_num(estimate.half)
            axes.errorbar(
                estimate.mean, y, xerr=half, color=color, marker=marker, capsize=2.5
            )
            axes.scatter(
                estimate.seeds, [y] * len(estimate.seeds), s=5, c=drawing.INK, zorder=3
            )
    if control in found:
        line = found[control][series[0]].mean
        axes.axvline(line, color=drawing.INK, linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(measure)
    axes.xaxis.grid(True)
    shown = axes.get_xlim()
    values = [v for e in found.values() for x in e.values() for v in (*x.seeds, x.mean)]
    # Two seeds have intervals of any width; the seeds decide what is shown.
    room = 0.6 * max(np.ptp(values), 0.5)
    axes.set_xlim(max(shown[0], min(values) - room), min(shown[1], max(values) + room))
    looks = zip(
        drawing.COLORS, drawing.MARKERS * len(drawing.COLORS), series, strict=False
    )
    handles = [_key(color, marker, key) for color, marker, key in looks]
    handles.append(_key(drawing.INK, ".", "one seed"))
    if control in found:
        handles.append(Line2D([], [], color=drawing.INK, linestyle="--", label=control))
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    return figure


@drawing.styled
def per_class(
    differences: Mapping[str, np.ndarray], names: Sequence[str], control: str
) -> Figure:
    """IoU of every class above the control, in points: a row a method.

    Args:
      differences: method -> ``[C]``, NaN where undefined.
      names: the ``C`` classes.
      control: to which they were taken.
    """
    values = np.stack(list(differences.values()))
    most = max(1.0, float(np.nanmax(np.abs(values), initial=0)))
    figure = drawing.new(2.6 + 0.42 * len(names), 1.7 + 0.3 * len(values))
    axes = figure.subplots()
    picture = axes.imshow(values, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if abs(value) >= WRITTEN:
            color = "white" if abs(value) > 0.65 * most else drawing.INK
            text = f"{value:+.1f}"
            axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color=color)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(values)), list(differences))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"IoU above {control} (points)", loc="left")
    figure.colorbar(picture, ax=axes, fraction=0.03, pad=0.01)
    return figure


@drawing.styled
def ablation(found: Mapping[str, Estimate], measure: str) -> Figure:
    """A bar for the full method and for each term removed (LSR, Fig. 3a).

    Args:
      found: label -> estimate, the full method first.
      measure: what the axis shows, with its unit.
    """
    names = list(found)
    figure = drawing.new(1.6 + 0.95 * len(names), 3.2)
    axes = figure.subplots()
    everything = [v for estimate in found.values() for v in estimate.seeds]
    for x, estimate in enumerate(found.values()):
        color = drawing.COLORS[0] if x == 0 else drawing.COLORS[5]
        axes.bar(x, estimate.mean, 0.62, color=color)
        if not np.isnan(estimate.half):
            axes.errorbar(
                x, estimate.mean, estimate.half, color=drawing.GREY, capsize=4
            )
        places = [x] * len(estimate.seeds)
        axes.scatter(places, estimate.seeds, s=10, c=drawing.INK, zorder=3)
    first = next(iter(found.values()))
    axes.axhline(first.mean, color=drawing.INK, linestyle="--", linewidth=0.8)
    # As wide as the intervals, but two seeds have intervals of any width.
    halves = [np.nan_to_num(estimate.half) for estimate in found.values()]
    room = max(min(max(halves) + 0.1, 1.2 * np.ptp(everything)), 0.5)
    axes.set_ylim(max(0, min(everything) - room), max(everything) + room)
    labels = [name.replace(" without ", "\nwithout\n") for name in names]
    axes.set_xticks(range(len(names)), labels)
    axes.set_ylabel(f"{measure}\n(axis does not start at 0)")
    axes.yaxis.grid(True)
    return figure


def _key(color, marker, label):
    return Line2D([], [], linestyle="", color=color, marker=marker, label=label)

"""Drawing of every figure, from numbers to matplotlib, and saving.

Figures are readable for color-blind people: the eight colors of Okabe and Ito, and every
further thing gets another marker, dash or hatch. ``names`` are those of the ``C`` classes,
``colors`` uint8 ``[C, 3]``; mappings have a panel, bar or row for each title.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# The backend of the environment is not needed here, and may not exist.
os.environ["MPLBACKEND"] = "agg"

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lsr_jax import files
from lsr_jax.types import IGNORE

COLORS = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00"),
    *("#CC79A7", "#56B4E9", "#7A7000", "#000000"),
)
MARKERS = ("o", "^", "s", "D")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
INK = "#222222"
GREY = "#8A8A8A"
PALE = "#DDDDDD"
STYLE = {
    "pdf.fonttype": 42,
    "figure.facecolor": "white",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
# Decorates every function that draws: settings are read when an artist is made. Those of
# the user's matplotlibrc are not used.
styled = matplotlib.style.context(["default", STYLE])
Look = tuple[str, str, str | tuple]  # color, marker and dash of a thing in a figure
CHANCE = 90.0  # degrees: the largest angle between non-negative vectors
SMALLEST_SHARE = 0.005  # below, a cell of the confusion matrix stays empty
SMALLEST_GAP = 0.05  # points; below, a cell of IoU differences stays empty


def look(number: int) -> Look:
    """The look of thing ``number``; 32 of them differ."""
    turn, place = divmod(number, len(COLORS))
    turn %= len(MARKERS)
    return COLORS[place], MARKERS[turn], DASHES[turn]


@styled
def save(
    figure: Figure, stem: str | os.PathLike, formats=("png", "svg", "pdf")
) -> None:
    """Write ``stem.png`` and the vector files beside it."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    # The layout is computed once, not for every format.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for kind in formats:
        with files.replacing(stem.with_name(f"{stem.name}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind)


@styled
def panel(
    columns: Mapping[str, Sequence[np.ndarray]],
    names: Sequence[str],
    colors: np.ndarray,
) -> Figure:
    """Rows of images, with a column for the image, the truth and each prediction.

    ``columns`` are RGB images uint8 ``[H, W, 3]`` or class maps ``[h, w]``, 255 (ignore)
    black.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(names)] = colors
    first = next(iter(columns.values()))
    ratio = first[0].shape[0] / first[0].shape[1]
    width, height = 2.6 * len(columns), (2.6 * ratio + 0.1) * len(first) + 0.9
    figure, axes = _new(width, height, len(first), len(columns), squeeze=False)
    present = set()
    for x, (title, pictures) in enumerate(columns.items()):
        axes[0, x].set_title(title)
        for place, picture in zip(axes[:, x], pictures, strict=True):
            if picture.ndim == 2:
                present |= set(np.unique(picture).tolist())
                picture = palette[picture]
            place.imshow(
                picture, extent=(0, 1, 0, 1), aspect=ratio, interpolation="none"
            )
            place.set_axis_off()
    handles = [
        Patch(color=palette[c] / 255, label="ignored" if c == IGNORE else names[c])
        for c in sorted(present)
    ]
    columns = max(1, 2 * axes.shape[1])
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return figure


@styled
def shares(values: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Share of each class among the cells, unlabeled ones last (LSR, Fig. 4).

    ``values`` are the ``[C + 1]`` shares of `features.class_shares` by rule.
    """
    table = 100 * pd.DataFrame(dict(values), index=[*names, "unlabeled"])
    figure, axes = _bars(table.where(table > 0))
    axes.set_yscale("log")
    axes.set_ylim(table[table > 0].min().min() / 2, 100)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("share of the cells (%)")
    return figure


@styled
def polar(
    samples: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    names: Sequence[str],
    colors: np.ndarray,
) -> Figure:
    """Norms and angles of feature vectors, one star for each sample (LSR, Fig. 5).

    The radius is the norm on a logarithmic scale. Classes are spread evenly over the
    circle; a vector is drawn at its angle to the class mean from the ray of its class,
    alternating sides (the angle has no sign). Grey: median norm and 95 % interval. A sample
    has norms, angles in degrees and classes of ``N`` vectors.
    """
    figure, axes = _grid(len(samples), 4.4, 4.6, projection="polar")
    norms = np.concatenate([norm for norm, *_ in samples.values()])
    positive = norms[norms > 0]
    low, high = positive.min() / 1.4, positive.max()
    rays = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    circle = np.linspace(0, 2 * np.pi, 181)
    for place, (title, sample) in zip(axes, samples.items(), strict=True):
        norm, angles, labels = sample
        side = np.where(np.arange(len(angles)) % 2, 1, -1)
        place.set_rscale("log")
        place.scatter(
            (rays[labels] + side * np.radians(angles))[norm > 0],
            norm[norm > 0],
            s=3,
            c=np.asarray(colors)[labels[norm > 0]] / 255,
            alpha=0.6,
            linewidths=0,
            rasterized=True,
        )
        first, median, last = np.quantile(norm, (0.025, 0.5, 0.975)).clip(low)
        place.fill_between(circle, first, last, color=GREY, alpha=0.35, linewidth=0)
        place.plot(circle, np.full(len(circle), median), color=INK, linewidth=1.2)
        for ray, color in zip(rays, np.asarray(colors) / 255, strict=True):
            place.plot([ray, ray], [low, high], color=color, linewidth=1)
        place.set_xticks(rays, names, fontsize=7)
        place.set_rlim(low, high)
        place.tick_params(axis="y", which="both", labelsize=6)
        place.grid(color=PALE, linewidth=0.5)
        place.set_title(title, pad=20)
    handles = [
        Line2D([], [], color=INK, linewidth=1.2, label="median norm"),
        Patch(color=GREY, alpha=0.35, label="95 % of the norms"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@styled
def prototype_angles(angles: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Mean angle of each class prototype to the others, one bar a sample (LSR, Fig. 6).

    ``angles`` are the ``[C]`` degrees of `features.prototype_angles`.
    """
    table = pd.DataFrame(dict(angles), index=list(names))
    means = table.mean()
    table.columns = [f"{title} (mean {means[title]:.1f}°)" for title in table]
    figure, axes = _bars(table)
    axes.axhline(CHANCE, color=INK, linestyle="--", linewidth=1)
    axes.set_ylabel("mean angle to other\nprototypes (degrees)")
    axes.set_ylim(0, CHANCE + 3)
    return figure


@styled
def scatter(
    points: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    names: Sequence[str],
) -> Figure:
    """Points in the plane, a color and marker for each class (LSR, Fig. 7).

    ``points`` are ``[N, 2]``, ``labels`` ``[N]`` indices into ``names``.
    """
    figure, axes = _grid(len(points), 3.9, 3.7)
    for place, (title, where) in zip(axes, points.items(), strict=True):
        own = labels[title]
        # In random parts, so that no class covers all others.
        order = np.random.default_rng(0).permutation(len(own))
        for part in np.array_split(order, max(1, len(order) // 200)):
            for c in np.unique(own[part]):
                color, marker, _ = look(c)
                style = {"s": 9, "c": color, "marker": marker, "linewidths": 0}
                chosen = where[part[own[part] == c]]
                place.scatter(*chosen.T, alpha=0.7, rasterized=True, **style)
        place.set_title(title)
        place.set(xticks=[], yticks=[])
        place.spines[:].set(visible=True, color=PALE)
    present = np.unique(np.concatenate(list(labels.values())))
    figure.legend(
        handles=[_key(names[c], look(c)) for c in present],
        loc="outside lower center",
        ncols=min(max(1, len(present)), 10),
        handletextpad=0.1,
        columnspacing=1.0,
    )
    return figure


@styled
def training_curves(stages: Mapping[str, pd.DataFrame]) -> Figure:
    """Every logged metric over the steps of its stage, one small panel a metric."""
    metrics = list(dict.fromkeys(name for table in stages.values() for name in table))
    figure, axes = _grid(len(metrics), 3.2, 1.9)
    looks = {stage: look(number) for number, stage in enumerate(stages)}
    for place, metric in zip(axes, metrics, strict=True):
        for stage, table in stages.items():
            if metric in table:
                color, marker, dash = looks[stage]
                curve = table[metric].dropna()
                # A marker where there are too few points for a line.
                marker = marker if len(curve) < 12 else ""
                style = {"color": color, "linestyle": dash, "marker": marker}
                place.plot(curve.index, curve, markersize=3, **style)
        place.set_title(metric.replace("_", " "), fontsize=9)
        place.grid(True)
        place.margins(x=0.03)
        place.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        place.set_xlabel("step")
    handles = [_key(stage, own, line=True) for stage, own in looks.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=6)
    return figure


@styled
def confusion(shares: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Where the pixels of each true class went, in percent; one panel a stage.

    ``shares`` are ``[C, C]`` of `features.row_shares`, rows of absent classes NaN.
    """
    side = 1.5 + 0.26 * len(names)
    figure, axes = _grid(len(shares), side, side + 0.6)
    for place, (title, matrix) in zip(axes, shares.items(), strict=True):
        place.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
        shown = np.where(matrix >= SMALLEST_SHARE, 100 * matrix, np.nan)
        _write_cells(place, shown, "{:.0f}", white_from=55)
        for y in np.flatnonzero(np.isnan(matrix).all(axis=1)):
            place.axhspan(y - 0.5, y + 0.5, color=PALE, linewidth=0)
        place.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        place.set_yticks(range(len(names)), names, fontsize=7)
        place.set(xlabel="predicted", ylabel="true", title=title)
        place.tick_params(length=0)
    return figure


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


@styled
def methods(
    found: Mapping[str, Mapping[str, Estimate]], control: str | None, measure: str
) -> Figure:
    """One row a method: its seeds, their mean and its 95 % confidence interval.

    ``found`` maps a method to its series (such as BatchNorm statistics); the mean of the
    control in the first is drawn as a line through all rows.
    """
    series = list(dict.fromkeys(name for one in found.values() for name in one))
    figure, axes = _new(6.4, 1.2 + 0.42 * len(found))
    looks = {key: (COLORS[i], MARKERS[i], "") for i, key in enumerate(series)}
    for row, estimates in enumerate(found.values()):
        for key, estimate in estimates.items():
            color, marker, _ = looks[key]
            y = row + (series.index(key) - (len(series) - 1) / 2) * 0.3
            half = np.nan_to_num(estimate.half)
            axes.errorbar(
                estimate.mean, y, xerr=half, color=color, marker=marker, capsize=2.5
            )
            axes.plot(estimate.seeds, [y] * len(estimate.seeds), ".", color=INK, ms=4)
    handles = [_key(key, style) for key, style in looks.items()]
    handles.append(_key("one seed", (INK, ".", "")))
    if control in found:
        mean = found[control][series[0]].mean
        line = axes.axvline(mean, color=INK, linestyle="--", linewidth=0.8)
        line.set_label(control)
        handles.append(line)
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel(measure)
    axes.xaxis.grid(True)
    # Two seeds have intervals of any width; the seeds decide what is shown.
    values = [v for e in found.values() for x in e.values() for v in (*x.seeds, x.mean)]
    margin = 0.6 * max(np.ptp(values), 0.5)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, min(values) - margin), min(high, max(values) + margin))
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    return figure


@styled
def per_class(
    differences: Mapping[str, np.ndarray], names: Sequence[str], control: str
) -> Figure:
    """IoU of every class above the control, in points: a row a method.

    ``differences`` are ``[C]``, NaN where undefined.
    """
    values = np.stack(list(differences.values()))
    most = max(1.0, float(np.nanmax(np.abs(values), initial=0)))
    figure, axes = _new(2.6 + 0.42 * len(names), 1.7 + 0.3 * len(values))
    picture = axes.imshow(values, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto")
    shown = np.where(np.abs(values) >= SMALLEST_GAP, values, np.nan)
    _write_cells(axes, shown, "{:+.1f}", white_from=0.65 * most)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(values)), list(differences))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"IoU above {control} (points)", loc="left")
    figure.colorbar(picture, ax=axes, fraction=0.03, pad=0.01)
    return figure


@styled
def ablation(found: Mapping[str, Estimate], measure: str) -> Figure:
    """A bar for the full method, which is first, and for each term removed (LSR, Fig. 3a)."""
    figure, axes = _new(1.6 + 0.95 * len(found), 3.2)
    for x, estimate in enumerate(found.values()):
        axes.bar(x, estimate.mean, 0.62, color=COLORS[0] if x == 0 else COLORS[5])
        if not np.isnan(estimate.half):
            axes.errorbar(x, estimate.mean, estimate.half, color=GREY, capsize=4)
        places = [x] * len(estimate.seeds)
        axes.scatter(places, estimate.seeds, s=10, c=INK, zorder=3)
    first = next(iter(found.values()))
    axes.axhline(first.mean, color=INK, linestyle="--", linewidth=0.8)
    # As wide as the intervals, but two seeds have intervals of any width.
    seeds = [value for estimate in found.values() for value in estimate.seeds]
    widest = max(np.nan_to_num(estimate.half) for estimate in found.values())
    margin = max(min(widest + 0.1, 1.2 * np.ptp(seeds)), 0.5)
    axes.set_ylim(max(0, min(seeds) - margin), max(seeds) + margin)
    labels = [name.replace(" without ", "\nwithout\n") for name in found]
    axes.set_xticks(range(len(found)), labels)
    axes.set_ylabel(f"{measure}\n(axis does not start at 0)")
    axes.yaxis.grid(True)
    return figure


def _write_cells(axes: Axes, matrix: np.ndarray, text: str, white_from: float) -> None:
    """Write the values that are not NaN into the cells of an image."""
    style = {"ha": "center", "va": "center", "fontsize": 6}
    for (y, x), value in np.ndenumerate(matrix):
        if not np.isnan(value):
            color = "white" if abs(value) > white_from else INK
            axes.text(x, y, text.format(value), color=color, **style)


def _grid(count: int, width: float, height: float, **subplots):
    """A figure of ``count`` panels of so many inches, at most three side by side."""
    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    size = width * columns, height * rows + 0.6
    figure, axes = _new(*size, rows, columns, squeeze=False, subplot_kw=subplots)
    for extra in axes.flat[count:]:
        extra.remove()
    return figure, axes.flat[:count]


def _new(width: float, height: float, *grid: int, **subplots):
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(*grid, **subplots)


def _bars(table: pd.DataFrame) -> tuple[Figure, Axes]:
    """One group of bars a row, one bar a column in each; NaN leaves a gap."""
    figure, axes = _new(1.2 + 0.5 * len(table), 3.4)
    width = 0.8 / len(table.columns)
    for number, name in enumerate(table):
        left = np.arange(len(table)) - 0.4 + number * width
        color = COLORS[number % len(COLORS)]
        axes.bar(
            left, table[name].fillna(0), width, align="edge", color=color, label=name
        )
    axes.set_xlim(-0.6, len(table) - 0.4)
    axes.set_xticks(range(len(table)), table.index, rotation=45, ha="right")
    axes.yaxis.grid(True)
    figure.legend(loc="outside upper left", ncols=3)
    return figure, axes


def _key(label: str, style: Look, line: bool = False) -> Line2D:
    """An entry of a legend."""
    color, marker, dash = style
    dash = dash if line else ""
    return Line2D([], [], color=color, linestyle=dash, marker=marker, label=label)

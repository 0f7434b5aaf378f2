"""How every figure looks, and how it is saved: the same bytes on every run.

Colours alone tell no two things apart: there are eight that colour-blind readers tell
apart (Okabe and Ito), and each further thing gets another marker, dash or hatch.

Figures 3b and 4 of LSR: labels at the size of the feature map, by two rules.

Figures of the feature space: 5, 6 and 7 of LSR, and both domains side by side.

Figures of a run: what its losses did, and which classes it confuses.

Figures of a study: every method with its seeds, by class, and what each term is worth.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lsr_jax import files
from lsr_jax.errors import InputError
from lsr_jax.ops import numerics
from lsr_jax.report import features
from lsr_jax.report.features import Sample

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


def drawing_look(number: int) -> Look:
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
        axes.bar(places, values, width, color=drawing_look(number).color, label=title)
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
        with files.replacing(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=METADATA[kind])
        names.append(path.name)
    return names


UNLABELLED = "unlabelled"


@styled
def shares(values: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Share of each class among the cells, unlabelled ones last (LSR, Fig. 4).

    Args:
      values: rule -> ``[C + 1]`` shares of `features.class_shares`.
      names: the ``C`` classes.
    """
    names = [*names, UNLABELLED]
    figure = new(1.2 + 0.5 * len(names), 3.4)
    axes = figure.subplots()
    percent = {rule: np.where(x > 0, 100 * x, np.nan) for rule, x in values.items()}
    bars(axes, percent, names)
    smallest = min(np.nanmin(x) for x in percent.values())
    axes.set_yscale("log")
    axes.set_ylim(smallest / 2, 100)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("share of the cells (%)")
    axes.yaxis.grid(True)
    figure.legend(loc="outside upper left", ncols=len(values))
    return figure


CHANCE = 90.0  # degrees: the most that non-negative vectors can be apart


@styled
def polar(
    samples: Mapping[str, Sample],
    names: Sequence[str],
    colors: np.ndarray,
    norm_range: tuple[float, float] | None = None,
) -> Figure:
    """Norms and angles of feature vectors, one star for each sample (LSR, Fig. 5).

    The radius is the norm on a logarithmic scale. Classes are spread evenly over the
    circle, a vector lies beside the ray of its class by its angle to the class mean, to
    either side in turn (the angle has no sign). Grey: the median norm, the 95 % interval.

    Args:
      samples: title -> vectors and labels, in the order of the panels.
      names: the ``C`` classes.
      colors: uint8 ``[C, 3]``.
      norm_range: smallest and largest radius; default: those of all samples.
    """
    rows, columns = grid(len(samples))
    figure = new(4.4 * columns, 4.6 * rows + 0.3)
    lengths = [numerics.norms(sample.vectors) for sample in samples.values()]
    positive = [length[length > 0] for length in lengths]
    low, high = norm_range or (
        min(x.min() for x in positive),
        max(x.max() for x in positive),
    )
    base = np.log10(low) - 0.15
    rays = np.linspace(0, 2 * np.pi, len(names), endpoint=False)
    for number, (title, sample) in enumerate(samples.items()):
        axes = figure.add_subplot(rows, columns, number + 1, projection="polar")
        prototypes = features.class_means(sample, num_classes=len(names))
        angles = np.radians(features.inner_angles(sample, prototypes))
        shown = lengths[number] > 0
        side = np.where(np.arange(len(angles)) % 2, 1, -1)
        theta = (rays[sample.labels] + side * angles)[shown]
        radius = np.log10(lengths[number][shown]) - base
        axes.scatter(
            theta,
            radius,
            s=3,
            c=np.asarray(colors)[sample.labels[shown]] / 255,
            alpha=0.6,
            linewidths=0,
            rasterized=True,
        )
        _ring(axes, features.norm_ring(sample.vectors), base)
        _rays(axes, rays, names, colors, np.log10(high) - base)
        _radial_scale(axes, base, high)
        axes.set_title(title, pad=20)
    figure.legend(
        handles=[
            Line2D([], [], color=INK, linewidth=1.2, label="median norm"),
            Patch(color=GREY, alpha=0.35, label="95 % of the norms"),
        ],
        loc="outside lower center",
        ncols=2,
    )
    return figure


@styled
def prototype_angles(angles: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Mean angle of each class prototype to the others, one bar a sample (LSR, Fig. 6).

    Args:
      angles: title -> ``[C]`` degrees of `features.prototype_angles`.
      names: the ``C`` classes.
    """
    figure = new(1.2 + 0.5 * len(names), 3.4)
    axes = figure.subplots()
    bars(axes, {_with_mean(title, a): a for title, a in angles.items()}, names)
    axes.axhline(CHANCE, color=INK, linestyle="--", linewidth=1)
    axes.set_ylabel("mean angle to other\nprototypes (degrees)")
    axes.set_ylim(0, CHANCE + 3)
    axes.yaxis.grid(True)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


@styled
def scatter(
    points: Mapping[str, np.ndarray],
    labels: np.ndarray | Mapping[str, np.ndarray],
    names: Sequence[str],
) -> Figure:
    """Points in the plane, a colour and marker for each class (LSR, Fig. 7).

    Args:
      points: title -> ``[N, 2]``, in the order of the panels.
      labels: ``[N]`` indices into ``names``, the same for all panels or one a title.
      names: classes, or domains.
    """
    rows, columns = grid(len(points))
    figure = new(3.9 * columns, 3.7 * rows + 0.8)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    present = set()
    for place, (title, where) in zip(axes, points.items(), strict=False):
        own = labels[title] if isinstance(labels, Mapping) else labels
        present |= set(np.unique(own).tolist())
        order = np.random.default_rng(0).permutation(len(own))  # none is always on top
        for part in np.array_split(order, max(1, len(order) // 200)):
            for c in np.unique(own[part]):
                chosen = part[own[part] == c]
                color, marker, _ = drawing_look(c)
                place.scatter(
                    *where[chosen].T,
                    s=9,
                    c=color,
                    marker=marker,
                    alpha=0.7,
                    linewidths=0,
                    rasterized=True,
                )
        place.set_title(title)
        place.set(xticks=[], yticks=[])
        for spine in place.spines.values():
            spine.set_visible(True)
            spine.set_color(PALE)
    for place in axes[len(points) :]:
        place.set_visible(False)
    figure.legend(
        handles=[_key(names[c], drawing_look(c)) for c in sorted(present)],
        loc="outside lower center",
        ncols=min(max(1, len(present)), 3 * columns + 1),
        handletextpad=0.1,
        columnspacing=1.0,
    )
    return figure


def _ring(axes, ring, base):
    circle = np.linspace(0, 2 * np.pi, 181)
    low, median, high = (max(np.log10(max(x, 1e-30)) - base, 0) for x in ring)
    axes.fill_between(circle, low, high, color=GREY, alpha=0.35, linewidth=0)
    axes.plot(circle, np.full(len(circle), median), color=INK, linewidth=1.2)


def _rays(axes, rays, names, colors, length):
    for ray, color in zip(rays, np.asarray(colors) / 255, strict=True):
        axes.plot([ray, ray], [0, length], color=color, linewidth=1)
    axes.set_xticks(rays, [""] * len(rays))
    for ray, name in zip(rays, names, strict=True):
        across = np.cos(ray)
        side = "center" if abs(across) < 0.2 else "left" if across > 0 else "right"
        axes.text(ray, 1.05 * length, name, ha=side, va="center", fontsize=7)


def _radial_scale(axes, base, high):
    """Rings at 1, 2 and 5 times powers of ten, named on one ray."""
    top = np.log10(high) - base
    steps = [m * 10.0**e for e in range(-8, 9) for m in (1, 2, 5)]
    inside = [x for x in steps if 0.08 * top < np.log10(x) - base <= top]
    inside = inside[:: -(-len(inside) // 5) or 1]
    axes.set_yticks([np.log10(x) - base for x in inside], [f"{x:g}" for x in inside])
    axes.tick_params(axis="y", labelsize=6)
    axes.set_rlabel_position(0.5 * 360 / max(len(axes.get_xticks()), 1))
    axes.set_ylim(0, top)
    axes.grid(color=PALE, linewidth=0.5)
    axes.spines["polar"].set_color(PALE)


def _with_mean(title, values):
    defined = values[~np.isnan(values)]
    return f"{title} (mean {defined.mean():.1f}°)" if len(defined) else title


def _key(name, look):
    color, marker, _ = look
    return Line2D([], [], linestyle="", color=color, marker=marker, label=name)


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


@styled
def training_curves(stages: Mapping[str, Curves]) -> Figure:
    """Every logged metric over the steps of its stage, one small panel a metric.

    Args:
      stages: stage -> what `read_curves` found.
    """
    metrics = list(dict.fromkeys(name for curves in stages.values() for name in curves))
    rows, columns = grid(len(metrics))
    figure = new(3.2 * columns + 0.3, 1.9 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for place, metric in zip(axes, metrics, strict=False):
        for number, (stage, curves) in enumerate(stages.items()):
            if metric not in curves:
                continue
            color, marker, dash = drawing_look(number)
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


@styled
def confusion(shares: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Where the pixels of each true class went, in percent; one panel a stage.

    Args:
      shares: title -> ``[C, C]`` of `features.row_shares`, NaN rows for absent classes.
      names: the ``C`` classes.
    """
    columns = min(len(shares), 2)
    rows = -(-len(shares) // columns)
    side = 1.5 + 0.26 * len(names)
    figure = new(side * columns, (side + 0.6) * rows)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for place, (title, matrix) in zip(axes, shares.items(), strict=False):
        place.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
        for (y, x), share in np.ndenumerate(matrix):
            if share >= FEWEST:
                color = "white" if share > 0.55 else INK
                text = f"{100 * share:.0f}"
                place.text(
                    x, y, text, ha="center", va="center", fontsize=5.5, color=color
                )
        for y in np.flatnonzero(np.isnan(matrix).all(axis=1)):
            place.axhspan(y - 0.5, y + 0.5, color=PALE, linewidth=0)
        place.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        place.set_yticks(range(len(names)), names, fontsize=7)
        place.set_xlabel("predicted")
        place.set_ylabel("true")
        place.set_title(title)
        place.tick_params(length=0)
    for place in axes[len(shares) :]:
        place.set_visible(False)
    return figure


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


@styled
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
    figure = new(6.4, 1.2 + 0.42 * len(names))
    axes = figure.subplots()
    for row, name in enumerate(names):
        for number, key in enumerate(series):
            if key not in found[name]:
                continue
            estimate = found[name][key]
            color = drawing_look(number).color
            marker = MARKERS[number % len(MARKERS)]
            y = row + (number - (len(series) - 1) / 2) * 0.3
            half = np.nan_to_num(estimate.half)
            axes.errorbar(
                estimate.mean, y, xerr=half, color=color, marker=marker, capsize=2.5
            )
            axes.scatter(
                estimate.seeds, [y] * len(estimate.seeds), s=5, c=INK, zorder=3
            )
    if control in found:
        line = found[control][series[0]].mean
        axes.axvline(line, color=INK, linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(measure)
    axes.xaxis.grid(True)
    shown = axes.get_xlim()
    values = [v for e in found.values() for x in e.values() for v in (*x.seeds, x.mean)]
    # Two seeds have intervals of any width; the seeds decide what is shown.
    room = 0.6 * max(np.ptp(values), 0.5)
    axes.set_xlim(max(shown[0], min(values) - room), min(shown[1], max(values) + room))
    looks = zip(COLORS, MARKERS * len(COLORS), series, strict=False)
    handles = [_study_figures_key(color, marker, key) for color, marker, key in looks]
    handles.append(_study_figures_key(INK, ".", "one seed"))
    if control in found:
        handles.append(Line2D([], [], color=INK, linestyle="--", label=control))
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    return figure


@styled
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
    figure = new(2.6 + 0.42 * len(names), 1.7 + 0.3 * len(values))
    axes = figure.subplots()
    picture = axes.imshow(values, cmap="PuOr_r", vmin=-most, vmax=most, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if abs(value) >= WRITTEN:
            color = "white" if abs(value) > 0.65 * most else INK
            text = f"{value:+.1f}"
            axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color=color)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(values)), list(differences))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"IoU above {control} (points)", loc="left")
    figure.colorbar(picture, ax=axes, fraction=0.03, pad=0.01)
    return figure


@styled
def ablation(found: Mapping[str, Estimate], measure: str) -> Figure:
    """A bar for the full method and for each term removed (LSR, Fig. 3a).

    Args:
      found: label -> estimate, the full method first.
      measure: what the axis shows, with its unit.
    """
    names = list(found)
    figure = new(1.6 + 0.95 * len(names), 3.2)
    axes = figure.subplots()
    everything = [v for estimate in found.values() for v in estimate.seeds]
    for x, estimate in enumerate(found.values()):
        color = COLORS[0] if x == 0 else COLORS[5]
        axes.bar(x, estimate.mean, 0.62, color=color)
        if not np.isnan(estimate.half):
            axes.errorbar(x, estimate.mean, estimate.half, color=GREY, capsize=4)
        places = [x] * len(estimate.seeds)
        axes.scatter(places, estimate.seeds, s=10, c=INK, zorder=3)
    first = next(iter(found.values()))
    axes.axhline(first.mean, color=INK, linestyle="--", linewidth=0.8)
    # As wide as the intervals, but two seeds have intervals of any width.
    halves = [np.nan_to_num(estimate.half) for estimate in found.values()]
    room = max(min(max(halves) + 0.1, 1.2 * np.ptp(everything)), 0.5)
    axes.set_ylim(max(0, min(everything) - room), max(everything) + room)
    labels = [name.replace(" without ", "\nwithout\n") for name in names]
    axes.set_xticks(range(len(names)), labels)
    axes.set_ylabel(f"{measure}\n(axis does not start at 0)")
    axes.yaxis.grid(True)
    return figure


def _study_figures_key(color, marker, label):
    return Line2D([], [], linestyle="", color=color, marker=marker, label=label)

"""Figures of the feature space: 5, 6 and 7 of LSR, and both domains side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lsr_jax import geometry
from lsr_jax.analysis import drawing, features
from lsr_jax.analysis.features import Sample

CHANCE = 90.0  # degrees: the most that non-negative vectors can be apart


@drawing.styled
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
    rows, columns = drawing.grid(len(samples))
    figure = drawing.new(4.4 * columns, 4.6 * rows + 0.3)
    lengths = [geometry.norms(sample.vectors) for sample in samples.values()]
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
            Line2D([], [], color=drawing.INK, linewidth=1.2, label="median norm"),
            Patch(color=drawing.GREY, alpha=0.35, label="95 % of the norms"),
        ],
        loc="outside lower center",
        ncols=2,
    )
    return figure


@drawing.styled
def prototype_angles(angles: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Mean angle of each class prototype to the others, one bar a sample (LSR, Fig. 6).

    Args:
      angles: title -> ``[C]`` degrees of `features.prototype_angles`.
      names: the ``C`` classes.
    """
    figure = drawing.new(1.2 + 0.5 * len(names), 3.4)
    axes = figure.subplots()
    drawing.bars(axes, {_with_mean(title, a): a for title, a in angles.items()}, names)
    axes.axhline(CHANCE, color=drawing.INK, linestyle="--", linewidth=1)
    axes.set_ylabel("mean angle to other\nprototypes (degrees)")
    axes.set_ylim(0, CHANCE + 3)
    axes.yaxis.grid(True)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


@drawing.styled
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
    rows, columns = drawing.grid(len(points))
    figure = drawing.new(3.9 * columns, 3.7 * rows + 0.8)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    present = set()
    for place, (title, where) in zip(axes, points.items(), strict=False):
        own = labels[title] if isinstance(labels, Mapping) else labels
        present |= set(np.unique(own).tolist())
        order = np.random.default_rng(0).permutation(len(own))  # none is always on top
        for part in np.array_split(order, max(1, len(order) // 200)):
            for c in np.unique(own[part]):
                chosen = part[own[part] == c]
                color, marker, _ = drawing.look(c)
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
            spine.set_color(drawing.PALE)
    for place in axes[len(points) :]:
        place.set_visible(False)
    figure.legend(
        handles=[_key(names[c], drawing.look(c)) for c in sorted(present)],
        loc="outside lower center",
        ncols=min(max(1, len(present)), 3 * columns + 1),
        handletextpad=0.1,
        columnspacing=1.0,
    )
    return figure


def _ring(axes, ring, base):
    circle = np.linspace(0, 2 * np.pi, 181)
    low, median, high = (max(np.log10(max(x, 1e-30)) - base, 0) for x in ring)
    axes.fill_between(circle, low, high, color=drawing.GREY, alpha=0.35, linewidth=0)
    axes.plot(circle, np.full(len(circle), median), color=drawing.INK, linewidth=1.2)


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
    axes.grid(color=drawing.PALE, linewidth=0.5)
    axes.spines["polar"].set_color(drawing.PALE)


def _with_mean(title, values):
    defined = values[~np.isnan(values)]
    return f"{title} (mean {defined.mean():.1f}°)" if len(defined) else title


def _key(name, look):
    color, marker, _ = look
    return Line2D([], [], linestyle="", color=color, marker=marker, label=name)

"""Figures 3b and 4 of LSR: labels at the size of the feature map, by two rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lsr_jax.analysis import drawing

UNLABELLED = "unlabelled"


@drawing.styled
def shares(values: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Share of each class among the cells, unlabelled ones last (LSR, Fig. 4).

    Args:
      values: rule -> ``[C + 1]`` shares of `features.class_shares`.
      names: the ``C`` classes.
    """
    names = [*names, UNLABELLED]
    figure = drawing.new(1.2 + 0.5 * len(names), 3.4)
    axes = figure.subplots()
    percent = {rule: np.where(x > 0, 100 * x, np.nan) for rule, x in values.items()}
    drawing.bars(axes, percent, names)
    smallest = min(np.nanmin(x) for x in percent.values())
    axes.set_yscale("log")
    axes.set_ylim(smallest / 2, 100)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("share of the cells (%)")
    axes.yaxis.grid(True)
    figure.legend(loc="outside upper left", ncols=len(values))
    return figure

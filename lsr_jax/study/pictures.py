"""Figures of a study, drawn from its rows: of the first benchmark that they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lsr_jax.report import figures as report_figures
from lsr_jax.report.figures import Estimate
from lsr_jax.report.results import Row
from lsr_jax.study import compare, tables


def draw(
    compared: Sequence[Row],
    controls: Sequence[str],
    ablated: str | None,
    folder: Path,
) -> dict[str, str]:
    """Writes the figures; returns names of PNG files and their captions.

    Args:
      compared: rows with ``line``.
      controls: of the comparison; figures show the last one that is not the ablated
        method itself.
      ablated: the method each of whose terms was removed.
      folder: of the study.
    """
    if not compared:
        return {}
    benchmark, part = tables.benchmarks(compared)[0]
    where = f"target {benchmark['split']}, protocol {benchmark['protocol']}"
    axis = f"mIoU (%), {where}"
    lines = compare.labels(part)
    control = ([name for name in controls if name != ablated] or controls or [None])[-1]
    both = {line: estimates(part, line) for line in lines}
    figures = {
        "methods": (
            report_figures.methods(both, control, axis),
            "Every seed, mean and 95 % confidence interval",
        )
    }
    others = [line for line in lines if line != control]
    if control and others:
        classes = list(dict.fromkeys(name for row in part for name in row["iou"]))
        above = {line: gaps(part, line, control, classes) for line in others}
        figures["by_class"] = (
            report_figures.per_class(above, classes, control),
            f"IoU of each class above {control} in points, mean over seeds, running "
            "BatchNorm statistics",
        )
    terms = [line for line in lines if line.startswith(f"{ablated} without ")]
    if ablated in lines and terms:
        running = {line: both[line]["running BN"] for line in (ablated, *terms)}
        figures["ablation"] = (
            report_figures.ablation(running, axis),
            f"{ablated} and each of its terms removed (LSR, Fig. 3a), with every seed "
            "and the 95 % confidence interval",
        )
    for name, (figure, _) in figures.items():
        report_figures.save(figure, folder / name)
    return {f"{name}.png": f"{text}; {where}." for name, (_, text) in figures.items()}


def estimates(part: Sequence[Row], line: str) -> dict[str, Estimate]:
    """Statistics -> mIoU of a line in percent."""
    found = {}
    for bn in tables.STATISTICS:
        values = compare.seeds(part, "miou", line=line, bn=bn).values()
        values = [value for value in values if not math.isnan(value)]
        if values:
            spread = compare.spread(values)
            percent = [100 * value for value in values]
            found[f"{bn} BN"] = Estimate(percent, 100 * spread.mean, 100 * spread.half)
    return found


def gaps(
    part: Sequence[Row], line: str, control: str, classes: Sequence[str]
) -> np.ndarray:
    """``[C]`` IoU above the control in points, NaN where undefined."""
    found = (
        compare.difference(
            part, f"iou/{name}", line=line, control=control, bn="running"
        )
        for name in classes
    )
    return np.array([100 * spread.mean for spread in found])

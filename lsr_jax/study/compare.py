"""Comparison of a study's lines: statistics over seeds, tables and figures.

Tables of rows are those of `results.with_facts`, with ``line``, the label of a method or
of a method without one of its terms; one row a line, seed and kind of evaluation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import special

from lsr_jax.report import figures, results
from lsr_jax.report.figures import Estimate
from lsr_jax.report.published import Score
from lsr_jax.report.results import ABSENT, STATISTICS, Table, class_columns

KIND = ("domain", "split", "bn", "protocol", "averaging")
CONTROLS = ("source_only", "source_continued", "batchnorm_only")
CONFIDENCE = 0.95


def select_controls(lines: Sequence[str], ablated: str | None = None) -> list[str]:
    """The lines to which differences are taken, the method of an ablation last."""
    found = [
        line
        for control in CONTROLS
        for line in lines
        if line == control or line.startswith(f"{control}+like=")
    ]
    return found + [line for line in lines if line == ablated and line not in found]


def measurements(table: pd.DataFrame) -> pd.Series:
    """Every defined number, indexed by `KIND`, ``line``, ``measure`` and ``seed``."""
    ignored = ("accuracy/", "precision/")
    measures = [x for x in table if results.is_measure(x) and not x.startswith(ignored)]
    keys = [*KIND, "line", "seed"]
    long = table.melt(keys, measures, "measure").dropna(subset="value")
    return long.groupby([*KIND, "line", "measure", "seed"], sort=False)["value"].last()


def spread(values: pd.Series) -> pd.DataFrame:
    """Mean, deviation and confidence interval over seeds, by Student's t.

    Returns:
      Columns ``mean``; ``sd``, the standard deviation (n - 1); ``n``, how many seeds;
      ``half``, half of the 95 % interval, ``t(0.975, n - 1) sd / sqrt(n)``. The last two
      are NaN of one seed.
    """
    others = [name for name in values.index.names if name != "seed"]
    found = values.groupby(others, sort=False).agg(["mean", "std", "count"])
    found.columns = ["mean", "sd", "n"]
    quantile = special.stdtrit(found["n"] - 1.0, (1 + CONFIDENCE) / 2)
    return found.assign(half=quantile * found["sd"] / np.sqrt(found["n"]))


def differences(values: pd.Series, control: str) -> pd.DataFrame:
    """`spread` of every other line above the control, paired by seed."""
    lines = values.index.get_level_values("line")
    own = values[lines != control]
    reference = values[lines == control].droplevel("line")
    above = own - reference.reindex(own.index.droplevel("line")).to_numpy()
    return spread(above.dropna())


def benchmarks(table: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Target rows of each split, protocol and augmentation, and their source rows."""
    for _, _, part in results.benchmarks(table):
        for _, own in part.groupby("averaging", sort=False):
            target = own["domain"] == "target"
            if target.any():
                yield own[target], own[~target]


def means(
    table: pd.DataFrame, published: Mapping[str, Sequence[Score]], split: str | None
) -> list[Table]:
    """A line a method: target mIoU under both BatchNorm statistics, and source mIoU.

    ``published`` are results by label, which belong to the target ``split``.
    """
    tables = []
    for target, source in benchmarks(table):
        lines = target["line"].unique()
        seeds = target.groupby("line")["seed"].nunique()[lines]
        cells = {("", "", "seeds"): [str(count) for count in seeds]}
        measured = spread(measurements(target))
        for bn in STATISTICS:
            for heading, measure in results.target_measures(target).items():
                texts = _column(measured, lines, _mean, bn, measure)
                cells["target", f"{bn} BN", heading] = texts
        if len(source):
            measured = spread(measurements(source))
            name = source["split"].iloc[0]
            same = name == target["split"].iloc[0]
            group = "source" if same else f"source {name}"
            texts = _column(measured, lines, _mean, "running", "miou")
            cells[group, "running BN", "mIoU"] = texts
        scores = published if target["split"].iloc[0] == split else {}
        cells["", "published", "mIoU"] = [
            ", ".join(score.text for score in scores.get(line, ())) or ABSENT
            for line in lines
        ]
        cells = {key: texts for key, texts in cells.items() if set(texts) != {ABSENT}}
        notes = {}
        for score in itertools.chain(*(scores.get(line, ()) for line in lines)):
            remark = f"{score.name} ({score.method}), {score.text}, was published in"
            notes[remark] = score.source
        caption = "mIoU in percent, mean ± standard deviation over seeds, "
        caption += results.describe_mean(target) + _describe(target)
        caption += results.describe_oracle(target)
        whole = results.text_table(cells, lines, "method")
        tables.append(Table(caption, whole, list(notes.items())))
    return tables


def difference_tables(table: pd.DataFrame, controls: Sequence[str]) -> list[Table]:
    """A line a method: target mIoU above each control; none without a second line."""
    tables = []
    for target, _ in benchmarks(table):
        lines = target["line"].unique()
        if len(lines) < 2:
            continue
        cells = {}
        for control in controls:
            found = differences(measurements(target), control)
            for bn in STATISTICS:
                texts = _column(found, lines, _above, bn, "miou")
                texts[list(lines).index(control)] = "ref"
                cells[f"above {control}", f"{bn} BN"] = texts
        if cells:
            caption = (
                "Target mIoU above the controls in points, paired by seed, with the 95 % "
                "confidence interval (Student's t); *: the interval leaves out 0; "
            )
            caption += _describe(target)
            whole = results.text_table(cells, lines, "method")
            tables.append(Table(caption, whole))
    return tables


def class_tables(table: pd.DataFrame) -> list[Table]:
    """A line a class, a column a method: target IoU."""
    tables = []
    for target, _ in benchmarks(table):
        lines = target["line"].unique()
        measured = spread(measurements(target))
        for bn in target["bn"].unique():
            names = class_columns(target)
            cells = pd.DataFrame(
                [_column(measured, lines, _mean, bn, name) for name in names],
                index=[name.partition("/")[2] for name in names],
                columns=pd.Index(lines, name="class"),
            )
            caption = f"Target IoU in percent by class, {bn} BN, mean ± sd, "
            tables.append(Table(caption + _describe(target), cells))
    return tables


def draw(
    table: pd.DataFrame, controls: Sequence[str], ablated: str | None
) -> dict[str, tuple[Figure, str]]:
    """Figures of a study and their captions, of its first benchmark.

    They show the last control that is not the method ``ablated`` of all its terms.
    """
    target, _ = next(benchmarks(table), (None, None))
    if target is None:
        return {}
    values = measurements(target)
    lines = list(target["line"].unique())
    where = f"target {target['split'].iloc[0]}, protocol {target['protocol'].iloc[0]}"
    axis = f"mIoU (%), {where}"
    control = ([name for name in controls if name != ablated] or controls or [None])[-1]
    both = {line: _estimates(values, line) for line in lines}
    drawn = {
        "methods": (
            figures.methods(both, control, axis),
            f"Every seed, mean and 95 % confidence interval; {where}.",
        )
    }
    if control and len(lines) > 1:
        gaps = differences(values, control)["mean"]
        gaps = gaps.xs("running", level="bn").unstack("measure")
        gaps = gaps.reindex(columns=class_columns(target)).droplevel(_others("bn"))
        above = {line: 100 * gaps.loc[line].to_numpy() for line in gaps.index}
        names = [name.partition("/")[2] for name in gaps.columns]
        drawn["by_class"] = (
            figures.per_class(above, names, control),
            f"IoU of each class above {control} in points, mean over seeds, running "
            f"BatchNorm statistics; {where}.",
        )
    terms = [line for line in lines if line.startswith(f"{ablated} without ")]
    if ablated in lines and terms:
        running = {line: both[line]["running BN"] for line in (ablated, *terms)}
        drawn["ablation"] = (
            figures.ablation(running, axis),
            f"{ablated} and each of its terms removed (LSR, Fig. 3a), with every seed "
            f"and the 95 % confidence interval; {where}.",
        )
    return drawn


def _estimates(values: pd.Series, line: str) -> dict[str, Estimate]:
    """``{BatchNorm statistics: mIoU}`` of a line."""
    found = 100 * values.xs((line, "miou"), level=("line", "measure"))
    measured = spread(found).droplevel(_others("bn", "line"))
    return {
        f"{bn} BN": Estimate(
            found.xs(bn, level="bn").tolist(), row["mean"], row["half"]
        )
        for bn, row in measured.iterrows()
    }


def _others(*names: str) -> list[str]:
    return [name for name in KIND if name not in names]


def _column(measured, lines, text, bn, measure) -> list[str]:
    chosen = measured.query("bn == @bn and measure == @measure")
    chosen = chosen.droplevel([name for name in chosen.index.names if name != "line"])
    return [text(row) for row in chosen.reindex(lines).itertuples()]


def _mean(row) -> str:
    """``mean ± sd`` in percent, the mean alone of one seed."""
    mean, sd = results.percent([row.mean, row.sd])
    return mean if sd == ABSENT else f"{mean} ± {sd}"


def _above(row) -> str:
    """``+mean [low, high]`` in points, with a star where the interval leaves out 0."""
    ends = [row.mean, row.mean - row.half, row.mean + row.half]
    middle, low, high = results.percent(ends, "+")
    if math.isnan(row.half):
        return middle
    return f"{middle} [{low}, {high}]" + "*" * (abs(row.mean) > row.half)


def _describe(target: pd.DataFrame) -> str:
    found = {key: target[key].unique() for key in ("selection", "averaging")}
    shared = {key: texts[0] for key, texts in found.items() if len(texts) == 1}
    return f"split {target['split'].iloc[0]}, " + results.describe(target, shared)

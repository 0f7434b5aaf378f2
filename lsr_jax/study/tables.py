"""Tables of a study: means with their spread, differences to controls, classes.

One table holds the rows of one target split, protocol and way of averaging views;
``formats`` prints it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lsr_jax.report import results
from lsr_jax.report.published import Score
from lsr_jax.report.results import ABSENT, Column, Row, Table
from lsr_jax.study import compare
from lsr_jax.study.compare import Spread

STATISTICS = ("running", "target")
BENCHMARK = ("split", "protocol", "averaging")
SAME = "ref"


def means(
    rows: Sequence[Row], published: Mapping[str, Sequence[Score]], split: str | None
) -> list[Table]:
    """A line a method: target mIoU under both BatchNorm statistics, and source mIoU.

    Args:
      rows: with ``line``.
      published: label -> what was reported for its method.
      split: of the target, to which published numbers belong.
    """
    tables = []
    for benchmark, part in benchmarks(rows):
        lines = compare.labels(part)
        counts = [
            len({row["seed"] for row in part if row["line"] == line}) for line in lines
        ]
        columns = [
            Column("", "method", tuple(lines)),
            Column("", "seeds", tuple(map(str, counts))),
        ]
        # With 16 classes the 13 are reported too, as in the tables of one run.
        fewer = not any("miou_16" in row for row in part)
        headings = {
            "mIoU": "miou",
            **({"of 13": "miou_13"} if fewer else {}),
            "large": "miou_large",
            "small": "miou_small",
            "mASR": "masr",
        }
        for bn in STATISTICS:
            columns += [
                Column(f"target, {bn} BN", heading, _cells(part, lines, measure, bn))
                for heading, measure in headings.items()
            ]
        columns += _source(rows, lines, benchmark)
        scores = published if benchmark["split"] == split else {}
        columns.append(_published(lines, scores))
        caption = "mIoU in percent, mean ± standard deviation over seeds, "
        caption += _phrase(benchmark, part) + results.against(part)
        notes = {
            f"{score.name} ({score.method}), {score.miou:.1f}, was published in": (
                score.source
            )
            for line in lines
            for score in scores.get(line, ())
        }
        filled = tuple(c for c in columns if set(c.cells) != {ABSENT})
        tables.append(Table(caption, filled, tuple(notes.items())))
    return tables


def differences(rows: Sequence[Row], controls: Sequence[str]) -> list[Table]:
    """A line a method: target mIoU above each control; none without a second line."""
    tables = []
    for benchmark, part in benchmarks(rows):
        lines = compare.labels(part)
        shown = [name for name in controls if name in lines]
        if not shown or len(lines) < 2:
            continue
        columns = [Column("", "method", tuple(lines))]
        for control in shown:
            for bn in STATISTICS:
                cells = tuple(
                    SAME
                    if line == control
                    else above(
                        compare.difference(
                            part, "miou", line=line, control=control, bn=bn
                        )
                    )
                    for line in lines
                )
                columns.append(Column(f"above {control}", f"{bn} BN", cells))
        caption = (
            "Target mIoU above the controls in points, paired by seed, with the 95 % "
            "confidence interval (Student's t); *: the interval leaves out 0; "
        )
        caption += _phrase(benchmark, part)
        tables.append(Table(caption, tuple(columns), ()))
    return tables


def by_class(rows: Sequence[Row]) -> list[Table]:
    """A line a class, a column a method: target IoU."""
    tables = []
    for benchmark, part in benchmarks(rows):
        lines = compare.labels(part)
        classes = list(dict.fromkeys(name for row in part for name in row["iou"]))
        for bn in STATISTICS:
            if not any(row["bn"] == bn for row in part):
                continue
            columns = [Column("", "class", tuple(classes))]
            for line in lines:
                found = [
                    compare.seeds(part, f"iou/{name}", line=line, bn=bn).values()
                    for name in classes
                ]
                cells = tuple(mean(compare.spread(values)) for values in found)
                columns.append(Column("", line, cells))
            caption = f"Target IoU in percent by class, {bn} BN, mean ± sd, "
            caption += _phrase(benchmark, part)
            tables.append(Table(caption, tuple(columns), ()))
    return tables


def benchmarks(rows: Sequence[Row]) -> list[tuple[dict, list[Row]]]:
    """Target rows, each split, protocol and way of averaging for itself."""
    groups = {}
    for row in rows:
        if row["domain"] == "target":
            groups.setdefault(tuple(row.get(key) for key in BENCHMARK), []).append(row)
    return [
        (dict(zip(BENCHMARK, values, strict=True)), part)
        for values, part in groups.items()
    ]


def mean(found: Spread) -> str:
    """``mean ± sd`` in percent, the mean alone of one seed."""
    if not found.n:
        return ABSENT
    deviation = "" if found.n < 2 else f" ± {percent(found.sd)}"
    return percent(found.mean) + deviation


def above(found: Spread) -> str:
    """``+mean [low, high]`` in points, with a star where the interval leaves out 0."""
    if not found.n:
        return ABSENT
    middle = percent(found.mean, "+")
    if math.isnan(found.half):
        return middle
    ends = (found.mean - found.half, found.mean + found.half)
    low, high = (percent(end, "+") for end in ends)
    return f"{middle} [{low}, {high}]" + "*" * found.certain


def percent(value: float, sign: str = "") -> str:
    """A fraction in percent."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    return f"{round(100 * value, 1) + 0.0:{sign}.1f}"


def _cells(rows, lines, measure, bn):
    found = (compare.seeds(rows, measure, line=line, bn=bn) for line in lines)
    return tuple(mean(compare.spread(values.values())) for values in found)


def _source(rows, lines, benchmark):
    """Source mIoU of the same protocol: of the split of that name, or of the only one."""
    part = [
        row
        for row in rows
        if row["domain"] == "source"
        and all(row.get(key) == benchmark[key] for key in BENCHMARK if key != "split")
    ]
    splits = list(dict.fromkeys(row["split"] for row in part))
    wanted = benchmark["split"]
    if wanted not in splits and len(splits) == 1:
        (wanted,) = splits
    part = [row for row in part if row["split"] == wanted]
    group = "source" if wanted == benchmark["split"] else f"source {wanted}"
    return [Column(group, "running BN", _cells(part, lines, "miou", "running"))]


def _published(lines, scores):
    cells = (
        ", ".join(f"{score.miou:.1f}" for score in scores.get(line, ()))
        for line in lines
    )
    return Column("published", "mIoU", tuple(cell or ABSENT for cell in cells))


def _phrase(benchmark, rows):
    shared = {
        key: values.pop()
        for key in ("selection", "averaging")
        if len(values := {row.get(key) for row in rows}) == 1 and None not in values
    }
    return f"split {benchmark['split']}, " + results.phrase(
        benchmark["protocol"], rows, shared
    )

"""Tables of rows: which numbers stand beside each other. ``formats`` prints them.

What all rows of a table share stands in its caption; what differs between its lines
(seed, step, selection rule) gets a column. Numbers of different protocols or splits
never share a table. Absent values print as ``-``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from lsr_jax.analysis.rows import Row, is_measure

LINE = ("stage", "method", "seed", "step", "selection", "recorded")
FACTS = ("seed", "step", "selection")
ABSENT = "-"


class Column(NamedTuple):
    """A heading, a heading above it that neighbours may share, and the cells."""

    group: str
    heading: str
    cells: tuple[str, ...]


class Table(NamedTuple):
    """Columns of equal length, the first one naming the lines.

    Attributes:
      caption: what the numbers are.
      columns: headings and cells.
      notes: pairs of a remark and the command that it is about.
      rules: the lines above which a rule is drawn.
    """

    caption: str
    columns: tuple[Column, ...]
    notes: tuple[tuple[str, str], ...]
    rules: tuple[int, ...] = (0,)


def summary(rows: Sequence[Row], *, control: str | None = None) -> list[Table]:
    """One line a stage: target and source mIoU under both BatchNorm statistics.

    Args:
      rows: of one run or of several.
      control: method of the control; every target mIoU then gets its signed difference
        to the control's with the same seed and statistics, in points.
    """
    tables = []
    for (protocol, split), part in _grouped(rows, ("protocol", "split")):
        lines = _grouped(part, LINE)
        shared, columns = _facts(lines)
        columns.insert(0, Column("", "stage", tuple(_label(line) for line, _ in lines)))
        for bn in ("running", "target"):
            group = f"target {split}, {bn} BN"
            scores = [_only(part, domain="target", bn=bn) for _, part in lines]
            columns.append(_percent(group, "mIoU", scores, "miou"))
            if control is not None:
                columns.append(Column(group, "diff", _differences(scores, control)))
            # With 16 classes the 13 are reported too; with 19, the per-class table tells.
            if not any("miou_16" in row for row in part):
                columns.append(_percent(group, "of 13", scores, "miou_13"))
            columns.append(_percent(group, "large", scores, "miou_large"))
            columns.append(_percent(group, "small", scores, "miou_small"))
        for bn in ("running", "target"):
            scores = [_only(part, domain="source", bn=bn) for _, part in lines]
            columns.append(_percent(f"source {split}", f"{bn} BN", scores, "miou"))
        columns = tuple(c for c in columns if set(c.cells) != {ABSENT})
        caption = f"mIoU in percent, {_phrase({'protocol': protocol, **shared})}"
        if any(column.heading == "diff" for column in columns):
            caption += f"; diff: points above {control}"
        tables.append(Table(caption, columns, _recorded(lines)))
    return tables


def per_class(rows: Sequence[Row]) -> list[Table]:
    """One line a class, one column a stage; a table for each kind of evaluation."""
    tables = []
    for kind, part in _grouped(rows, ("domain", "split", "bn", "protocol")):
        domain, split, bn, protocol = kind
        lines = _grouped(part, LINE)
        shared, facts = _facts(lines)
        classes = list(dict.fromkeys(name for row in part for name in row["iou"]))
        means = [
            key for key in dict.fromkeys(itertools.chain(*part)) if is_measure(key)
        ]
        names = [c.heading for c in facts] + classes + [_title(key) for key in means]
        columns = [Column("", "class", tuple(names))]
        for number, (line, (*_, row)) in enumerate(lines):
            cells = [column.cells[number] for column in facts]
            cells += [_number(row["iou"].get(name)) for name in classes]
            cells += [_number(row.get(key)) for key in means]
            columns.append(Column("", _label(line), tuple(cells)))
        caption = f"IoU in percent on {domain} {split}, {bn} BN, "
        caption += _phrase({"protocol": protocol, **shared})
        rules = sorted({0, len(facts), len(facts) + len(classes)})
        tables.append(Table(caption, tuple(columns), _recorded(lines), tuple(rules)))
    return tables


def _grouped(rows, keys):
    """``[(values of the keys, rows)]`` in the order in which they first appear."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return list(groups.items())


def _facts(lines):
    """What all measured lines share as a dict, and columns of what differs."""
    facts = [dict(zip(LINE, line, strict=True)) for line, _ in lines]
    shared, columns = {}, []
    for key in FACTS:
        cells = tuple(ABSENT if f[key] is None else str(f[key]) for f in facts)
        if len(set(cells)) == 1:
            shared[key] = cells[0]
        else:
            columns.append(Column("", key, cells))
    return shared, columns


def _phrase(facts):
    return ", ".join(f"{key} {value}" for key, value in facts.items())


def _label(line):
    stage, method, *_, recorded = line
    label = stage if stage == method else f"{stage} ({method})"
    return f"{label} *" if recorded else label


def _recorded(lines):
    commands = {_label(line): line[-1] for line, _ in lines if line[-1]}
    return tuple(
        (f"{label} recorded by an earlier run of", command)
        for label, command in commands.items()
    )


def _only(rows, **wanted):
    """The row with these values; the last one where an evaluation was repeated."""
    found = [row for row in rows if all(row[k] == v for k, v in wanted.items())]
    return found[-1] if found else None


def _percent(group, heading, rows, key):
    cells = tuple(_number(row.get(key)) if row else ABSENT for row in rows)
    return Column(group, heading, cells)


def _number(value, sign=""):
    if value is None or math.isnan(value):
        return ABSENT
    # Adding 0 turns a rounded -0.0 into 0.0.
    return f"{round(100 * value, 1) + 0.0:{sign}.1f}"


def _differences(rows, control):
    baseline = {r["seed"]: r["miou"] for r in rows if r and r["method"] == control}

    def difference(row):
        if row is None or row["seed"] not in baseline:
            return ABSENT
        if row["method"] == control:
            return "ref"
        return _number(row["miou"] - baseline[row["seed"]], sign="+")

    return tuple(map(difference, rows))


def _title(key):
    words = key.replace("miou_", "mIoU ").replace("miou", "mIoU").replace("iou", "IoU")
    return words.replace("_", " ")

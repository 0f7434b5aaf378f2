"""Tables of rows: which numbers stand beside each other. ``formats`` prints them.

What all rows of a table share stands in its caption; what differs between its lines
(seed, step, selection rule, views, weights) gets a column or a note. Numbers of different protocols
or target splits never share a table. Absent values print as ``-``, fingerprints by their
first eight digits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from lsr_jax.analysis import captions
from lsr_jax.analysis.captions import ABSENT, LINE
from lsr_jax.analysis.rows import Row, is_measure


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
    for protocol, target_split, source_split, part in _benchmarks(rows):
        lines = _grouped(part, LINE)
        shared, columns = _facts(lines)
        weights = [column.cells for column in columns if column.heading == "weights"]
        columns = [column for column in columns if column.heading != "weights"]
        columns.insert(0, Column("", "stage", tuple(_label(line) for line, _ in lines)))
        for bn in ("running", "target"):
            group = f"target {target_split}, {bn} BN"
            scores = [_only(part, domain="target", bn=bn) for _, part in lines]
            columns.append(_percent(group, "mIoU", scores, "miou"))
            if control is not None:
                columns.append(Column(group, "diff", _differences(scores, control)))
            # With 16 classes the 13 are reported too; with 19, the per-class table tells.
            if not any("miou_16" in row for row in part):
                columns.append(_percent(group, "of 13", scores, "miou_13"))
            columns.append(_percent(group, "large", scores, "miou_large"))
            columns.append(_percent(group, "small", scores, "miou_small"))
            columns.append(_percent(group, "mASR", scores, "masr"))
        for bn in ("running", "target"):
            scores = [_only(part, domain="source", bn=bn) for _, part in lines]
            columns.append(
                _percent(f"source {source_split}", f"{bn} BN", scores, "miou")
            )
        columns = tuple(c for c in columns if set(c.cells) != {ABSENT})
        caption = f"mIoU in percent, {captions.phrase(protocol, part, shared)}"
        if any(column.heading == "diff" for column in columns):
            caption += f"; diff: points above {control}"
        caption += captions.against(part)
        notes = [*_weights(columns[0].cells, *weights), *_notes(lines)]
        tables.append(Table(caption, columns, tuple(notes)))
    return tables


def per_class(rows: Sequence[Row]) -> list[Table]:
    """One line a class, one column a stage; a table for each kind of evaluation."""
    return [
        _by_class(kind, part, key="iou", title="IoU", means=True)
        for kind, part in _grouped(rows, ("domain", "split", "bn", "protocol"))
    ]


def ratios(rows: Sequence[Row]) -> list[Table]:
    """The same of the ratio to the oracle (ASR), of the rows that have it."""
    rows = [row for row in rows if "asr" in row]
    return [
        _by_class(kind, part, key="asr", title="ASR", means=False)
        for kind, part in _grouped(rows, ("domain", "split", "bn", "protocol"))
    ]


def _by_class(kind, part, *, key, title, means):
    domain, split, bn, protocol = kind
    lines = _grouped(part, LINE)
    shared, facts = _facts(lines)
    classes = list(dict.fromkeys(name for row in part for name in row[key]))
    measures = [
        name
        for name in dict.fromkeys(itertools.chain(*part))
        if is_measure(name) and (means or name.startswith("masr"))
    ]
    names = [c.heading for c in facts] + classes + [_title(name) for name in measures]
    columns = [Column("", "class", tuple(names))]
    for number, (line, (*_, row)) in enumerate(lines):
        cells = [column.cells[number] for column in facts]
        cells += [_number(row[key].get(name)) for name in classes]
        cells += [_number(row.get(name)) for name in measures]
        columns.append(Column("", _label(line), tuple(cells)))
    caption = f"{title} in percent on {domain} {split}, {bn} BN, "
    caption += captions.phrase(protocol, part, shared) + captions.against(part)
    rules = sorted({0, len(facts), len(facts) + len(classes)})
    return Table(caption, tuple(columns), _notes(lines), tuple(rules))


def _benchmarks(rows):
    """``(protocol, target split, source split, rows)`` of each summary.

    A target split stands beside the source split of the same name, else beside the only
    one that no target split claims: GTA5's "val_lsr" beside Cityscapes' "val". Rows for
    which the protocols are the same stand under each that there is.
    """
    found = []
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        part = [row for row in rows if protocol in captions.protocols(row)]
        splits = {
            domain: list(
                dict.fromkeys(row["split"] for row in part if row["domain"] == domain)
            )
            for domain in ("target", "source")
        }
        free = [split for split in splits["source"] if split not in splits["target"]]
        shown = []
        for target in splits["target"]:
            source = target
            if target not in splits["source"] and len(free) == 1:
                source = free[0]
            shown.append((target, source))
        claimed = {source for _, source in shown}
        shown += [(split, split) for split in free if split not in claimed]
        for pair in shown:
            wanted = set(zip(("target", "source"), pair, strict=True))
            chosen = [row for row in part if (row["domain"], row["split"]) in wanted]
            found.append((protocol, *pair, chosen))
    return found


def _grouped(rows, keys):
    """``[(values of the keys, rows)]`` in the order in which they first appear."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return list(groups.items())


def _facts(lines):
    """What all measured lines share as a dict, and columns of what differs."""
    shared, differing = captions.facts(line for line, _ in lines)
    return shared, [Column("", key, cells) for key, cells in differing.items()]


def _label(line):
    stage, method, *_, recorded = line
    label = stage if stage == method else f"{stage} ({method})"
    return f"{label} *" if recorded else label


def _notes(lines):
    """Commands of recorded lines, and the members of ensembles."""
    notes = {}
    for line, part in lines:
        if line[-1]:
            notes[f"{_label(line)} recorded by an earlier run of"] = line[-1]
        for member in part[0].get("members", ()):
            remark = f"{_label(line)}: {member['weight']:g} of"
            notes[f"{remark} {member['stage']}"] = captions.member(member)
    return tuple(notes.items())


def _weights(labels, cells=()):
    """Fingerprints that differ between the lines; as a column they would be too wide."""
    pairs = [
        f"{label} {cell}"
        for label, cell in zip(labels, cells, strict=False)
        if cell != ABSENT
    ]
    return [("weights", ", ".join(pairs))] if pairs else []


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
    for name, title in (("miou", "mIoU"), ("masr", "mASR"), ("iou", "IoU")):
        if name in key:
            return key.replace(name, title, 1).replace("_", " ")
    return key.replace("_", " ")

"""Rows of ``report/metrics.json``: one evaluation each, with all that moves its number.

A row is a plain dict. Its identity: ``stage, method, seed, step, domain, split`` (which
images), ``bn`` ("running", or "target": statistics re-estimated on unlabelled target
images), ``protocol`` ("native" or "resized") and ``selection`` (how the checkpoint was
chosen). Its measures are fractions in 0..1: ``miou``, ``iou`` by class name (likewise
``accuracy`` and ``precision``), and ``miou_NAME`` for subsets of the classes. With an
oracle also ``asr`` by class, ``masr`` and ``masr_NAME``. NaN (absent class) is null in
the file. Further facts of a measured row: ``averaging`` (views of an image), ``data``
(fingerprint of the domain), ``weights`` (sha256 of the network), ``same_as`` (the other
protocol, where labels have the size of the images), ``oracle`` (what ``asr`` compares
with), ``members`` (of an ensemble), ``newest`` (where a rule chose the checkpoint: the
step up to which its stage had been trained).

A row that was not measured by this run has ``recorded``: the command that made it.

Tables of rows: which numbers stand beside each other. ``formats`` prints them.

What all rows of a table share stands in its caption; what differs between its lines
(seed, step, selection rule, views, weights) gets a column or a note. Numbers of different protocols
or target splits never share a table. Absent values print as ``-``, fingerprints by their
first eight digits.

Tables as text for a terminal, as Markdown and as LaTeX.

What has to stand beside a number: the facts of a row, in captions and columns.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import pathlib
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lsr_jax import files
from lsr_jax.errors import InputError
from lsr_jax.evaluation import metrics

Row = dict[str, Any]

IDENTITY = (
    "stage",
    "method",
    "seed",
    "step",
    "domain",
    "split",
    "bn",
    "protocol",
    "selection",
)
BY_CLASS = ("iou", "accuracy", "precision", "asr")
MEASURES = (
    "miou",
    "masr",
    "pixel_accuracy",
    "mean_accuracy",
    "mean_precision",
    "frequency_weighted_iou",
    "iou_std",
)


def make(
    matrix: np.ndarray,
    *,
    classes: Sequence[str],
    subsets: Mapping[str, Sequence[int]],
    stage: str,
    method: str,
    seed: int,
    step: int,
    domain: str,
    split: str,
    bn: str,
    protocol: str,
    selection: str,
    **more: Any,
) -> Row:
    """Builds the row of a confusion matrix.

    Args:
      matrix: ``[C, C]``, rows = truth.
      classes: the ``C`` names.
      subsets: name -> class indices, each a further mean IoU ``miou_NAME``, as
        ``{"large": space.indices(LARGE), "small": space.indices(SMALL)}``.
      stage: name of the stage in the config.
      method: name of its method.
      seed: seed of the run.
      step: step of the checkpoint within the stage.
      domain: "source" or "target".
      split: "train", "val" or "test".
      bn: "running" or "target".
      protocol: "native" or "resized".
      selection: rule by which the checkpoint was chosen.
      **more: further facts that can be written as JSON.
    """
    iou = metrics.iou(matrix)

    def by_class(values):
        return dict(zip(classes, values.tolist(), strict=True))

    return {
        "stage": stage,
        "method": method,
        "seed": seed,
        "step": step,
        "domain": domain,
        "split": split,
        "bn": bn,
        "protocol": protocol,
        "selection": selection,
        "miou": metrics.mean_iou(iou),
        "iou": by_class(iou),
        **{f"miou_{name}": metrics.mean_iou(iou, s) for name, s in subsets.items()},
        "pixel_accuracy": metrics.pixel_accuracy(matrix),
        "mean_accuracy": metrics.mean_accuracy(matrix),
        "mean_precision": metrics.mean_precision(matrix),
        "frequency_weighted_iou": metrics.frequency_weighted_iou(matrix),
        "iou_std": metrics.population_std(iou),
        "accuracy": by_class(metrics.class_accuracy(matrix)),
        "precision": by_class(metrics.precision(matrix)),
        **more,
    }


def with_asr(
    row: Row,
    oracle_iou: Mapping[str, float],
    *,
    oracle: str,
    subsets: Mapping[str, Sequence[int]],
) -> Row:
    """The row with ``asr``, ``masr``, ``masr_NAME`` and ``oracle``.

    ``asr`` is the IoU over the oracle's IoU of the same class (LSR, section 5).

    Args:
      row: measured.
      oracle_iou: by class name; a class that it lacks has no ratio.
      oracle: in words.
      subsets: as for `make`; the large and small classes are left out.
    """
    supervised = np.array([oracle_iou.get(name, math.nan) for name in row["iou"]])
    ratios = metrics.asr(np.array(list(row["iou"].values())), supervised)
    chosen = {name: s for name, s in subsets.items() if name.isdecimal()}
    return {
        **row,
        "masr": metrics.mean(ratios),
        **{f"masr_{name}": metrics.mean(ratios, s) for name, s in chosen.items()},
        "asr": dict(zip(row["iou"], ratios.tolist(), strict=True)),
        "oracle": oracle,
    }


def write(path: str | os.PathLike, rows: Sequence[Row]) -> None:
    """Writes rows as JSON."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([_without_nan(row) for row in rows], indent=1, allow_nan=False)
    files.text(path, text + "\n")


def read(path: str | os.PathLike) -> list[Row]:
    """Reads what ``write`` wrote.

    Raises:
      InputError: where the file is missing or is not a list of rows.
    """
    try:
        rows = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: expected the metrics of a run, found no file; run evaluate.py"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: expected JSON, found {error}; delete it and run evaluate.py"
        ) from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            f"{path}: expected a list of rows, found other JSON; "
            "delete it and run evaluate.py"
        )
    for number, row in enumerate(rows):
        lacking = [key for key in (*IDENTITY, "miou", "iou") if key not in row]
        if lacking:
            raise InputError(
                f"{path}: expected {lacking[0]!r} in row {number}, found none; "
                "delete the file and run evaluate.py"
            )
    return [_with_nan(row) for row in rows]


def to_csv(rows: Sequence[Row]) -> str:
    """One line a row, ``iou`` spread over columns ``iou_CLASS``; NaN is empty.

    The other measures by class likewise; members of an ensemble stay JSON.
    """
    flat = []
    for row in map(_without_nan, rows):
        line = {k: v for k, v in row.items() if k not in BY_CLASS}
        if "members" in line:
            line["members"] = json.dumps(line["members"])
        for key in BY_CLASS:
            values = row.get(key, {}).items()
            line |= {f"{key}_{name}": value for name, value in values}
        flat.append(line)
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in flat for name in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def is_measure(name: str) -> bool:
    """Whether a key of a row holds a measured fraction."""
    return name in MEASURES or name.startswith(("miou_", "masr_"))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_nan(row: Row) -> Row:
    filled = {
        name: math.nan if value is None and is_measure(name) else value
        for name, value in row.items()
    }
    for key in set(BY_CLASS) & set(row):
        filled[key] = {
            name: math.nan if value is None else value
            for name, value in row[key].items()
        }
    return filled


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
        caption = f"mIoU in percent, {phrase(protocol, part, shared)}"
        if any(column.heading == "diff" for column in columns):
            caption += f"; diff: points above {control}"
        caption += against(part)
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
    caption += phrase(protocol, part, shared) + against(part)
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
        part = [row for row in rows if protocol in protocols(row)]
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
    shared, differing = captions_facts(line for line, _ in lines)
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
            notes[f"{remark} {member['stage']}"] = captions_member(member)
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


WIDTH = 120
LONGEST_HEADING = 10
# What LaTeX takes for a command.
TEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
    }
)


def terminal(tables: Sequence[Table]) -> str:
    """At most 120 wide (but for commands); a wider table continues below itself."""
    return "\n\n".join(_terminal(table) for table in tables)


def markdown(tables: Sequence[Table]) -> str:
    """Pipe tables; a group stands above the heading in the same cell."""
    texts = []
    for caption, columns, notes, _ in tables:
        head = [f"{c.group}<br>{c.heading}" if c.group else c.heading for c in columns]
        marks = [":--", *["--:"] * (len(columns) - 1)]
        lines = ["| " + " | ".join(x) + " |" for x in (head, marks, *_body(columns))]
        remarks = [f"{remark} `{command}`" for remark, command in notes]
        texts.append("\n\n".join([caption, "\n".join(lines), *remarks]))
    return "\n\n".join(texts) + "\n"


def latex(tables: Sequence[Table]) -> str:
    r"""``tabular`` environments with ``\hline`` only, the caption as a comment."""
    texts = []
    for caption, columns, notes, rules in tables:
        lines = [f"% {caption}", *(f"% {remark} {what}" for remark, what in notes)]
        lines.append(rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}")
        groups = [(name, len(list(part))) for name, part in _groups(columns)]
        if len(groups) > 1:
            above = [rf"\multicolumn{{{n}}}{{c}}{{{_tex(name)}}}" for name, n in groups]
            lines.append(" & ".join(above) + r" \\")
        lines.append(_tex_line(column.heading for column in columns))
        for number, cells in enumerate(_body(columns)):
            lines += [r"\hline"] * (number in rules) + [_tex_line(cells)]
        texts.append("\n".join([*lines, r"\end{tabular}"]))
    return "\n\n".join(texts) + "\n"


def _terminal(table: Table) -> str:
    first, *rest = table.columns
    parts, part = [], [first]
    for column in rest:
        if len(part) > 1 and _total_width([*part, column]) > WIDTH:
            parts.append(part)
            part = [first]
        part.append(column)
    parts.append(part)
    texts = [textwrap.fill(table.caption, WIDTH)]
    texts += [_block(part, table.rules) for part in parts]
    texts += [f"{remark}\n    {command}" for remark, command in table.notes]
    return "\n\n".join(texts)


def _block(columns: Sequence[Column], rules: Sequence[int]) -> str:
    """Headings at the bottom of their rows, then the cells with rules between them."""
    headings = [_heading(column) for column in columns]
    rows = max(map(len, headings))
    headings = [[""] * (rows - len(lines)) + lines for lines in headings]
    lines = [_line(columns, cells) for cells in zip(*headings, strict=True)]
    groups = [(name, list(part)) for name, part in _groups(columns)]
    if len(groups) > 1:
        names = [name.ljust(_group_width(part)) for name, part in groups]
        lines.insert(0, " | ".join(names).rstrip())
    rule = ["-" * _total_width(columns)]
    for number, cells in enumerate(_body(columns)):
        lines += rule * (number in rules) + [_line(columns, cells)]
    return "\n".join(lines)


def _line(columns, cells):
    """The first cell to the left, the others to the right, bars between groups."""
    padded = [
        cell.rjust(_width(column)) if number else cell.ljust(_width(column))
        for number, (column, cell) in enumerate(zip(columns, cells, strict=True))
    ]
    pairs = zip(columns, padded, strict=True)
    texts = []
    for _, part in itertools.groupby(pairs, key=lambda pair: pair[0].group):
        group, cells = zip(*part, strict=True)
        texts.append("  ".join(cells).ljust(_group_width(group)))
    return " | ".join(texts).rstrip()


def _heading(column):
    """A long heading broken behind underscores and spaces."""
    lines = [""]
    for piece in re.findall(r"[^_ ]+[_ ]*", column.heading):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > LONGEST_HEADING:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _width(column):
    return max(map(len, (*_heading(column), *column.cells)))


def _group_width(columns):
    return max(
        len(columns[0].group), sum(map(_width, columns)) + 2 * (len(columns) - 1)
    )


def _total_width(columns):
    widths = [_group_width(list(part)) for _, part in _groups(columns)]
    return sum(widths) + 3 * (len(widths) - 1)


def _groups(columns):
    return itertools.groupby(columns, key=lambda column: column.group)


def _body(columns):
    return zip(*(column.cells for column in columns), strict=True)


def _tex_line(cells):
    return " & ".join(map(_tex, cells)) + r" \\"


def _tex(text):
    return text.translate(TEX)


FACTS = ("seed", "step", "selection", "averaging", "weights")
LINE = ("stage", "method", *FACTS, "recorded")
# What a row says that was written before there were views to choose.
UNSAID = {"averaging": "one view"}
ABSENT = "-"
DIGITS = 8  # of a fingerprint


def captions_facts(
    lines: Iterable[tuple],
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """What lines share, and what differs between them.

    Args:
      lines: the values of `LINE` of each.

    Returns:
      ``{fact: text}`` of those that all share, ``{fact: a text for each line}``.
    """
    found = [dict(zip(LINE, line, strict=True)) for line in lines]
    shared, differing = {}, {}
    for key in FACTS:
        cells = tuple(_text(key, captions_facts[key]) for captions_facts in found)
        if len(set(cells)) > 1:
            differing[key] = cells
        elif cells[0] != ABSENT:
            shared[key] = cells[0]
    return shared, differing


def phrase(protocol: str, rows: Sequence[Row], shared: Mapping[str, str]) -> str:
    """The protocol, what lines share, and the fingerprints of the data."""
    own = [row for row in rows if row["protocol"] == protocol and "recorded" not in row]
    same = {row.get("same_as") for row in own}
    words = [f"protocol {protocol}"]
    if len(same) == 1 and None not in same:
        words = [f"protocol {protocol} (= {same.pop()})"]
    words += [f"{key} {value}" for key, value in shared.items() if key not in UNSAID]
    words += [value for key, value in shared.items() if key in UNSAID]
    prints = {}
    for row in rows:
        if "data" in row:
            prints.setdefault(row["data"][:DIGITS], {})[row["domain"]] = None
    words += [f"data {short} ({', '.join(of)})" for short, of in prints.items()]
    return ", ".join(words)


def against(rows: Sequence[Row]) -> str:
    """Which oracles ratios are taken to, as the end of a caption."""
    oracles = dict.fromkeys(row["oracle"] for row in rows if "oracle" in row)
    return "".join(f"; ASR: ratio to {oracle}" for oracle in oracles)


def machine(facts: Mapping) -> str:
    """Where a run was made, from its manifest or `workdir.environment`."""
    versions = ", ".join(
        f"{name} {v}" for name, v in captions_facts["versions"].items()
    )
    system = captions_facts["platform"].split("-")[0]
    return (
        f"{captions_facts['cpus']} cores ({captions_facts['device_kind']}), {system}, "
        f"Python {captions_facts['python']}, {versions}"
    )


def protocols(row: Row) -> tuple[str, ...]:
    """The protocols whose number a row holds."""
    return (row["protocol"], *row.get("same_as", "").split())


def captions_member(facts: Mapping) -> str:
    """A network of an ensemble in words."""
    words = [
        f"{key} {_text(key, captions_facts[key])}"
        for key in FACTS
        if key in captions_facts
    ]
    return ", ".join([captions_facts["method"], *words])


def _text(key, value):
    if value is None:
        return UNSAID.get(key, ABSENT)
    return value[:DIGITS] if key == "weights" else str(value)

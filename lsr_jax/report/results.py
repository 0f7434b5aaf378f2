"""Results of evaluations: rows of ``report/metrics.json``, and tables of them.

A row is a plain dict of one evaluation. Its identity: ``stage, method, seed, step,
domain, split`` (which images), ``bn`` ("running", or "target": statistics re-estimated
on unlabelled target images), ``protocol`` ("native" or "resized") and ``selection`` (how
the checkpoint was chosen). Its measures are fractions in 0..1: ``miou``, the mean over
the ``num_classes`` classes that the data set has, ``iou`` by class name (likewise
``accuracy`` and ``precision``), and ``miou_NAME`` for subsets of the classes. Where the
source shows N classes of a larger network, as SYNTHIA 16 of 19, ``miou_N`` is the mean of
these with all labels scored (DAFormer, HRDA, MIC), and ``miou_N_alone`` that with labels of
the others ignored, as networks of N classes are scored. Rows of the target have the
`unsupervised.CRITERIA` of unlabelled training images too. With an oracle also ``asr`` by
class, ``masr`` and ``masr_NAME``. NaN (absent
class) is null in the file.

Metadata of a row: ``averaging`` (test-time augmentation), ``dataset`` (its name), ``data``
(fingerprint of the domain), ``weights`` (sha256 of the network), ``same_as`` (the other protocol, where
labels have the size of the images), ``oracle`` (what ``asr`` compares with), ``members``
(of an ensemble), ``newest`` (where a rule chose the checkpoint: the last step that its
stage had been trained), ``recorded`` (of a row that an earlier run measured: the command
of that run), ``line`` (in a study: the method, or a method without one of its terms).

`frame` makes one pandas DataFrame of rows, from which the tables are pivoted. What all
rows of a table share is in its caption; what differs (seed, step, selection rule, views,
weights) gets a column or a note. Numbers of different protocols or target splits never
share a table.
"""

from __future__ import annotations

import json
import math
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lsr_jax import files
from lsr_jax.errors import InputError
from lsr_jax.evaluation import confusion
from lsr_jax.evaluation.unsupervised import CRITERIA

Row = dict[str, Any]

IDENTITY = (
    *("stage", "method", "seed", "step", "domain"),
    *("split", "bn", "protocol", "selection"),
)
BY_CLASS = ("iou", "accuracy", "precision", "asr")
MEASURES = (
    *("miou", "masr", "pixel_accuracy", "mean_accuracy", "mean_precision"),
    *("frequency_weighted_iou", "iou_std", *CRITERIA),
)
STATISTICS = ("running", "target")  # kinds of BatchNorm statistics
# What tells apart two rows of one method.
FACTS = ("seed", "step", "selection", "averaging", "weights")
LINE = ("stage", "method", *FACTS, "recorded")
METADATA = ("same_as", "data", "oracle", "members", "line")
ABSENT = "-"
DIGITS = 8  # of a fingerprint
WIDTH = 120  # of captions in a terminal


def make(
    matrix: np.ndarray,
    *,
    classes: Sequence[str],
    subsets: Mapping[str, Sequence[int]],
    declared: Sequence[int] | None = None,
    taught: Sequence[int] | None = None,
    **facts: Any,
) -> Row:
    """Build the row of a confusion matrix.

    Args:
      matrix: ``[C, C]``, rows = truth.
      classes: the ``C`` names.
      subsets: name -> class indices, each a further mean IoU ``miou_NAME``, as
        ``{"large": space.indices(LARGE), "small": space.indices(SMALL)}``.
      declared: indices of the classes that the data set has, by default all. Others have
        no score and count in no mean, but predicting them is an error.
      taught: indices of the classes that the source has, where they are fewer.
      **facts: the `IDENTITY` of the row, and metadata that JSON can hold.

    Raises:
      InputError: no pixel has a class.
    """
    declared = range(len(classes)) if declared is None else declared
    absent = np.setdiff1d(range(len(classes)), declared)
    iou, precision = confusion.iou(matrix), confusion.precision(matrix)
    iou[absent] = precision[absent] = np.nan
    if np.isnan(iou).all():
        raise no_score(facts["domain"], facts["split"])
    # "13" is the mean of 13 classes only where the data set has them all.
    subsets = {
        name: chosen
        for name, chosen in subsets.items()
        if not name.isdecimal() or set(chosen) <= set(declared)
    }

    means = {f"miou_{name}": confusion.mean_iou(iou, s) for name, s in subsets.items()}
    if taught is not None:
        alone = np.zeros_like(matrix)
        alone[[*taught]] = matrix[[*taught]]
        means |= {
            f"miou_{len(taught)}": confusion.mean_iou(iou, taught),
            f"miou_{len(taught)}_alone": confusion.mean_iou(alone, taught),
        }

    def by_class(values):
        return dict(zip(classes, values.tolist(), strict=True))

    return {
        **{name: facts.pop(name) for name in IDENTITY},
        "num_classes": len(declared),
        "miou": confusion.mean_iou(iou),
        "iou": by_class(iou),
        **means,
        "pixel_accuracy": confusion.pixel_accuracy(matrix),
        "mean_accuracy": confusion.mean(confusion.class_accuracy(matrix)),
        "mean_precision": confusion.mean(precision),
        "frequency_weighted_iou": confusion.frequency_weighted_iou(matrix),
        "iou_std": confusion.population_std(iou),
        "accuracy": by_class(confusion.class_accuracy(matrix)),
        "precision": by_class(precision),
        **facts,
    }


def no_score(domain: str, split: str) -> InputError:
    """The error for a split in whose labels no pixel has a class."""
    return InputError(
        f"{domain} {split}: no pixel has one of the classes, so there is no score; check "
        "the labels of the split"
    )


def write(path: str | os.PathLike, rows: Sequence[Row]) -> None:
    """Write rows as JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(nan_to_none(rows), indent=1, allow_nan=False)
    files.text(path, text + "\n")


def read(path: str | os.PathLike) -> list[Row]:
    """Read what `write` wrote.

    Raises:
      InputError: the file is missing or is not a list of rows.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise TypeError(f"found {type(rows).__name__}")
        for row in rows:
            for key in (*IDENTITY, "miou", "iou"):
                row[key]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run evaluate.py first") from None
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise InputError(
            f"{path}: not a list of result rows ({files.reason(error)}); delete it and "
            "run evaluate.py"
        ) from None
    return [_none_to_nan(row) for row in rows]


def is_measure(name: str) -> bool:
    """Whether a key of a row, or a column of `frame`, is a measured fraction."""
    prefixes = ("miou_", "masr_", *(f"{key}/" for key in BY_CLASS))
    return name in MEASURES or name.startswith(prefixes)


def nan_to_none(value: Any) -> Any:
    """The same tree with None for NaN and Python numbers for numpy's, for JSON."""
    if isinstance(value, dict):
        return {name: nan_to_none(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_none(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _none_to_nan(row: Row) -> Row:
    def filled(values):
        return {k: math.nan if v is None else v for k, v in values.items()}

    by_class = {key: filled(row[key]) for key in BY_CLASS if key in row}
    measured = filled({key: value for key, value in row.items() if is_measure(key)})
    return {**row, **measured, **by_class}


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a DataFrame; measures by class become columns such as ``iou/road``."""
    flat = []
    for row in rows:
        values = {key: value for key, value in row.items() if key not in BY_CLASS}
        for key in BY_CLASS:
            found = row.get(key, {}).items()
            values |= {f"{key}/{name}": value for name, value in found}
        flat.append(values)
    table = pd.DataFrame(flat, dtype=object)
    measured = [name for name in table if is_measure(name)]
    return table.astype(dict.fromkeys(measured, float))


def to_csv(rows: Iterable[Row]) -> str:
    """`frame` as CSV, columns such as ``iou_road``; members of an ensemble are JSON."""
    table = frame(rows).rename(columns=lambda name: name.replace("/", "_"))
    if "members" in table:
        table["members"] = table["members"].map(json.dumps, na_action="ignore")
    return table.to_csv(index=False)


class Table(NamedTuple):
    """Cells of text, and what they mean.

    Attributes:
      caption: what the numbers are.
      cells: one row a line; columns have one level, or several with groups above.
      notes: pairs of a remark and the command that it is about.
    """

    caption: str
    cells: pd.DataFrame
    notes: Sequence[tuple[str, str]] = ()


def summary(rows: Sequence[Row], *, control: str | None = None) -> list[Table]:
    """One line a stage: target and source mIoU under both BatchNorm statistics.

    With the method of a ``control`` every target mIoU gets its signed difference to the
    control's with the same seed and statistics, in points.
    """
    tables = []
    for target, source, part in benchmarks(with_facts(rows)):
        measured = [name for name in part if is_measure(name)]
        lines = part.pivot_table(
            values=measured,
            index=list(LINE),
            columns=["domain", "bn"],
            aggfunc="last",
            sort=False,
        )
        shared, differing = _shared_facts(lines.index)
        cells = {
            ("", "", fact): lines.index.get_level_values(fact)
            for fact in differing
            if fact != "weights"
        }
        for bn in STATISTICS:
            group = f"target {target}", f"{bn} BN"
            for heading, measure in target_measures(part).items():
                if (measure, "target", bn) not in lines:
                    continue
                values = lines[measure, "target", bn]
                if measure == "miou":
                    heading = mean_heading(part, "target")
                cells[*group, heading] = percent(values)
                if measure == "miou" and control is not None:
                    cells[*group, "diff"] = _difference(values, control)
        for bn in STATISTICS:
            if ("miou", "source", bn) in lines:
                heading = f"source {source}", f"{bn} BN", mean_heading(part, "source")
                cells[heading] = percent(lines["miou", "source", bn])
        caption = f"mIoU in percent, {describe_mean(part)}{describe(part, shared)}"
        if any(heading == "diff" for *_, heading in cells):
            caption += f"; diff: points above {control}"
        caption += describe_oracle(part)
        labels = [_label(line) for line in lines.index]
        notes = _notes(part)
        if "weights" in differing:
            pairs = zip(labels, lines.index.get_level_values("weights"), strict=True)
            named = [
                f"{label} {weights}" for label, weights in pairs if weights != ABSENT
            ]
            notes = [("weights", ", ".join(named)), *notes]
        tables.append(Table(caption, text_table(cells, labels, "stage"), notes))
    return tables


def per_class(rows: Sequence[Row], key: str = "iou") -> list[Table]:
    """One line a class, one column a stage; a table for each kind of evaluation.

    ``key`` is "iou", or "asr" (ratio to the oracle) of the rows that have it.
    """
    rows = [row for row in rows if key in row]
    if not rows:
        return []
    tables, kinds = [], ["domain", "split", "bn", "protocol"]
    for (domain, split, bn, _), part in with_facts(rows).groupby(kinds, sort=False):
        lines = part.groupby(list(LINE), sort=False).last()
        shared, differing = _shared_facts(lines.index)
        cells = {fact: lines.index.get_level_values(fact) for fact in differing}
        wanted = [name for name in part if name.startswith(f"{key}/")]
        means = [name for name in part if is_measure(name) and "/" not in name]
        wanted += [name for name in means if key == "iou" or name.startswith("masr")]
        for name in wanted:
            if part[name].notna().any() or "/" in name:
                title = mean_heading(part, domain) if name == "miou" else _title(name)
                cells[title] = percent(lines[name])
        caption = f"{_title(key)} in percent on {domain} {split}, {bn} BN, "
        caption += describe(part, shared) + describe_oracle(part)
        columns = pd.Index([_label(line) for line in lines.index], name="class")
        values = [list(texts) for texts in cells.values()]
        whole = pd.DataFrame(values, index=list(cells), columns=columns)
        tables.append(Table(caption, whole, _notes(part)))
    return tables


def class_columns(table: pd.DataFrame) -> list[str]:
    """The columns with the IoU of one class each."""
    return [name for name in table if name.startswith("iou/")]


def mean_heading(part: pd.DataFrame, domain: str) -> str:
    """``mIoU``, or ``mIoU of 11`` where the data set has fewer classes than the network."""
    found = part.loc[part["domain"] == domain, "num_classes"].unique()
    if list(found) in ([], [len(class_columns(part))]):
        return "mIoU"
    return f"mIoU of {'/'.join(map(str, found))}"


def describe_mean(part: pd.DataFrame) -> str:
    """How many classes the means are over, and which where they are not all."""
    names = class_columns(part)
    if (part["num_classes"] == len(names)).all():
        return f"mean over {len(names)} classes, "
    words = []
    for domain, own in part.groupby("domain", sort=False):
        counts = "/".join(map(str, own["num_classes"].unique()))
        found = ", ".join(map(_title, own[names].dropna(axis="columns", how="all")))
        words.append(f"{counts} on the {domain} ({found})")
    return f"mean over the classes of the data: {'; '.join(words)}, "


def target_measures(part: pd.DataFrame) -> dict[str, str]:
    """Heading -> measure of the columns of the target domain.

    With 16 classes the mean of 13 is reported too; with 19 the table by class has it,
    unless the source shows 16 alone.
    """
    headings = {"mIoU": "miou", "of 13": "miou_13", "large": "miou_large"}
    headings |= {"small": "miou_small", "mASR": "masr"}
    headings |= {"InfoMax": "infomax", "agreement": "agreement"}
    if "miou_16" in part and part["miou_16"].notna().any():
        del headings["of 13"]
    for name in part:
        if found := re.fullmatch(r"miou_(\d+)_alone", name):
            count = found[1]
            headings |= {f"{count} of {len(class_columns(part))}": f"miou_{count}"}
            headings |= {f"{count} alone": name}
    return {heading: name for heading, name in headings.items() if name in part}


def text_table(cells: Mapping, labels: Sequence[str], corner: str) -> pd.DataFrame:
    """A DataFrame of texts with grouped columns, the name of the lines in its corner."""
    columns = pd.MultiIndex.from_tuples(list(cells))
    columns.names = [*[None] * (columns.nlevels - 1), corner]
    values = list(zip(*cells.values(), strict=True))
    return pd.DataFrame(values, index=list(labels), columns=columns)


def percent(values: Iterable[float], sign: str = "") -> list[str]:
    """Fractions as percent with one digit; NaN is ``-``."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    return [
        ABSENT if math.isnan(x) else f"{round(100 * x, 1) + 0.0:{sign}.1f}"
        for x in values
    ]


def with_facts(rows: Sequence[Row]) -> pd.DataFrame:
    """`frame` with a text for every fact of `LINE`."""
    table = frame(rows)
    wanted = [*table, *IDENTITY, *LINE, *METADATA, "num_classes"]
    table = table.reindex(columns=list(dict.fromkeys(wanted)))
    # Rows from before data sets could lack classes do not count them.
    counts = table["num_classes"]
    table["num_classes"] = counts.where(counts.notna(), len(class_columns(table)))
    for fact in LINE:
        # Rows from before there was test-time augmentation do not name it.
        default = {"averaging": "one view", "recorded": ""}.get(fact, ABSENT)
        table[fact] = [default if pd.isna(x) else str(x) for x in table[fact]]
    table["weights"] = table["weights"].map(lambda text: text[:DIGITS])
    return table


def benchmarks(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """``(target split, source split, rows)`` of every kind of benchmark.

    A target split is reported with the source split of the same name, else with the only
    one that no target split claims: GTA5's "val_lsr" with Cityscapes' "val". Rows for
    which the protocols are the same appear under each that there is.
    """
    protocols = table["protocol"].unique()
    same = table[table["same_as"].notna()]
    same = same.assign(protocol=same["same_as"], same_as=same["protocol"])
    for protocol, part in pd.concat([table, same]).groupby("protocol", sort=False):
        if protocol not in protocols:
            continue
        targets, sources = (
            part.loc[part["domain"] == domain, "split"].unique().tolist()
            for domain in ("target", "source")
        )
        free = [split for split in sources if split not in targets]
        pairs = {split: split for split in targets}
        if len(free) == 1:
            pairs |= {split: free[0] for split in targets if split not in sources}
        pairs |= {split: split for split in free if split not in pairs.values()}
        for target, source in pairs.items():
            wanted = [("target", target), ("source", source)]
            pair = pd.MultiIndex.from_frame(part[["domain", "split"]])
            yield target, source, part[pair.isin(wanted)]


def _shared_facts(lines: pd.MultiIndex) -> tuple[dict[str, str], list[str]]:
    """Fact -> text of those that all measured lines share; names of the others."""
    texts = {fact: lines.get_level_values(fact).unique() for fact in FACTS}
    shared = {fact: found[0] for fact, found in texts.items() if len(found) == 1}
    differing = [fact for fact in texts if fact not in shared]
    return {k: text for k, text in shared.items() if text != ABSENT}, differing


def describe(part: pd.DataFrame, shared: Mapping[str, str]) -> str:
    """The protocol, what lines share, and the fingerprints of the data, for a caption."""
    own = part[part["recorded"] == ""]
    (protocol,) = part["protocol"].unique()
    words = [f"protocol {protocol}"]
    if len(own) and own["same_as"].notna().all():
        words = [f"protocol {protocol} (= {own['same_as'].iloc[0]})"]
    words += [f"{key} {text}" for key, text in shared.items() if key != "averaging"]
    words += [text for key, text in shared.items() if key == "averaging"]
    for data, domains in part.groupby("data", sort=False)["domain"]:
        words.append(f"data {data[:DIGITS]} ({', '.join(domains.unique())})")
    return ", ".join(words)


def describe_oracle(part: pd.DataFrame) -> str:
    """Which oracles ratios are relative to, as the end of a caption."""
    oracles = part["oracle"].dropna().unique()
    return "".join(f"; ASR: ratio to {oracle}" for oracle in oracles)


def _difference(values: pd.Series, control: str) -> list[str]:
    """Points above the control of the same seed."""
    methods = values.index.get_level_values("method")
    reference = values[methods == control].groupby("seed").last()
    seeds = values.index.get_level_values("seed")
    texts = percent(values - seeds.map(reference), sign="+")
    return [
        "ref" if method == control and text != ABSENT else text
        for method, text in zip(methods, texts, strict=True)
    ]


def _label(line: tuple) -> str:
    stage, method, *_, recorded = line
    label = stage if stage == method else f"{stage} ({method})"
    return f"{label} *" if recorded else label


def _notes(part: pd.DataFrame) -> list[tuple[str, str]]:
    """Commands of recorded lines, and the members of ensembles."""
    notes = {}
    for line in part.drop_duplicates(list(LINE)).to_dict("records"):
        label = _label(tuple(line[key] for key in LINE))
        if line["recorded"]:
            notes[f"{label} recorded by an earlier run of"] = line["recorded"]
        members = line["members"] if isinstance(line["members"], list) else []
        for member in members:
            facts = {**member, "weights": member["weights"][:DIGITS]}
            words = [f"{key} {facts[key]}" for key in FACTS if key in facts]
            remark = f"{label}: {member['weight']:g} of {member['stage']}"
            notes[remark] = ", ".join([member["method"], *words])
    return list(notes.items())


def _title(name: str) -> str:
    if "/" in name:
        return name.partition("/")[2]
    for key, title in (("miou", "mIoU"), ("masr", "mASR"), ("iou", "IoU")):
        if name.startswith(key):
            return name.replace(key, title, 1).replace("_", " ")
    return "ASR" if name == "asr" else name.replace("_", " ")


def terminal(tables: Sequence[Table]) -> str:
    """Tables for a terminal."""
    texts = []
    for caption, cells, notes in tables:
        remarks = [f"{remark}\n    {command}" for remark, command in notes]
        texts += [textwrap.fill(caption, WIDTH), cells.to_string(), *remarks]
    return "\n\n".join(texts)


def markdown(tables: Sequence[Table]) -> str:
    """Pipe tables; a group is above the heading in the same cell."""
    texts = []
    for caption, cells, notes in tables:
        flat = cells.set_axis(map(_flat, cells.columns), axis="columns")
        align = ("left", *["right"] * len(flat.columns))
        flat.index.name = cells.columns.names[-1]
        text = flat.to_markdown(disable_numparse=True, colalign=align)
        remarks = [f"{remark} `{command}`" for remark, command in notes]
        texts.append("\n\n".join([caption, text, *remarks]))
    return "\n\n".join(texts) + "\n"


def _flat(heading: str | tuple) -> str:
    return heading if isinstance(heading, str) else "<br>".join(filter(None, heading))


def latex(tables: Sequence[Table]) -> str:
    """``tabular`` environments with the rules of booktabs, the caption as a comment."""
    texts = []
    for caption, cells, notes in tables:
        comments = [f"% {caption}", *(f"% {remark} {what}" for remark, what in notes)]
        columns = f"l{'r' * len(cells.columns)}"
        text = cells.to_latex(
            escape=True, column_format=columns, multicolumn_format="c"
        )
        texts.append("\n".join([*comments, text]))
    return "\n".join(texts)


def machine(facts: Mapping) -> str:
    """Where a run was made, from its manifest or `workdir.environment`."""
    versions = ", ".join(f"{name} {v}" for name, v in facts["versions"].items())
    system = facts["platform"].split("-")[0]
    return (
        f"{facts['cpus']} cores ({facts['device_kind']}), {system}, "
        f"Python {facts['python']}, {versions}"
    )

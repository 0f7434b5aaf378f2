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
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lsr_jax import writing
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
    writing.text(path, text + "\n")


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

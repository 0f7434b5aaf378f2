"""Published results, and ratios to an oracle (mASR).

``published.json`` holds the rows of papers and READMEs that are certain: their mean
follows from their classes, or several places agree on the number. The file says where
each was read; mIoU and IoU are in percent there. An oracle is a network trained on target
labels, the method `ORACLE`.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lsr_jax import files
from lsr_jax.data import label_spaces
from lsr_jax.errors import InputError
from lsr_jax.evaluation import confusion
from lsr_jax.evaluation.predictor import PROTOCOLS
from lsr_jax.report import results
from lsr_jax.report.results import Row

FILE = Path(__file__).with_name("published.json")
PAIRS = {
    ("gta5", "cityscapes"): "gta2cs",
    ("synthia_rand_cityscapes", "cityscapes"): "synthia2cs",
}
ORACLE = "target_only"
PUBLISHED = "published"
PAPER = "LSR, Table 1 (CVPRW 2021)"


class Score(NamedTuple):
    """A published result.

    Attributes:
      pair: of domains, ``gta2cs``, ``synthia2cs`` or ``cs2crosscity_CITY``.
      method: a key of METHODS, None for a method that is not here.
      name: what the source calls it.
      backbone: of the network.
      classes: how many ``miou`` is the mean of.
      miou: percent.
      iou: class -> percent; empty where only the mean is certain.
      source: where it was read.
      miou_13: mean of 13 of 16 classes, where reported.
      masr: percent of the oracle, where reported.
      note: what else to know.
      variant: of DACS: "daformer", "hrda" or "mic", else None.
      of: classes of the network, where ``miou`` is the mean of fewer: pixels of the others
        are scored, as errors of these.
    """

    pair: str
    method: str | None
    name: str
    backbone: str
    classes: int
    miou: float
    iou: dict[str, float]
    source: str
    miou_13: float | None = None
    masr: float | None = None
    note: str | None = None
    variant: str | None = None
    of: int | None = None

    @property
    def text(self) -> str:
        """``"46.0"``, or ``"67.3 (16 of 19)"``: another protocol than that of 16."""
        classes = f" ({self.classes} of {self.of})" if self.of else ""
        return f"{self.miou:.1f}{classes}"


@functools.cache
def scores() -> tuple[Score, ...]:
    """All rows of the file."""
    return tuple(Score(**row) for row in json.loads(FILE.read_text(encoding="utf-8")))


def find(config: Mapping, method: str) -> list[Score]:
    """The published results of a method on the domains and the network of a config."""
    data, model = config["data"], config["model"]
    names = data["source"]["name"], data["target"]["name"]
    pair = PAIRS.get(names)
    if names == ("cityscapes", "cross_city"):
        pair = "cs2crosscity_" + data["target"]["val"].partition("_")[0]
    wanted = pair, model["backbone"], model["num_classes"], method, variant(config)

    def key(s):
        return s.pair, s.backbone, s.of or s.classes, s.method, s.variant

    return [score for score in scores() if key(score) == wanted]


def variant(config: Mapping) -> str | None:
    """Which of DACS's successors a config trains, or "masked" for MIC on another method."""
    section = config[config["stages"][-1]]
    method = section["method"]
    if section["masked"]["weight"]:
        return "masked"
    if method["name"] != "dacs" or method["source_divisor"] != "pixels":
        return None
    if config["model"]["detail"] is None:
        return "mic on daformer" if method["masked"] else "daformer"
    return "mic" if method["masked"] else "hrda"


def attach_ratios(
    rows: Sequence[Row],
    *,
    subsets: Mapping[str, Sequence[int]],
    oracle: str | None = None,
) -> list[Row]:
    """Add the ratio to an oracle's IoU to the rows of the target domain.

    ``asr`` is the IoU over the oracle's IoU of the same class, ``masr`` its mean (LSR,
    section 5). The oracle's row is the one with running statistics on the same data set,
    split and classes under the same protocol; rows without one stay as they are.

    Args:
      rows: measured and recorded.
      subsets: of the classes.
      oracle: "published" (LSR, Table 1), a workdir or a JSON file of rows with a
        ``target_only`` network; None takes the first of ``rows``, if there is one.

    Raises:
      InputError: ``oracle`` has no such network, or not for these rows.
    """
    if oracle == PUBLISHED:
        known = _published_oracle()
    else:
        known = _oracles(_read(oracle) if oracle else rows)
    attached, wanted = [], []
    for row in rows:
        kinds = _kinds(row) if row["domain"] == "target" else []
        found = next((known[kind] for kind in kinds if kind in known), None)
        attached.append(_with_ratios(row, *found, subsets) if found else row)
        wanted += kinds
    if oracle is not None and not known.keys() & set(wanted):
        found, expected = (
            ", ".join(sorted({" ".join(map(str, kind[:3])) for kind in kinds}))
            for kinds in (known, wanted)
        )
        raise InputError(
            f"--oracle {oracle}: is of other data, splits, classes or protocols (found "
            f"{found}; expected {expected}); evaluate the oracle in the same way first"
        )
    return attached


def _with_ratios(row, oracle_iou, oracle, subsets):
    supervised = np.array([oracle_iou.get(name, math.nan) for name in row["iou"]])
    ratios = confusion.asr(np.array(list(row["iou"].values())), supervised)
    counted = {n: s for n, s in subsets.items() if n.isdecimal() and f"miou_{n}" in row}
    return {
        **row,
        "masr": confusion.mean(ratios),
        **{f"masr_{name}": confusion.mean(ratios, s) for name, s in counted.items()},
        "asr": dict(zip(row["iou"], ratios.tolist(), strict=True)),
        "oracle": oracle,
    }


def _published_oracle():
    """`_oracles` of DeepLabV2 with ResNet-101, for the classes of each benchmark."""
    score = next(s for s in scores() if (s.pair, s.method) == ("gta2cs", ORACLE))
    iou = {name: percent / 100 for name, percent in score.iou.items()}
    spaces = label_spaces.NAMES, label_spaces.NAMES_16, label_spaces.NAMES_13
    return {
        ("cityscapes", "val", protocol, classes): (iou, PAPER)
        for protocol in PROTOCOLS
        for classes in spaces
    }


def _read(oracle):
    path = files.expanded(oracle, key="--oracle")
    path = path / "report" / "metrics.json" if path.is_dir() else path
    rows = results.read(path)
    if not _oracles(rows):
        raise InputError(f"--oracle {path}: has no {ORACLE} network on the target")
    return rows


def _oracles(rows):
    """``{(data set, split, protocol, classes): (IoU by class, description)}``."""
    known = {}
    for row in rows:
        if (row["method"], row["domain"], row["bn"]) == (ORACLE, "target", "running"):
            words = f"{ORACLE}, seed {row['seed']}, step {row['step']}"
            words += " (recorded)" if "recorded" in row else ""
            for kind in _kinds(row):
                known.setdefault(kind, (row["iou"], words))
    return known


def _kinds(row):
    """What a row and its oracle have in common, for each protocol that it stands for."""
    protocols = row["protocol"], *row.get("same_as", "").split()
    classes = tuple(row["iou"])
    return [(row.get("dataset", "-"), row["split"], p, classes) for p in protocols]

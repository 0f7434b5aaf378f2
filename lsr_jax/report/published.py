"""What papers and READMEs report, from ``published.json``: rows that are certain, only.

A row is kept where its mean follows from its classes, or where several places agree on
the number. The file says where each was read; mIoU and IoU are in percent there.

Ratios of adapted networks to an oracle, a network trained on target labels (mASR).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lsr_jax import files
from lsr_jax.errors import InputError
from lsr_jax.report import results
from lsr_jax.report.results import Row

FILE = Path(__file__).with_name("published.json")
PAIRS = {
    ("gta5", "cityscapes"): "gta2cs",
    ("synthia_rand_cityscapes", "cityscapes"): "synthia2cs",
}


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


@functools.cache
def scores() -> tuple[Score, ...]:
    """All rows of the file."""
    return tuple(Score(**row) for row in json.loads(FILE.read_text(encoding="utf-8")))


def pair(config: Mapping) -> str | None:
    """The pair of domains of a resolved config; None for one without published rows."""
    source, target = config["data"]["source"], config["data"]["target"]
    if (source["name"], target["name"]) == ("cityscapes", "cross_city"):
        return "cs2crosscity_" + target["val"].partition("_")[0]
    return PAIRS.get((source["name"], target["name"]))


def find(config: Mapping, method: str) -> list[Score]:
    """What was published for a method on the domains and the network of a config."""
    model = config["model"]
    wanted = (pair(config), model["backbone"], model["num_classes"], method)
    return [
        score
        for score in scores()
        if (score.pair, score.backbone, score.classes, score.method) == wanted
    ]


METHOD = "target_only"
PUBLISHED = "published"
PAPER = "LSR, Table 1 (CVPRW 2021)"


def attach(
    found: Sequence[Row],
    *,
    subsets: Mapping[str, Sequence[int]],
    origin: str | None = None,
) -> list[Row]:
    """The rows, those of the target domain with their ratio to the oracle's IoU.

    An oracle counts with its running statistics, on the same split under the same
    protocol. Rows without such an oracle stay as they are.

    Args:
      found: measured and recorded rows.
      subsets: of the classes, see `results.make`.
      origin: "published" (LSR, Table 1), a workdir or a JSON file of rows with a
        ``target_only`` network; None takes the first of ``found``, if there is one.

    Raises:
      InputError: ``origin`` has no oracle, or none for these rows.
    """
    known = _known(found if origin is None else _read(origin))
    attached, count = [], 0
    for row in found:
        against = _match(row, known, origin) if row["domain"] == "target" else None
        if against:
            row = results.with_asr(row, against[0], oracle=against[1], subsets=subsets)
            count += 1
        attached.append(row)
    if origin is not None and not count:
        kinds = ", ".join(sorted({f"{split} {protocol}" for split, protocol in known}))
        raise InputError(
            f"oracle {origin}: expected a split and protocol that is evaluated, found "
            f"{kinds}; evaluate the oracle in the same way first"
        )
    return attached


def published_score() -> Score:
    """The oracle of `PAPER`: Cityscapes val, DeepLabV2 with ResNet-101."""
    return next(
        score for score in scores() if (score.pair, score.method) == ("gta2cs", METHOD)
    )


def _read(origin):
    if origin == PUBLISHED:
        return []
    path = files.expanded(origin, key="--oracle")
    path = path / "report" / "metrics.json" if path.is_dir() else path
    found = results.read(path)
    if not _known(found):
        raise InputError(
            f"{path}: expected rows of a {METHOD} network on the target, found none"
        )
    return found


def _known(found):
    """``{(split, protocol): (IoU by class, words)}`` of the oracles among rows."""
    known = {}
    for row in found:
        if (row["method"], row["domain"], row["bn"]) != (METHOD, "target", "running"):
            continue
        words = f"{METHOD}, seed {row['seed']}, step {row['step']}"
        if "recorded" in row:
            words += " (recorded)"
        for protocol in results.protocols(row):
            known.setdefault((row["split"], protocol), (row["iou"], words))
    return known


def _match(row, known, origin):
    if origin == PUBLISHED:
        score = published_score()
        return {name: percent / 100 for name, percent in score.iou.items()}, PAPER
    for protocol in results.protocols(row):
        if (row["split"], protocol) in known:
            return known[row["split"], protocol]
    return None

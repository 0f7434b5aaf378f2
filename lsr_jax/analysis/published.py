"""What papers and READMEs report, from ``published.json``: rows that are certain, only.

A row is kept where its mean follows from its classes, or where several places agree on
the number. The file says where each was read; mIoU and IoU are in percent there.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

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

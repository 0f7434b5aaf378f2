"""The runs of a study: one pre-training a seed and network, then every cell from it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SOURCE = "source"  # the stage that methods share


class Line(NamedTuple):
    """A line of the comparison: a method, or a method without one of its terms.

    Attributes:
      label: its name in tables and figures.
      words: of its config, joined by "+": a key of METHODS, or "lsr+paper".
      without: the weight that is 0, None for the whole method.
    """

    label: str
    words: str
    without: str | None = None


class Run(NamedTuple):
    """What is trained in one folder, after the run that it ``needs``."""

    folder: Path
    config: dict
    needs: Run | None = None


class Cell(NamedTuple):
    """One line with one seed; the run of ``source_only`` is the pre-training itself."""

    line: Line
    seed: int
    run: Run

    @property
    def stage(self) -> str:
        """The last stage, whose network is compared."""
        return self.run.config["stages"][-1]

    @property
    def method(self) -> str:
        """The method of that stage, a key of METHODS."""
        return self.run.config[self.stage]["method"]["name"]


def plan_cells(
    load: Callable[[str, int], dict],
    lines: Sequence[Line],
    seeds: Sequence[int],
    folder: Path,
) -> list[Cell]:
    """All cells, seed by seed; ``load`` is ``(words, seed) -> resolved config``."""
    found = []
    for seed in dict.fromkeys(seeds):
        for line in lines:
            config = copy.deepcopy(load(line.words, seed))
            own = config[config["stages"][-1]]["method"]["name"]
            for stage in config["stages"]:
                method = config[stage]["method"]
                if method["name"] == own and line.without in method:
                    method[line.without] = 0.0
            found.append(Cell(line, seed, plan_run(config, line.label, seed, folder)))
    return found


def plan_runs(cells: Sequence[Cell]) -> list[Run]:
    """Pre-trainings, then the runs of the cells, each once."""
    needed = [cell.run.needs for cell in cells if cell.run.needs]
    everything = [*needed, *(cell.run for cell in cells)]
    return list({run.folder: run for run in everything}.values())


def plan_run(config: Mapping, label: str, seed: int, folder: Path) -> Run:
    """The run of a config, cut to what follows its pre-training if it has one."""
    stages = list(config["stages"])
    own = folder / f"{label.replace(' ', '-')}-{seed}"
    if stages[0] != SOURCE:
        return Run(own, dict(config))
    name = f"pretraining-{fingerprint(config)}-{seed}"
    pretraining = Run(folder / name, select_stages(config, stages[:1]))
    if len(stages) == 1:
        return pretraining
    adaptation = select_stages(config, stages[1:])
    for position, stage in enumerate(stages[1:]):
        section = adaptation[stage]
        first = position == 0 and section["init_from"] == "previous"
        if first or section["init_from"] == SOURCE:
            section["init_from"] = str(pretraining.folder)
        if section["pseudo_labeler"] == SOURCE:
            section["pseudo_labeler"] = str(pretraining.folder)
    return Run(own, adaptation, pretraining)


def select_stages(config: Mapping, stages: Sequence[str]) -> dict:
    """A copy of the config with these stages, without the sections of the others."""
    others = set(config["stages"]) - set(stages)
    kept = {key: value for key, value in config.items() if key not in others}
    return copy.deepcopy({**kept, "stages": list(stages)})


def fingerprint(config: Mapping) -> str:
    """Digits that two configs share if one pre-training serves both.

    Of data, network and ``source`` section; the number of data workers changes nothing.
    """
    data = {key: value for key, value in config["data"].items() if key != "workers"}
    parts = {"data": data, "model": config["model"], SOURCE: config[SOURCE]}
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]

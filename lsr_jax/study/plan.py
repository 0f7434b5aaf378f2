"""The runs of a study: one pre-training a seed and network, then every cell from it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lsr_jax.errors import InputError

SOURCE = "source"  # the stage that methods share
DIGITS = 8  # of a fingerprint


class Line(NamedTuple):
    """A line of the comparison.

    Attributes:
      label: its name in tables and figures.
      method: a key of METHODS.
      without: the weight that is 0, None for the whole method.
    """

    label: str
    method: str
    without: str | None = None


class Run(NamedTuple):
    """What is trained in one folder.

    Attributes:
      folder: the workdir.
      config: resolved.
      needs: the run that has to be finished before.
    """

    folder: Path
    config: dict
    needs: Run | None = None


class Cell(NamedTuple):
    """One line with one seed.

    Attributes:
      line: of the comparison.
      seed: of its run.
      run: of ``source_only``, the pre-training itself.
    """

    line: Line
    seed: int
    run: Run

    @property
    def label(self) -> str:
        """Of its line."""
        return self.line.label

    @property
    def method(self) -> str:
        """Of its line."""
        return self.line.method

    @property
    def stage(self) -> str:
        """The last one, whose network is compared."""
        return self.run.config["stages"][-1]


def cells(
    load: Callable[[str, int], dict],
    lines: Sequence[Line],
    seeds: Sequence[int],
    folder: Path,
) -> list[Cell]:
    """All cells, seed by seed.

    Args:
      load: ``(method, seed) -> resolved config``.
      lines: of the comparison.
      seeds: each line gets each once.
      folder: of the study; runs lie below it.

    Raises:
      InputError: from ``load``, or a weight that no stage of the method has.
    """
    found = []
    for seed in dict.fromkeys(seeds):
        for line in lines:
            config = removed(load(line.method, seed), line)
            found.append(Cell(line, seed, run(config, line.label, seed, folder)))
    return found


def runs(cells: Sequence[Cell]) -> list[Run]:
    """Pre-trainings, then the runs of the cells, each once."""
    needed = [cell.run.needs for cell in cells if cell.run.needs]
    everything = [*needed, *(cell.run for cell in cells)]
    return list({run.folder: run for run in everything}.values())


def run(config: Mapping, label: str, seed: int, folder: Path) -> Run:
    """The run of a config, cut to what follows its pre-training if it has one."""
    stages = list(config["stages"])
    if stages[0] != SOURCE:
        return Run(folder / f"{label.replace(' ', '-')}-{seed}", dict(config))
    name = f"pretraining-{fingerprint(config)}-{seed}"
    pretraining = Run(folder / name, only(config, stages[:1]))
    if len(stages) == 1:
        return pretraining
    adaptation = only(config, stages[1:])
    for position, stage in enumerate(stages[1:]):
        section = adaptation[stage]
        first = position == 0 and section["init_from"] == "previous"
        if first or section["init_from"] == SOURCE:
            section["init_from"] = str(pretraining.folder)
        if section["pseudo_labeler"] == SOURCE:
            section["pseudo_labeler"] = str(pretraining.folder)
    return Run(folder / f"{label.replace(' ', '-')}-{seed}", adaptation, pretraining)


def only(config: Mapping, stages: Sequence[str]) -> dict:
    """A copy of the config with these stages, without the sections of the others."""
    others = set(config["stages"]) - set(stages)
    kept = {key: value for key, value in config.items() if key not in others}
    return copy.deepcopy({**kept, "stages": list(stages)})


def removed(config: Mapping, line: Line) -> dict:
    """A copy of the config in which the term that the line lacks weighs 0.

    Raises:
      InputError: no stage of the method has such a weight.
    """
    config = copy.deepcopy(dict(config))
    if line.without is None:
        return config
    sections = [config[stage]["method"] for stage in config["stages"]]
    sections = [s for s in sections if s["name"] == line.method and line.without in s]
    if not sections:
        raise InputError(
            f"{line.label}: expected a stage of {line.method} with the keyword "
            f"{line.without!r}, found none"
        )
    for section in sections:
        section[line.without] = 0.0
    return config


def fingerprint(config: Mapping) -> str:
    """Digits that two configs share if one pre-training serves both.

    Of data, network and ``source`` section; the number of data workers changes nothing.
    """
    data = {key: value for key, value in config["data"].items() if key != "workers"}
    parts = {"data": data, "model": config["model"], SOURCE: config[SOURCE]}
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]

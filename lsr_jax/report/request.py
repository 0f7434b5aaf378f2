"""What ``evaluate.py`` was asked for: which networks, on which data, how, and where to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from lsr_jax.errors import InputError
from lsr_jax.evaluation import predictor
from lsr_jax.evaluation.predictor import PROTOCOLS, Averaging
from lsr_jax.report import report
from lsr_jax.report.measuring import Entry, Options
from lsr_jax.training import distributed, sharding, weights
from lsr_jax.training.stage import open_run
from lsr_jax.training.weights import Source
from lsr_jax.training.workdir import read_config

BOTH = "both"


class Request(NamedTuple):
    """The flags of ``evaluate.py``, as they were given; see there.

    ``processes`` are the keywords of `distributed.initialize`, None for one process.
    """

    workdir: str | None = None
    checkpoint: str | None = None
    ensemble: Sequence[str] = ()
    config: Mapping | None = None
    stages: Sequence[str] = ()
    step: int | None = None
    split: str | None = None
    protocol: str = BOTH
    flip: bool = False
    scales: Sequence[str] = ("1",)
    average: str | None = None
    oracle: str | None = None
    figures: bool = False
    out: str | None = None
    processes: Mapping | None = None


def carry_out(request: Request) -> list[dict]:
    """Evaluate, print, write; the rows.

    Raises:
      InputError: flags that contradict each other, or unusable files.
    """
    check(request)
    averaging = predictor.parse(request.flip, request.scales, request.average)
    places = [weights.resolve(name, step=request.step) for name, _ in named(request)]
    config = data_config(request, places)
    sharding.share_cpu(config["cpu_devices"])
    if request.processes:
        distributed.initialize(**request.processes)
    if request.split:
        config = on_split(config, request.split)
    folder = output(request, places, averaging, config["stages"])
    check_writable(folder)
    experiment = open_run(config, Path(request.workdir or folder))
    options = Options(
        PROTOCOLS if request.protocol == BOTH else (request.protocol,),
        averaging,
    )
    return report.write(
        experiment,
        request.stages,
        per_class=True,
        folder=folder.absolute(),
        options=options,
        entries=entries(request, places, config, experiment.mesh),
        oracle=request.oracle,
        figures=request.figures,
    )


def check(request: Request) -> None:
    """Raise InputError for flags that contradict each other."""
    if not (request.workdir or request.checkpoint or request.ensemble):
        raise InputError(
            "expected --workdir, --checkpoint or --ensemble, found none; see --help"
        )
    for name, value in (("checkpoint", request.checkpoint), ("stages", request.stages)):
        if request.ensemble and value:
            raise InputError(f"--{name}: expected no such flag beside --ensemble")
    if request.checkpoint and request.stages:
        raise InputError(
            "--stages: expected no such flag beside --checkpoint; name WORKDIR:STAGE there"
        )
    named_otherwise = request.checkpoint or request.ensemble or request.step is not None
    if request.figures and named_otherwise:
        raise InputError(
            "--figures: expected no such flag beside --checkpoint, --ensemble and "
            "--step: they are drawn of the stages of a run as it reports them"
        )
    if request.figures and request.processes:
        raise InputError(
            "--figures: expected no such flag beside --distributed: one process draws "
            "them; evaluate once more without --distributed"
        )
    if request.ensemble and request.step is not None:
        raise InputError(
            "--step: expected no such flag beside --ensemble; name folders of checkpoints"
        )


def named(request: Request) -> list[tuple[str, float]]:
    """Names of the networks and their weights; empty where stages are meant.

    Raises:
      InputError: an ensemble that is not written NAME=WEIGHT,NAME=WEIGHT.
    """
    if request.checkpoint:
        return [(request.checkpoint, 1.0)]
    if not request.ensemble and request.step is not None:
        stages = request.stages or read_config(Path(request.workdir))["stages"]
        return [(f"{request.workdir}:{stage}", 1.0) for stage in stages]
    found = []
    for part in request.ensemble:
        name, _, weight = part.rpartition("=")
        try:
            found.append((name, float(weight)))
        except ValueError:
            name = ""
        if not name or not found[-1][1] > 0:
            raise InputError(
                "--ensemble: expected NAME=WEIGHT,NAME=WEIGHT with positive weights, as "
                f"runs/a:lsr=0.7,runs/b=0.3, found {part!r}"
            )
    return found


def data_config(request: Request, places: Sequence[Source]) -> Mapping:
    """The config of the data: --config, else --workdir's, else that of the first run.

    Raises:
      InputError: there is none.
    """
    if request.config:
        return request.config
    if request.workdir:
        return read_config(Path(request.workdir))
    for place in places:
        if place.config:
            return place.config
    raise InputError(
        f"{places[0].path}: expected --config or --workdir with the data, found neither "
        "and no run around it"
    )


def on_split(config: Mapping, split: str) -> dict:
    """A copy of the config with another reported split of the target."""
    data = config["data"]
    return {**config, "data": {**data, "target": {**data["target"], "val": split}}}


def entries(
    request: Request,
    places: Sequence[Source],
    config: Mapping,
    mesh: Mesh,
) -> list[Entry]:
    """The networks of ``places``, one line each or one ensemble."""
    split = config["data"]["target"]["val"]
    loaded = [
        weights.load(place, mesh=mesh, config=config, split=split) for place in places
    ]
    if request.ensemble:
        weights = tuple(weight for _, weight in named(request))
        return [Entry("ensemble", tuple(loaded), weights)]
    return [Entry(network.stage, (network,)) for network in loaded]


def output(
    request: Request,
    places: Sequence[Source],
    averaging: Averaging,
    stages: Sequence[str],
) -> Path:
    """The folder to write: --out, or ``report`` in the run with a suffix for each choice.

    ``stages`` are those of the config; to name them all is no choice.

    Raises:
      InputError: weights outside of a run, and no --out.
    """
    if request.out:
        return Path(request.out)
    words = [request.split or ""]
    words += ["ensemble" if request.ensemble else ""]
    if request.checkpoint and places[0].config:
        words.append(places[0].stage)
    if set(request.stages) != set(stages):
        words += request.stages
    if any(place.step is not None for place in places):
        words.append(f"step{places[0].step}")
    words += [request.protocol if request.protocol != BOTH else ""]
    words += [averaging.words().replace(",", "").replace(" ", "-")]
    words = [word for word in words if word not in ("", "one-view")]
    runs = [place.path.parents[1] for place in places if place.config]
    if not request.workdir and not runs:
        raise InputError(
            f"{places[0].path}: expected --out, the folder to write, found no run around it"
        )
    return Path(request.workdir or runs[0]) / "-".join(["report", *words])


def check_writable(folder: Path) -> None:
    """Raise InputError where ``folder`` cannot be made; nothing is made yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise InputError(f"{folder}: cannot be written; choose another --out")

"""What ``evaluate.py`` does: find the networks that its flags name, and report them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lsr_jax.errors import InputError
from lsr_jax.evaluation import predictor
from lsr_jax.evaluation.predictor import PROTOCOLS
from lsr_jax.report import report, results
from lsr_jax.report.evaluate import Entry, Evaluation
from lsr_jax.training import distributed, sharding, weights
from lsr_jax.training.stage import open_run
from lsr_jax.training.weights import Source
from lsr_jax.training.workdir import read_config

BOTH = "both"


class Request(NamedTuple):
    """The values of the flags of ``evaluate.py``; see there.

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


def evaluate(request: Request) -> list[results.Row]:
    """Evaluate, print and write; returns the rows.

    Raises:
      InputError: flags that contradict each other, or unusable files.
    """
    check(request)
    augmentation = predictor.parse_augmentation(
        request.flip, request.scales, request.average
    )
    named = named_networks(request)
    places = [weights.resolve(name, step=request.step) for name, _ in named]
    config = data_config(request, places)
    sharding.share_cpu(config["cpu_devices"])
    if request.processes:
        distributed.initialize(**request.processes)
    data = config["data"]
    split = request.split or data["target"]["val"]
    config["data"] = {**data, "target": {**data["target"], "val": split}}
    words = augmentation.describe()
    folder = output(request, places, words, config["stages"])
    check_writable(folder)

    experiment = open_run(config, Path(request.workdir or folder))
    mesh = experiment.mesh
    loaded = tuple(
        weights.load(place, mesh=mesh, config=config, split=split) for place in places
    )
    entries = [Entry(network.stage, (network,)) for network in loaded]
    if request.ensemble:
        entries = [Entry("ensemble", loaded, tuple(weight for _, weight in named))]
    protocols = PROTOCOLS if request.protocol == BOTH else (request.protocol,)
    return report.write(
        experiment,
        request.stages,
        per_class=True,
        folder=folder.absolute(),
        evaluation=Evaluation(
            experiment, protocols=protocols, augmentation=augmentation
        ),
        entries=entries,
        oracle=request.oracle,
        latent_figures=request.figures,
    )


def check(request: Request) -> None:
    """Raise InputError for flags that contradict each other."""
    given = {name for name, value in request._asdict().items() if value}
    given |= {"step"} if request.step is not None else set()
    if not given & {"workdir", "checkpoint", "ensemble"}:
        raise InputError("--workdir, --checkpoint or --ensemble is needed; see --help")
    excluded = {
        "ensemble": {
            "checkpoint": "name it in --ensemble",
            "stages": "name WORKDIR:STAGE in --ensemble",
            "step": "name folders of checkpoints in --ensemble",
        },
        "checkpoint": {"stages": "name WORKDIR:STAGE in --checkpoint"},
        "figures": dict.fromkeys(
            ("checkpoint", "ensemble", "step"),
            "figures are drawn of the reported stages of a run",
        )
        | {"processes": "one process draws; evaluate again without --distributed"},
    }
    for flag in given & excluded.keys():
        for other in given & excluded[flag].keys():
            name = {"processes": "distributed"}.get(other, other)
            raise InputError(
                f"--{name}: cannot be combined with --{flag}; {excluded[flag][other]}"
            )


def named_networks(request: Request) -> list[tuple[str, float]]:
    """Names of the networks and their weights; empty if stages are evaluated.

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
            weight = float(weight)
        except ValueError:
            weight = 0.0
        if not name or not 0 < weight < float("inf"):
            raise InputError(
                "--ensemble: expected NAME=WEIGHT,NAME=WEIGHT with positive weights, as "
                f"runs/a:lsr=0.7,runs/b=0.3, found {part!r}"
            )
        found.append((name, weight))
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
        f"{places[0].path}: is outside of a run; name the data by --config or --workdir"
    )


def output(
    request: Request,
    places: Sequence[Source],
    augmentation: str,
    stages: Sequence[str],
) -> Path:
    """The folder to write: --out, or ``report`` in the run with a suffix for each choice.

    ``stages`` are those of the config; to name them all is no choice.

    Raises:
      InputError: weights outside of a run, and no --out.
    """
    if request.out:
        return Path(request.out)
    words = [request.split, "ensemble" if request.ensemble else None]
    if request.checkpoint and places[0].config:
        words.append(places[0].stage)
    if set(request.stages) != set(stages):
        words += request.stages
    if any(place.step is not None for place in places):
        words.append(f"step{places[0].step}")
    words.append(request.protocol if request.protocol != BOTH else None)
    if augmentation != "one view":
        words.append(augmentation.replace(",", "").replace(" ", "-"))
    runs = [place.path.parents[1] for place in places if place.config]
    if not request.workdir and not runs:
        raise InputError(
            f"{places[0].path}: is outside of a run; name the folder to write by --out"
        )
    return Path(request.workdir or runs[0]) / "-".join(["report", *filter(None, words)])


def check_writable(folder: Path) -> None:
    """Raise InputError where ``folder`` cannot be made; nothing is made yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise InputError(f"{folder}: cannot be written; choose another --out")

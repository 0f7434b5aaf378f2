"""What can be known to be wrong before anything is traced."""

from __future__ import annotations

from lsr_jax.errors import InputError
from lsr_jax.training import accumulate, origins, selection, sharding
from lsr_jax.training.experiment import Experiment
from lsr_jax.training.state import TrainState

ON_NONFINITE = ("stop", "skip")
# Key of a stage -> its smallest value.
AT_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "log_every": 1,
    "checkpoint_every": 1,
    "keep_every": 0,
    "micro_batches": 1,
}


def check(experiment: Experiment) -> None:
    """Raise InputError for the first key that no stage can be trained with."""
    config = experiment.config
    at_least("evaluation.every", config["evaluation"]["every"], 0)
    for key in ("batch_size", "batchnorm_images", "panel_images"):
        at_least(f"evaluation.{key}", config["evaluation"][key], 1)
    at_least("data.workers", config["data"]["workers"], 0)
    scored = selection.split_of(config)
    if scored:
        experiment.domains[scored[0]].open(scored[1])
    for domain in experiment.domains:
        experiment.open(domain, "val")
    for stage in config["stages"]:
        check_stage(experiment, stage)


def check_stage(experiment: Experiment, stage: str) -> None:
    """Raise InputError for a key of one stage."""
    c = experiment.config[stage]
    for key, least in AT_LEAST.items():
        at_least(f"{stage}.{key}", c[key], least)
    if c["on_nonfinite"] not in ON_NONFINITE:
        raise InputError(
            f"{stage}.on_nonfinite: expected {' or '.join(ON_NONFINITE)}, found "
            f"{c['on_nonfinite']!r}"
        )
    if not c["optimizer"]["learning_rate"] > 0:
        raise InputError(
            f"{stage}.optimizer.learning_rate: expected more than 0, found "
            f"{c['optimizer']['learning_rate']}"
        )
    group = experiment.config["model"]["bn_group_size"]
    if group is not None and (group < 1 or c["batch_size"] % group):
        raise InputError(
            f"model.bn_group_size: expected a divisor of {stage}.batch_size "
            f"{c['batch_size']}, found {group}"
        )
    try:
        sharding.check_batch_size(c["batch_size"], experiment.mesh)
        group = accumulate.group_size(experiment.config["model"], c["micro_batches"])
        accumulate.check_divides(c["batch_size"], c["micro_batches"], group)
        whole, _ = experiment.template(stage)
        origin(experiment, stage, whole)
    except InputError as error:
        raise InputError(f"stage {stage}: {error}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{stage}: cannot be built from its keys: {error}") from error


def origin(experiment: Experiment, stage: str, whole: TrainState) -> None:
    """Reads what ``init_from`` names outside of this run, once before the stage begins."""
    found = origins.origin(experiment.config, stage)
    begun = experiment.checkpoints(stage).is_dir()
    if begun or found == "scratch" or found in experiment.config["stages"]:
        return
    network = (whole.params["model"], whole.model_state)
    if origins.weight_file(experiment.config, stage):
        experiment.import_weights(stage, *network)
    else:
        experiment.load(found, *network)


def at_least(key: str, found: float, least: int) -> None:
    """Raise InputError for a number that is too small."""
    if found < least:
        raise InputError(f"{key}: expected at least {least}, found {found}")

"""What can be known to be wrong before anything is traced."""

from __future__ import annotations

from collections.abc import Mapping

from lsr_jax.errors import InputError
from lsr_jax.methods import cag
from lsr_jax.training import (
    checkpoint,
    microbatch,
    origins,
    schema,
    selection,
    sharding,
)
from lsr_jax.training import stage as training_stage
from lsr_jax.training.stage import Experiment
from lsr_jax.training.state import TrainState


def check_values(config: Mapping) -> None:
    """Raise InputError for stages or numbers that no run has; nothing is opened."""
    origins.check_order(config)
    schema.check(config)


def check(experiment: Experiment) -> None:
    """Raise InputError for the first key that no stage can be trained with."""
    config = experiment.config
    scored = selection.split_of(config)
    if scored:
        experiment.domains[scored[0]].open(scored[1])
    for domain in experiment.domains:
        experiment.open(domain, "val")
    for stage in config["stages"]:
        check_folders(experiment, stage)
        check_stage(experiment, stage)


def check_folders(experiment: Experiment, stage: str) -> None:
    """Raise InputError for a file where a stage will make a folder."""
    folder = experiment.folder(stage)
    for path in (folder, experiment.checkpoints(stage), folder / checkpoint.DAMAGED):
        if path.exists() and not path.is_dir():
            raise InputError(
                f"{path}: expected a folder or nothing, found a file; move it away"
            )


def check_stage(experiment: Experiment, stage: str) -> None:
    """Raise InputError for a key of one stage."""
    c = experiment.config[stage]
    group = experiment.config["model"]["bn_group_size"]
    if group is not None and c["batch_size"] % group:
        raise InputError(
            f"model.bn_group_size: expected a divisor of {stage}.batch_size "
            f"{c['batch_size']}, found {group}"
        )
    with training_stage.from_keys(stage):
        sharding.check_batch_size(c["batch_size"], experiment.mesh)
        group = microbatch.group_size(experiment.config["model"], c["micro_batches"])
        microbatch.check_divides(c["batch_size"], c["micro_batches"], group)
        whole, _ = experiment.template(stage)
        if not experiment.begun(stage):
            origin(experiment, stage, whole)
            anchors(experiment, stage)


def origin(experiment: Experiment, stage: str, whole: TrainState) -> None:
    """Reads what ``init_from`` names outside of this run, once before the stage begins."""
    found = origins.origin(experiment.config, stage)
    if found == "scratch" or found in experiment.config["stages"]:
        return
    network = (whole.params["model"], whole.model_state)
    if origins.weight_file(experiment.config, stage):
        experiment.import_weights(stage, *network)
    else:
        experiment.load(found, *network)


def anchors(experiment: Experiment, stage: str) -> None:
    """Reads the file of anchors that CAG is given, once before the stage begins."""
    path = experiment.config[stage]["method"].get("anchors")
    if path:
        model = experiment.model
        cag.read_anchors(path, (model.num_classes, model.feature_dim))

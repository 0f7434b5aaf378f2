"""The stages of a run, one after the other, each from where it was left."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path

import jax
from tqdm import tqdm

from lsr_jax.data import augment
from lsr_jax.errors import TrainingError
from lsr_jax.training import preparation, sharding, step, workdir
from lsr_jax.training.checkpoint import Checkpointer
from lsr_jax.training.experiment import Experiment
from lsr_jax.training.metrics_log import MetricsLog


def train(config: Mapping, folder: Path) -> Experiment:
    """Train every stage of ``config`` in ``folder``; finished stages are skipped.

    Args:
      config: resolved, as nested dicts.
      folder: the workdir, new or of an interrupted run with the same config.

    Raises:
      InputError: an unusable config, dataset, workdir or checkpoint.
      TrainingError: a loss term is no longer finite.
    """
    workdir.check(folder, config)
    experiment = Experiment(config, folder)
    workdir.claim(folder, config, experiment.facts())
    for stage in config["stages"]:
        run_stage(experiment, stage)
    return experiment


def run_stage(experiment: Experiment, stage: str) -> None:
    """Train one stage to its last step, from its newest checkpoint if there is one."""
    c = experiment.config[stage]
    folder = experiment.folder(stage)
    with Checkpointer(folder / "checkpoints") as checkpoints:
        start = checkpoints.latest()
        if start == c["steps"]:
            return
        state, optimizer = experiment.initial(stage)
        if start:
            state = checkpoints.restore(start, state)
        else:
            state = preparation.prepare(experiment, stage, state)
        train_step = sharding.compile_step(
            step.make_step(
                experiment.method(stage),
                optimizer,
                experiment.model.forward,
                experiment.preprocess(stage),
                augment.pixels(experiment.config["data"]["preprocessing"]),
            ),
            experiment.mesh,
        )
        facts = {"stage": stage, "method": c["method"]["name"]}
        with (
            MetricsLog(folder, start=start) as log,
            progress(stage, c["steps"], start) as bar,
            contextlib.closing(experiment.batches(stage, start)) as batches,
        ):
            unread = None
            for number in range(start + 1, c["steps"] + 1):
                batch, _ = next(batches)
                batch = sharding.put_batch(batch, experiment.mesh)
                state, metrics = train_step(state, batch)
                # Read one step late: the device already works on this one.
                if unread:
                    settle(stage, *unread, c, log, bar)
                unread = (number, metrics)
                last = number == c["steps"]
                if last or number % c["checkpoint_every"] == 0:
                    settle(stage, *unread, c, log, bar)
                    unread = None
                    checkpoints.save(number, state, {**facts, "step": number})


def settle(stage: str, number: int, metrics, c, log: MetricsLog, bar: tqdm) -> None:
    """Wait for a step; check, log and show its metrics if it is one to be logged."""
    jax.block_until_ready(metrics)
    if number == c["steps"] or number % c["log_every"] == 0:
        report(stage, number, metrics, log, bar)
    bar.update()


def report(stage: str, number: int, metrics, log: MetricsLog, bar: tqdm) -> None:
    """Fetch the metrics of a step, check them, log them and show them."""
    values = {name: float(x) for name, x in jax.device_get(metrics).items()}
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"stage {stage}, step {number}: not finite: {', '.join(broken)}; the last "
            "checkpoint is kept; lower optimizer.learning_rate or a weight of the method"
        )
    log.write(number, values)
    bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})


def progress(stage: str, steps: int, start: int) -> tqdm:
    """A bar with rate and time left, on process 0."""
    return tqdm(
        total=steps,
        initial=start,
        desc=stage,
        unit="step",
        disable=jax.process_index() != 0,
        mininterval=1.0,
    )

"""The stages of a run, one after the other, each from where it was left."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from tqdm import tqdm

from lsr_jax.data import augment
from lsr_jax.training import preflight, preparation, sharding, step, workdir
from lsr_jax.training.checkpoint import Checkpointer
from lsr_jax.training.experiment import Experiment
from lsr_jax.training.metrics_log import MetricsLog
from lsr_jax.training.selection import Selector
from lsr_jax.training.state import TrainState
from lsr_jax.training.stopping import Stop, Stopped
from lsr_jax.training.watch import Watch


def train(config: Mapping, folder: Path, stop: Stop | None = None) -> Experiment:
    """Train every stage of ``config`` in ``folder``; finished stages are skipped.

    Args:
      config: resolved, as nested dicts.
      folder: the workdir, new or of an interrupted run with the same config.
      stop: when to stop before the end.

    Raises:
      InputError: an unusable config, dataset, workdir or checkpoint; another process
        trains in the workdir.
      TrainingError: a loss or gradient is no longer finite, or the disk is full.
      Stopped: as ``stop`` says, after everything was saved.
    """
    stop = stop or Stop()
    workdir.check(folder, config)
    experiment = Experiment(config, folder)
    preflight.check(experiment)
    selector = Selector(experiment)
    with workdir.claimed(folder, config, experiment.facts()):
        for stage in config["stages"]:
            stop.check()
            run_stage(experiment, stage, selector, stop)
    stop.check()
    return experiment


class Start(NamedTuple):
    """Where a stage begins or goes on.

    Attributes:
      state: after ``step`` steps.
      optimizer: of the stage.
      step: 0 at the beginning.
      best: of the evaluations so far, see `Selector.better`.
      log: position in the metrics log.
    """

    state: TrainState
    optimizer: object
    step: int
    best: dict | None
    log: dict | None


def run_stage(
    experiment: Experiment, stage: str, selector: Selector, stop: Stop
) -> None:
    """Train one stage to its last step, from its newest checkpoint if there is one."""
    c = experiment.config[stage]
    checkpoints = Checkpointer(
        experiment.folder(stage) / "checkpoints", keep_every=c["keep_every"]
    )
    with checkpoints:
        start = begin(experiment, stage, checkpoints)
        if start.step < c["steps"]:
            continue_stage(experiment, stage, start, checkpoints, selector, stop)


def begin(experiment: Experiment, stage: str, checkpoints: Checkpointer) -> Start:
    """The state of the newest checkpoint, or the one before step 0."""
    template, optimizer = experiment.template(stage)
    found = checkpoints.resume(template)
    if found:
        state, facts = found
        return Start(state, optimizer, facts["step"], facts["best"], facts["log"])
    state, optimizer = experiment.initial(stage)
    state = preparation.prepare(experiment, stage, state)
    return Start(state, optimizer, 0, None, None)


def continue_stage(
    experiment: Experiment,
    stage: str,
    start: Start,
    checkpoints: Checkpointer,
    selector: Selector,
    stop: Stop,
) -> None:
    """Train from ``start`` to the last step, or until ``stop``."""
    c = experiment.config[stage]
    train_step = compiled(experiment, stage, start.optimizer)
    state, best = start.state, start.best
    with (
        MetricsLog(
            experiment.folder(stage), start=start.step, position=start.log
        ) as log,
        progress(stage, c["steps"], start.step) as bar,
        contextlib.closing(experiment.batches(stage, start.step)) as batches,
        stop.deferred(),
    ):
        watch = Watch(stage, c, log, bar)
        for number in range(start.step + 1, c["steps"] + 1):
            batch, ids = next(batches)
            batch = sharding.put_batch(batch, experiment.mesh)
            state, metrics = train_step(state, batch)
            watch.take(number, metrics, ids)
            last = number == c["steps"]
            reason = stop.after_step()
            due = selector.due(stage, number)
            if last or due or reason or number % c["checkpoint_every"] == 0:
                watch.settle()
                if due:
                    best = selector.better(state, number, best)
                facts = {"stage": stage, "method": c["method"]["name"], "step": number}
                facts |= {"best": best, "log": log.position()}
                checkpoints.save(number, state, facts)
            if last or reason:
                checkpoints.wait()
            if reason and not last:
                raise Stopped(f"stopped by {reason} after step {number} of {stage}")


def compiled(experiment: Experiment, stage: str, optimizer):
    """The jitted step of a stage."""
    whole = step.make_step(
        experiment.method(stage),
        optimizer,
        experiment.model.forward,
        experiment.preprocess(stage),
        augment.pixels(experiment.config["data"]["preprocessing"]),
        skip_nonfinite=experiment.config[stage]["on_nonfinite"] == "skip",
    )
    return sharding.compile_step(whole, experiment.mesh)


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

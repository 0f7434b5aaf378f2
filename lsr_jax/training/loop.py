"""The stages of a run, one after the other, each from where it was left."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
from tqdm import tqdm

from lsr_jax.data import augment
from lsr_jax.errors import TrainingError
from lsr_jax.training import (
    accumulate,
    compiled,
    distributed,
    prefetch,
    preparation,
    sharding,
    step,
    workdir,
)
from lsr_jax.training.checkpoint import Checkpointer
from lsr_jax.training.experiment import Experiment
from lsr_jax.training.goodput import Goodput
from lsr_jax.training.metrics_log import MetricsLog
from lsr_jax.training.profiling import Profiler
from lsr_jax.training.state import TrainState
from lsr_jax.types import Batch


def train(config: Mapping, folder: Path, profile: Path | None = None) -> Experiment:
    """Train every stage of ``config`` in ``folder``; finished stages are skipped.

    Args:
      config: resolved, as nested dicts.
      folder: the workdir, new or of an interrupted run with the same config.
      profile: a folder for a trace of a few steps of each stage.

    Raises:
      InputError: an unusable config, dataset, workdir or checkpoint.
      TrainingError: a loss term is no longer finite.
    """
    with distributed.main_first("data"):
        workdir.check(folder, config)
        experiment = Experiment(config, folder)
        if distributed.is_main():
            workdir.claim(folder, config, experiment.facts())
    for stage in config["stages"]:
        run_stage(experiment, stage, profile)
    return experiment


def run_stage(experiment: Experiment, stage: str, profile: Path | None = None) -> None:
    """Train one stage to its last step, from its newest checkpoint if there is one."""
    c = experiment.config[stage]
    folder = experiment.folder(stage)
    goodput = Goodput()
    with Checkpointer(folder / "checkpoints") as checkpoints:
        start = checkpoints.latest()
        if start == c["steps"]:
            return
        with goodput.lost("start"):
            state, optimizer = experiment.initial(stage)
            if start:
                state = checkpoints.restore(start, state)
            else:
                state = preparation.prepare(experiment, stage, state)
        facts = {"stage": stage, "method": c["method"]["name"]}
        with (
            open_log(folder, start=start) as log,
            contextlib.closing(experiment.batches(stage, start)) as loaded,
            compiled.memory_advice(),
            Profiler(profile) as profiler,
        ):
            batches = prefetch.ahead(
                (batch for batch, _ in loaded),
                lambda batch: sharding.put_batch(batch, experiment.mesh),
            )
            with goodput.lost("data"):
                batch = next(batches)
            with goodput.lost("compile"):
                train_step = compile_step(experiment, stage, optimizer, state, batch)
            unread = None
            with progress(stage, c["steps"], start) as bar:
                for number in range(start + 1, c["steps"] + 1):
                    profiler.step()
                    state, metrics = train_step(state, batch)
                    # Read one step late: the device already works on this one.
                    if unread:
                        settle(stage, *unread, c, log, bar)
                    unread = (number, metrics)
                    last = number == c["steps"]
                    if last or number % c["checkpoint_every"] == 0:
                        settle(stage, *unread, c, log, bar)
                        unread = None
                        with goodput.lost("checkpoint"):
                            checkpoints.save(number, state, {**facts, "step": number})
                    if not last:
                        with goodput.lost("data"):
                            batch = next(batches)
    if distributed.is_main():
        print(f"{stage}: {goodput.summary()}")


def compile_step(
    experiment: Experiment, stage: str, optimizer, state: TrainState, batch: Batch
) -> Callable:
    """The step of a stage, compiled; says what it will cost."""
    config = experiment.config
    c, model = config[stage], config["model"]
    parts = c["micro_batches"]
    group = accumulate.group_size(model, parts)

    def jitted(forward: Callable) -> Callable:
        whole = step.make_step(
            experiment.method(stage),
            optimizer,
            forward,
            experiment.preprocess(stage),
            augment.pixels(config["data"]["preprocessing"]),
        )
        return sharding.compile_step(whole, experiment.mesh)

    forward = experiment.model.forward
    train_step, cost = compiled.compile_ahead(
        jitted(accumulate.in_parts(forward, parts, group=group)),
        state,
        batch,
        counted=jitted(forward) if parts > 1 else None,
    )
    if distributed.is_main():
        rate = compiled.matmul_rate(model["dtype"])
        line = compiled.summary(cost, steps=c["steps"] - int(state.step), rate=rate)
        print(f"{stage}: {line}")
    return train_step


def settle(
    stage: str, number: int, metrics, c, log: MetricsLog | None, bar: tqdm
) -> None:
    """Wait for a step; check, log and show its metrics if it is one to be logged."""
    jax.block_until_ready(metrics)
    if number == c["steps"] or number % c["log_every"] == 0:
        report(stage, number, metrics, log, bar)
    bar.update()


def report(stage: str, number: int, metrics, log: MetricsLog | None, bar: tqdm) -> None:
    """Fetch the metrics of a step, check them, log them and show them."""
    values = {name: float(x) for name, x in jax.device_get(metrics).items()}
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"stage {stage}, step {number}: not finite: {', '.join(broken)}; the last "
            "checkpoint is kept; lower optimizer.learning_rate or a weight of the method"
        )
    if log:
        log.write(number, values)
    bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()})


def open_log(folder: Path, *, start: int) -> contextlib.AbstractContextManager:
    """The metrics log on process 0, None on the others."""
    if not distributed.is_main():
        return contextlib.nullcontext()
    return MetricsLog(folder, start=start)


def progress(stage: str, steps: int, start: int) -> tqdm:
    """A bar with rate and time left, on process 0."""
    return tqdm(
        total=steps,
        initial=start,
        desc=stage,
        unit="step",
        disable=not distributed.is_main(),
        mininterval=1.0,
    )

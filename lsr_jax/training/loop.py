"""The stages of a run, one after the other, each from where it was left."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from lsr_jax.training import (
    compiled,
    distributed,
    metrics_log,
    prefetch,
    preflight,
    preparation,
    progress,
    sharding,
    tracing,
    workdir,
)
from lsr_jax.training.board import Board
from lsr_jax.training.checkpoint import Checkpointer
from lsr_jax.training.experiment import Experiment
from lsr_jax.training.goodput import Goodput
from lsr_jax.training.metrics_log import MetricsLog
from lsr_jax.training.profiling import Profiler
from lsr_jax.training.selection import Selector
from lsr_jax.training.state import TrainState
from lsr_jax.training.stopping import Stop, Stopped
from lsr_jax.training.watch import Watch


def train(
    config: Mapping,
    folder: Path,
    stop: Stop | None = None,
    profile: Path | None = None,
    show: str = "auto",
    finish: Callable[[Experiment], object] | None = None,
) -> Experiment:
    """Train every stage of ``config`` in ``folder``; finished stages are skipped.

    Args:
      config: resolved, as nested dicts.
      folder: the workdir, new or of an interrupted run with the same config.
      stop: when to stop before the end.
      profile: a folder for a trace of a few steps of each stage.
      show: one of `progress.KINDS`.
      finish: called with the run after its last stage, while the folder is still its own.

    Raises:
      InputError: an unusable config, dataset, workdir or checkpoint; another process
        trains in the workdir.
      TrainingError: a loss or gradient is no longer finite, the disk is full, or a
        process that reads the data died.
      Stopped: as ``stop`` says, after everything was saved.
    """
    stop = stop or Stop()
    preflight.check_values(config)
    with distributed.main_first("data"):
        workdir.check(folder, config)
        experiment = Experiment(config, folder)
        preflight.check(experiment)
    programs = tracing.trace_all(experiment)
    tools = Tools(Selector(experiment), programs, stop, profile, show)
    with workdir.claimed(folder, config, experiment.facts()):
        for stage in config["stages"]:
            stop.check(distributed.any_process)
            run_stage(experiment, stage, tools)
        stop.check(distributed.any_process)
        if finish:
            finish(experiment)
    return experiment


class Tools(NamedTuple):
    """What all stages of a run use."""

    selector: Selector
    programs: dict[str, compiled.Program]
    stop: Stop
    profile: Path | None
    show: str


class Start(NamedTuple):
    """Where a stage begins or goes on.

    Attributes:
      state: after ``step`` steps.
      step: 0 at the beginning.
      best: of the evaluations so far, see `Selector.better`.
      log: position in the metrics log.
    """

    state: TrainState
    step: int
    best: dict | None
    log: dict | None


def run_stage(experiment: Experiment, stage: str, tools: Tools) -> None:
    """Train one stage to its last step, from its newest checkpoint if there is one."""
    c = experiment.config[stage]
    goodput = Goodput()
    checkpoints = Checkpointer(
        experiment.checkpoints(stage), keep_every=c["keep_every"]
    )
    with checkpoints, compiled.memory_advice():
        with goodput.lost("start"):
            start = begin(experiment, stage, checkpoints)
        if start.step < c["steps"]:
            continue_stage(experiment, stage, start, checkpoints, tools, goodput)
        elif distributed.is_main():
            metrics_log.kept(experiment.folder(stage) / metrics_log.FILE, start.log)


def begin(experiment: Experiment, stage: str, checkpoints: Checkpointer) -> Start:
    """The state of the newest checkpoint, or the one before step 0."""
    template, _ = experiment.template(stage)
    found = checkpoints.resume(template)
    if found:
        state, facts = found
        return Start(state, facts["step"], facts["best"], facts["log"])
    # The stages before it may have taken days, in which another run went on.
    now = {"data": {}, "weights": experiment.weights(stage)}
    workdir.check_origin(experiment.workdir, now)
    state = preparation.prepare(experiment, stage, experiment.initial(stage))
    return Start(state, 0, None, None)


def continue_stage(
    experiment: Experiment,
    stage: str,
    start: Start,
    checkpoints: Checkpointer,
    tools: Tools,
    goodput: Goodput,
) -> None:
    """Train from ``start`` to the last step, or until it is stopped."""
    c = experiment.config[stage]
    state, best = start.state, start.best
    with (
        open_log(experiment, stage, start) as log,
        Profiler(tools.profile) as profiler,
        contextlib.closing(experiment.batches(stage, start.step)) as loaded,
        tools.stop.deferred(),
    ):
        batches = prefetch.ahead(
            loaded, lambda pair: (sharding.put_batch(pair[0], experiment.mesh), pair[1])
        )
        with goodput.lost("data"):
            batch, ids = next(batches)
            board = Board(log and log.events, experiment.domains["source"].space)
            board.batch(start.step + 1, batch, ids)
        with goodput.lost("compile"):
            program = tools.programs.pop(stage, None)
            train_step = compile_step(
                program or tracing.trace(experiment, stage),
                stage,
                c["steps"] - start.step,
                experiment.config["model"]["dtype"],
            )
        tools.stop.check(distributed.any_process)
        kind = tools.show if distributed.is_main() else "none"
        with progress.begin(kind, stage, steps=c["steps"], start=start.step) as shown:
            watch = Watch(stage, c, log, shown)
            for number in range(start.step + 1, c["steps"] + 1):
                profiler.step()
                state, metrics = train_step(state, batch)
                watch.take(number, metrics, ids)
                last = number == c["steps"]
                reason = stop_reason(tools.stop, number, c["log_every"])
                due = tools.selector.due(stage, number)
                if last or due or reason or number % c["checkpoint_every"] == 0:
                    watch.settle()
                    with goodput.lost("evaluation" if due else "checkpoint"):
                        if due:
                            best = tools.selector.better(state, number, best)
                        facts = {"stage": stage, "method": c["method"]["name"]}
                        facts |= {"step": number, "best": best}
                        facts |= {"log": log.position() if log else None}
                        checkpoints.save(number, state, facts)
                    board.state(number, state.method_state, goodput.metrics())
                if last or reason:
                    checkpoints.wait()
                if reason and not last:
                    raise Stopped(f"stopped by {reason} after step {number} of {stage}")
                if not last:
                    with goodput.lost("data"):
                        batch, ids = next(batches)
    if distributed.is_main():
        print(f"{stage}: {goodput.summary()}", file=sys.stderr)


def stop_reason(stop: Stop, number: int, every: int) -> str | None:
    """Why to stop after a step; several processes agree on it every so many steps."""
    reason = stop.after_step()
    if jax.process_count() == 1:
        return reason
    if number % every or not distributed.any_process(reason is not None):
        return None
    return reason or "another process"


def compile_step(program: compiled.Program, name: str, steps: int, dtype: str):
    """The compiled step of stage ``name``; says what ``steps`` of it will cost."""
    train_step, cost = compiled.compile_program(program)
    if distributed.is_main():
        rate = compiled.matmul_rate(dtype)
        line = compiled.summary(cost, steps=steps, rate=rate)
        print(f"{name}: {line}", file=sys.stderr)
    return train_step


@contextlib.contextmanager
def open_log(
    experiment: Experiment, stage: str, start: Start
) -> Iterator[MetricsLog | None]:
    """The metrics log on process 0, None on the others."""
    if not distributed.is_main():
        yield None
        return
    folder = experiment.folder(stage)
    with MetricsLog(folder, start=start.step, position=start.log) as log:
        yield log

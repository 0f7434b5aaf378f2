"""The stages of a run, one after the other, each from where it was left.

Batches that are on the device before the step that needs them.

A trace of a few steps, for TensorBoard or Perfetto.
"""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lsr_jax.training import (
    compile,
    distributed,
    preflight,
    preparation,
    sharding,
    workdir,
)
from lsr_jax.training import metrics as training_metrics
from lsr_jax.training.checkpoint import Checkpointer
from lsr_jax.training.metrics import Goodput, MetricsLog, Watch
from lsr_jax.training.selection import Selector
from lsr_jax.training.stage import Experiment
from lsr_jax.training.state import TrainState
from lsr_jax.training.stop import Stop, Stopped
from lsr_jax.training.tensorboard import Board


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
      show: one of `metrics.KINDS`.
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
    programs = compile.trace_all(experiment)
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
    programs: dict[str, compile.Program]
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
    with checkpoints, compile.memory_advice():
        with goodput.lost("start"):
            start = begin(experiment, stage, checkpoints)
        if start.step < c["steps"]:
            continue_stage(experiment, stage, start, checkpoints, tools, goodput)
        elif distributed.is_main():
            training_metrics.kept(
                experiment.folder(stage) / training_metrics.FILE, start.log
            )


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
        batches = ahead(
            loaded, lambda pair: (sharding.put_batch(pair[0], experiment.mesh), pair[1])
        )
        with goodput.lost("data"):
            batch, ids = next(batches)
            board = Board(log and log.events, experiment.domains["source"].space)
            board.batch(start.step + 1, batch, ids)
        with goodput.lost("compile"):
            program = tools.programs.pop(stage, None)
            train_step = compile_step(
                program or compile.trace_stage(experiment, stage),
                stage,
                c["steps"] - start.step,
                experiment.config["model"]["dtype"],
            )
        tools.stop.check(distributed.any_process)
        kind = tools.show if distributed.is_main() else "none"
        with training_metrics.begin(
            kind, stage, steps=c["steps"], start=start.step
        ) as shown:
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


def compile_step(program: compile.Program, name: str, steps: int, dtype: str):
    """The compiled step of stage ``name``; says what ``steps`` of it will cost."""
    train_step, cost = compile.compile_program(program)
    if distributed.is_main():
        rate = compile.matmul_rate(dtype)
        line = compile.summary(cost, steps=steps, rate=rate)
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


def ahead(
    batches: Iterable, put: Callable[[Any], Any], *, depth: int = 2
) -> Iterator[Any]:
    """``put`` of every batch, started ``depth`` batches before it is asked for.

    Transfers to a device are asynchronous: while the device works on one step, the
    batches of the next ``depth`` are already on their way.

    Args:
      batches: of the pipeline, in order; may be endless.
      put: starts the transfer, e.g. `sharding.put_batch`.
      depth: batches in flight; each takes its size of device memory.
    """
    queue = collections.deque()
    for batch in batches:
        queue.append(put(batch))
        if len(queue) > depth:
            yield queue.popleft()
    yield from queue


class Profiler:
    """Traces ``count`` steps into ``folder``, after ``skip`` steps that warm up.

    ``None`` for the folder traces nothing.
    """

    def __init__(self, folder: Path | None, *, skip: int = 5, count: int = 5):
        self._folder = folder
        self._begin, self._end = skip, skip + count
        self._seen = 0
        self._running = False

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def step(self) -> None:
        """Say that another step is about to be dispatched."""
        if self._folder is not None and self._seen == self._begin:
            jax.profiler.start_trace(self._folder)
            self._running = True
        if self._seen == self._end:
            self._stop()
        self._seen += 1

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

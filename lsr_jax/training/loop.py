"""Train the stages of a run, one after the other, each from where it was interrupted."""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax import cli
from lsr_jax.data import pipeline, pseudo_label_store, sources
from lsr_jax.errors import InputError
from lsr_jax.training import compile, distributed, sharding, stage, workdir
from lsr_jax.training.checkpoint import Checkpointer
from lsr_jax.training.metrics import Goodput, MetricsLog, Monitor, Progress, check_log
from lsr_jax.training.selection import Selector, split_of
from lsr_jax.training.stage import Run, Snapshot, Stage
from lsr_jax.training.state import TrainState
from lsr_jax.training.stop import Stop, Stopped
from lsr_jax.training.tensorboard import Board
from lsr_jax.types import Images, Preparation


def train(
    config: Mapping,
    folder: Path,
    stop: Stop | None = None,
    profile: Path | None = None,
    show: str = "auto",
    check: Callable[[Run], object] | None = None,
    finish: Callable[[Run], object] | None = None,
) -> Run:
    """Train every stage of ``config`` in ``folder``; finished stages are skipped.

    Args:
      config: resolved, as nested dicts.
      folder: the workdir, new or of an interrupted run with the same config.
      stop: when to stop before the end.
      profile: a folder for a trace of a few steps of each stage.
      show: see `metrics.Progress`.
      check: called with the run before anything is trained or written.
      finish: called with the run after its last stage, while the folder is locked.

    Raises:
      InputError: an unusable config, dataset, workdir or checkpoint; another process
        trains in the workdir.
      TrainingError: a loss or gradient is no longer finite, the disk is full, or a
        process that reads the data died.
      Stopped: as ``stop`` says, after everything was saved.
    """
    stop = stop or Stop()
    show = show if distributed.is_main() else "none"
    with distributed.main_first("data"):
        workdir.check(folder, config)
        run = stage.open_run(config, folder)
        selector = Selector(run)
    stages = stage.build_stages(run)
    if check:
        check(run)
    with workdir.locked(folder, config, inputs(run, stages)):
        for one in stages:
            stop.check(distributed.any_process)
            train_stage(one, selector, stop, profile, show)
        stop.check(distributed.any_process)
        if finish:
            finish(run)
    return run


def inputs(run: Run, stages: Iterable[Stage]) -> dict:
    """The data and the outside weights of a run, for its manifest."""
    found = {}
    for one in stages:
        found |= one.weight_fingerprints()
    data = {name: domain.fingerprint for name, domain in run.domains.items()}
    data |= sources.identities(run.domains)
    if chosen := split_of(run.config):
        domain, split = chosen
        data["evaluation.selection"] = run.domains[domain].version(split)
    return {"data": data, "weights": found, "seed": run.config["seed"]}


def train_stage(
    stage: Stage, selector: Selector, stop: Stop, profile: Path | None, show: str
) -> None:
    """Train one stage to its last step, from its newest checkpoint if there is one."""
    goodput = Goodput()
    checkpoints = Checkpointer(stage.checkpoints, keep_every=stage.config["keep_every"])
    with checkpoints, compile.memory_advice():
        with goodput.lost("start"):
            start = stage.restore(checkpoints) or begin(stage)
        if int(start.state.step) < stage.config["steps"]:
            run_steps(stage, start, checkpoints, selector, goodput, stop, profile, show)
        elif distributed.is_main():
            check_log(stage.folder, start.log)


def begin(stage: Stage) -> Snapshot:
    """The state before step 0."""
    # The stages before it may have taken days, in which another run went on.
    workdir.check_inputs(
        stage.run.workdir, {"data": {}, "weights": stage.weight_fingerprints()}
    )
    return Snapshot(prepare(stage, stage.start()))


def prepare(stage: Stage, state: TrainState) -> TrainState:
    """The state before step 0 after the preparation of its method.

    Everything that a preparation reads is fixed before the stage starts, so an
    interrupted one is done again. Of several processes each reads every image and
    computes its share of every batch; all obtain the same state, and the first writes
    the files.

    Raises:
      InputError: a process does not find the files that the first one wrote.
    """
    method, run = stage.method, stage.run
    if method.prepare is None:
        return state
    params, model_state = stage.labeler_network(state)
    placement = sharding.replicated(run.mesh)

    def batches(domain: str, labelled: bool):
        if labelled and domain not in method.labelled:
            raise ValueError(f"the method of {stage.name} may not read {domain} labels")
        return training_images(stage, domain, labelled)

    preparation = Preparation(
        forward=run.model.forward,
        params=params,
        model_state=model_state,
        num_classes=run.model.num_classes,
        batches=batches,
        compile=functools.partial(jax.jit, out_shardings=placement),
        folder=stage.folder,
        writes=distributed.is_main(),
    )
    method_state = method.prepare(state.method_state, preparation)
    distributed.wait(f"{stage.name} is prepared")
    labels = stage.folder / pseudo_label_store.FOLDER
    if method.pseudo_labelled and not labels.is_dir():
        raise InputError(
            f"{labels}: the pseudo-labels of process 0 are not visible here; give all "
            "processes one --workdir on a shared file system"
        )
    # The method may return the network itself, whose buffers are donated.
    method_state = jax.tree.map(jnp.copy, method_state)
    return state.replace(method_state=sharding.replicate(method_state, run.mesh))


def training_images(
    stage: Stage, domain: str, labelled: bool
) -> Iterator[tuple[Images, np.ndarray, tuple[str, ...]]]:
    """A domain's training images, once and in order; see `types.Preparation`."""
    run = stage.run
    normalise = jax.jit(run.normalise, out_shardings=sharding.split(run.mesh))
    size = run.evaluation_batch_size()
    source = run.open(domain, "train")
    with (
        pipeline.ordered_batches(source, batch_size=size, labelled=labelled) as loaded,
        cli.progress_bar(
            len(source),
            f"{stage.name} prepares from {domain}",
            "image",
            disable=not distributed.is_main(),
        ) as bar,
    ):
        for images, valid, ids in loaded:
            images = sharding.shard_whole_batch(images, run.mesh)
            yield images._replace(image=normalise(images.image)), valid, ids
            bar.update(int(valid.sum()))


def run_steps(
    stage: Stage,
    start: Snapshot,
    checkpoints: Checkpointer,
    selector: Selector,
    goodput: Goodput,
    stop: Stop,
    profile: Path | None,
    show: str,
) -> None:
    """Train from ``start`` to the last step, or until it is stopped.

    Raises:
      Stopped: after the state was saved.
      TrainingError: see `train`.
    """
    run = stage.run
    state, best, done = start.state, start.best, int(start.state.step)
    last = stage.config["steps"]
    with (
        open_log(stage, start) as log,
        profiling(profile) as before_step,
        contextlib.closing(stage.batches(done)) as loaded,
        stop.deferred(),
    ):
        batches = prefetch(
            loaded, lambda pair: (sharding.shard_batch(pair[0], run.mesh), pair[1])
        )
        with goodput.lost("data"):
            batch, ids = next(batches)
            board = Board(log and log.events, run.domains["source"].space)
            board.batch(done + 1, batch, ids)
        with goodput.lost("compile"):
            train_step, cost = compile.compile_traced(stage.traced)
        if distributed.is_main():
            print(
                f"{stage.name}: compiled in {cost.compile_seconds:.0f} s, at most "
                f"{cost.peak_bytes / 1e9:.2f} GB per device",
                file=sys.stderr,
            )
        stop.check(distributed.any_process)
        with Progress(show, stage.name, steps=last, start=done) as shown:
            monitor = Monitor(stage.name, stage.config, log, shown)
            for number in range(done + 1, last + 1):
                before_step()
                state, metrics = train_step(state, batch)
                monitor.add(number, metrics, ids)
                reason = stop_reason(stop, number, stage.config["log_every"])
                scored = selector.is_due(stage, number)
                save = number % stage.config["checkpoint_every"] == 0
                if save or scored or reason or number == last:
                    monitor.flush()
                    with goodput.lost("evaluation" if scored else "checkpoint"):
                        if scored:
                            best = selector.better(state, number, best)
                        facts = {
                            "stage": stage.name,
                            "method": stage.config["method"]["name"],
                            "step": number,
                            "best": best,
                            "log": log.position() if log else None,
                        }
                        checkpoints.save(number, state, facts)
                    board.state(number, state.method_state, goodput.metrics())
                if reason or number == last:
                    checkpoints.wait()
                if number == last:
                    break
                if reason:
                    raise Stopped(
                        f"stopped by {reason} after step {number} of {stage.name}"
                    )
                with goodput.lost("data"):
                    batch, ids = next(batches)
    if distributed.is_main():
        print(f"{stage.name}: {goodput.summary()}", file=sys.stderr)


def stop_reason(stop: Stop, number: int, every: int) -> str | None:
    """Why to stop after a step; several processes agree on it every so many steps."""
    reason = stop.after_step()
    if jax.process_count() == 1:
        return reason
    if number % every or not distributed.any_process(reason is not None):
        return None
    return reason or "another process"


def open_log(
    stage: Stage, start: Snapshot
) -> contextlib.AbstractContextManager[MetricsLog | None]:
    """The metrics log on process 0, None on the others."""
    if not distributed.is_main():
        return contextlib.nullcontext()
    return MetricsLog(stage.folder, start=int(start.state.step), position=start.log)


def prefetch(
    batches: Iterable, put: Callable[[Any], Any], *, depth: int = 2
) -> Iterator[Any]:
    """``put`` of every batch, started ``depth`` batches ahead.

    Transfers to a device are asynchronous: while the device works on one step, the
    batches of the next ``depth`` are on their way and take their size of its memory.
    """
    queue = collections.deque()
    for batch in batches:
        queue.append(put(batch))
        if len(queue) > depth:
            yield queue.popleft()
    yield from queue


@contextlib.contextmanager
def profiling(
    folder: Path | None, *, skip: int = 5, count: int = 5
) -> Iterator[Callable[[], None]]:
    """Trace ``count`` steps into ``folder`` after ``skip`` others; without one, none.

    Yields a function to call before each step.
    """
    numbers = itertools.count()
    with contextlib.ExitStack() as trace:

        def before_step():
            number = next(numbers)
            if folder is not None and number == skip:
                jax.profiler.start_trace(folder)
                trace.callback(jax.profiler.stop_trace)
            if number == skip + count:
                trace.close()

        yield before_step

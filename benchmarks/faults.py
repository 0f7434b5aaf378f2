"""Kill training runs at random times and compare their results with a run that was not.

    python -m benchmarks.faults --kills 25        # what `pytest -m long` runs
    python -m benchmarks.faults --kills 100
    python -m benchmarks.faults --config configs/streets.py:cag,tiny --stages source stage_1
    python -m benchmarks.faults --config configs/streets.py:bdl,tiny \\
        --stages source adversarial round_1

Each kill is a SIGKILL to a ``train.py`` process, at a time drawn from a seed: soon after
the start, at a step, while a checkpoint, pseudo-labels or the report are written, or at the
start of a stage (where CAG computes anchors). Some processes load data in a worker process.
After each kill the same command continues in the same workdir, until the run finishes. Its
arrays (compared by hash), metrics and report have to be identical to those of the reference
run. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.sandbox import (
    CONFIG,
    STAGES,
    Sandbox,
    compare,
    count_events,
    kill,
    wait_for,
)

EVENTS = ("start", "stage", "step", "step", "step", "save", "save", "save")
EVENTS_WITH_LABELS = (*EVENTS, "prepare", "prepare")
MAX_DELAY = {
    "start": 6.0,
    "stage": 4.0,
    "step": 0.3,
    "save": 0.12,
    "end": 15.0,
    "prepare": 0.5,
}


class Kill(NamedTuple):
    """When to kill a process.

    Attributes:
      event: event to wait for, see `sandbox.count_events`, or "start".
      count: number of these events; for "end" all stages, so that the report is next.
      delay: seconds after the last of them.
      workers: worker processes that load data.
    """

    event: str
    count: int
    delay: float
    workers: int


class Result(NamedTuple):
    """Number of kills by event, and the results that differ from the reference run."""

    kills: collections.Counter
    differences: list[str]


def plan(
    generator: random.Random, kills: int, stages: int, events: Sequence[str] = EVENTS
) -> Iterator[Kill]:
    """Draw kills; the last one is during the report."""
    for number in range(kills):
        last = number == kills - 1
        event = "end" if last else generator.choice(events)
        count = {"step": generator.randint(1, 3), "end": stages}
        yield Kill(
            event,
            count.get(event, 1),
            generator.uniform(0, MAX_DELAY[event]),
            int(generator.random() < 0.15),
        )


def start_and_kill(sandbox: Sandbox, workdir: Path, planned: Kill) -> int | None:
    """Start a run and kill it; returns the exit code if it ended before."""
    event = planned.event
    # An interrupted save leaves its folder until the next process starts, so "save" and
    # "prepare" are not counted from earlier ones.
    before = count_events(workdir, event) if event in ("step", "stage") else 0
    if event == "stage" and before == len(sandbox.stages):
        event = "start"  # no other stage will start
    process = sandbox.start(workdir, f"--config.data.workers={planned.workers}")
    if event in ("save", "prepare"):
        wait_for(lambda: not count_events(workdir, event), process)
    if event == "start" or wait_for(
        lambda: count_events(workdir, event) >= before + planned.count, process
    ):
        time.sleep(planned.delay)
    code = process.poll()
    kill(process)
    return code


def run_chain(
    sandbox: Sandbox, workdir: Path, reference: Path, kills: int, seed: int
) -> Result:
    """Kill runs in one workdir ``kills`` times, let them finish, compare the results."""
    generator = random.Random(seed)
    counted: collections.Counter = collections.Counter()
    differences = []
    events = EVENTS_WITH_LABELS if sandbox.relabels else EVENTS
    while counted.total() < kills:
        shutil.rmtree(workdir, ignore_errors=True)
        left = kills - counted.total()
        for planned in plan(generator, left, len(sandbox.stages), events):
            code = start_and_kill(sandbox, workdir, planned)
            if code:
                return Result(counted, [failure(sandbox, workdir, code)])
            if code == 0:
                break
            counted[planned.event] += 1
        code = sandbox.run(workdir)
        if code:
            return Result(counted, [failure(sandbox, workdir, code)])
        differences += compare(workdir, reference)
    return Result(counted, differences)


def reference_run(sandbox: Sandbox) -> Path:
    """Train without interruption; its compiled programs serve all later runs."""
    workdir = sandbox.folder / "reference"
    if code := sandbox.run(workdir):
        raise RuntimeError(failure(sandbox, workdir, code))
    # From here on the cache is only read, so that no kill can damage an entry.
    sandbox.environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1e9"
    return workdir


def failure(sandbox: Sandbox, workdir: Path, code: int) -> str:
    """What a process that failed has printed last."""
    return f"{workdir.name}: exit code {code}: {sandbox.output(workdir)[-4000:]}"


def run_chains(sandbox: Sandbox, *, kills: int, chains: int, seed: int) -> Result:
    """Divide the kills over chains, run two chains at a time, add their results."""
    reference = sandbox.folder / "reference"
    shares = [kills // chains + (i < kills % chains) for i in range(chains)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        parts = list(
            pool.map(
                lambda i: run_chain(
                    sandbox,
                    sandbox.folder / f"chain{i}",
                    reference,
                    shares[i],
                    seed + i,
                ),
                range(chains),
            )
        )
    counted = sum((part.kills for part in parts), collections.Counter())
    return Result(counted, [line for part in parts for line in part.differences])


def main() -> int:
    """Run, print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--chains", type=int, help="default: one for every 6 kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--stages", nargs="+", default=STAGES)
    options = parser.parse_args()
    chains = options.chains or max(1, options.kills // 6)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Sandbox(Path(folder), options.config, tuple(options.stages))
        reference_run(sandbox)
        result = run_chains(
            sandbox, kills=options.kills, chains=chains, seed=options.seed
        )
    by_event = ", ".join(f"{count} {event}" for event, count in result.kills.items())
    print(f"{result.kills.total()} kills ({by_event}) in {chains} chains")
    print(f"{time.monotonic() - begin:.0f} seconds")
    print(*result.differences, f"{len(result.differences)} differences", sep="\n")
    return int(bool(result.differences))


if __name__ == "__main__":
    sys.exit(main())

"""Runs that are killed at random moments, held against one that was not.

    python -m benchmarks.faults --kills 25        # what the tests do
    python -m benchmarks.faults --kills 100       # the long version
    python -m benchmarks.faults --config configs/streets.py:cag,tiny --stages source stage_1
    python -m benchmarks.faults --config configs/streets.py:bdl,tiny \\
        --stages source adversarial round_1

Every kill is a SIGKILL to a real ``train.py``, drawn from a seed: soon after its start,
at a step, inside a save, at the beginning of a stage (where CAG computes its anchors),
while pseudo-labels or the report are written. Some
of the processes read with a worker process, some without. The same command then goes on
in the same folder, until a chain of kills is through and the run may end. Its arrays
(by their hashes), its metrics and its report are compared with those of the unbroken
run bit by bit. The exit code is 1 where one differs.
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

from benchmarks.laboratory import (
    CONFIG,
    STAGES,
    Laboratory,
    compare,
    events,
    kill,
    wait_for,
)

WHERE = ("start", "stage", "step", "step", "step", "save", "save", "save")
PREPARED = (*WHERE, "prepare", "prepare")  # where pseudo-labels are written
JITTER = {
    "start": 6.0,
    "stage": 4.0,
    "step": 0.3,
    "save": 0.12,
    "end": 15.0,
    "prepare": 0.5,
}


class Kill(NamedTuple):
    """What a process is to be killed at.

    Attributes:
      where: the event that is waited for, see `laboratory.events`, or "start".
      count: how many of them; of "end": all stages, so that the report is next.
      delay: seconds after it.
      workers: processes that decode for it.
    """

    where: str
    count: int
    delay: float
    workers: int


def plan(
    generator: random.Random, kills: int, stages: int, places: Sequence[str] = WHERE
) -> Iterator[Kill]:
    """The kills of a chain at some of ``places``; the last one falls into the report."""
    for number in range(kills):
        last = number == kills - 1
        where = "end" if last else generator.choice(places)
        count = {"step": generator.randint(1, 3), "end": stages}
        yield Kill(
            where,
            count.get(where, 1),
            generator.uniform(0, JITTER[where]),
            int(generator.random() < 0.15),
        )


def strike(laboratory: Laboratory, workdir: Path, planned: Kill) -> int | None:
    """Starts the run and kills it; the exit code where it ended before."""
    where = planned.where
    # A killed save leaves its folder, which only counts until the next process is up.
    counted = where in ("step", "stage")
    before = events(workdir, where) if counted else 0
    if where == "stage" and before == len(laboratory.stages):
        where = "start"  # no other begins
    process = laboratory.start(workdir, f"--config.data.workers={planned.workers}")
    if where in ("save", "prepare"):
        wait_for(lambda: not events(workdir, where), process)
    if where == "start" or wait_for(
        lambda: events(workdir, where) >= before + planned.count, process
    ):
        time.sleep(planned.delay)
    code = process.poll()
    kill(process)
    return code


class Chain(NamedTuple):
    """What became of a folder: kills by kind, and what differs from the unbroken run."""

    kills: collections.Counter
    differences: list[str]


def chain(
    laboratory: Laboratory, workdir: Path, wanted: Path, kills: int, seed: int
) -> Chain:
    """Kills a run so often, lets it end, compares."""
    generator = random.Random(seed)
    counted: collections.Counter = collections.Counter()
    differences = []
    while counted.total() < kills:
        shutil.rmtree(workdir, ignore_errors=True)
        left, stages = kills - counted.total(), len(laboratory.stages)
        places = PREPARED if laboratory.relabels else WHERE
        for planned in plan(generator, left, stages, places):
            code = strike(laboratory, workdir, planned)
            if code:
                return Chain(counted, [f"{workdir.name}: exit code {code}"])
            if code == 0:
                break
            counted[planned.where] += 1
        code = laboratory.run(workdir)
        if code:
            return Chain(counted, [f"{workdir.name}: exit code {code}"])
        differences += compare(workdir, wanted)
    return Chain(counted, differences)


def unbroken(laboratory: Laboratory) -> Path:
    """The folder of the run that nothing disturbs; its programs are kept for the rest."""
    workdir = laboratory.folder / "unbroken"
    if code := laboratory.run(workdir):
        raise RuntimeError(f"exit code {code}: {laboratory.output(workdir)[-2000:]}")
    # From here on programs are only read: no kill can damage one.
    laboratory.environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1e9"
    return workdir


def experiment(laboratory: Laboratory, *, kills: int, chains: int, seed: int) -> Chain:
    """All chains, two at a time, held against the unbroken run; their sum."""
    wanted = laboratory.folder / "unbroken"
    shares = [kills // chains + (i < kills % chains) for i in range(chains)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        parts = list(
            pool.map(
                lambda i: chain(
                    laboratory,
                    laboratory.folder / f"chain{i}",
                    wanted,
                    shares[i],
                    seed + i,
                ),
                range(chains),
            )
        )
    counted = sum((part.kills for part in parts), collections.Counter())
    return Chain(counted, [line for part in parts for line in part.differences])


def main() -> int:
    """Runs, prints; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--chains", type=int, help="default: one for 6 kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--stages", nargs="+", default=STAGES)
    options = parser.parse_args()
    chains = options.chains or max(1, options.kills // 6)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(Path(folder), options.config, tuple(options.stages))
        unbroken(laboratory)
        found = experiment(
            laboratory, kills=options.kills, chains=chains, seed=options.seed
        )
    kinds = ", ".join(f"{count} {where}" for where, count in found.kills.items())
    print(f"{found.kills.total()} kills ({kinds}) in {chains} chains")
    print(f"{time.monotonic() - begin:.0f} seconds")
    print(*found.differences, f"{len(found.differences)} divergences", sep="\n")
    return int(bool(found.differences))


if __name__ == "__main__":
    sys.exit(main())

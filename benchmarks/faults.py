"""Runs that are killed at random moments, held against one that was not.

    python -m benchmarks.faults --kills 25        # what the tests do
    python -m benchmarks.faults --kills 100       # the long version

Every kill is a SIGKILL to a real ``train.py``, drawn from a seed: soon after its start,
at a step, inside a save, at the beginning of a stage, while the report is written. Some
of the processes read with a worker process, some without. The same command then goes on
in the same folder, until a chain of kills is through and the run may end. Its arrays
(by their hashes), its metrics and its report are compared with those of the unbroken
run bit by bit. The exit code is 1 where one differs.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
CONFIG = "configs/streets.py:lsr,tiny"
STAGES = ("source", "adapt")
STEPS = 8
LIMIT = 300  # seconds of one process; more is a hang
WHERE = ("start", "stage", "step", "step", "step", "save", "save", "save")
JITTER = {"start": 6.0, "stage": 4.0, "step": 0.3, "save": 0.12, "report": 3.0}


class Kill(NamedTuple):
    """What a process is to be killed at.

    Attributes:
      where: the event that is waited for.
      count: how many of them.
      delay: seconds after it.
      workers: processes that decode for it.
    """

    where: str
    count: int
    delay: float
    workers: int


def overrides() -> list[str]:
    """Flags of a run of 2 x `STEPS` steps that does everything a long one does."""
    per_stage = {"steps": STEPS, "log_every": 1, "checkpoint_every": 2}
    flags = [
        f"--config.{stage}.{key}={value}"
        for stage in STAGES
        for key, value in per_stage.items()
    ]
    chosen = {"selection": "source_val", "every": 4, "batchnorm_images": 8}
    return flags + [f"--config.evaluation.{key}={chosen[key]}" for key in chosen]


class Laboratory:
    """A folder with the data, the compiled programs and the runs."""

    def __init__(self, folder: Path, config: str = CONFIG):
        self.folder = folder
        self.config = config
        self.environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "LSR_JAX_DATA": os.environ.get("LSR_JAX_DATA", str(folder / "data")),
            # Their own: a killed process may leave half a program in it.
            "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def command(self, workdir: Path, *flags: str) -> list[str]:
        """``python train.py`` with the config of the experiment."""
        script = [sys.executable, str(ROOT / "train.py"), f"--config={self.config}"]
        return [*script, f"--workdir={workdir}", *overrides(), *flags]

    def start(self, workdir: Path, *flags: str, **options) -> subprocess.Popen:
        """Starts it in a process group of its own, with its output in a file."""
        with (self.folder / f"{workdir.name}.txt").open("a") as output:
            return subprocess.Popen(
                self.command(workdir, *flags),
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,
            )

    def run(self, workdir: Path, *flags: str, **options) -> int:
        """Runs it to its end; the exit code."""
        process = self.start(workdir, *flags, **options)
        try:
            return process.wait(LIMIT)
        finally:
            kill(process)

    def output(self, workdir: Path) -> str:
        """What all processes of a folder have printed."""
        return (self.folder / f"{workdir.name}.txt").read_text()


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to a process of ours and its workers."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def plan(generator: random.Random, kills: int) -> Iterator[Kill]:
    """The kills of a chain; the last one falls into the report."""
    for number in range(kills):
        last = number == kills - 1
        where = "report" if last else generator.choice(WHERE)
        yield Kill(
            where,
            generator.randint(1, 3) if where == "step" else 1,
            generator.uniform(0, JITTER[where]),
            int(generator.random() < 0.15),
        )


def events(workdir: Path, where: str) -> int:
    """How often something has happened so far in a folder."""
    stages = [workdir / stage for stage in STAGES]
    if where == "stage":
        return sum(stage.is_dir() for stage in stages)
    if where == "save":
        return sum("orbax" in path.name for path in workdir.glob("*/checkpoints/*"))
    if where == "report":
        return int((workdir / STAGES[-1] / "checkpoints" / str(STEPS)).is_dir())
    logs = [stage / "metrics.jsonl" for stage in stages]
    return sum(log.read_bytes().count(b"\n") for log in logs if log.is_file())


def wait_for(happened: Callable[[], bool], process: subprocess.Popen) -> bool:
    """Whether it happened before the process ended."""
    end = time.monotonic() + LIMIT
    while process.poll() is None:
        if happened():
            return True
        if time.monotonic() > end:
            kill(process)
            raise TimeoutError(f"process {process.pid} did nothing for {LIMIT} seconds")
        time.sleep(0.004)
    return False


def strike(laboratory: Laboratory, workdir: Path, planned: Kill) -> int | None:
    """Starts the run and kills it; the exit code where it ended before."""
    where = planned.where
    # A killed save leaves its folder, which only counts until the next process is up.
    before = events(workdir, where) if where in ("step", "stage") else 0
    process = laboratory.start(workdir, f"--config.data.workers={planned.workers}")
    if where == "save":
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
        for planned in plan(generator, kills - counted.total()):
            code = strike(laboratory, workdir, planned)
            if code is not None:
                break
            counted[planned.where] += 1
        code = laboratory.run(workdir)
        if code:
            return Chain(counted, [f"{workdir.name}: exit code {code}"])
        differences += compare(workdir, wanted)
    return Chain(counted, differences)


def compare(workdir: Path, other: Path) -> list[str]:
    """What differs between two finished runs."""
    found, wanted = results(workdir), results(other)
    names = sorted(found.keys() | wanted.keys(), reverse=True)
    return [
        f"{workdir.name}: {name}"
        for name in names
        if found.get(name) != wanted.get(name)
    ]


def results(workdir: Path) -> dict:
    """Everything that a run leaves: arrays by hash, metrics and scores as they stand."""
    found = {"report": (workdir / "report" / "metrics.json").read_bytes()}
    for stage in STAGES:
        folder = workdir / stage
        facts = folder / "checkpoints" / str(STEPS) / "facts" / "metadata"
        facts = json.loads(facts.read_text())
        found |= {f"{stage}, {name}": x for name, x in facts["arrays"].items()}
        found[f"{stage}, best"] = facts["best"]
        found[f"{stage}, metrics.jsonl"] = (folder / "metrics.jsonl").read_bytes()
    return found


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
    parser.add_argument("--config", default=CONFIG, help="two stages: source and adapt")
    options = parser.parse_args()
    chains = options.chains or max(1, options.kills // 6)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(Path(folder), options.config)
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

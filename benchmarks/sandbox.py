"""Run `train.py` in real processes, in a temporary folder, for tests that interrupt it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lsr_jax.data import pseudo_label_store

ROOT = Path(__file__).parents[1]
CONFIG = "configs/streets.py:lsr,tiny"
STAGES = ("source", "adapt")
STEPS = 8  # per stage
TABLES = ("metrics.json", "metrics.csv", "table.md", "table.tex")
TIMEOUT = 300  # seconds for one process
ORPHAN_TIMEOUT = 30  # seconds for workers to exit after their parent
STAGE = {"steps": STEPS, "log_every": 1, "checkpoint_every": 2}
EVALUATION = {"selection": "source_val", "every": 4, "batchnorm_images": 8}


class Sandbox:
    """A folder for data, compiled programs and workdirs.

    Attributes:
      folder: where everything is written.
      config: value of ``--config``.
      stages: names of the stages to train.
      relabels: whether a stage writes pseudo-labels (BDL).
      environment: environment variables of the processes.
    """

    def __init__(
        self, folder: Path, config: str = CONFIG, stages: tuple[str, ...] = STAGES
    ):
        self.folder = folder
        self.config = config
        self.stages = stages
        self.relabels = ":bdl" in config
        self.environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "LSR_JAX_DATA": os.environ.get("LSR_JAX_DATA", str(folder / "data")),
            # A cache of their own: a killed process may leave an incomplete entry.
            "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

    def command(self, workdir: Path, *flags: str) -> list[str]:
        """Command line of a run with checkpoints, evaluations and selection."""
        script = [sys.executable, str(ROOT / "train.py"), f"--config={self.config}"]
        overrides = {f"evaluation.{key}": value for key, value in EVALUATION.items()}
        for stage in self.stages:
            overrides |= {f"{stage}.{key}": value for key, value in STAGE.items()}
        overrides["stages"] = self.stages
        chosen = [f"--config.{key}={value}" for key, value in overrides.items()]
        return [*script, f"--workdir={workdir}", *chosen, *flags]

    def start(self, workdir: Path, *flags: str, **options) -> subprocess.Popen:
        """Start a run in its own process group; output is appended to a file."""
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
        """Run to the end; returns the exit code."""
        process = self.start(workdir, *flags, **options)
        try:
            return process.wait(TIMEOUT)
        finally:
            kill(process)

    def output(self, workdir: Path) -> str:
        """Output of all processes that ran in a workdir."""
        return (self.folder / f"{workdir.name}.txt").read_text()


def kill(process: subprocess.Popen) -> None:
    """Send SIGKILL to a process, and wait until its workers have exited by themselves.

    Raises:
      RuntimeError: a worker is still running after `ORPHAN_TIMEOUT`; it is killed too.
    """
    process.kill()
    process.wait()
    end = time.monotonic() + ORPHAN_TIMEOUT
    while left := alive(process.pid):
        if time.monotonic() > end:
            os.killpg(process.pid, signal.SIGKILL)
            raise RuntimeError(f"processes {left} outlived their parent {process.pid}")
        time.sleep(0.02)


def alive(group: int) -> list[int]:
    """Running processes of a process group; empty on systems without ``/proc``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # exited meanwhile
            continue
        if int(number) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def count_events(workdir: Path, event: str) -> int:
    """How often an event has happened in a workdir.

    Args:
      workdir: of a run.
      event: "stage": a stage started; "step": a step was logged; "save": a checkpoint is
        being written, or was left incomplete; "prepare": the same for pseudo-labels;
        "end": a stage finished.
    """
    if event == "step":
        logs = workdir.glob("*/metrics.jsonl")
        return sum(log.read_bytes().count(b"\n") for log in logs)
    patterns = {
        "stage": "*/checkpoints",
        "save": "*/checkpoints/*orbax*",
        "prepare": f"*/{pseudo_label_store.FOLDER}.unfinished/*",
        "end": f"*/checkpoints/{STEPS}",
    }
    return len(list(workdir.glob(patterns[event])))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> bool:
    """Wait for a condition; False if the process ended first."""
    end = time.monotonic() + TIMEOUT
    while process.poll() is None:
        if condition():
            return True
        if time.monotonic() > end:
            kill(process)
            raise TimeoutError(f"process {process.pid}: no event in {TIMEOUT} seconds")
        time.sleep(0.004)
    return False


def compare(workdir: Path, other: Path) -> list[str]:
    """Names of the results in which two finished runs differ."""
    found, expected = results(workdir), results(other)
    names = sorted(found.keys() | expected.keys(), reverse=True)
    return [
        f"{workdir.name}: {name}"
        for name in names
        if found.get(name) != expected.get(name)
    ]


def results(workdir: Path) -> dict:
    """All results of a run: hashes of arrays; metrics, reports and labels as bytes."""
    found = {
        f"report, {name}": (workdir / "report" / name).read_bytes() for name in TABLES
    }
    for checkpoint in sorted(workdir.glob(f"*/checkpoints/{STEPS}")):
        folder = checkpoint.parents[1]
        stage = folder.name
        facts = json.loads((checkpoint / "facts" / "metadata").read_text())
        found |= {f"{stage}, {name}": x for name, x in facts["arrays"].items()}
        found[f"{stage}, best"] = best = facts["best"]
        if best and best["step"] != STEPS:
            chosen = checkpoint.with_name(str(best["step"])) / "facts" / "metadata"
            found[f"{stage}, arrays of the best"] = json.loads(chosen.read_text())[
                "arrays"
            ]
        labels = folder / pseudo_label_store.FOLDER / pseudo_label_store.HASHES
        if labels.is_file():
            found[f"{stage}, pseudo-labels"] = labels.read_bytes()
        found[f"{stage}, metrics.jsonl"] = (folder / "metrics.jsonl").read_bytes()
    return found

"""Real ``train.py`` processes in folders of their own, for tests that disturb them."""

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
STEPS = 8  # of a stage
TABLES = ("metrics.json", "metrics.csv", "table.md", "table.tex")
LIMIT = 300  # seconds of one process; more is a hang
ORPHANED = 30  # seconds in which workers notice that their parent is gone
STAGE = {"steps": STEPS, "log_every": 1, "checkpoint_every": 2}
EVALUATION = {"selection": "source_val", "every": 4, "batchnorm_images": 8}


class Laboratory:
    """A folder with the data, the compiled programs and the runs."""

    def __init__(
        self, folder: Path, config: str = CONFIG, stages: tuple[str, ...] = STAGES
    ):
        self.folder = folder
        self.config = config
        self.stages = stages
        self.relabels = ":bdl" in config  # the one method that writes labels
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
        """A run of ``STEPS`` steps a stage that does all that a long one does."""
        script = [sys.executable, str(ROOT / "train.py"), f"--config={self.config}"]
        overrides = {f"evaluation.{key}": value for key, value in EVALUATION.items()}
        for stage in self.stages:
            overrides |= {f"{stage}.{key}": value for key, value in STAGE.items()}
        overrides["stages"] = self.stages
        chosen = [f"--config.{key}={value}" for key, value in overrides.items()]
        return [*script, f"--workdir={workdir}", *chosen, *flags]

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
    """SIGKILL to a process of ours; its workers have to notice by themselves.

    Raises:
      RuntimeError: some of its workers outlived it; they are killed too.
    """
    process.kill()
    process.wait()
    end = time.monotonic() + ORPHANED
    while left := alive(process.pid):
        if time.monotonic() > end:
            os.killpg(process.pid, signal.SIGKILL)
            raise RuntimeError(f"processes {left} outlived their parent {process.pid}")
        time.sleep(0.02)


def alive(group: int) -> list[int]:
    """Processes of a group that still run, where the system has ``/proc``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # ended meanwhile
            continue
        if int(number) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def events(workdir: Path, where: str) -> int:
    """How often something has happened so far in a folder.

    Args:
      workdir: of a run.
      where: "stage": begun; "step": logged; "save": going on, or killed and left;
        "prepare": pseudo-labels being written, or left; "end": of a stage.
    """
    if where == "step":
        logs = workdir.glob("*/metrics.jsonl")
        return sum(log.read_bytes().count(b"\n") for log in logs)
    patterns = {
        "stage": "*/checkpoints",
        "save": "*/checkpoints/*orbax*",
        "prepare": f"*/{pseudo_label_store.FOLDER}.unfinished/*",
    }
    pattern = patterns.get(where, f"*/checkpoints/{STEPS}")
    return len(list(workdir.glob(pattern)))


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

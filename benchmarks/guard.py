"""Speed on a CPU against another commit: what got slower by more than 5 %.

    python -m benchmarks.guard                   against the newest tag, or else the last commit
    python -m benchmarks.guard --against REV
    python -m benchmarks.guard --quick           smaller images, fewer turns

The other commit is checked out to a temporary folder. Each side measures in a process of its own,
and the two take turns, so that other work on the machine affects both. The exit code is 1 if a
median got slower.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks import timing
from lsr_jax.errors import InputError, one_line

ROOT = Path(__file__).parents[1]
SLOWER = 1.05
HEADER = ("step", "ms now [quartiles]", "ms before", "now / before [quartiles]", "")
STEPS = {
    "lsr mini 192x96": ("lsr", "mini", (96, 192), 4),
    "dacs mini 192x96": ("dacs", "mini", (96, 192), 4),
    "lsr resnet50 512x256": ("lsr", "resnet50", (256, 512), 1),
}
QUICK = {"lsr mini 96x64": ("lsr", "mini", (64, 96), 1)}
# Runs on both sides: reads a line, trains one step, writes a line.
SIDE = """
import json, sys
import jax
from benchmarks import steps
method, backbone, size, batch = json.loads(sys.argv[1])
setting = steps.Setting(method, tuple(size), tuple(size), batch, backbone=backbone)
step = steps.Step(setting)
for _ in sys.stdin:
    jax.block_until_ready(step())
    print("trained", flush=True)
"""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = timing.parser(__doc__, repeats=9)
    parser.prog = "python -m benchmarks.guard"
    parser.add_argument("--against", metavar="REV", help="any name of a commit")
    options = parser.parse_args(arguments)
    revision = options.against or newest()
    result, rows = {}, [HEADER]
    with worktree(revision) as before:
        for name, step in (QUICK if options.quick else STEPS).items():
            times = turns(step, {"now": ROOT, "before": before}, options)
            ratio = timing.ratios(times["now"], times["before"])
            seconds = {side: timing.spread(samples) for side, samples in times.items()}
            result[name] = {"ratio": ratio, "seconds": seconds}
            verdict = "SLOWER" if ratio.median > SLOWER else ""
            shown = map(timing.ms, (seconds["now"], seconds["before"]))
            rows.append((name, *shown, str(ratio), verdict))
    timing.finish({"against": revision, "steps": result}, rows, file=options.json)
    return int(any(row[-1] == "SLOWER" for row in rows))


def newest() -> str:
    """The newest tag before the last commit, or the last commit."""
    try:
        return git("describe", "--tags", "--abbrev=0")
    except InputError:
        return git("rev-parse", "HEAD")


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """A folder with the files of a commit, removed at the end."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "before"
        git("worktree", "add", "--detach", str(folder), revision)
        try:
            yield folder
        finally:
            git("worktree", "remove", "--force", str(folder))


def turns(step, folders: dict[str, Path], options) -> dict[str, list[float]]:
    """Seconds of the steps of each side, which take turns."""
    with ExitStack() as stack:
        sides = {
            name: functools.partial(
                train,
                stack.enter_context(side(step, folder, options.cpu_devices)),
                name,
            )
            for name, folder in folders.items()
        }
        return timing.alternate(sides, repeats=options.repeats, warmup=options.warmup)


@contextmanager
def side(step, folder: Path, cpu_devices: int) -> Iterator[subprocess.Popen]:
    """A process that trains a step of the code in ``folder`` for every line it reads."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-c", SIDE, json.dumps(step)],
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(paths),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(cpu_devices),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def train(process: subprocess.Popen, name: str) -> None:
    """Let a process train one step.

    Raises:
      InputError: the process ended, for example since its commit has no such step.
    """
    with suppress(BrokenPipeError):  # what the process printed says why
        process.stdin.write("\n")
        process.stdin.flush()
    if process.stdout.readline() != "trained\n":
        raise InputError(
            f"benchmarks.guard: the side {name!r} ended with exit code {process.wait()}, "
            "its error is above; choose another commit with --against"
        )


def git(*words: str) -> str:
    """Output of a git command.

    Raises:
      InputError: it failed.
    """
    ended = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        raise InputError(
            f"git {' '.join(words)}: {one_line(ended.stderr)}; run in a checkout and "
            "name a commit that it has"
        )
    return ended.stdout.strip()


if __name__ == "__main__":
    timing.command(lambda: sys.exit(main()))

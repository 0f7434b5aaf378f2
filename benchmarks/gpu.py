"""Everything that docs/performance.md wants to know of a GPU, in the minutes it is lent for.

    python -m benchmarks.gpu --minutes 9 --out DIR
    python -m benchmarks.gpu --minutes 9 --out DIR --quick     the small form of each row, on a CPU

Each row of `ROWS` is a benchmark in a process of its own, the most important first. After each its
numbers are in ``DIR/NAME.json`` and its output in ``DIR/NAME.txt``. When the minutes are over, the
row that runs is ended and no other starts. The same command continues with the rows that have no
numbers, also on another machine that ``DIR`` was copied to: compiled programs and the choices
of XLA's autotuning are in ``DIR/cache``. From the trace of the first row, ``DIR/kernels.json`` has
the ten operations of the step that take longest.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from jax.profiler import ProfileData

from benchmarks import timing
from lsr_jax.errors import InputError

ROOT = Path(__file__).parents[1]
KERNELS = 10
HEADER = ("row", "result", "seconds")


class Row(NamedTuple):
    """A benchmark to run.

    Attributes:
      name: of its files.
      command: module of `benchmarks` and flags.
      needs: packages and "several devices".
    """

    name: str
    command: str
    needs: tuple[str, ...] = ()


MIC = (
    "train_step --method dacs,mic --dtype bfloat16 --backbone {mit} "
    "--source_size {square} --target_size {square}"
)
SIZES = {"mit": "mit_b5", "square": "1024x1024"}
QUICK_SIZES = {"mit": "mit_mini", "square": "128x128"}
ROWS = (
    Row("step", "train_step --dtype bfloat16 --profile {out}/trace"),
    Row(
        "step_against_torch",
        "train_step --dtype bfloat16 --vs_torch default bfloat16",
        ("torch",),
    ),
    Row(
        "float32_against_torch",
        "train_step --dtype tf32 float32 --vs_torch default float32",
        ("torch",),
    ),
    Row(
        "step_against_torch_compiled",
        "train_step --dtype bfloat16 --vs_torch compiled",
        ("torch",),
    ),
    Row("batch", "train_step --dtype bfloat16 --batch_size 1 4"),
    Row("overhead", "method_overhead --method lsr --dtype bfloat16"),
    Row("evaluation", "evaluation_speed --dtype float32 bfloat16"),
    Row("downsample", "downsample"),
    Row("remat", "train_step --dtype bfloat16 --batch_size 4 --remat"),
    Row(
        "micro_batches", "train_step --dtype bfloat16 --batch_size 4 --micro_batches 4"
    ),
    Row("mic", MIC),
    Row("mic_unrolled", f"{MIC} --unrolled"),
    Row("scaling", "scaling --dtype bfloat16", ("several devices",)),
    Row("methods", "method_overhead --dtype bfloat16"),
)


def main(arguments: list[str] | None = None) -> list[tuple]:
    """Run the rows and print what became of them."""
    options = parse(arguments)
    out = options.out.absolute()
    environment = cached(out / "cache")
    platform, devices = machine(environment)
    if platform != "gpu" and not options.quick:
        raise InputError(
            f"benchmarks.gpu: JAX finds no GPU, its platform is {platform!r}; install "
            "'jax[cuda13]' on a machine with one, or add --quick"
        )
    absent = {"torch"} if importlib.util.find_spec("torch") is None else set()
    absent |= {"several devices"} if devices == 1 else set()
    deadline = time.monotonic() + 60 * options.minutes
    results = [HEADER]
    for row in ROWS:
        start = time.monotonic()
        if (out / f"{row.name}.json").exists():
            outcome = "measured before"
        elif missing := absent & set(row.needs):
            outcome = f"needs {', '.join(missing)}"
        elif start >= deadline:
            outcome = "no time left"
        else:
            outcome = measured(row, out, environment, options.quick, deadline - start)
        print(f"{row.name}: {outcome}", flush=True)
        results.append((row.name, outcome, f"{time.monotonic() - start:.0f}"))
    print(timing.table(results))
    return results


def parse(arguments):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, on a CPU too"
    )
    return parser.parse_args(arguments)


def cached(folder: Path) -> dict[str, str]:
    """The environment of a row: JAX keeps programs and XLA's autotuning in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "xla_gpu_per_fusion_autotune_cache_dir",
    }


def machine(environment: dict[str, str]) -> tuple[str, int]:
    """Platform and number of devices, asked for in a process that ends and frees them."""
    code = "import jax; print(jax.default_backend(), jax.device_count())"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    platform, devices = answer.stdout.split()[-2:]
    return platform, int(devices)


def measured(
    row: Row, out: Path, environment: dict[str, str], quick: bool, seconds: float
) -> str:
    """Run a row for at most ``seconds``; returns what became of it."""
    file = out / f"{row.name}.json"
    sizes = QUICK_SIZES if quick else SIZES
    module, *flags = row.command.format(out=out, **sizes).split()
    flags += [f"--json={file}", *["--quick"] * quick]
    try:
        with (out / f"{row.name}.txt").open("w") as output:
            ended = subprocess.run(
                [sys.executable, "-m", f"benchmarks.{module}", *flags],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
            )
    except subprocess.TimeoutExpired:
        return "ended, no time left"
    if ended.returncode:
        return f"failed with exit code {ended.returncode}, see {output.name}"
    if "--profile" in flags:
        kernels = longest(out / "trace")
        (out / "kernels.json").write_text(json.dumps(kernels) + "\n")
        cells = [
            (f"{k['milliseconds']:.3f}", k["count"], k["operation"]) for k in kernels
        ]
        with Path(output.name).open("a") as end:
            end.write(timing.table([("ms", "kernels", "operation"), *cells]) + "\n")
    return "measured"


def longest(trace: Path) -> list[dict]:
    """The `KERNELS` operations of the newest profile in a folder that take longest.

    An operation is one of the optimized program; on a CPU, several threads share it.
    """
    file = max(trace.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    found = collections.defaultdict(list)
    for plane in ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            if plane.name.startswith("/device:") and not line.name.startswith("Stream"):
                continue  # sums over the streams
            for event in line.events:
                facts = dict(event.stats)
                if "hlo_op" in facts:
                    name = facts.get("tf_op") or event.name
                    found[facts["hlo_op"], name].append(event.duration_ns)
    ordered = sorted(found.items(), key=lambda item: -sum(item[1]))
    return [
        {
            "operation": f"{operation} {name}" if name != operation else name,
            "milliseconds": sum(times) / 1e6,
            "count": len(times),
        }
        for (operation, name), times in ordered[:KERNELS]
    ]


if __name__ == "__main__":
    timing.command(main)

"""Alternating measurements and their output, shared by the speed benchmarks.

The sides of a comparison alternate in one process, so that other work on the machine affects
all of them. Results are medians with the first and third quartile.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lsr_jax import cli
from lsr_jax.data import processes
from lsr_jax.errors import InputError, one_line

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Spread(NamedTuple):
    """Median, first and third quartile, and number of measurements."""

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.median:.4g} [{self.low:.4g}, {self.high:.4g}]"


def matmul_rate(dtype: str, *, rows: int | None = None, repeats: int = 3) -> float:
    """Floating-point operations per second of one large matrix product on one device.

    Args:
      dtype: "float32", "tf32" or "bfloat16", as ``model.dtype``.
      rows: of the square matrices; default: enough to keep the device busy.
      repeats: the fastest of so many measurements counts.
    """
    device = jax.local_devices()[0]
    rows = rows or (1024 if device.platform == "cpu" else 8192)
    array = "bfloat16" if dtype == "bfloat16" else "float32"
    precision = {"float32": "highest", "tf32": "high"}.get(dtype, "default")
    product = jax.jit(lambda x: jnp.matmul(x, x, precision=precision))
    matrix = jax.device_put(jnp.ones((rows, rows), array), device)
    product(matrix).block_until_ready()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * rows**3 / min(seconds)


def spread(samples: Iterable[float]) -> Spread:
    """Median and quartiles; all equal for a single measurement."""
    samples = sorted(samples)
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0], 1)
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, low, high, len(samples))


def alternate(
    sides: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of every call, alternating between the sides.

    Args:
      sides: name -> function; JAX arrays that it returns are waited for.
      repeats: measured calls per side.
      warmup: unmeasured calls per side before them.
    """
    samples = {name: [] for name in sides}
    for turn in range(warmup + repeats):
        for name, call in sides.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn >= warmup:
                samples[name].append(time.perf_counter() - start)
    return samples


def ratios(above: Iterable[float], below: Iterable[float]) -> Spread:
    """Spread of the ratios of consecutive measurements."""
    return spread(a / b for a, b in zip(above, below, strict=True))


def parser(description: str, *, repeats: int) -> argparse.ArgumentParser:
    """Parser with the flags that all speed benchmarks share."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    result.add_argument("--repeats", type=int, default=repeats, help="measured calls")
    result.add_argument(
        "--warmup", type=int, default=1, help="unmeasured calls before them"
    )
    result.add_argument("--json", metavar="FILE", help="file for the numbers")
    result.add_argument(
        "--cpu_devices", type=int, default=1, help="virtual devices of the CPU"
    )
    return result


def size(text: str) -> tuple[int, int]:
    """Parse ``WIDTHxHEIGHT``; returns ``(H, W)``."""
    width, _, height = text.partition("x")
    try:
        return int(height), int(width)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected WIDTHxHEIGHT, e.g. 1280x720; found {text!r}"
        ) from None


def defaults(options: argparse.Namespace) -> argparse.Namespace:
    """Fill in sizes, network and repeats: those of a real step, or of `--quick`."""
    quick = options.quick
    options.source_size = options.source_size or ((72, 128) if quick else (720, 1280))
    options.target_size = options.target_size or ((64, 128) if quick else (512, 1024))
    return network_defaults(options)


def network_defaults(options: argparse.Namespace) -> argparse.Namespace:
    """Fill in network and repeats."""
    options.backbone = options.backbone or ("mini" if options.quick else "resnet101")
    if options.quick:
        options.repeats = min(options.repeats, 3)
    return options


def ms(seconds: Spread) -> str:
    """Median and quartiles in milliseconds."""
    return str(Spread(*(1e3 * x for x in seconds[:3]), seconds.count))


def command(main: Callable[[], object]) -> None:
    """Run a command; bad input ends it with one line and exit code 2, as in `cli.run`."""
    try:
        main()
    except InputError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def environment() -> dict:
    """Command, device, cores and versions."""
    device = jax.devices()[0]
    return {
        "command": cli.command_line(),
        "device": f"{len(jax.devices())} x {device.device_kind}",
        "platform": device.platform,
        "cores": processes.cores(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def finish(result: Mapping, rows: list[tuple], *, file: str | None) -> dict:
    """Print results as one line of JSON and as a table, and write them to ``file``.

    Args:
      result: measurements; Spreads become dicts.
      rows: cells of the table, header first.
      file: for the JSON, or None.
    """
    whole = plain({**environment(), **result})
    text = json.dumps(whole)
    if file:
        pathlib.Path(file).write_text(text + "\n")
    print(text)
    print(table(rows))
    return whole


def plain(value):
    """``value`` for JSON, with Spreads as dicts."""
    if isinstance(value, Spread):
        return value._asdict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def table(rows: list[tuple]) -> str:
    """Cells as an aligned Markdown table."""
    cells = [tuple(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells
    )

"""Alternating measurements, and how they are printed: shared by the commands here.

Two sides of a comparison take turns in one process, so that whatever else the machine
does falls on both. A figure is a median; its spread is the range of the middle half of
the measurements.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax

from lsr_jax import cli
from lsr_jax.data import processes

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


class Spread(NamedTuple):
    """Median, quartiles and count of some measurements, in their unit."""

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.median:.4g} [{self.low:.4g}, {self.high:.4g}]"


def spread(samples: Iterable[float]) -> Spread:
    """Median and quartiles; of a single measurement all three are that."""
    samples = sorted(samples)
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0], 1)
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, low, high, len(samples))


def alternate(
    sides: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of every call, the sides taking turns.

    Args:
      sides: name -> a call that returns arrays, waited for, or returns when it is done.
      repeats: measured calls of each side.
      warmup: calls of each side before.
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
    """Spread of the ratios of neighbouring measurements."""
    return spread(a / b for a, b in zip(above, below, strict=True))


def parser(description: str, *, repeats: int) -> argparse.ArgumentParser:
    """The options that all commands share."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--quick", action="store_true", help="small sizes, few repeats")
    result.add_argument("--repeats", type=int, default=repeats, help="measured calls")
    result.add_argument("--warmup", type=int, default=1, help="calls before them")
    result.add_argument("--json", metavar="FILE", help="write the numbers here too")
    result.add_argument(
        "--cpu-devices", type=int, default=1, help="devices as which JAX shows a CPU"
    )
    return result


def size(text: str) -> tuple[int, int]:
    """``WIDTHxHEIGHT``, as cards and papers write it, to ``(H, W)``."""
    width, _, height = text.partition("x")
    try:
        return int(height), int(width)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected WIDTHxHEIGHT, e.g. 1280x720; found {text!r}"
        ) from None


def defaults(options: argparse.Namespace) -> argparse.Namespace:
    """Sizes, network and repeats that were not given: of a real step, or `--quick`."""
    quick = options.quick
    options.source_size = options.source_size or ((72, 128) if quick else (720, 1280))
    options.target_size = options.target_size or ((64, 128) if quick else (512, 1024))
    return network_defaults(options)


def network_defaults(options: argparse.Namespace) -> argparse.Namespace:
    """Network and repeats that were not given: the large ones, or those of `--quick`."""
    options.backbone = options.backbone or ("mini" if options.quick else "resnet101")
    if options.quick:
        options.repeats = min(options.repeats, 3)
    return options


def ms(seconds: Spread) -> str:
    """Median and quartiles in milliseconds."""
    return str(Spread(*(1e3 * x for x in seconds[:3]), seconds.count))


def environment() -> dict:
    """Command, device, cores and versions: what every figure belongs to."""
    device = jax.devices()[0]
    return {
        "command": cli.command_line(),
        "device": f"{len(jax.devices())} x {device.device_kind}",
        "platform": device.platform,
        "cores": processes.cores(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def finish(result: Mapping, rows: list[tuple], *, file: str | None) -> dict:
    """Print the numbers as one line of JSON and as a table; write them to ``file``.

    Args:
      result: what was measured; Spreads become dicts.
      rows: cells of a table, its header first.
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
    """``value`` with Spreads as dicts, for JSON."""
    if isinstance(value, Spread):
        return value._asdict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def table(rows: list[tuple]) -> str:
    """Cells in Markdown, aligned."""
    cells = [tuple(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells
    )

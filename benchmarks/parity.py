"""Compare with every recorded number of the PyTorch originals, as one table.

    python -m benchmarks.parity                           # a quarter of an hour
    python -m benchmarks.parity --write docs/reproducibility.md
    python -m benchmarks.parity --files lsr eval

Runs the tests marked ``golden`` and lists every comparison they make. The exit code is 1 if a
number is out of tolerance or a test fails.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import NamedTuple

import pytest

from benchmarks import pages
from benchmarks.parity_rows import FAMILIES, Family
from lsr_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted({family.file for family in FAMILIES})
PART = "parity table"
HEADER = (
    "quantity",
    "original",
    "values",
    "error relative to",
    "tolerance",
    "worst error",
    "verdict",
)


class Row(NamedTuple):
    """Comparisons of one family with one tolerance."""

    quantity: str
    original: str
    count: int
    scale: str
    tolerance: float
    error: float

    @property
    def passed(self) -> bool:
        """Whether the worst error is within the tolerance."""
        return self.error <= self.tolerance

    def cells(self) -> tuple[str, ...]:
        """The row as text; exact comparisons give the number of values that differ."""
        exact = self.tolerance == 0
        return (
            self.quantity,
            self.original,
            f"{self.count:,}",
            "" if exact else self.scale,
            "equal" if exact else f"{self.tolerance:.0e}",
            f"{self.error:.0f} differ" if exact else f"{self.error:.1e}",
            "ok" if self.passed else "OUT",
        )


class Collector:
    """Pytest plugin that runs only the golden tests of ``files`` and collects comparisons."""

    def __init__(self, files: Iterable[str]):
        self.files = set(files)
        self.checks = []

    def pytest_collection_modifyitems(self, config, items):
        """Deselect all other tests."""
        chosen, others = [], []
        for item in items:
            marker = item.get_closest_marker("golden")
            wanted = marker is not None and marker.args[0] in self.files
            (chosen if wanted else others).append(item)
        config.hook.pytest_deselected(items=others)
        items[:] = chosen

    def pytest_runtest_logreport(self, report):
        """Collect the comparisons of a test, passed or failed."""
        if report.when == "call":
            properties = report.user_properties
            self.checks += [check for name, check in properties if name == "golden"]


def family_of(file: str, key: str) -> Family:
    """The first family whose pattern matches a key.

    Raises:
      InputError: no pattern matches.
    """
    for family in FAMILIES:
        if family.file == file and re.fullmatch(family.pattern, key):
            return family
    raise InputError(
        f"{file}: no row for the key {key!r}; add it to benchmarks/parity_rows.py"
    )


def rows_of(checks: Iterable[Mapping]) -> list[Row]:
    """One row per family, scale and tolerance, in the order of `FAMILIES`.

    Args:
      checks: ``{file, key, count, tolerance, error, scale}`` of each comparison. A key
        that is compared several times counts once, with its worst error.
    """
    worst = {}
    for check in checks:
        place = FAMILIES.index(family_of(check["file"], check["key"]))
        group = worst.setdefault((place, -check["tolerance"], check["scale"]), {})
        count, error = group.get(check["key"], (0, 0.0))
        group[check["key"]] = max(count, check["count"]), max(error, check["error"])
    return [
        Row(
            FAMILIES[place].quantity,
            FAMILIES[place].original,
            sum(count for count, _ in group.values()),
            scale,
            -tolerance,
            max(error for _, error in group.values()),
        )
        for (place, tolerance, scale), group in sorted(worst.items())
    ]


def table(rows: Iterable[Row]) -> str:
    """Rows as an aligned Markdown table."""
    cells = [HEADER, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells
    )


def machine() -> str:
    """Machine and versions."""
    versions = ", ".join(
        f"{name} {metadata.version(name)}"
        for name in ("jax", "jaxlib", "flax", "numpy")
    )
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, JAX on the "
        f"CPU; Python {platform.python_version()}, {versions}."
    )


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity")
    parser.add_argument("--files", nargs="+", choices=FILES, default=FILES)
    parser.add_argument("--write", type=pathlib.Path, metavar="PAGE")
    options = parser.parse_args(arguments)
    if options.write and options.files != FILES:
        parser.error("--write needs all files")

    collector = Collector(options.files)
    quiet = ["-q", "--no-header", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    quiet += [
        "-n",
        "0",
        "-m",
        "",
    ]  # the plugin collects in this process; long tests too
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
    code = pytest.main([str(ROOT / "tests"), *quiet], plugins=[collector])
    rows = rows_of(collector.checks)
    text = f"{table(rows)}\n\n{machine()}"
    print(text)
    if options.write:
        pages.replace(options.write, PART, text)
    return int(code != 0 or not rows or not all(row.passed for row in rows))


if __name__ == "__main__":
    sys.exit(main())

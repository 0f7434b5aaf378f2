"""Runs of one config with several seeds as one page: every run, then mean and spread.

python -m lsr_jax.analysis.seeds runs/a runs/b runs/c --write docs/results/streets.md
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from lsr_jax import commands
from lsr_jax.analysis import formats, pages, rows, tables
from lsr_jax.analysis.tables import Column, Table
from lsr_jax.errors import InputError
from lsr_jax.evaluation.predictor import PROTOCOLS

PART = "seeds"
# What the page averages: heading, domain, statistics, measure.
MEASURES = (
    ("target, running BN", "target", "running", "miou"),
    ("large", "target", "running", "miou_large"),
    ("small", "target", "running", "miou_small"),
    ("target, target BN", "target", "target", "miou"),
    ("source, running BN", "source", "running", "miou"),
)
PAIRED = (("running BN", "running"), ("target BN", "target"))


def page(
    folders: Sequence[Path],
    *,
    control: str,
    protocol: str = "native",
    recorded: Sequence[rows.Row] = (),
) -> str:
    """The generated part of the page, as Markdown.

    Args:
      folders: workdirs whose ``report/metrics.json`` is written.
      control: method to which differences are taken, within each seed.
      protocol: of the rows that are averaged and listed.
      recorded: rows to quote beside the runs, as `record` keeps them.

    Raises:
      InputError: a workdir without report or rows, or the same seed twice.
    """
    found = [rows.read(folder / "report" / "metrics.json") for folder in folders]
    measured = [
        [row for row in part if "recorded" not in row and row["protocol"] == protocol]
        for part in found
    ]
    for folder, part in zip(folders, measured, strict=True):
        if not part:
            raise InputError(
                f"{folder}: expected rows of protocol {protocol} in report/metrics.json, "
                "found none; run evaluate.py"
            )
    seeds = [part[0]["seed"] for part in measured]
    if len(set(seeds)) != len(seeds):
        raise InputError(f"seeds: expected one run for each seed, found {seeds}")
    everything = [row for part in measured for row in part]
    parts = [
        f"Commands: {'; '.join(f'`{command(folder)}`' for folder in folders)}.",
        machine(folders[0]),
        "### Mean over seeds " + ", ".join(map(str, seeds)),
        formats.markdown([mean(everything), differences(everything, control)]),
        "### Every run",
        formats.markdown(tables.summary([*everything, *recorded], control=control)),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def command(folder: Path) -> str:
    """The command that made a run."""
    return manifest(folder)["command"]


def manifest(folder: Path) -> dict:
    """The facts of a run's environment."""
    return json.loads((folder / "manifest.json").read_text())


def machine(folder: Path) -> str:
    """Where a run was made."""
    facts = manifest(folder)
    versions = ", ".join(f"{name} {v}" for name, v in facts["versions"].items())
    return (
        f"Machine: {facts['cpus']} cores ({facts['device_kind']}), "
        f"{facts['platform'].split('-')[0]}, "
        f"Python {facts['python']}, {versions}."
    )


def mean(found: Sequence[rows.Row]) -> Table:
    """Mean and standard deviation (n - 1) over seeds of each stage's measures."""
    methods = list(dict.fromkeys(row["method"] for row in found))
    columns = [Column("", "method", tuple(methods))]
    for heading, domain, bn, measure in MEASURES:
        cells = [
            spread(
                row[measure]
                for row in found
                if (row["method"], row["domain"], row["bn"]) == (method, domain, bn)
            )
            for method in methods
        ]
        columns.append(Column("", heading, tuple(cells)))
    return Table("mIoU in percent, mean ± standard deviation", tuple(columns), ())


def differences(found: Sequence[rows.Row], control: str) -> Table:
    """Mean and standard deviation of the differences to the control, seed by seed."""
    by_key = {
        (row["method"], row["seed"], row["bn"]): row["miou"]
        for row in found
        if row["domain"] == "target"
    }
    seeds = list(dict.fromkeys(row["seed"] for row in found))
    methods = [m for m in dict.fromkeys(row["method"] for row in found) if m != control]
    columns = [Column("", "method", tuple(methods))]
    for heading, bn in PAIRED:
        cells = [
            spread(
                (
                    by_key[method, seed, bn] - by_key[control, seed, bn]
                    for seed in seeds
                ),
                sign="+",
            )
            for method in methods
        ]
        columns.append(Column("", heading, tuple(cells)))
    caption = f"Target mIoU above {control}, paired by seed, in points"
    return Table(caption, tuple(columns), ())


def spread(values, sign: str = "") -> str:
    """``mean ± sd`` of fractions, in percent."""
    percent = [100 * value for value in values]
    deviation = statistics.stdev(percent) if len(percent) > 1 else float("nan")
    return f"{statistics.fmean(percent):{sign}.1f} ± {deviation:.1f}"


def main() -> int:
    """Write the part of the page; returns the exit code."""
    parser = commands.Parser(prog="python -m lsr_jax.analysis.seeds")
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--control", default="batchnorm_only", help="a method")
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, default="native", help="of the averaged rows"
    )
    parser.add_argument(
        "--write", type=Path, required=True, help="page with the markers of its part"
    )
    parser.add_argument("--recorded", type=Path, help="JSON file of recorded rows")
    arguments = parser.parse_args()
    text = page(
        arguments.workdirs,
        control=arguments.control,
        protocol=arguments.protocol,
        recorded=rows.read(arguments.recorded) if arguments.recorded else (),
    )
    pages.replace(arguments.write, PART, text)
    return 0


if __name__ == "__main__":
    sys.exit(commands.guarded(main))

"""Keep the rows of a run, with the command that made them, for other tables to quote.

python -m lsr_jax.report.record runs/streets-target_only --out docs/results/streets_oracle.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from lsr_jax import commands
from lsr_jax.report import results
from lsr_jax.training import workdir


def record(folder: Path) -> list[results.Row]:
    """The rows of a run's report, each with ``recorded``: the command of the run.

    Raises:
      InputError: no report there.
    """
    found = results.read(folder / "report" / "metrics.json")
    command = workdir.manifest(folder)["command"]
    return [{**row, "recorded": command} for row in found]


def main() -> int:
    """Write the rows; returns the exit code."""
    parser = commands.Parser(prog="python -m lsr_jax.report.record")
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    arguments = parser.parse_args()
    results.write(arguments.out, record(arguments.workdir))
    return 0


if __name__ == "__main__":
    sys.exit(commands.guarded(main))

"""Keep the rows of a run, with the command that made them, for other tables to quote.

python -m lsr_jax.report runs/streets-target_only --out docs/results/streets_oracle.json
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from lsr_jax import cli, files
from lsr_jax.report import results
from lsr_jax.training import workdir


def recorded(folder: Path) -> list[results.Row]:
    """The rows that a run measured, each with ``recorded``: the command of the run.

    Raises:
      InputError: no report there.
    """
    found = results.read(folder / "report" / "metrics.json")
    command = workdir.manifest(folder)["command"]
    return [{**row, "recorded": command} for row in found if "recorded" not in row]


def define(flags: cli.Flags) -> None:
    """Define the flags."""
    flags.path("out", "JSON file to write.", required=True)


def record(options, folder: str) -> None:
    """Write the rows."""
    results.write(options.out, recorded(files.expanded(folder)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, record, argv, arguments=["WORKDIR"])


if __name__ == "__main__":
    sys.exit(main())

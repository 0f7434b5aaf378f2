"""Train a run and print its table.

python train.py --config configs/streets.py
python train.py --config configs/gta2cs.py:lsr --workdir runs/gta2cs
python train.py --config configs/streets.py --config.seed=1 --workdir runs/streets-1
python train.py --config configs/gta2cs.py:lsr --distributed      on every host

Outside of a checkout: python -m lsr_jax.train --config streets:lsr,tiny

The same command continues an interrupted run, to the same result. Exit codes: 0 done, 1 the
work failed, 2 bad input, 3 stopped early by a signal or a limit.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from lsr_jax import cli
from lsr_jax.training import stop as training_stop


def define(flags: cli.Flags) -> None:
    """Define the flags."""
    flags.config(required=True)
    flags.path("workdir", "Folder of the run; default: runs/NAME.")
    flags.integer("max_steps", None, "Stop after that many steps.", lower_bound=1)
    flags.float(
        "max_minutes", None, "Stop after the step that passes it.", lower_bound=0
    )
    flags.path("profile", "Folder for a TensorBoard trace of five steps of each stage.")
    flags.enum(
        "progress",
        "auto",
        ("auto", "bar", "lines", "json", "none"),
        "What is shown: a bar, lines, JSON lines on stdout (all else on stderr), or "
        "nothing; auto: a bar on a terminal, lines elsewhere.",
    )
    flags.boolean(
        "print_config", False, "Print every value and its origin; do not train."
    )
    flags.distributed()


def train(options) -> None:
    """Train every stage of the config in the workdir, then report."""
    if options.print_config:
        print(cli.explain_config(options.config, options.overrides))
        return
    config = cli.read_config(options.config, options.overrides)
    workdir = options.workdir or Path("runs", cli.run_name(options.config))
    limits = {"max_steps": options.max_steps, "max_minutes": options.max_minutes}
    with training_stop.Stop(**limits) as stop:
        # Imported here: bad flags are answered without waiting for JAX.
        from lsr_jax import report
        from lsr_jax.training import compile, distributed, loop

        compile.configure(config["cpu_devices"])
        if processes := cli.processes(options):
            distributed.initialize(**processes)

        def finish(run: loop.Run) -> None:
            json = options.progress == "json"
            with contextlib.redirect_stdout(sys.stderr if json else sys.stdout):
                report.write(run)

        shown = {"profile": options.profile, "show": options.progress}
        loop.train(config, workdir, stop, **shown, check=report.check, finish=finish)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, train, argv)


if __name__ == "__main__":
    sys.exit(main())

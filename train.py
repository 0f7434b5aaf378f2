"""Train a run and print its table.

python train.py --config configs/streets.py
python train.py --config configs/gta2cs.py:lsr --workdir runs/gta2cs
python train.py --config configs/streets.py --config.seed=1 --workdir runs/streets-1
python train.py --config configs/gta2cs.py:lsr --distributed      on every host

The same command continues an interrupted run, to the same result. Exit codes: 0 done,
1 training could not go on, 2 bad input, 3 stopped before the end by a signal or a limit.
"""

import contextlib
import math
import sys

from absl import flags

from lsr_jax import command_line
from lsr_jax.training import stop as training_stop

MAX_STEPS = flags.DEFINE_integer(
    "max-steps", None, "Stop after so many steps of this command.", lower_bound=1
)
MAX_MINUTES = flags.DEFINE_float(
    "max-minutes", None, "Stop after the step that passes them.", lower_bound=0
)
flags.register_validator(
    "max-minutes",
    lambda minutes: minutes is None or math.isfinite(minutes),
    message="expected a number; without the flag there is no limit",
)
PROFILE = command_line.define_path(
    "profile", "Folder for a trace of five steps of each stage, for TensorBoard."
)
SHOW = flags.DEFINE_enum(
    "progress",
    "auto",
    ("auto", "bar", "lines", "json", "none"),
    "What is shown: a bar, lines, JSON lines on stdout (all else on stderr), or nothing; "
    "auto: a bar on a terminal, lines elsewhere.",
)


def main() -> None:
    """Train every stage of the config in the workdir, then report."""
    limits = {"max_steps": MAX_STEPS.value, "max_minutes": MAX_MINUTES.value}
    with training_stop.Stop(**limits) as stop:
        # Imported here: bad flags are answered without waiting for JAX.
        from lsr_jax.report import report
        from lsr_jax.training import compile, distributed, loop, sharding

        config, workdir = read()
        sharding.share_cpu(config.cpu_devices)
        if processes := read_processes():
            distributed.initialize(**processes)
        compile.use_persistent_cache()
        report.check_recorded(config)

        def finish(run: loop.Run) -> None:
            json = SHOW.value == "json"
            with contextlib.redirect_stdout(sys.stderr if json else sys.stdout):
                report.write(run)

        shown = {"profile": PROFILE.value, "show": SHOW.value}
        loop.train(config.to_dict(), workdir, stop, **shown, finish=finish)


if __name__ == "__main__":
    read = command_line.define_config()
    read_processes = command_line.define_processes()
    command_line.run(main)

"""Evaluate a run: tables for all of its stages, pictures, report/.

python evaluate.py --workdir runs/streets
python evaluate.py --workdir runs/streets --stages source,lsr --split test
python evaluate.py --workdir runs/streets --stages source,lsr --figures

Exit codes: 0 done, 2 bad input.
"""

from pathlib import Path

from absl import flags

from lsr_jax import command_line

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
STAGES = flags.DEFINE_list("stages", None, "Stages to evaluate; default: all.")
SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Split of the target domain, reported in report-SPLIT/; default: the config's.",
)
FIGURES = flags.DEFINE_boolean(
    "figures", False, "Draw the figures of the feature space too; takes minutes."
)


def main() -> None:
    """Restore each stage's newest checkpoint and report."""
    # Imported here: bad flags are answered without waiting for JAX.
    from lsr_jax.analysis import report
    from lsr_jax.training import sharding
    from lsr_jax.training.experiment import Experiment
    from lsr_jax.training.workdir import read_config

    folder = Path(WORKDIR.value)
    config = read_config(folder)
    sharding.share_cpu(config["cpu_devices"])
    if SPLIT.value:
        config["data"]["target"]["val"] = SPLIT.value
    report.write(
        Experiment(config, folder),
        STAGES.value,
        per_class=True,
        figures=FIGURES.value,
        folder=f"report-{SPLIT.value}" if SPLIT.value else "report",
    )


if __name__ == "__main__":
    command_line.run(main)

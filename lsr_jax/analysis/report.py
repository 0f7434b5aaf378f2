"""The table and the pictures of a run, from the checkpoints in its workdir."""

from __future__ import annotations

from collections.abc import Iterable

from lsr_jax.analysis import tables
from lsr_jax.training.experiment import Experiment

STATISTICS = ("running", "target")


def write(experiment: Experiment, stages: Iterable[str] | None = None) -> list[dict]:
    """Evaluate every stage, print the table, write ``report/``.

    Each stage is evaluated on the validation splits of both domains, with the BatchNorm
    statistics of training and with statistics re-estimated on unlabelled target
    training images.

    Args:
      experiment: with at least one finished stage.
      stages: names; all of the config by default.

    Returns:
      The rows, as in ``report/metrics.json``.

    Raises:
      InputError: a stage without checkpoint, or unusable data.
    """
    evaluation = Evaluation(experiment)
    stages = tuple(stages or experiment.config["stages"])
    rows = [row for stage in stages for row in evaluation.rows(stage)]
    rows += recorded(experiment.config["recorded"])
    folder = experiment.workdir / "report"
    folder.mkdir(exist_ok=True)
    tables.write_json(folder / "metrics.json", rows)
    control = experiment.config["evaluation"]["control"]
    (folder / "table.md").write_text(tables.format_markdown(rows, control=control))
    evaluation.panels(stages, folder / "panels.png")
    print(tables.format_terminal(rows, control=control))
    print(f"rows {folder / 'metrics.json'}, pictures {folder / 'panels.png'}")
    return rows

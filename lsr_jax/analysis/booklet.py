"""What is written beside the tables of a run: figures, ``index.html``, the model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lsr_jax import writing
from lsr_jax.analysis import captions, card, gallery, page
from lsr_jax.analysis.measuring import Evaluation
from lsr_jax.analysis.page import Section
from lsr_jax.analysis.tables import Table
from lsr_jax.training import workdir


def write(
    evaluation: Evaluation,
    stages: Sequence[str],
    folder: Path,
    *,
    summary: Sequence[Table],
    details: Sequence[Table],
    figures: bool,
) -> None:
    """Write the training curves, the figures, ``model_card.md`` and ``index.html``.

    The page comes last: a report that has it is complete.

    Args:
      evaluation: of the run.
      stages: that were evaluated.
      folder: the report, in which ``panel.png`` already lies.
      summary: the table of all stages.
      details: the tables by class.
      figures: draw those that need the networks too, which takes minutes.
    """
    experiment = evaluation.experiment
    pictures = [gallery.PANEL, *gallery.curves(experiment, stages, folder)]
    if figures:
        pictures += gallery.write(evaluation, stages, folder)
    manifest = workdir.manifest(experiment.workdir)
    config = experiment.config
    facts = {
        "stages": ", ".join(stages),
        "source": config["data"]["source"]["name"],
        "target": config["data"]["target"]["name"],
        "network": config["model"]["backbone"],
        "seed": str(config["seed"]),
        "command": manifest["command"],
        "machine": captions.machine(manifest),
    }
    sections = (
        Section("Scores", summary),
        Section("Figures", (), [(folder / p.file, p.caption) for p in pictures]),
        Section("By class", details),
    )
    text = card.markdown(config, manifest, evaluation.space.classes, stages, summary)
    writing.text(folder / "model_card.md", text)
    title = f"lsr_jax: {experiment.workdir.name}"
    writing.text(folder / "index.html", page.document(title, facts, sections))

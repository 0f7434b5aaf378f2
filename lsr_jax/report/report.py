"""The tables and the pictures of a run, from the checkpoints in its workdir."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lsr_jax import files
from lsr_jax.data.label_spaces import LabelSpace
from lsr_jax.errors import DISK_FULL, InputError
from lsr_jax.report import gallery, html, measuring, published, results
from lsr_jax.report import panel as drawing
from lsr_jax.report.measuring import Entry, Evaluation, Options
from lsr_jax.training import distributed, tensorboard
from lsr_jax.training.stage import Run

ROOT = Path(__file__).parents[2]  # relative paths of recorded rows start here


def write(
    experiment: Run,
    stages: Iterable[str] | None = None,
    *,
    per_class: bool = False,
    folder: str | Path = "report",
    options: Options = measuring.ONE_PASS,
    entries: Sequence[Entry] = (),
    oracle: str | None = None,
    figures: bool = False,
) -> list[dict]:
    """Evaluate stages, print their tables, write tables and pictures into the workdir.

    A stage is evaluated on the validation splits of both domains, with the BatchNorm
    statistics of its training and with statistics re-estimated on unlabelled target
    training images, under every protocol in one pass. Of several processes all evaluate
    and the first writes and prints.

    Args:
      experiment: with finished checkpoints.
      stages: names; all of the config by default.
      per_class: print the IoU of every class too.
      folder: where to write, below the workdir.
      options: protocols, and views of every image.
      entries: networks and ensembles to evaluate in place of stages.
      oracle: to which ratios are taken, see `published.attach`.
      figures: draw the figures of the feature space too, which takes minutes and one
        process.

    Returns:
      The rows, as in ``metrics.json``; without ratios where nothing is written.

    Raises:
      InputError: a stage without checkpoint, or unusable data.
    """
    stages = check_stages(experiment.config, stages)
    evaluation = Evaluation(experiment, options)
    chosen = entries or [evaluation.entry(stage) for stage in stages]
    found = [row for entry in chosen for row in evaluation.rows(entry)]
    for path in experiment.config["recorded"]:
        found += results.read(ROOT / path)
    pictures = evaluation.pictures(chosen)
    with distributed.together("report"):
        if distributed.is_main():
            subsets = evaluation.space.subsets()
            found = published.attach(found, subsets=subsets, origin=oracle)
            folder = experiment.workdir / folder
            summary, details = publish(folder, experiment.config, found, per_class)
            steps = [one.step or 0 for entry in chosen for one in entry.members]
            save_panel(folder, evaluation.space, pictures, step=max(steps))
            if not entries:
                parts = {"summary": summary, "details": details, "figures": figures}
                html.write(evaluation, stages, folder, **parts)
                page = folder / "index.html"
                print(f"{page}: all of it with pictures; model_card.md")
    return found


def publish(
    folder: Path, config: Mapping, found: Sequence[results.Row], per_class: bool
) -> tuple[list[results.Table], list[results.Table]]:
    """Write rows and tables, and print the tables.

    Args:
      folder: the report.
      config: names the control.
      found: measured and recorded rows.
      per_class: print the IoU of every class too.

    Returns:
      The table of all rows, and the tables by class.

    Raises:
      InputError: the folder cannot be written.
    """
    summary = results.summary(found, control=config["evaluation"]["control"])
    details = [*results.per_class(found), *results.ratios(found)]
    save(folder, found, [*summary, *details])
    print(results.terminal([*summary, *details] if per_class else summary))
    names = "metrics.json, metrics.csv, table.md, table.tex, panel.png"
    print(f"\n{folder}: {names}")
    return summary, details


def save(
    folder: Path, found: Sequence[results.Row], whole: Sequence[results.Table]
) -> None:
    """Write rows and tables.

    Raises:
      InputError: the folder cannot be written.
    """
    try:
        results.write(folder / "metrics.json", found)
        files.text(folder / "metrics.csv", results.to_csv(found))
        files.text(folder / "table.md", results.markdown(whole))
        files.text(folder / "table.tex", results.latex(whole))
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise InputError(f"{folder}: cannot be written: {error}") from error


def save_panel(folder: Path, space: LabelSpace, pictures: tuple, *, step: int) -> None:
    """Write ``panel.png``, and the same for TensorBoard.

    In a folder of its own, in place of that of an earlier report, so that nothing else
    is removed from where a report is written.

    Args:
      folder: the report.
      space: names and colours of the classes.
      pictures: of `Evaluation.pictures`.
      step: under which TensorBoard shows it.
    """
    drawing.panel(*pictures, space.classes, space.colors, folder / gallery.PANEL.file)
    own = folder / "tensorboard"
    own.mkdir(exist_ok=True)
    for old in own.glob("events.out.tfevents.*"):
        old.unlink()
    with Image.open(folder / gallery.PANEL.file) as image:
        pixels = np.asarray(image.convert("RGB"))
    with tensorboard.Events(own, first=step) as written:
        written.image(step, "panel", pixels, gallery.PANEL.caption)


def check_stages(config: Mapping, stages: Iterable[str] | None) -> tuple[str, ...]:
    """The stages meant, all by default.

    Raises:
      InputError: an unknown one.
    """
    stages = tuple(stages or config["stages"])
    unknown = set(stages) - set(config["stages"])
    if unknown:
        raise InputError(
            f"stages: expected some of {', '.join(config['stages'])}, found "
            f"{', '.join(sorted(unknown))}"
        )
    return stages


def check_recorded(config: Mapping) -> None:
    """Read the rows that the report will quote, and forget them.

    Raises:
      InputError: a file in the config's ``recorded`` that is missing or holds no rows.
    """
    for path in config["recorded"]:
        try:
            results.read(ROOT / str(path))
        except InputError as error:
            raise InputError(f"recorded: {error}") from error
        except OSError as error:
            raise InputError(f"recorded: {path}: cannot be read: {error}") from error

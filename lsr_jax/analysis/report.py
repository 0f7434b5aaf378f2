"""The tables and the pictures of a run, from the checkpoints in its workdir."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lsr_jax.analysis import (
    booklet,
    formats,
    gallery,
    measuring,
    oracles,
    rows,
    tables,
)
from lsr_jax.analysis import figures as drawing
from lsr_jax.analysis.measuring import Entry, Evaluation, Options
from lsr_jax.errors import InputError
from lsr_jax.training import distributed, events
from lsr_jax.training.experiment import Experiment

ROOT = Path(__file__).parents[2]  # relative paths of recorded rows start here


def write(
    experiment: Experiment,
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
      oracle: to which ratios are taken, see `oracles.attach`.
      figures: draw the figures of the feature space too, which takes minutes and one
        process.

    Returns:
      The rows, as in ``metrics.json``; without ratios where nothing is written.

    Raises:
      InputError: a stage without checkpoint, or unusable data.
    """
    config = experiment.config
    evaluation = Evaluation(experiment, options)
    stages = check_stages(config, stages)
    chosen = entries or [evaluation.entry(stage) for stage in stages]
    found = [row for entry in chosen for row in evaluation.rows(entry)]
    for path in config["recorded"]:
        found += rows.read(ROOT / path)
    pictures = evaluation.pictures(chosen)
    with distributed.together("report"):
        if distributed.is_main():
            space = evaluation.space
            found = oracles.attach(found, subsets=space.subsets(), origin=oracle)
            folder = experiment.workdir / folder
            summary = tables.summary(found, control=config["evaluation"]["control"])
            classes = [*tables.per_class(found), *tables.ratios(found)]
            save(folder, found, [*summary, *classes])
            drawing.panel(*pictures, space.classes, space.colors, folder / "panel.png")
            steps = [one.step or 0 for entry in chosen for one in entry.members]
            show_panel(folder, max(steps))
            print(formats.terminal([*summary, *classes] if per_class else summary))
            names = "metrics.json, metrics.csv, table.md, table.tex, panel.png"
            print(f"\n{folder}: {names}")
            if not entries:
                booklet.write(
                    experiment,
                    stages,
                    folder,
                    summary=summary,
                    details=classes,
                    figures=figures,
                )
                page = folder / "index.html"
                print(f"{page}: all of it with pictures; model_card.md")
    return found


def save(
    folder: Path, found: Sequence[rows.Row], whole: Sequence[tables.Table]
) -> None:
    """Write rows and tables.

    Raises:
      InputError: the folder cannot be written.
    """
    try:
        rows.write(folder / "metrics.json", found)
        (folder / "metrics.csv").write_text(rows.to_csv(found))
        (folder / "table.md").write_text(formats.markdown(whole))
        (folder / "table.tex").write_text(formats.latex(whole))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error}") from error


def show_panel(folder: Path, step: int) -> None:
    """``panel.png`` for TensorBoard too, in place of that of an earlier report.

    In a folder of its own, so that nothing else is removed from where a report is
    written.
    """
    own = folder / "tensorboard"
    own.mkdir(exist_ok=True)
    for old in own.glob("events.out.tfevents.*"):
        old.unlink()
    with Image.open(folder / gallery.PANEL.file) as image:
        pixels = np.asarray(image.convert("RGB"))
    with events.Events(own, first=step) as written:
        written.image(step, "panel", pixels, gallery.PANEL.caption)


def check_stages(config, stages: Iterable[str] | None) -> tuple[str, ...]:
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
            rows.read(ROOT / str(path))
        except InputError as error:
            raise InputError(f"recorded: {error}") from error
        except OSError as error:
            raise InputError(f"recorded: {path}: cannot be read: {error}") from error

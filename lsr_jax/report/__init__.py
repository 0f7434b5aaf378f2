"""The report of a run: tables, pictures, model card and one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lsr_jax import files
from lsr_jax.data import sources
from lsr_jax.errors import InputError
from lsr_jax.report import features, figures, html, model_card, published, results
from lsr_jax.report.measure import Entry, Evaluation
from lsr_jax.report.results import Table
from lsr_jax.training import distributed, tensorboard, workdir
from lsr_jax.training.stage import Run
from lsr_jax.training.weights import CHECKPOINTS

CAMVID = Path("data/camvid")
PHOTOGRAPHS = "python train.py --config configs/streets2camvid.py"
PANEL = (
    "Target validation images: image, ground truth where there is one, and the prediction "
    "of every stage."
)


def write(
    run: Run,
    stages: Sequence[str] = (),
    *,
    per_class: bool = False,
    folder: str | Path = "report",
    evaluation: Evaluation | None = None,
    entries: Sequence[Entry] = (),
    oracle: str | None = None,
    latent_figures: bool = False,
) -> list[results.Row]:
    """Evaluate stages, print their tables, write tables and pictures into the workdir.

    A stage is evaluated on the validation splits of both domains, with the BatchNorm
    statistics of its training and with statistics re-estimated on unlabelled target
    training images, under every protocol in one pass. Of several processes all evaluate
    and the first writes and prints. ``index.html`` is written last: a report that has it
    is complete.

    Args:
      run: with finished checkpoints.
      stages: names; default: all of the config.
      per_class: print the IoU of every class too.
      folder: where to write, below the workdir.
      evaluation: of the run, for other protocols or test-time augmentation.
      entries: networks and ensembles to evaluate in place of stages.
      oracle: to which ratios are taken, see `published.attach_ratios`.
      latent_figures: draw the figures of the feature space too, which takes minutes and
        one process.

    Returns:
      The rows, as in ``metrics.json``; without ratios where nothing is written.

    Raises:
      InputError: an unknown stage, one without checkpoint, or unusable data.
    """
    config, data = run.config, run.config["data"]
    stages = tuple(stages or config["stages"])
    if unknown := sorted(set(stages) - set(config["stages"])):
        raise InputError(
            f"--stages: expected some of {', '.join(config['stages'])}, found "
            f"{', '.join(unknown)}"
        )
    evaluation = evaluation or Evaluation(run)
    remarks = [
        f"{domain} {data[domain]['val']} is not scored: {why}"
        for domain, why in evaluation.unscored.items()
    ]
    if latent_figures and remarks:
        raise InputError(f"--figures: expected labels of both domains; {remarks[0]}")
    if not evaluation.has_training_images:
        remarks.append(
            f"target {data['target']['train']} has no images: BatchNorm statistics are "
            "not re-estimated"
        )
    remarks += sources.warnings(run.domains)
    chosen = entries or [evaluation.entry(stage) for stage in stages]
    rows = [row for entry in chosen for row in evaluation.rows(entry)]
    rows += recorded_rows(evaluation)
    _, images, truths = evaluation.examples(
        "target", config["evaluation"]["panel_images"]
    )
    predictions = evaluation.predictions(chosen, images)
    with distributed.together("report"):
        if not distributed.is_main():
            return rows
        rows = published.attach_ratios(
            rows, subsets=evaluation.space.subsets(), oracle=oracle
        )
        summary = results.summary(rows, control=config["evaluation"]["control"])
        classes = [*results.per_class(rows), *results.per_class(rows, "asr")]
        folder, tables = run.workdir / folder, [*summary, *classes]
        results.write(folder / "metrics.json", rows)
        files.text(folder / "metrics.csv", results.to_csv(rows))
        markdown = "\n\n".join([*remarks, results.markdown(tables)])
        files.text(folder / "table.md", markdown)
        files.text(folder / "table.tex", results.latex(tables))
        print(results.terminal(tables if per_class else summary))
        print(*remarks, sep="\n", end="\n" if remarks else "")
        truth = {"ground truth": truths} if "target" in evaluation.scored else {}
        columns = {"image": images, **truth, **predictions}
        space = evaluation.space
        panel = figures.panel(columns, space.classes, space.colors)
        figures.save(panel, folder / "panel", ["png"])
        step = max(member.step or 0 for entry in chosen for member in entry.members)
        log_panel(folder, step)
        print(f"\n{folder}: metrics.json, metrics.csv, table.md, table.tex, panel.png")
        if not entries:
            pictures = [(folder / "panel.png", PANEL)]
            pictures += features.curves(run, stages, folder)
            if latent_figures:
                pictures += features.draw(evaluation, stages, folder)
            write_page(evaluation, stages, folder, summary, classes, pictures, remarks)
            print(f"wrote {folder / 'index.html'} and model_card.md")
            if data["target"]["name"] == "streets_camera" and CAMVID.is_dir():
                print(f"the same on photographs, {CAMVID}: {PHOTOGRAPHS}")
    return rows


def recorded_rows(evaluation: Evaluation) -> list[results.Row]:
    """The rows in the files of ``recorded`` that are of the same data sets and classes."""
    return [
        row
        for path in evaluation.run.config["recorded"]
        for row in results.read(files.of_project(path))
        if row.get("dataset") == evaluation.dataset(row["domain"])
        and list(row["iou"]) == list(evaluation.space.classes)
    ]


def log_panel(folder: Path, step: int) -> None:
    """Write ``panel.png`` for TensorBoard, in place of that of an earlier report."""
    own = folder / "tensorboard"
    own.mkdir(exist_ok=True)
    for old in own.glob("events.out.tfevents.*"):
        old.unlink()
    with Image.open(folder / "panel.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    with tensorboard.Events(own, first=step) as events:
        events.image(step, "panel", pixels, PANEL)


def write_page(
    evaluation: Evaluation,
    stages: Sequence[str],
    folder: Path,
    summary: Sequence[Table],
    classes: Sequence[Table],
    pictures: Sequence[features.Picture],
    remarks: Sequence[str],
) -> None:
    """Write ``model_card.md`` and ``index.html``."""
    run = evaluation.run
    config, manifest = run.config, workdir.manifest(run.workdir)
    card = model_card.markdown(
        config, manifest, evaluation.space.classes, stages, summary, remarks
    )
    files.text(folder / "model_card.md", card)
    facts = {
        "stages": ", ".join(stages),
        "source": config["data"]["source"]["name"],
        "target": config["data"]["target"]["name"],
        "network": config["model"]["backbone"],
        "seed": str(config["seed"]),
        **({"remarks": "; ".join(remarks)} if remarks else {}),
        "command": manifest["command"],
        "machine": results.machine(manifest),
    }
    sections = (
        html.Section("Scores", summary),
        html.Section("Figures", (), pictures),
        html.Section("By class", classes),
    )
    title = f"lsr_jax: {run.workdir.name}"
    files.text(folder / "index.html", html.document(title, facts, sections))


def check(run: Run) -> None:
    """Find out before a run begins what would stop its report in the end.

    Raises:
      InputError: see `check_recorded` and `Evaluation.check`.
    """
    check_recorded(run.config)
    if not any(run.workdir.glob(f"*/{CHECKPOINTS}")):
        Evaluation(run).check()


def check_recorded(config: Mapping) -> None:
    """Read the recorded rows of a config.

    Raises:
      InputError: a file in the config's ``recorded`` is missing or holds no rows.
    """
    for path in config["recorded"]:
        try:
            results.read(files.of_project(path))
        except InputError as error:
            raise InputError(f"recorded: {error}") from error
        except OSError as error:
            raise InputError(f"recorded: {path}: cannot be read: {error}") from error

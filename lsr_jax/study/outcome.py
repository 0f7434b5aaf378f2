"""Files of a study: tables, numbers, figures and one page of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lsr_jax import files
from lsr_jax.data import label_spaces
from lsr_jax.report import figures, published, results
from lsr_jax.report import html as pages
from lsr_jax.report.results import Row
from lsr_jax.study import compare
from lsr_jax.study.plan import Cell, Run
from lsr_jax.training import workdir

ORACLE = f"{published.ORACLE} of the same seed"


class Result(NamedTuple):
    """How a cell of the plan ended, with a one-line error if it failed."""

    cell: Cell
    error: str | None = None


def write(outcome: Sequence[Result], folder: Path, ablated: str | None = None) -> str:
    """Write every file of a study into its folder; returns the tables as text.

    Args:
      outcome: of all cells.
      folder: of the study.
      ablated: the method each of whose terms was removed.

    Raises:
      InputError: the report of a finished cell is missing or damaged.
    """
    everything, compared, stages = collect(outcome)
    table = results.with_facts(compared)
    controls = compare.select_controls(list(table["line"].unique()), ablated)
    scores = {
        cell.line.label: published.find(cell.run.config, cell.method)
        for cell, _ in outcome
        if cell.line.without is None
    }
    config = outcome[0].cell.run.config
    split = config["data"]["target"]["val"]
    methods = compare.means(table, scores, split)
    methods += compare.difference_tables(table, controls)
    stepwise = compare.means(results.with_facts(stages), {}, split)
    classes = compare.class_tables(table)
    pictures = {}
    for name, (figure, caption) in compare.draw(table, controls, ablated).items():
        figures.save(figure, folder / name)
        pictures[folder / f"{name}.png"] = caption

    cells = [describe_cell(result) for result in outcome]
    facts, values = workdir.environment(), compare.measurements(table)
    machine = results.machine(facts)
    gaps = [compare.differences(values, name).assign(control=name) for name in controls]
    numbers = {
        **facts,
        "cells": cells,
        "summary": compare.spread(values).reset_index().to_dict("records"),
        "differences": [
            record for gap in gaps for record in gap.reset_index().to_dict("records")
        ],
        "published": [
            {"line": line, **score._asdict()}
            for line, found in scores.items()
            for score in found
        ],
    }
    results.write(folder / "metrics.json", everything)
    files.text(folder / "study.json", workdir.to_json(results.nan_to_none(numbers)))
    files.text(folder / "study.csv", results.to_csv(everything))
    files.text(folder / "study.tex", results.latex([*methods, *stepwise, *classes]))
    count = Counter(cell["status"] for cell in cells)
    counts = ", ".join(f"{number} {status}" for status, number in count.items())
    failures = {
        f"{cell.line.label}, seed {cell.seed}": f"failed: {error}"
        for cell, error in outcome
        if error
    }
    parts = [
        f"Command: `{facts['command']}`",
        f"Machine: {machine}. Cells: {counts}.",
        *(f"{cell}: {error}" for cell, error in failures.items()),
        results.markdown(methods),
        *(f"![{text}]({path.name})\n\n{text}" for path, text in pictures.items()),
        results.markdown([*stepwise, *classes]),
    ]
    text = "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
    files.text(folder / "study.md", text)
    sections = (
        pages.Section("Methods", methods),
        pages.Section("Figures", (), list(pictures.items())),
        pages.Section("Stages", stepwise),
        pages.Section("By class", classes),
    )
    headline = {
        "command": facts["command"],
        "source": config["data"]["source"]["name"],
        "target": config["data"]["target"]["name"],
        "network": config["model"]["backbone"],
        "machine": machine,
        "cells": counts,
        **failures,
    }
    title = f"lsr_jax study: {folder.resolve().name}"
    files.text(folder / "index.html", pages.document(title, headline, sections))
    return results.terminal(methods)


def collect(outcome: Sequence[Result]) -> tuple[list[Row], list[Row], list[Row]]:
    """Read the reports of the finished cells.

    Returns:
      All rows, with ``line``; those that the cell's run measured of its last stage, in
      the order of the lines, with ratios to the oracle of the same seed; and those of
      every stage of lines with several, as ``LINE, STAGE``.
    """
    lines = list(dict.fromkeys(result.cell.line.label for result in outcome))
    everything, compared, stepwise = [], [], []
    for cell in (result.cell for result in outcome if result.error is None):
        rows = results.read(cell.run.folder / "report" / "metrics.json")
        rows = [{**row, "line": cell.line.label} for row in rows]
        everything += rows
        own = [row for row in rows if measured(row)]
        compared += [row for row in own if row["stage"] == cell.stage]
        stages = cell.run.config["stages"]
        if len(stages) > 1:
            stepwise += [
                {**row, "line": f"{cell.line.label}, {stage}"}
                for stage in stages
                for row in own
                if row["stage"] == stage
            ]
    compared = with_oracles(compared)
    compared.sort(key=lambda row: lines.index(row["line"]))
    return everything, compared, stepwise


def with_oracles(rows: Sequence[Row]) -> list[Row]:
    """The rows, with their ratio to the oracle of the same seed where there is one."""
    attached = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        own = [row for row in rows if row["seed"] == seed]
        if any(row["method"] == published.ORACLE for row in own):
            subsets = label_spaces.subsets(list(own[0]["iou"]))
            own = published.attach_ratios(own, subsets=subsets)
            own = [{**r, "oracle": ORACLE} if "oracle" in r else r for r in own]
        attached += own
    return attached


def measured(row: Row) -> bool:
    """Whether a row is of one network of the run itself."""
    return "recorded" not in row and "members" not in row


def finished(run: Run) -> bool:
    """Whether a report holds every stage of a run as it is after its last step.

    A report may also be of a run in progress, or incomplete itself: its page is written
    last. The step of a row is that of the reported checkpoint, which a rule may have
    chosen long before the last step.
    """
    report = run.folder / "report"
    if not all((report / name).is_file() for name in ("metrics.json", "index.html")):
        return False
    rows = filter(measured, results.read(report / "metrics.json"))
    ends = {(row["stage"], row.get("newest", row["step"])) for row in rows}
    return all(
        (name, run.config[name]["steps"]) in ends for name in run.config["stages"]
    )


def describe_cell(result: Result) -> dict[str, Any]:
    """How a cell ended, for JSON."""
    line, seed, run = result.cell
    return {
        "line": line.label,
        "method": result.cell.method,
        "seed": seed,
        "run": run.folder.name,
        "pretraining": run.needs and run.needs.folder.name,
        "status": "failed" if result.error else "finished",
        "error": result.error,
    }

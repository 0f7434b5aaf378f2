"""What a study leaves behind: tables, numbers, figures and one page of all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lsr_jax import files
from lsr_jax.data import label_spaces
from lsr_jax.report import html as report_html
from lsr_jax.report import published
from lsr_jax.report import results as report_results
from lsr_jax.report.results import Row
from lsr_jax.study import compare, pictures, tables
from lsr_jax.study.plan import Cell, Run
from lsr_jax.training import workdir

ORACLE = f"{published.METHOD} of the same seed"


class Result(NamedTuple):
    """How a cell ended.

    Attributes:
      cell: of the plan.
      status: "finished" or "failed".
      error: what went wrong, in one line.
    """

    cell: Cell
    status: str
    error: str | None = None


def write(results: Sequence[Result], folder: Path, ablated: str | None = None) -> str:
    """Writes every file of a study into its folder; returns the tables as text.

    Args:
      results: of all cells.
      folder: of the study.
      ablated: the method each of whose terms was removed.

    Raises:
      InputError: the report of a finished cell is missing or damaged.
    """
    everything, compared, stepwise = measured(results)
    controls = compare.controls(compare.labels(compared), ablated)
    scores = reported(results)
    split = results[0].cell.run.config["data"]["target"]["val"]
    methods = tables.means(compared, scores, split)
    methods += tables.differences(compared, controls)
    stages = tables.means(stepwise, {}, split)
    classes = tables.by_class(compared)
    facts = workdir.environment()
    study = {
        **facts,
        "cells": [ending(result) for result in results],
        "summary": compare.summary(compared),
        "differences": compare.differences(compared, controls),
        "published": [
            {"line": line, **score._asdict()}
            for line, found in scores.items()
            for score in found
        ],
    }
    report_results.write(folder / "metrics.json", everything)
    files.text(folder / "study.json", workdir.to_json(without_nan(study)))
    files.text(folder / "study.csv", report_results.to_csv(everything))
    files.text(
        folder / "study.tex", report_results.latex([*methods, *stages, *classes])
    )
    drawn = pictures.draw(compared, controls, ablated, folder)
    files.text(
        folder / "study.md",
        markdown(results, facts, methods, drawn, [*stages, *classes]),
    )
    sections = (
        report_html.Section("Methods", methods),
        report_html.Section(
            "Figures", (), [(folder / name, text) for name, text in drawn.items()]
        ),
        *([report_html.Section("Stages", stages)] if stages else []),
        report_html.Section("By class", classes),
    )
    title = f"lsr_jax study: {folder.resolve().name}"
    html = report_html.document(title, headline(results, facts), sections)
    files.text(folder / "index.html", html)
    return report_results.terminal(methods)


class Measured(NamedTuple):
    """Rows of the finished cells with ``line``.

    Attributes:
      everything: in the order of the cells.
      compared: what this run measured of the last stage, with the checkpoint that it
        reports, in the order of the lines. Ratios to an oracle (ASR) are to that of the
        same seed, if the study has one.
      stages: the same of every stage of lines with several, as ``LINE, STAGE``.
    """

    everything: list[Row]
    compared: list[Row]
    stages: list[Row]


def measured(results: Sequence[Result]) -> Measured:
    """What the reports of the finished cells hold."""
    lines = list(dict.fromkeys(result.cell.label for result in results))
    everything, compared, stages = [], [], []
    for cell in (result.cell for result in results if result.status == "finished"):
        found = report_results.read(cell.run.folder / "report" / "metrics.json")
        found = [{**row, "line": cell.label} for row in found]
        everything += found
        compared += [row for row in found if final(row, cell)]
        stages += by_stage(cell, list(filter(own, found)))
    compared = beside_oracles(compared)
    compared.sort(key=lambda row: lines.index(row["line"]))
    return Measured(everything, compared, stages)


def by_stage(cell: Cell, found: Sequence[Row]) -> list[Row]:
    """The rows as lines of their stages, in their order; none of a single stage."""
    stages = cell.run.config["stages"]
    if len(stages) < 2:
        return []
    return [
        {**row, "line": f"{cell.label}, {stage}"}
        for stage in stages
        for row in found
        if row["stage"] == stage
    ]


def beside_oracles(found: Sequence[Row]) -> list[Row]:
    """The rows, with their ratio to the oracle of the same seed where there is one."""
    attached = []
    for seed in dict.fromkeys(row["seed"] for row in found):
        own = [row for row in found if row["seed"] == seed]
        if any(row["method"] == published.METHOD for row in own):
            groups = label_spaces.subsets(list(own[0]["iou"]))
            own = published.attach(own, subsets=groups)
            own = [{**r, "oracle": ORACLE} if "oracle" in r else r for r in own]
        attached += own
    return attached


def final(row: Row, cell: Cell) -> bool:
    """Whether a row is of the network that the cell trained, and of it alone."""
    return row["stage"] == cell.stage and own(row)


def own(row: Row) -> bool:
    """Whether a row is of one network of the run itself."""
    return "recorded" not in row and "members" not in row


def finished(run: Run) -> bool:
    """Whether a report holds every stage of a run as it is after its last step.

    A report may also be of a run that is under way, or have been cut short itself: its
    page is written last. The step of a row is that of the reported checkpoint, which a
    rule may have chosen long before the last step.
    """
    report = run.folder / "report"
    if not all((report / name).is_file() for name in ("metrics.json", "index.html")):
        return False
    found = filter(own, report_results.read(report / "metrics.json"))
    ends = {(row["stage"], row.get("newest", row["step"])) for row in found}
    return all(
        (name, run.config[name]["steps"]) in ends for name in run.config["stages"]
    )


def reported(results: Sequence[Result]) -> dict[str, list[published.Score]]:
    """Label -> published results of whole methods."""
    found = {
        result.cell.label: published.find(result.cell.run.config, result.cell.method)
        for result in results
        if result.cell.line.without is None
    }
    return {label: scores for label, scores in found.items() if scores}


def ending(result: Result) -> dict[str, Any]:
    """How a cell ended, for JSON."""
    cell = result.cell
    return {
        "line": cell.label,
        "method": cell.method,
        "seed": cell.seed,
        "run": cell.run.folder.name,
        "pretraining": cell.run.needs and cell.run.needs.folder.name,
        "status": result.status,
        "error": result.error,
    }


def counts(results: Sequence[Result]) -> str:
    """``14 finished, 1 failed``."""
    found = Counter(result.status for result in results)
    return ", ".join(f"{count} {status}" for status, count in found.items())


def failures(results: Sequence[Result]) -> dict[str, str]:
    """``METHOD, seed SEED`` -> what went wrong."""
    return {
        f"{cell.label}, seed {cell.seed}": f"{status}: {error}"
        for cell, status, error in results
        if status != "finished"
    }


def headline(results: Sequence[Result], facts: Mapping) -> dict[str, str]:
    """The facts at the top of the page."""
    config = results[0].cell.run.config
    return {
        "command": facts["command"],
        "source": config["data"]["source"]["name"],
        "target": config["data"]["target"]["name"],
        "network": config["model"]["backbone"],
        "machine": report_results.machine(facts),
        "cells": counts(results),
        **failures(results),
    }


def markdown(results, facts, methods, drawn, classes) -> str:
    """The text of ``study.md``."""
    parts = [
        f"Command: `{facts['command']}`",
        f"Machine: {report_results.machine(facts)}. Cells: {counts(results)}.",
        *(f"{cell}: {what}" for cell, what in failures(results).items()),
        report_results.markdown(methods),
        *(f"![{text}]({name})\n\n{text}" for name, text in drawn.items()),
        report_results.markdown(classes),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def without_nan(value: Any) -> Any:
    """The same tree with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value

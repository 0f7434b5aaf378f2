"""When a run counts as finished, and which rows are of its network."""

import pytest

from lsr_jax.report import results
from lsr_jax.study import outcome
from lsr_jax.study.plan import Cell, Line, Run

STEPS = {"source": 4, "adapt": 6}


def row(stage, step, **more):
    facts = {**dict.fromkeys(results.IDENTITY, ""), "miou": 0.5, "iou": {}}
    return {**facts, "stage": stage, "step": step, **more}


@pytest.fixture
def run(tmp_path):
    config = {"stages": list(STEPS)}
    return Run(tmp_path, config | {s: {"steps": n} for s, n in STEPS.items()})


def finished(run, *found):
    results.write(run.folder / "report" / "metrics.json", found)
    (run.folder / "report" / "index.html").write_text("")
    return outcome.finished(run)


SOURCE = row("source", 4)


@pytest.mark.parametrize(
    ("adapt", "expected"),
    [
        ([row("adapt", 6)], True),
        # The best of all, and the best so far: evaluate.py on a run under way.
        ([row("adapt", 2, newest=6)], True),
        ([row("adapt", 2, newest=4)], False),
        ([row("adapt", 4)], False),
        ([row("adapt", 6, recorded="python train.py")], False),
        ([row("adapt", 6, members=[])], False),
        ([], False),
    ],
)
def test_a_run_is_finished_when_every_stage_is_at_its_end(run, adapt, expected):
    assert finished(run, SOURCE, *adapt) == expected


def test_a_report_without_its_page_was_cut_short(run):
    assert finished(run, SOURCE, row("adapt", 6))
    (run.folder / "report" / "index.html").unlink()
    assert not outcome.finished(run)
    (run.folder / "report" / "metrics.json").unlink()
    assert not outcome.finished(run)


def test_rows_of_the_network_of_a_cell(run):
    ours = [row("adapt", 6), row("adapt", 2, newest=6)]
    others = [
        row("adapt", 6, recorded="python train.py"),
        row("adapt", 6, members=[]),
    ]
    results.write(run.folder / "report" / "metrics.json", [SOURCE, *ours, *others])
    cell = Cell(Line("lsr", "lsr"), 0, run)
    everything, compared, stages = outcome.collect(
        [outcome.Result(cell), outcome.Result(cell, "error")]
    )
    assert len(everything) == 5
    assert compared == [{**one, "line": "lsr"} for one in ours]
    assert {one["line"] for one in stages} == {"lsr, source", "lsr, adapt"}


def test_ratios_to_a_recorded_oracle_keep_its_name():
    rows = [{**SOURCE, "seed": 0, "asr": {}, "oracle": "recorded"}]
    assert outcome.with_oracles(rows) == rows

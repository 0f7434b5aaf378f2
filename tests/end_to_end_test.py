"""The scripts as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import bad_inputs

ROOT = Path(__file__).parents[1]


def start(script, *arguments, data):
    environment = {**os.environ, "LSR_JAX_DATA": str(data), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, ROOT / script, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """``python train.py --config configs/streets.py:lsr,tiny`` from an empty cache."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    process = start(
        "train.py",
        "--config",
        "configs/streets.py:lsr,tiny",
        "--workdir",
        workdir,
        data=data,
    )
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return workdir, output


@pytest.mark.slow
def test_training_prints_the_table_and_writes_the_report(run):
    workdir, output = run
    assert "source (source_only)" in output
    assert "adapt (lsr)" in output
    rows = json.loads((workdir / "report" / "metrics.json").read_text())
    assert len(rows) == 8
    page = (workdir / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "adapt (lsr)" in page
    assert "method `lsr`" in (workdir / "report" / "model_card.md").read_text()
    losses = [
        json.loads(line)["segmentation"]
        for line in (workdir / "source" / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_evaluation_repeats_the_rows_of_training(run, data):
    workdir, _ = run
    before = (workdir / "report" / "metrics.json").read_text()
    process = start("evaluate.py", "--workdir", workdir, data=data)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "bicycle" in output
    assert (workdir / "report" / "metrics.json").read_text() == before


MISTAKES = {
    "no config": "--config",
    "no such config": "configs/nope.py: no such file",
    "no such method": "'lrs' is unknown",
    "unknown key": '"seed" instead of "sead"',
    "a word for a number": "'many'",
    "a flag without dashes": "unexpected argument 'surplus'",
    "a workdir with another config": "another config",
    "a workdir that is a file": "cannot be written",
    "init_from nothing": "init_from lsr_nope",
    "data that are not there": "data/gta5",
    "evaluation without a run": "no run found",
    "evaluation of nothing": "expected --workdir, --checkpoint or --ensemble",
    "evaluation under no protocol": "<both|native",
}


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, data, monkeypatch):
    """Some of the mistakes that ``pytest -m long`` makes, and what the line says."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("LSR_JAX_DATA", str(data))
    cases = [case for case in bad_inputs.CASES if case.mistake in MISTAKES]
    found = bad_inputs.in_a_process_of_its_own(tmp_path, cases)
    assert {answer.case.mistake for answer in found} == MISTAKES.keys()
    for answer in found:
        assert answer.good, answer
        assert MISTAKES[answer.case.mistake] in answer.text, answer
    assert not (tmp_path / "new").exists()

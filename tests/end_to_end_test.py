"""The scripts as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def bad_inputs(folder):
    """``(script, arguments, what the one line has to say)``."""
    tiny = "--config=configs/streets.py:lsr,tiny"
    (folder / "file").write_text("")
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text('{"seed": 7}')
    yield "train.py", (), "--config"
    yield "train.py", ("--config=configs/nope.py",), "configs/nope.py: no such file"
    yield "train.py", ("--config=configs/streets.py:lrs",), "'lrs' is unknown"
    yield "train.py", (tiny, "--config.sead=1"), '"seed" instead of "sead"'
    yield "train.py", (tiny, "--config.adapt.steps=many"), "'many'"
    yield "train.py", (tiny, "surplus"), "unexpected argument 'surplus'"
    yield "train.py", (tiny, f"--workdir={folder / 'run'}"), "another config"
    yield "train.py", (tiny, f"--workdir={folder / 'file'}"), "cannot be written"
    yield (
        "train.py",
        (tiny, f"--workdir={folder / 'new'}", "--config.adapt.init_from=lsr_nope"),
        "init_from lsr_nope",
    )
    yield (
        "train.py",
        ("--config=configs/gta2cs.py", f"--workdir={folder / 'gta'}"),
        "data/gta5",
    )
    yield "evaluate.py", (f"--workdir={folder / 'none'}",), "no run found"
    yield "evaluate.py", (), "expected --workdir, --checkpoint or --ensemble"
    yield "evaluate.py", ("--workdir=x", "--protocol=both_of_them"), "<both|native"


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, data):
    cases = list(bad_inputs(tmp_path))
    # A few at a time: most of each is the start of Python and JAX.
    for group in (cases[i : i + 4] for i in range(0, len(cases), 4)):
        processes = [start(script, *rest, data=data) for script, rest, _ in group]
        for process, (_, rest, message) in zip(processes, group, strict=True):
            output, errors = process.communicate()
            lines = [line for line in errors.splitlines() if line.startswith("error:")]
            assert process.returncode == 2, (rest, errors)
            assert len(lines) == 1, (rest, errors)
            assert message in lines[0], (rest, lines)
            assert "Traceback" not in output + errors, rest
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "gta").exists()

"""The scripts as a user starts them: their tables, their answers to mistakes.

And what is left of a run that is killed, stopped, refused and short of disk: everything.
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import bad_inputs, faults, sandbox

ROOT = Path(__file__).parents[1]
SOON = 60  # seconds; most of it is the end of a compilation on a busy machine


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A sandbox with the reference run, of one stage."""
    runs = sandbox.Sandbox(tmp_path_factory.mktemp("faults"), stages=("source",))
    faults.reference_run(runs)
    return runs


@pytest.mark.slow
def test_training_prints_the_table_and_writes_the_report(runs):
    workdir = runs.folder / "reference"
    output = runs.output(workdir)
    assert "source (source_only)" in output
    rows = json.loads((workdir / "report" / "metrics.json").read_text())
    assert len(rows) == 4
    page = (workdir / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "source (source_only)" in page
    assert "method `source_only`" in (workdir / "report" / "model_card.md").read_text()
    losses = [
        json.loads(line)["segmentation"]
        for line in (workdir / "source" / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_evaluation_repeats_the_rows_of_training(runs):
    workdir = runs.folder / "reference"
    before = (workdir / "report" / "metrics.json").read_text()
    process = subprocess.run(
        [sys.executable, ROOT / "evaluate.py", f"--workdir={workdir}"],
        env=runs.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "bicycle" in process.stdout
    assert (workdir / "report" / "metrics.json").read_text() == before


@pytest.mark.long
def test_25_kills_leave_no_trace(tmp_path):
    runs = sandbox.Sandbox(tmp_path)
    faults.reference_run(runs)
    found = faults.run_chains(runs, kills=25, chains=3, seed=0)
    assert found.differences == []
    assert found.kills.total() == 25
    assert found.kills["save"] >= 3
    assert found.kills["end"] >= 1


def shared_memory(group):
    """Names in /dev/shm that processes of a group have mapped."""
    found = set()
    for number in sandbox.alive(group):
        try:
            maps = Path(f"/proc/{number}/maps").read_text()
        except OSError:
            continue
        found |= set(re.findall(r"/dev/shm/psm_\w+", maps))
    return found


def at_step(runs, workdir, *flags):
    """A process that has logged a step."""
    before = sandbox.count_events(workdir, "step")
    process = runs.start(workdir, *flags)
    assert sandbox.wait_for(
        lambda: sandbox.count_events(workdir, "step") > before, process
    )
    return process


def newest(workdir):
    steps = (workdir / "source" / "checkpoints").iterdir()
    return max(
        (path for path in steps if path.name.isdigit()), key=lambda p: int(p.name)
    )


@pytest.mark.long
def test_a_run_survives_everything_one_after_the_other(runs):
    workdir = runs.folder / "incidents"

    # SIGKILL after a step, and inside a save.
    for event, count in (("step", 3), ("save", 1)):
        planned = faults.Kill(event, count, delay=0.0, workers=0)
        assert faults.start_and_kill(runs, workdir, planned) is None

    # Two runs in one folder; then SIGTERM to the whole group, as schedulers send it.
    process = at_step(runs, workdir, "--config.data.workers=1")
    os.killpg(process.pid, signal.SIGSTOP)
    mapped = shared_memory(process.pid)
    assert mapped
    assert runs.run(workdir) == 2
    assert "another process trains in it" in runs.output(workdir)
    begin = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGCONT)
    assert process.wait(SOON) == 3
    assert time.monotonic() - begin < SOON
    assert "continue with: python train.py --config=" in runs.output(workdir)
    assert not (workdir / "report").exists()
    sandbox.kill(process)  # only asks whether a worker outlived it
    assert [name for name in mapped if Path(name).exists()] == []

    # A disk that takes no file of more than a megabyte: a checkpoint has larger ones.
    limit = (2**20, resource.RLIM_INFINITY)
    before = newest(workdir).name
    process = runs.start(workdir)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limit)
    assert process.wait(sandbox.TIMEOUT) == 1
    told = (
        r"\nerror: checkpoint in .*: cannot be written: .*; the previous one is intact"
    )
    assert len(re.findall(told, runs.output(workdir))) == 1
    assert newest(workdir).name == before

    # A stop after one step, a flipped bit in what it saved, and on to the end.
    assert runs.run(workdir, "--max_steps=1") == 3
    checkpoint = newest(workdir)
    assert int(checkpoint.name) == int(before) + 1
    files = [path for path in (checkpoint / "state").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    assert runs.run(workdir) == 0
    assert f"using step {before}" in runs.output(workdir)
    assert (workdir / "source" / "damaged" / checkpoint.name).is_dir()

    assert sandbox.compare(workdir, runs.folder / "reference") == []
    assert "Traceback" not in runs.output(workdir)


def test_a_comparison_finds_a_difference(runs, tmp_path):
    """The long tests could not fail without this."""
    reference = runs.folder / "reference"
    other = shutil.copytree(reference, tmp_path / "other")
    assert sandbox.compare(other, reference) == []
    log = other / "source" / "metrics.jsonl"
    lines = log.read_text().splitlines(True)
    log.write_text("".join([*lines[:3], *lines[2:]]))
    facts = other / "source" / "checkpoints" / "8" / "facts" / "metadata"
    digest = re.search(r'"rng": "(\w+)"', facts.read_text())[1]
    facts.write_text(facts.read_text().replace(digest, digest[::-1]))
    assert sandbox.compare(other, reference) == [
        "other: source, rng",
        "other: source, metrics.jsonl",
    ]


def test_kills_are_drawn_from_the_seed():
    plans = [list(faults.plan(random.Random(seed), 9, 2)) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]
    assert plans[0][-1].event == "end"
    labels = faults.plan(random.Random(0), 40, 3, faults.EVENTS_WITH_LABELS)
    assert {"prepare", "save"} < {planned.event for planned in labels}


# Words that some of the lines have to say.
MISTAKES = {
    "no config file": "--config",
    "unknown config file": "configs/nope.py: no such file",
    "unknown method": "'lrs' is unknown",
    "unknown key": '"seed" instead of "sead"',
    "a word for a number": "'many'",
    "a flag without dashes": "unexpected argument 'surplus'",
    "a workdir with another config": "another config",
    "a workdir that is a file": "cannot be written",
    "init_from with an unknown name": "init_from lsr_nope",
    "missing data": "data/gta5",
    "another release of CamVid": "docs/your_data.md#camvid",
    "evaluation of a folder without a run": "no run found",
    "a seed beyond 32 bits": "seed: expected 0 to 4294967295",
    "a weight of NaN": "adapt.method.entropy: expected at least 0",
    "missing recorded rows": "nope.json: no such file",
    "missing anchors file": "method.anchors nope.npz",
    "evaluation without a workdir": "--workdir, --checkpoint or --ensemble is needed",
    "evaluation with an unknown protocol": "<both|native",
}


@pytest.mark.long
def test_bad_inputs_are_one_line_and_the_page_lists_them(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    found = bad_inputs.run_in_new_process(tmp_path, bad_inputs.CASES)
    assert [outcome for outcome in found if not outcome.good] == []
    texts = {outcome.case.mistake: outcome.text for outcome in found}
    for mistake, words in MISTAKES.items():
        assert words in texts[mistake], mistake
    assert not (tmp_path / "new").exists()
    page = (ROOT / "docs" / "reliability.md").read_text()
    listed = page.split("<!-- bad inputs: begin -->")[1].split("<!--")[0].split("\n")
    table = bad_inputs.table(found).split("\n")
    listed = [line for line in listed if line]
    assert listed == table, "run python -m benchmarks.bad_inputs --write PAGE"

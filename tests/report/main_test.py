import json
import subprocess
import sys

import pytest

from lsr_jax.errors import InputError
from lsr_jax.report import __main__ as command
from lsr_jax.report import results

FACTS = {
    "command": "python train.py --config.seed=1",
    "cpus": 4,
    "data": {"source": "-", "target": "-"},
    "devices": ["cpu:0"],
    "device_kind": "cpu",
    "platform": "Linux-6.1-x86_64",
    "python": "3.12",
    "versions": {"jax": "0.11", "numpy": "2.4"},
    "weights": {},
}


def row(method):
    return results.make(
        [[3, 1], [1, 3]],
        classes=("a", "b"),
        subsets={},
        stage=method,
        method=method,
        seed=1,
        step=1,
        domain="target",
        split="val",
        bn="running",
        protocol="native",
        selection="last",
    )


def test_recorded_rows_name_their_command(tmp_path):
    found = [row("target_only"), row("lsr")]
    results.write(tmp_path / "report" / "metrics.json", found)
    (tmp_path / "manifest.json").write_text(json.dumps(FACTS))
    assert command.recorded(tmp_path) == [
        {**one, "recorded": "python train.py --config.seed=1"} for one in found
    ]


def test_a_damaged_manifest_is_named(tmp_path):
    results.write(tmp_path / "report" / "metrics.json", [])
    for content in ("{", "{}"):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(
            InputError, match=r"manifest\.json: expected the manifest of a run, found"
        ):
            command.recorded(tmp_path)


def test_the_machine_in_words():
    words = "4 cores (cpu), Linux, Python 3.12, jax 0.11, numpy 2.4"
    assert results.machine(FACTS) == words


def test_a_folder_without_report_is_one_line(tmp_path):
    words = [sys.executable, "-m", "lsr_jax.report", str(tmp_path)]
    words += ["--out", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()

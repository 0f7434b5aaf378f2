import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import data

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.long
def test_the_benchmark_measures_every_target(tmp_path):
    path = tmp_path / "numbers.json"
    command = [sys.executable, "-m", "benchmarks.data", "--quick", "--workers", "1"]
    done = subprocess.run(
        [*command, "--json", path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    numbers = json.loads(path.read_text())
    assert json.loads(done.stdout.splitlines()[0]) == numbers
    assert numbers.keys() >= data.TARGETS.keys()
    assert all(value > 0 for value in numbers.values())
    assert len(done.stdout.splitlines()) == 1 + len(numbers)

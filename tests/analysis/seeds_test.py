import json
import subprocess
import sys

import numpy as np
import pytest

from lsr_jax.analysis import record, rows, seeds
from lsr_jax.errors import InputError

METHODS = ("source_only", "batchnorm_only", "lsr")


def write_run(folder, seed, miou):
    """A report in which the IoU of both classes is ``miou[method]``."""
    found = []
    for method in METHODS:
        share = miou[method]
        # Hits over hits and both kinds of misses is the share asked for.
        matrix = np.array([[200 * share, 100 - 100 * share]] * 2)
        matrix[1] = matrix[0][::-1]
        for domain in ("target", "source"):
            for bn in ("running", "target"):
                found.append(
                    rows.make(
                        matrix,
                        classes=("a", "b"),
                        subsets={"large": (0,), "small": (1,)},
                        stage=method,
                        method=method,
                        seed=seed,
                        step=1,
                        domain=domain,
                        split="val",
                        bn=bn,
                        protocol="native",
                        selection="last",
                    )
                )
    rows.write(folder / "report" / "metrics.json", found)
    facts = {
        "command": f"python train.py --config.seed={seed}",
        "cpus": 4,
        "device_kind": "cpu",
        "platform": "x",
        "python": "3",
        "versions": {"jax": "0"},
    }
    (folder / "manifest.json").write_text(json.dumps(facts))


@pytest.fixture
def folders(tmp_path):
    for seed, lsr in enumerate((0.5, 0.6, 0.7)):
        values = {"source_only": 0.3, "batchnorm_only": 0.4 + 0.1 * seed, "lsr": lsr}
        write_run(tmp_path / str(seed), seed, values)
    return [tmp_path / str(seed) for seed in range(3)]


def test_page_has_mean_spread_and_paired_differences(folders):
    text = seeds.page(folders, control="batchnorm_only")
    cells = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and "±" in line
    ]
    assert ["lsr", *["60.0 ± 10.0"] * 5] in cells
    assert ["lsr", "+10.0 ± 0.0", "+10.0 ± 0.0"] in cells
    assert ["source_only", "-20.0 ± 10.0", "-20.0 ± 10.0"] in cells
    assert len(cells) == 5


def test_a_seed_counts_once(folders):
    with pytest.raises(InputError, match=r"found \[0, 0\]"):
        seeds.page([folders[0], folders[0]], control="batchnorm_only")


def test_recorded_rows_name_their_command(folders):
    kept = record.record(folders[1])
    assert {row["recorded"] for row in kept} == {"python train.py --config.seed=1"}
    assert len(kept) == 12


@pytest.mark.parametrize("module", ["record", "seeds"])
def test_a_folder_without_report_is_one_line(module, tmp_path):
    flag = {"record": "--out", "seeds": "--write"}[module]
    command = [sys.executable, "-m", f"lsr_jax.analysis.{module}", str(tmp_path)]
    command += [flag, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()

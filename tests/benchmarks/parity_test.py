"""The table: its rows, its page, and that it is what the tests hold."""

import pathlib
import subprocess
import sys

import pytest

from benchmarks import pages, parity
from lsr_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[2]


def check(key, *, error=1e-7, tolerance=1e-5, count=10, scale="value"):
    return {
        "file": "lsr",
        "key": key,
        "count": count,
        "tolerance": tolerance,
        "error": error,
        "scale": scale,
    }


def test_rows_are_grouped_by_family_and_tolerance():
    rows = parity.rows_of(
        [
            check("perp__a"),
            check("clust__a", error=2e-7),
            check("clust__b", error=3e-7, count=4),
            check("clust__b", error=1e-7, count=4),
            check("clust__a_f64", error=1e-12, tolerance=1e-9, count=1),
        ]
    )
    assert [(row.quantity, row.count, row.tolerance, row.error) for row in rows] == [
        ("clustering", 14, 1e-5, 3e-7),
        ("clustering", 1, 1e-9, 1e-12),
        ("perpendicularity", 10, 1e-5, 1e-7),
    ]
    assert all(row.passed for row in rows)
    lines = parity.table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "3.0e-07" in lines[2]
    assert lines[2].endswith("| ok      |")


def test_a_row_out_of_tolerance_says_so():
    (row,) = parity.rows_of([check("clust__a", error=2e-5), check("clust__b")])
    assert row.cells()[-1] == "OUT"
    (row,) = parity.rows_of([check("pd__a", error=3.0, tolerance=0.0, scale="exact")])
    assert row.cells()[-3:] == ("equal", "3 differ", "OUT")


def test_a_key_without_a_row_is_named():
    with pytest.raises(InputError, match="lsr: no row for the key 'unheard_of'"):
        parity.rows_of([check("unheard_of")])


def test_the_page_of_this_repository_can_be_written():
    page = (ROOT / "docs" / "reproducibility.md").read_text()
    begin, end = pages.markers(parity.PART)
    assert page.index(begin) < page.index(end)
    assert "OUT" not in page.split(begin)[1].split(end)[0]


@pytest.mark.long
def test_the_command_runs_the_tests_of_a_file():
    command = [sys.executable, "-m", "benchmarks.parity", "--files", "eval"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| confusion matrices" in done.stdout
    assert "OUT" not in done.stdout
    # 19, 16 and 13 classes.
    assert f"| {19**2 + 16**2 + 13**2}" in done.stdout

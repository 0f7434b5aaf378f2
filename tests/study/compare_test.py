"""Spread, pairing and cells of hand-made rows."""

import math

import pandas as pd
import pytest

from lsr_jax.report import results
from lsr_jax.study import compare

# Student's t at 0.975, from printed tables.
T = {1: 12.706, 2: 4.303}
NAN = math.nan


def row(line, seed, miou, *, domain="target", bn="running", pole=0.1):
    return {
        "line": line,
        "stage": line,
        "method": line,
        "step": 9,
        "seed": seed,
        "domain": domain,
        "split": "val",
        "bn": bn,
        "protocol": "native",
        "selection": "last",
        "miou": miou,
        "miou_large": miou + 0.1,
        "miou_small": miou - 0.1,
        "iou": {"road": miou, "pole": pole},
    }


ROWS = [
    row("source_only", 0, 0.30),
    row("source_only", 1, 0.32),
    row("source_only", 2, 0.31),
    row("lsr", 0, 0.34, pole=NAN),
    row("lsr", 1, 0.37, pole=0.3),
    row("lsr", 0, 0.50, domain="source"),
]


def frame(rows=ROWS):
    return results.with_facts(rows)


def series(values):
    index = pd.MultiIndex.from_product([["lsr"], range(len(values))])
    return pd.Series(values, index.set_names(["line", "seed"]), dtype=float)


@pytest.mark.parametrize(
    ("values", "mean", "sd"),
    [((1.0, 2.0, 3.0), 2.0, 1.0), ((1.0, 3.0), 2.0, math.sqrt(2)), ((5.0,), 5.0, NAN)],
)
def test_spread(values, mean, sd):
    found = compare.spread(series(values)).loc["lsr"]
    n = len(values)
    half = T[n - 1] * sd / math.sqrt(n) if n > 1 else NAN
    assert list(found.index) == ["mean", "sd", "n", "half"]
    assert tuple(found) == pytest.approx((mean, sd, n, half), rel=1e-4, nan_ok=True)


def test_differences_are_paired_by_seed():
    found = compare.differences(compare.measurements(frame()), "source_only")
    entries = found.reset_index().set_index("measure")
    assert set(entries["line"]) == {"lsr"}
    assert list(entries.index) == [
        *("miou", "miou_large", "miou_small", "iou/road", "iou/pole")
    ]
    gap = entries.loc["miou"]  # 0.04 and 0.05; seed 2 has no partner
    assert gap["n"] == 2
    assert gap["mean"] == pytest.approx(0.045)
    assert gap["half"] == pytest.approx(T[1] * 0.005, rel=1e-4)
    assert entries.loc["iou/pole", "n"] == 1
    assert entries.loc["iou/pole", "mean"] == pytest.approx(0.2)
    assert len(compare.differences(compare.measurements(frame()), "oce")) == 0


def test_measurements_keep_domains_and_subsets_apart_and_leave_nan_out():
    found = compare.spread(compare.measurements(frame())).reset_index()
    means = found.set_index(["line", "domain", "measure"])["mean"]
    assert means["lsr", "target", "miou_large"] == pytest.approx(0.455)
    assert means["lsr", "target", "miou_small"] == pytest.approx(0.255)
    assert means["lsr", "source", "miou"] == pytest.approx(0.5)
    assert ("source_only", "source", "miou") not in means


def test_controls_are_those_that_the_study_has():
    lines = ["lsr", "batchnorm_only", "source_only"]
    assert compare.select_controls(lines) == ["source_only", "batchnorm_only"]
    assert compare.select_controls(lines, "lsr")[-1] == "lsr"
    assert compare.select_controls(["lsr"]) == []


def test_tables_hold_the_numbers_and_no_empty_column():
    (means,) = compare.means(frame(), {}, "val")
    cells = {key: tuple(column) for key, column in means.cells.items()}
    assert list(means.cells.index) == ["source_only", "lsr"]
    assert cells["", "", "seeds"] == ("3", "2")
    assert cells["target", "running BN", "mIoU"] == ("31.0 ± 1.0", "35.5 ± 2.1")
    assert cells["target", "running BN", "small"] == ("21.0 ± 1.0", "25.5 ± 2.1")
    assert cells["source", "running BN", "mIoU"] == ("-", "50.0")
    assert len(cells) == 5
    (gaps,) = compare.difference_tables(frame(), ["source_only"])
    above = gaps.cells["above source_only", "running BN"]
    assert list(above) == ["ref", "+4.5 [-1.9, +10.9]"]
    (classes,) = compare.class_tables(frame())
    assert list(classes.cells.index) == ["road", "pole"]
    assert list(classes.cells["source_only"]) == ["31.0 ± 1.0", "10.0 ± 0.0"]
    assert list(classes.cells["lsr"]) == ["35.5 ± 2.1", "30.0"]
    assert compare.difference_tables(frame(), []) == []


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.05, 0.05), "+5.0 [+5.0, +5.0]*"),
        ((0.0, 0.0), "+0.0 [+0.0, +0.0]"),
        ((-0.0004,), "+0.0"),
        ((NAN,), "-"),
    ],
)
def test_a_star_marks_an_interval_without_zero(values, text):
    (row,) = compare.spread(series(values)).itertuples()
    assert compare._above(row) == text

"""Spread, pairing and cells of hand-made rows."""

import math

import pytest

from lsr_jax.study import compare, tables

# Student's t at 0.975, from printed tables.
T = {1: 12.706, 2: 4.303}
NAN = math.nan


def row(line, seed, miou, *, domain="target", bn="running", pole=0.1):
    return {
        "line": line,
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


@pytest.mark.parametrize(
    ("values", "mean", "sd", "n"),
    [
        ((1.0, 2.0, 3.0), 2.0, 1.0, 3),
        ((1.0, NAN, 3.0), 2.0, math.sqrt(2), 2),
        ((5.0,), 5.0, NAN, 1),
        ((NAN,), NAN, NAN, 0),
    ],
)
def test_spread(values, mean, sd, n):
    found = compare.spread(values)
    half = T[n - 1] * sd / math.sqrt(n) if n > 1 else NAN
    assert found == pytest.approx((mean, sd, n, half), rel=1e-4, nan_ok=True)


def test_differences_are_paired_by_seed():
    entries = {
        entry["measure"]: entry
        for entry in compare.differences(ROWS, ["source_only"])
        if entry["domain"] == "target"
    }
    assert list(entries) == ["miou", "miou_large", "miou_small", "iou/road", "iou/pole"]
    gap = entries["miou"]  # 0.04 and 0.05; seed 2 has no partner
    assert (gap["line"], gap["control"], gap["n"]) == ("lsr", "source_only", 2)
    assert gap["mean"] == pytest.approx(0.045)
    assert gap["half"] == pytest.approx(T[1] * 0.005, rel=1e-4)
    assert entries["iou/pole"]["n"] == 1
    assert entries["iou/pole"]["mean"] == pytest.approx(0.2)


def test_summary_keeps_domains_and_subsets_apart():
    means = {
        (entry["line"], entry["domain"], entry["measure"]): entry["mean"]
        for entry in compare.summary(ROWS)
    }
    assert means["lsr", "target", "miou_large"] == pytest.approx(0.455)
    assert means["lsr", "target", "miou_small"] == pytest.approx(0.255)
    assert means["lsr", "source", "miou"] == pytest.approx(0.5)
    assert math.isnan(means["source_only", "source", "miou"])


def test_controls_are_those_that_the_study_has():
    lines = ["lsr", "batchnorm_only", "source_only"]
    assert compare.controls(lines) == ["source_only", "batchnorm_only"]
    assert compare.controls(lines, "lsr")[-1] == "lsr"
    assert compare.controls(["lsr"]) == []


def test_tables_hold_the_numbers_and_no_empty_column():
    (means,) = tables.means(ROWS, {}, "val")
    cells = {(c.group, c.heading): c.cells for c in means.columns}
    assert cells["", "seeds"] == ("3", "2")
    assert cells["target, running BN", "mIoU"] == ("31.0 ± 1.0", "35.5 ± 2.1")
    assert cells["target, running BN", "small"] == ("21.0 ± 1.0", "25.5 ± 2.1")
    assert cells["source", "running BN"] == ("-", "50.0")
    assert len(cells) == 6
    (gaps,) = tables.differences(ROWS, ["source_only"])
    assert gaps.columns[1].cells == ("ref", "+4.5 [-1.9, +10.9]")
    (classes,) = tables.by_class(ROWS)
    assert [c.cells for c in classes.columns] == [
        ("road", "pole"),
        ("31.0 ± 1.0", "10.0 ± 0.0"),
        ("35.5 ± 2.1", "30.0"),
    ]
    assert tables.differences(ROWS, []) == []


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.05, 0.05), "+5.0 [+5.0, +5.0]*"),
        ((0.0, 0.0), "+0.0 [+0.0, +0.0]"),
        ((-0.0004,), "+0.0"),
        ((), "-"),
    ],
)
def test_a_star_marks_an_interval_without_zero(values, text):
    assert tables.above(compare.spread(values)) == text

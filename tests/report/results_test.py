import csv
import functools
import json
import math
import re

import numpy as np
import pytest

from lsr_jax.errors import InputError
from lsr_jax.report import results
from lsr_jax.report.results import Table

CLASSES = ("road", "car", "pole")
# Truth: 8 road, 4 car; pole is absent.
MATRIX = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])


@pytest.fixture
def row():
    return results.make(
        MATRIX,
        classes=CLASSES,
        subsets={"large": (0, 1), "small": (2,)},
        stage="adapt",
        method="lsr",
        seed=0,
        step=np.int64(500),
        domain="target",
        split="val",
        bn="running",
        protocol="native",
        selection="last",
        weights="ab12",
    )


def test_row_has_its_identity_and_its_measures(row):
    assert tuple(row)[:9] == results.IDENTITY
    assert row["iou"]["road"] == 6 / 9
    assert row["iou"]["car"] == 3 / 6
    assert math.isnan(row["iou"]["pole"])
    assert row["miou"] == row["miou_large"] == pytest.approx(7 / 12)
    assert math.isnan(row["miou_small"])
    assert row["pixel_accuracy"] == 9 / 12
    assert row["iou_std"] == pytest.approx(1 / 12)
    assert row["weights"] == "ab12"
    metadata = {*results.BY_CLASS, "weights", "num_classes"}
    measures = set(row) - set(results.IDENTITY) - metadata
    assert all(map(results.is_measure, measures))
    assert not any(map(results.is_measure, (*results.IDENTITY, "iou", "weights")))


FACTS = {
    "stage": "adapt",
    "method": "lsr",
    "seed": 0,
    "step": 1,
    "domain": "target",
    "split": "val",
    "bn": "running",
    "protocol": "native",
    "selection": "last",
}


def test_means_are_over_the_classes_of_the_data_set():
    """A class that labels cannot have is wrong where predicted, but has no score."""
    matrix = np.array([[6, 1, 1], [1, 3, 0], [0, 0, 0]])
    subsets = {"small": (1, 2), "13": (0, 2)}
    make = functools.partial(results.make, matrix, classes=CLASSES, subsets=subsets)
    every, own = make(**FACTS), make(declared=(0, 1), **FACTS)
    assert every["miou"] == pytest.approx((6 / 9 + 3 / 5 + 0) / 3)
    assert own["miou"] == pytest.approx((6 / 9 + 3 / 5) / 2)
    assert (every["num_classes"], own["num_classes"]) == (3, 2)
    assert own["miou_small"] == own["iou"]["car"] == 3 / 5
    assert "miou_13" in every
    assert "miou_13" not in own
    assert math.isnan(own["iou"]["pole"])
    assert own["mean_precision"] == pytest.approx((6 / 7 + 3 / 4) / 2)
    assert own["mean_accuracy"] == every["mean_accuracy"]
    (table,) = results.summary([own, {**every, "domain": "source"}])
    assert "2 on the target (road, car); 3 on the source" in table.caption
    assert table.cells["target val", "running BN", "mIoU of 2"].tolist() == ["63.3"]
    assert table.cells["source val", "running BN", "mIoU"].tolist() == ["42.2"]
    (by_class,) = results.per_class([own])
    assert by_class.cells["adapt (lsr)"]["mIoU of 2"] == "63.3"
    assert by_class.cells["adapt (lsr)"]["pole"] == "-"


def test_means_of_the_classes_of_a_source_that_lacks_others():
    """Labels of other classes are scored as errors, or ignored; never under one name."""
    matrix = np.array([[6, 1, 1], [1, 3, 0], [0, 2, 4]])
    row = results.make(matrix, classes=CLASSES, subsets={}, taught=(0, 1), **FACTS)
    assert row["miou"] == pytest.approx((6 / 9 + 3 / 7 + 4 / 7) / 3)
    assert row["miou_2"] == pytest.approx((6 / 9 + 3 / 7) / 2)
    assert row["miou_2_alone"] == pytest.approx((6 / 9 + 3 / 5) / 2)
    (table,) = results.summary([row])
    cells = table.cells["target val", "running BN"].iloc[0].to_dict()
    assert cells == {"mIoU": "55.6", "2 of 3": "54.8", "2 alone": "63.3"}


def test_a_split_without_a_labelled_pixel_has_no_score():
    with pytest.raises(InputError, match=r"^target val: no pixel has"):
        results.make(np.zeros((3, 3)), classes=CLASSES, subsets={}, **FACTS)


def test_json_round_trip_keeps_nan_and_none(row, tmp_path):
    path = tmp_path / "report" / "metrics.json"
    written = [row, {**row, "seed": None, "recorded": "python train.py"}]
    results.write(path, written)
    stored = json.loads(path.read_text())
    assert stored[0]["iou"]["pole"] is None
    assert stored[0]["step"] == 500
    # Equality up to NaN, keys in the same order.
    np.testing.assert_equal(results.read(path), written)
    assert list(results.read(path)[0]) == list(row)
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "no such file"),
        ("[{", "not a list of result rows"),
        ('{"miou": 1}', "not a list of result rows"),
        ('[{"stage": "adapt"}]', "KeyError 'method'"),
    ],
)
def test_reading_something_else_is_one_line(text, complaint, tmp_path):
    path = tmp_path / "metrics.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=complaint) as caught:
        results.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_csv_has_a_column_for_every_class(row):
    other = {**row, "recorded": "python train.py"}
    first, second = csv.DictReader(results.to_csv([row, other]).splitlines())
    assert float(first["iou_road"]) == 6 / 9
    assert first["iou_pole"] == first["miou_small"] == first["recorded"] == ""
    assert second["recorded"] == "python train.py"
    assert "iou" not in first


def test_ratios_to_an_oracle_survive_the_file(row, tmp_path):
    ratio = {**row, "masr": 0.9, "asr": {"road": 0.8, "car": math.nan}, "oracle": "o"}
    results.write(tmp_path / "metrics.json", [ratio])
    np.testing.assert_equal(results.read(tmp_path / "metrics.json"), [ratio])
    (line,) = csv.DictReader(results.to_csv([ratio]).splitlines())
    assert float(line["asr_road"]) == ratio["asr"]["road"]
    assert line["asr_car"] == ""
    assert float(line["precision_road"]) == 6 / 7
    assert float(line["accuracy_car"]) == 3 / 4


def test_members_of_an_ensemble_are_json_in_the_csv(row):
    members = [{"weight": 0.7, "stage": "adapt"}]
    (line,) = csv.DictReader(results.to_csv([{**row, "members": members}]).splitlines())
    assert json.loads(line["members"]) == members


COMMAND = "python train.py --config configs/streets.py:target_only"


def make_row(method, miou, *, domain="target", bn="running", **changes):
    row = {
        "stage": method,
        "method": method,
        "seed": 0,
        "step": 500,
        "domain": domain,
        "split": "val",
        "bn": bn,
        "protocol": "native",
        "selection": "last",
        "miou": miou,
        "iou": {"road": 0.9, "pole": 0.1, "train": math.nan},
        "miou_large": miou + 0.1,
        "miou_small": miou - 0.1,
        "pixel_accuracy": 0.8,
    }
    return row | changes


@pytest.fixture
def rows():
    return [
        make_row("source_only", 0.371, stage="source", step=1200),
        make_row("source_only", 0.365, stage="source", step=1200, bn="target"),
        make_row("source_only", 0.602, stage="source", step=1200, domain="source"),
        make_row("batchnorm_only", 0.404),
        make_row("batchnorm_only", 0.395, bn="target"),
        make_row("batchnorm_only", 0.632, domain="source"),
        make_row("lsr", 0.40366),
        make_row("lsr", 0.408, bn="target"),
        make_row("lsr", 0.631, domain="source"),
        make_row("target_only", 0.556, stage="oracle", step=900, recorded=COMMAND),
    ]


def cells(table, *column):
    return tuple(table.cells[column if len(column) > 1 else column[0]])


def facts(table, name):
    """Cells of a fact that differs between the lines."""
    return cells(table, "", "", name)


RUNNING, TARGET = ("target val", "running BN"), ("target val", "target BN")


def test_summary_holds_every_stage_in_its_order(rows):
    (table,) = results.summary(rows, control="batchnorm_only")
    assert tuple(table.cells.index) == (
        "source (source_only)",
        "batchnorm_only",
        "lsr",
        "oracle (target_only) *",
    )
    assert facts(table, "step") == ("1200", "500", "500", "900")
    assert cells(table, *RUNNING, "mIoU") == ("37.1", "40.4", "40.4", "55.6")
    assert cells(table, *TARGET, "mIoU") == ("36.5", "39.5", "40.8", "-")
    assert cells(table, *RUNNING, "large") == ("47.1", "50.4", "50.4", "65.6")
    assert cells(table, *RUNNING, "small") == ("27.1", "30.4", "30.4", "45.6")
    assert cells(table, "source val", "running BN", "mIoU") == (
        "60.2",
        "63.2",
        "63.1",
        "-",
    )


def test_differences_are_signed_and_of_unrounded_numbers(rows):
    (table,) = results.summary(rows, control="batchnorm_only")
    # 40.366 - 40.4 rounds to 0.0, without a minus sign.
    assert cells(table, *RUNNING, "diff") == ("-3.3", "ref", "+0.0", "+15.2")
    assert cells(table, *TARGET, "diff") == ("-3.0", "ref", "+1.3", "-")
    assert "diff: points above batchnorm_only" in table.caption


def test_differences_are_paired_by_seed(rows):
    rows += [make_row("lsr", 0.5, seed=1), make_row("max_square", 0.6, seed=2)]
    rows.append(make_row("batchnorm_only", 0.45, seed=1))
    (table,) = results.summary(rows, control="batchnorm_only")
    found = dict(
        zip(
            zip(tuple(table.cells.index), facts(table, "seed"), strict=True),
            cells(table, *RUNNING, "diff"),
            strict=True,
        )
    )
    assert found["lsr", "1"] == "+5.0"
    assert found["lsr", "0"] == "+0.0"
    assert found["max_square", "2"] == "-"


def test_what_is_shared_stands_in_the_caption(rows):
    (table,) = results.summary(rows)
    assert "protocol native, seed 0, selection last" in table.caption
    headings = [heading for *_, heading in table.cells]
    assert "step" in headings
    assert not {"seed", "selection", "diff"} & set(headings)
    assert ("source val", "target BN", "mIoU") not in table.cells  # no such row

    rows[3]["selection"] = "oracle"
    (table,) = results.summary(rows)
    assert "oracle" in facts(table, "selection")
    assert "selection" not in table.caption


def test_recorded_rows_are_marked_and_come_with_their_command(rows):
    for table in (*results.summary(rows), results.per_class(rows)[0]):
        ((remark, command),) = table.notes
        assert remark.startswith("oracle (target_only) *")
        assert command == COMMAND


def test_protocols_and_splits_never_share_a_table(rows):
    resized = [row | {"protocol": "resized"} for row in rows]
    test = [row | {"split": "test"} for row in rows]
    captions = [table.caption for table in results.summary(rows + resized + test)]
    assert len(captions) == 3
    assert ["resized" in caption for caption in captions] == [False, False, True]


def test_a_repeated_evaluation_counts_once_with_its_last_value(rows):
    (table,) = results.summary([*rows, make_row("lsr", 0.7)])
    assert cells(table, *RUNNING, "mIoU")[2] == "70.0"


def test_per_class_has_classes_as_lines_and_stages_as_columns(rows):
    running, target, source = results.per_class(rows)
    assert "target val, running BN" in running.caption
    assert "target val, target BN" in target.caption
    assert "source val, running BN" in source.caption
    assert running.cells.columns.name == "class"
    assert tuple(running.cells.index) == (
        "step",
        "road",
        "pole",
        "train",
        "mIoU",
        "mIoU large",
        "mIoU small",
        "pixel accuracy",
    )
    assert cells(running, "lsr") == (
        *("500", "90.0", "10.0", "-", "40.4", "50.4", "30.4", "80.0"),
    )
    assert list(source.cells) == ["source (source_only)", "batchnorm_only", "lsr"]


def test_per_class_of_different_label_spaces_leaves_gaps(rows):
    rows[3]["iou"] = {"road": 0.8, "wall": 0.2}
    running = results.per_class(rows)[0]
    found = running.cells["batchnorm_only"]
    assert found["wall"] == "20.0"
    assert found["pole"] == "-"


def test_source_splits_of_other_names_stand_beside_the_target(rows):
    for row in rows:
        if row["domain"] == "source":
            row["split"] = "val_lsr"
    (table,) = results.summary(rows)
    assert cells(table, "source val_lsr", "running BN", "mIoU") == (
        "60.2",
        "63.2",
        "63.1",
        "-",
    )
    assert cells(table, *RUNNING, "mIoU")[0] == "37.1"
    # Alone they have a table of their own.
    (alone,) = results.summary([row for row in rows if row["domain"] == "source"])
    groups = [group for group, *_ in alone.cells]
    assert groups == ["", "source val_lsr"]


def test_every_choice_that_moves_the_number_stands_beside_it(rows):
    shared = {"averaging": "flip, logits", "same_as": "resized"}
    for number, row in enumerate(rows[:-1]):
        data = "d" * 64 if row["domain"] == "target" else "e" * 64
        row |= {**shared, "weights": f"{number // 3}" * 64, "data": data}
    for found in (results.summary(rows), results.per_class(rows)):
        assert "protocol native (= resized), seed 0" in found[0].caption
        assert "data dddddddd (target)" in found[0].caption
    (table,) = results.summary(rows)
    assert "eeeeeeee (source)" in table.caption
    weights = "source (source_only) 00000000, batchnorm_only 11111111, lsr 22222222"
    assert table.notes[0] == ("weights", weights)
    assert "weights" not in [heading for *_, heading in table.cells]
    assert facts(table, "averaging") == (*["flip, logits"] * 3, "one view")
    assert cells(results.per_class(rows)[0], "lsr")[2] == "2" * 8


def test_ratios_have_a_column_and_a_table(rows):
    rows[6] |= {"masr": 0.7, "asr": {"road": 0.8, "pole": 0.6}, "oracle": "published"}
    (table,) = results.summary(rows)
    assert cells(table, *RUNNING, "mASR") == ("-", "-", "70.0", "-")
    assert table.caption.endswith("; ASR: ratio to published")
    (ratios,) = results.per_class(rows, "asr")
    assert list(ratios.cells.index) == ["road", "pole", "mASR"]
    assert cells(ratios, "lsr") == ("80.0", "60.0", "70.0")


def test_members_of_an_ensemble_are_named(rows):
    member = {"weight": 0.7, "stage": "adapt", "method": "clan", "seed": 0, "step": 9}
    member |= {"selection": "last", "weights": "a" * 64}
    rows[3]["members"] = [member]
    notes = dict(results.summary(rows)[0].notes)
    assert notes["batchnorm_only: 0.7 of adapt"] == (
        "clan, seed 0, step 9, selection last, weights aaaaaaaa"
    )


def test_a_domain_without_native_labels_stands_under_both_protocols(rows):
    """Cityscapes has labels of its own size, GTA5's were prepared at the input's."""
    for row in rows:
        if row["domain"] == "source":
            row["same_as"] = "resized"
    resized = [r | {"protocol": "resized", "miou": 0.5} for r in rows[:2]]
    native, other = results.summary([*rows, *resized])
    assert (
        "protocol native, seed 0" in native.caption
    )  # of the target it is not the same
    assert "protocol resized, seed 0" in other.caption
    assert cells(other, *RUNNING, "mIoU") == ("50.0", "-", "-")
    assert cells(native, "source val", "running BN", "mIoU")[:3] == (
        "60.2",
        "63.2",
        "63.1",
    )
    assert cells(other, "source val", "running BN", "mIoU") == ("60.2", "63.2", "63.1")


def make_table(stages=3):
    names = [f"long_stage_{i}" for i in range(stages)]
    texts = {("g%", n): (f"{10 * i}.5", f"{10 * i + 1}.5") for i, n in enumerate(names)}
    lines = results.text_table(texts, ("road", "traffic_light"), "class")
    notes = [("long_stage_0 * recorded by", "python train.py --config=x")]
    return Table("IoU in percent", lines, notes)


def test_terminal_aligns_cells_under_groups():
    lines = results.terminal([make_table()]).splitlines()
    caption, _, groups, heading, first, last, _, note, command = lines
    assert caption == "IoU in percent"
    assert groups.split() == ["g%"]
    assert heading.split() == ["class", "long_stage_0", "long_stage_1", "long_stage_2"]
    assert first.split() == ["road", "0.5", "10.5", "20.5"]
    assert last.split() == ["traffic_light", "1.5", "11.5", "21.5"]
    assert len(heading) == len(first) == len(last)
    assert note.endswith("recorded by")
    assert command == "    python train.py --config=x"


def test_markdown_has_equal_cells_in_every_line():
    text = results.markdown([make_table(), make_table(1)])
    first, second = text.split("IoU in percent")[1:]
    for part, columns in ((first, 4), (second, 2)):
        piped = [line for line in part.splitlines() if line.startswith("|")]
        assert {line.count("|") for line in piped} == {columns + 1}
        assert len(piped) == 4
        assert piped[1].count("-:|") == columns - 1
        assert "g%<br>long_stage_0" in piped[0]
        assert "`python train.py --config=x`" in part


def test_cells_are_text_in_every_format():
    """``1e5`` and ``40.0`` stay as they are written."""
    cells = results.text_table({("", "a"): ("40.0", "1e5")}, ("x", "y"), "line")
    table = [Table("c", cells)]
    for written in (results.terminal, results.markdown, results.latex):
        assert "40.0" in written(table)
        assert "1e5" in written(table)


@pytest.mark.parametrize("stages", [1, 3])
def test_latex_is_a_tabular_without_bare_special_characters(stages):
    text = results.latex([make_table(stages)])
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert lines[0] == rf"\begin{{tabular}}{{l{'r' * stages}}}"
    assert lines[-1] == r"\end{tabular}"
    assert not re.search(r"(?<!\\)[_%]", "\n".join(lines))
    assert r"traffic\_light & 1.5" in text


def test_latex_takes_no_name_for_a_command():
    column = {("", r"a\b{c}~d^e"): ("&", "#1_$", "100%")}
    cells = results.text_table(column, ("x", "y", "z"), "line")
    text = results.latex([Table("c", cells)])
    assert r"a\textbackslash b\{c\}\textasciitilde d\textasciicircum e" in text
    assert r"x & \& \\" in text
    assert r"y & \#1\_\$ \\" in text
    assert r"z & 100\% \\" in text

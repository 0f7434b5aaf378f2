import math

import pytest

from lsr_jax.analysis import tables

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


def cells(table, heading, group=""):
    (column,) = (c for c in table.columns if (c.group, c.heading) == (group, heading))
    return column.cells


RUNNING, TARGET = "target val, running BN", "target val, target BN"


def test_summary_holds_every_stage_in_its_order(rows):
    (table,) = tables.summary(rows, control="batchnorm_only")
    assert cells(table, "stage") == (
        "source (source_only)",
        "batchnorm_only",
        "lsr",
        "oracle (target_only) *",
    )
    assert cells(table, "step") == ("1200", "500", "500", "900")
    assert cells(table, "mIoU", RUNNING) == ("37.1", "40.4", "40.4", "55.6")
    assert cells(table, "mIoU", TARGET) == ("36.5", "39.5", "40.8", "-")
    assert cells(table, "large", RUNNING) == ("47.1", "50.4", "50.4", "65.6")
    assert cells(table, "small", RUNNING) == ("27.1", "30.4", "30.4", "45.6")
    assert cells(table, "running BN", "source val") == ("60.2", "63.2", "63.1", "-")


def test_differences_are_signed_and_of_unrounded_numbers(rows):
    (table,) = tables.summary(rows, control="batchnorm_only")
    # 40.366 - 40.4 rounds to 0.0, without a minus sign.
    assert cells(table, "diff", RUNNING) == ("-3.3", "ref", "+0.0", "+15.2")
    assert cells(table, "diff", TARGET) == ("-3.0", "ref", "+1.3", "-")
    assert "diff: points above batchnorm_only" in table.caption


def test_differences_are_paired_by_seed(rows):
    rows += [make_row("lsr", 0.5, seed=1), make_row("max_square", 0.6, seed=2)]
    rows.append(make_row("batchnorm_only", 0.45, seed=1))
    (table,) = tables.summary(rows, control="batchnorm_only")
    found = dict(
        zip(
            zip(cells(table, "stage"), cells(table, "seed"), strict=True),
            cells(table, "diff", RUNNING),
            strict=True,
        )
    )
    assert found["lsr", "1"] == "+5.0"
    assert found["lsr", "0"] == "+0.0"
    assert found["max_square", "2"] == "-"


def test_what_is_shared_stands_in_the_caption(rows):
    (table,) = tables.summary(rows)
    assert "protocol native, seed 0, selection last" in table.caption
    headings = [column.heading for column in table.columns]
    assert "step" in headings
    assert not {"seed", "selection", "diff"} & set(headings)
    assert "target BN" not in headings  # no such row of the source domain

    rows[3]["selection"] = "oracle"
    (table,) = tables.summary(rows)
    assert "oracle" in cells(table, "selection")
    assert "selection" not in table.caption


def test_recorded_rows_are_marked_and_come_with_their_command(rows):
    for table in (*tables.summary(rows), tables.per_class(rows)[0]):
        ((remark, command),) = table.notes
        assert remark.startswith("oracle (target_only) *")
        assert command == COMMAND


def test_protocols_and_splits_never_share_a_table(rows):
    resized = [row | {"protocol": "resized"} for row in rows]
    test = [row | {"split": "test"} for row in rows]
    captions = [table.caption for table in tables.summary(rows + resized + test)]
    assert len(captions) == 3
    assert ["resized" in caption for caption in captions] == [False, False, True]


def test_a_repeated_evaluation_counts_once_with_its_last_value(rows):
    (table,) = tables.summary([*rows, make_row("lsr", 0.7)])
    assert cells(table, "mIoU", RUNNING)[2] == "70.0"


def test_per_class_has_classes_as_lines_and_stages_as_columns(rows):
    running, target, source = tables.per_class(rows)
    assert "target val, running BN" in running.caption
    assert "target val, target BN" in target.caption
    assert "source val, running BN" in source.caption
    assert cells(running, "class") == (
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
    assert running.rules == (0, 1, 4)
    assert [column.heading for column in source.columns[1:]] == [
        "source (source_only)",
        "batchnorm_only",
        "lsr",
    ]


def test_per_class_of_different_label_spaces_leaves_gaps(rows):
    rows[3]["iou"] = {"road": 0.8, "wall": 0.2}
    running = tables.per_class(rows)[0]
    found = dict(
        zip(cells(running, "class"), cells(running, "batchnorm_only"), strict=True)
    )
    assert found["wall"] == "20.0"
    assert found["pole"] == "-"


def test_source_splits_of_other_names_stand_beside_the_target(rows):
    for row in rows:
        if row["domain"] == "source":
            row["split"] = "val_lsr"
    (table,) = tables.summary(rows)
    assert cells(table, "running BN", "source val_lsr") == ("60.2", "63.2", "63.1", "-")
    assert cells(table, "mIoU", RUNNING)[0] == "37.1"
    # Alone they have a table of their own.
    (alone,) = tables.summary([row for row in rows if row["domain"] == "source"])
    assert [column.group for column in alone.columns[1:]] == ["", "source val_lsr"]


def test_every_choice_that_moves_the_number_stands_beside_it(rows):
    facts = {"averaging": "flip, logits", "same_as": "resized"}
    for number, row in enumerate(rows[:-1]):
        data = "d" * 64 if row["domain"] == "target" else "e" * 64
        row |= {**facts, "weights": f"{number // 3}" * 64, "data": data}
    for found in (tables.summary(rows), tables.per_class(rows)):
        assert "protocol native (= resized), seed 0" in found[0].caption
        assert "data dddddddd (target)" in found[0].caption
    (table,) = tables.summary(rows)
    assert "eeeeeeee (source)" in table.caption
    weights = "source (source_only) 00000000, batchnorm_only 11111111, lsr 22222222"
    assert table.notes[0] == ("weights", weights)
    assert "weights" not in [column.heading for column in table.columns]
    assert cells(table, "averaging") == (*["flip, logits"] * 3, "one view")
    assert cells(tables.per_class(rows)[0], "lsr")[2] == "2" * 8


def test_ratios_have_a_column_and_a_table(rows):
    rows[6] |= {"masr": 0.7, "asr": {"road": 0.8, "pole": 0.6}, "oracle": "published"}
    (table,) = tables.summary(rows)
    assert cells(table, "mASR", RUNNING) == ("-", "-", "70.0", "-")
    assert table.caption.endswith("; ASR: ratio to published")
    (ratios,) = tables.ratios(rows)
    assert cells(ratios, "class") == ("road", "pole", "mASR")
    assert cells(ratios, "lsr") == ("80.0", "60.0", "70.0")


def test_members_of_an_ensemble_are_named(rows):
    member = {"weight": 0.7, "stage": "adapt", "method": "clan", "seed": 0, "step": 9}
    member |= {"selection": "last", "weights": "a" * 64}
    rows[3]["members"] = [member]
    notes = dict(tables.summary(rows)[0].notes)
    assert notes["batchnorm_only: 0.7 of adapt"] == (
        "clan, seed 0, step 9, selection last, weights aaaaaaaa"
    )


def test_a_domain_without_native_labels_stands_under_both_protocols(rows):
    """Cityscapes has labels of its own size, GTA5's were prepared at the input's."""
    for row in rows:
        if row["domain"] == "source":
            row["same_as"] = "resized"
    resized = [r | {"protocol": "resized", "miou": 0.5} for r in rows[:2]]
    native, other = tables.summary([*rows, *resized])
    assert (
        "protocol native, seed 0" in native.caption
    )  # of the target it is not the same
    assert "protocol resized, seed 0" in other.caption
    assert cells(other, "mIoU", RUNNING) == ("50.0", "-", "-")
    assert cells(native, "running BN", "source val")[:3] == ("60.2", "63.2", "63.1")
    assert cells(other, "running BN", "source val") == ("60.2", "63.2", "63.1")

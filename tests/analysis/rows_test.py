import csv
import json
import math

import numpy as np
import pytest

from lsr_jax.analysis import rows
from lsr_jax.errors import InputError

CLASSES = ("road", "car", "pole")
# Truth: 8 road, 4 car; pole is absent.
MATRIX = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])


@pytest.fixture
def row():
    return rows.make(
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
    assert tuple(row)[:9] == rows.IDENTITY
    assert row["iou"]["road"] == 6 / 9
    assert row["iou"]["car"] == 3 / 6
    assert math.isnan(row["iou"]["pole"])
    assert row["miou"] == row["miou_large"] == pytest.approx(7 / 12)
    assert math.isnan(row["miou_small"])
    assert row["pixel_accuracy"] == 9 / 12
    assert row["iou_std"] == pytest.approx(1 / 12)
    assert row["weights"] == "ab12"
    measures = set(row) - set(rows.IDENTITY) - {*rows.BY_CLASS, "weights"}
    assert all(map(rows.is_measure, measures))
    assert not any(map(rows.is_measure, (*rows.IDENTITY, "iou", "weights")))


def test_json_round_trip_keeps_nan_and_none(row, tmp_path):
    path = tmp_path / "report" / "metrics.json"
    written = [row, {**row, "seed": None, "recorded": "python train.py"}]
    rows.write(path, written)
    stored = json.loads(path.read_text())
    assert stored[0]["iou"]["pole"] is None
    assert stored[0]["step"] == 500
    # Equality up to NaN, keys in the same order.
    np.testing.assert_equal(rows.read(path), written)
    assert list(rows.read(path)[0]) == list(row)
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "found no file"),
        ("[{", "expected JSON"),
        ('{"miou": 1}', "expected a list of rows"),
        ('[{"stage": "adapt"}]', "expected 'method' in row 0"),
    ],
)
def test_reading_something_else_is_one_line(text, complaint, tmp_path):
    path = tmp_path / "metrics.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=complaint) as caught:
        rows.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_csv_has_a_column_for_every_class(row):
    other = {**row, "recorded": "python train.py"}
    first, second = csv.DictReader(rows.to_csv([row, other]).splitlines())
    assert float(first["iou_road"]) == 6 / 9
    assert first["iou_pole"] == first["miou_small"] == first["recorded"] == ""
    assert second["recorded"] == "python train.py"
    assert "iou" not in first


def test_ratios_to_an_oracle_survive_the_file(row, tmp_path):
    ratio = rows.with_asr(
        row, {"road": 0.8, "pole": 0.5}, oracle="o", subsets={"13": (0, 2), "large": ()}
    )
    assert ratio["asr"]["road"] == pytest.approx(6 / 9 / 0.8)
    assert math.isnan(ratio["asr"]["car"])  # the oracle does not know it
    assert ratio["masr"] == ratio["masr_13"] == ratio["asr"]["road"]
    rows.write(tmp_path / "metrics.json", [ratio])
    np.testing.assert_equal(rows.read(tmp_path / "metrics.json"), [ratio])
    (line,) = csv.DictReader(rows.to_csv([ratio]).splitlines())
    assert float(line["asr_road"]) == ratio["asr"]["road"]
    assert line["asr_car"] == ""
    assert float(line["precision_road"]) == 6 / 7
    assert float(line["accuracy_car"]) == 3 / 4


def test_members_of_an_ensemble_are_json_in_the_csv(row):
    members = [{"weight": 0.7, "stage": "adapt"}]
    (line,) = csv.DictReader(rows.to_csv([{**row, "members": members}]).splitlines())
    assert json.loads(line["members"]) == members

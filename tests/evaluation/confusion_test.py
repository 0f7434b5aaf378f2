"""Hand matrices, a slow twin, the originals' numbers and the papers' rows."""

import chex
import jax
import numpy as np
import pytest
import recorded

from lsr_jax.evaluation import confusion

GOLDENS = np.load(recorded.GOLDENS / "eval.npz")

# Truth 0: 3 right, 1 as class 1. Truth 1: 2 as class 0, 4 right. Class 2: absent.
HAND = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])


def slow_confusion(labels, predictions, num_classes, valid):
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for label, prediction, counted in zip(labels, predictions, valid, strict=True):
        for true, guess in zip(label.ravel(), prediction.ravel(), strict=True):
            if counted and true < num_classes:
                matrix[true, guess] += 1
    return matrix


def test_confusion_equals_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 4, 255], size=(4, 5, 7)).astype(np.uint8)
    predictions = rng.integers(0, 5, labels.shape).astype(np.uint8)
    count = jax.jit(
        chex.assert_max_traces(confusion.confusion_matrix, 1), static_argnums=2
    )
    for valid in ([True] * 4, [True, False, True, False], [False] * 4):
        matrix = count(labels, predictions, 5, np.array(valid))
        assert matrix.dtype == np.int32
        np.testing.assert_array_equal(
            matrix, slow_confusion(labels, predictions, 5, valid)
        )


def test_values_outside_the_classes_drop_out():
    labels = np.array([[[0, 1, -1, 255, 3]]], np.int32)
    predictions = np.array([[[1, 7, 0, 0, 0]]], np.int32)
    matrix = np.asarray(confusion.confusion_matrix(labels, predictions, 3))
    assert matrix.sum() == 1
    assert matrix[0, 1] == 1


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(1, 2, 2\).*\(1, 2, 3\)"):
        confusion.confusion_matrix(
            np.zeros((1, 2, 2), int), np.zeros((1, 2, 3), int), 3
        )
    with pytest.raises(ValueError, match=r"\[C, C\]"):
        confusion.iou(np.zeros((2, 3)))


def test_hand_matrix():
    np.testing.assert_allclose(confusion.iou(HAND), [3 / 6, 4 / 7, np.nan])
    np.testing.assert_allclose(confusion.class_accuracy(HAND), [3 / 4, 4 / 6, np.nan])
    np.testing.assert_allclose(confusion.precision(HAND), [3 / 5, 4 / 5, np.nan])
    assert confusion.pixel_accuracy(HAND) == 7 / 10
    assert confusion.mean_iou(HAND) == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert confusion.mean_iou(confusion.iou(HAND)) == confusion.mean_iou(HAND)
    assert confusion.mean_iou(HAND, classes=(1, 2)) == pytest.approx(4 / 7)
    assert confusion.mean(confusion.class_accuracy(HAND)) == pytest.approx(
        (3 / 4 + 4 / 6) / 2
    )
    assert confusion.mean(confusion.precision(HAND), classes=(0,)) == pytest.approx(
        3 / 5
    )
    assert confusion.frequency_weighted_iou(HAND) == pytest.approx(
        0.4 / 2 + 0.6 * 4 / 7
    )
    assert confusion.frequency_weighted_iou(HAND, (0, 2)) == pytest.approx(0.4 / 2)
    assert confusion.population_std(confusion.iou(HAND)) == pytest.approx(1 / 28)


def test_a_class_only_predicted_scores_zero_and_an_absent_one_nothing():
    matrix = np.array([[2, 1, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(confusion.iou(matrix), [2 / 3, 0, np.nan])
    assert confusion.mean_iou(matrix) == pytest.approx(1 / 3)
    assert np.isnan(confusion.mean_iou(matrix, classes=(2,)))


def test_no_pixels_at_all():
    empty = np.zeros((3, 3), np.int64)
    assert confusion.pixel_accuracy(empty) == GOLDENS["empty_PA"] == 0
    assert np.isnan(confusion.iou(empty)).all()
    assert np.isnan(confusion.mean_iou(empty))
    assert np.isnan(confusion.frequency_weighted_iou(empty))
    assert np.isnan(confusion.population_std(confusion.iou(empty)))


SUBSETS = {
    "16of19": tuple(GOLDENS["set_16_of_19"]),
    "13of19": tuple(GOLDENS["set_13_of_19"]),
    "13": tuple(GOLDENS["set_13_of_16"]),
}
MEASURES = {
    "MPA": lambda matrix, *classes: confusion.mean(
        confusion.class_accuracy(matrix), *classes
    ),
    "MIoU": confusion.mean_iou,
    "FWIoU": confusion.frequency_weighted_iou,
    "PC": lambda matrix, *classes: confusion.mean(
        confusion.precision(matrix), *classes
    ),
    "PA": confusion.pixel_accuracy,
    "IoU_per_class": confusion.iou,
    "PA_per_class": confusion.class_accuracy,
    "PC_per_class": confusion.precision,
    "cag_FreqW_Acc": confusion.frequency_weighted_iou,
    "cag_mean_iou": confusion.mean_iou,
}


def golden_measure(key):
    """``(prefix, measure, classes)`` of a golden key; raises for an unknown one."""
    prefix, name = key.split("__")
    if name in MEASURES:
        return prefix, MEASURES[name], ()
    name, subset = name.rsplit("_", 1)
    return prefix, MEASURES[name], (SUBSETS[subset],)


@pytest.mark.golden("eval", "c\\d+__(gt|pred|confusion)")
@pytest.mark.parametrize("classes", [19, 16, 13])
def test_golden_confusion(golden, classes):
    golden.only(f"c{classes}__.*")
    matrix = confusion.confusion_matrix(
        golden[f"c{classes}__gt"], golden[f"c{classes}__pred"], classes
    )
    golden.equals(f"c{classes}__confusion", matrix)


@pytest.mark.golden("eval", "c\\d+__(?!gt|pred).*", "empty_PA", "set_.*")
def test_golden_measures(golden):
    golden.used("set_16_of_19", "set_13_of_19", "set_13_of_16")
    golden.equals("empty_PA", confusion.pixel_accuracy(np.zeros((3, 3))))
    keys = {
        key for key in golden.arrays if "__" in key and not key.endswith("__confusion")
    }
    assert len(keys) == 38
    for key in sorted(keys):
        prefix, measure, classes = golden_measure(key)
        value = measure(golden[f"{prefix}__confusion"], *classes)
        golden.holds(key, value, 1e-12)


def test_the_subsets_of_the_literature_are_rows_of_the_same_matrix():
    matrix = GOLDENS["c19__confusion"]
    of_19, of_16 = SUBSETS["13of19"], SUBSETS["13"]
    assert tuple(np.take(SUBSETS["16of19"], of_16)) == of_19
    cut = matrix[np.ix_(of_19, of_19)]
    assert confusion.mean_iou(cut) > confusion.mean_iou(matrix, of_19)


def published(row):
    return np.array([float(value) for value in row.split()])


ORACLE = published(
    "96.5 73.8 88.4 42.2 43.7 40.7 46.1 58.6 88.5 54.9 "
    "91.9 68.7 46.2 90.7 68.8 69.9 48.8 47.6 64.5"
)
GTA5 = {
    "oracle": (ORACLE, 64.8, 100),
    "source_only": (
        published(
            "71.4 15.3 74.0 21.1 14.4 22.8 33.9 18.6 80.7 20.9 "
            "68.5 56.6 27.1 67.4 32.8 5.6 7.7 28.4 33.8"
        ),
        36.9,
        54.0,
    ),
    "min_entropy": (
        published(
            "84.4 18.7 80.6 23.8 23.2 28.4 36.9 23.4 83.2 25.2 "
            "79.4 59.0 29.9 78.5 33.7 29.6 1.7 29.9 33.6"
        ),
        42.3,
        61.9,
    ),
    "oce": (
        published(
            "89.4 30.7 82.1 23.0 22.0 29.2 37.6 31.7 83.9 37.9 "
            "78.3 60.7 27.4 84.6 37.6 44.7 7.3 26.0 38.9"
        ),
        45.9,
        67.3,
    ),
}
SYNTHIA = {
    "source_only": (
        published(
            "17.7 15.0 74.3 10.1 0.1 25.5 6.3 10.2 75.5 77.9 "
            "57.1 19.2 31.2 31.2 10.0 20.1"
        ),
        (30.1, 34.3),
        (41.7, 44.6),
    ),
    "max_square": (
        published(
            "78.9 33.5 75.3 15.0 0.3 27.5 13.1 16.7 73.8 77.7 "
            "50.4 19.9 66.7 36.1 13.7 32.1"
        ),
        (39.4, 45.2),
        (53.8, 58.3),
    ),
}


# 0.06: papers print one decimal, of means over values printed with one decimal.
@pytest.mark.parametrize("name", GTA5)
def test_published_rows_of_gta5_to_cityscapes(name):
    row, miou, masr = GTA5[name]
    assert confusion.mean_iou(row) == pytest.approx(miou, abs=0.06)
    assert 100 * confusion.mean(confusion.asr(row, ORACLE)) == pytest.approx(
        masr, abs=0.06
    )


@pytest.mark.parametrize("name", SYNTHIA)
def test_published_rows_of_synthia_to_cityscapes(name):
    row, mious, masrs = SYNTHIA[name]
    oracle = ORACLE[list(SUBSETS["16of19"])]
    for classes, miou, masr in zip((None, SUBSETS["13"]), mious, masrs, strict=True):
        assert confusion.mean_iou(row, classes) == pytest.approx(miou, abs=0.06)
        assert 100 * confusion.mean(
            confusion.asr(row, oracle), classes
        ) == pytest.approx(masr, abs=0.06)


def test_published_std_is_that_of_the_population():
    assert confusion.population_std(GTA5["oce"][0]) == pytest.approx(24.82, abs=0.006)


def test_asr_leaves_out_what_the_oracle_does_not_know():
    ratio = confusion.asr(np.array([0.2, 0.3, 0.1]), np.array([0.4, np.nan, 0.0]))
    np.testing.assert_array_equal(ratio, [0.5, np.nan, np.nan])
    assert confusion.mean(confusion.asr([0.2, 0.3], [0.4, 0.3])) == pytest.approx(0.75)

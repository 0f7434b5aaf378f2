"""Label spaces: the tables of the papers, ids to classes, colours."""

import numpy as np
import pytest

from lsr_jax import types
from lsr_jax.data import label_spaces


def test_ignore_is_that_of_the_types():
    assert label_spaces.IGNORE == types.IGNORE


def test_rows_are_in_the_order_of_their_train_ids():
    assert [row.train_id for row in label_spaces.CLASSES] == list(range(19))
    ids = [row.cityscapes_id for row in label_spaces.CLASSES]
    assert ids == sorted(ids)
    assert len(set(ids)) == 19
    assert len({row.color for row in label_spaces.CLASSES}) == 19


def test_large_and_small_classes_partition_the_19():
    space = label_spaces.SPACES["streets"]
    assert space.subsets()["large"] == (0, 1, 2, 8, 9, 10, 13, 14, 15, 16)
    assert space.subsets()["small"] == (3, 4, 5, 6, 7, 11, 12, 17, 18)


@pytest.mark.parametrize(
    ("space", "raw", "name"),
    [
        ("streets", 18, "bicycle"),
        ("cityscapes", 7, "road"),
        ("cityscapes", 31, "train"),
        ("synthia", 3, "road"),
        ("synthia", 12, "motorcycle"),
        ("synthia16", 21, "wall"),
        ("synthia13", 11, "bicycle"),
        ("cityscapes13", 28, "bus"),
    ],
)
def test_raw_ids_become_classes(space, raw, name):
    space = label_spaces.SPACES[space]
    encoded = space.encode(np.array([raw], np.uint8))[0]
    assert space.classes[encoded] == name
    assert (
        space.colors[encoded]
        == dict(zip(label_spaces.NAMES, _colors(), strict=True))[name]
    )


def _colors():
    return [row.color for row in label_spaces.CLASSES]


@pytest.mark.parametrize("space", label_spaces.SPACES.values(), ids=lambda s: s.name)
def test_every_class_has_exactly_one_id(space):
    found = np.sort(space.lut[space.lut != label_spaces.IGNORE])
    names = space.classes
    if "camvid" in space.name:
        names = label_spaces.CAMVID_IDS.values()
    if space.name == "synthia16of19":
        names = label_spaces.NAMES_16
    expected = label_spaces.indices(space.classes, names)
    np.testing.assert_array_equal(found, expected)
    assert len(expected) == len(names)
    assert space.lut[255] == label_spaces.IGNORE
    assert not space.lut.flags.writeable


def test_subsets_leave_out_the_classes_of_the_papers():
    cityscapes, synthia = (
        label_spaces.SPACES["cityscapes16"],
        label_spaces.SPACES["synthia13"],
    )
    train_ids = [label_spaces.TRAIN_ID[name] for name in cityscapes.classes]
    assert train_ids == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18]
    assert [label_spaces.TRAIN_ID[name] for name in synthia.classes] == (
        [0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18]
    )
    assert cityscapes.encode(np.uint8(22)) == label_spaces.IGNORE  # terrain
    inside = (0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    assert cityscapes.subsets()["13"] == inside


def test_colorize_paints_classes_and_leaves_void_black():
    label = np.array([[0, 10], [18, 255]], np.uint8)
    picture = label_spaces.colorize(label, label_spaces.SPACES["cityscapes"])
    assert picture.dtype == np.uint8
    expected = [[(128, 64, 128), (70, 130, 180)], [(119, 11, 32), (0, 0, 0)]]
    np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize("wrong", [16, -1, 254])
def test_colorize_raises_for_a_label_outside_the_space(wrong):
    with pytest.raises(ValueError, match=f"label {wrong} is not one of the 16"):
        label_spaces.colorize(np.array([0, wrong]), label_spaces.SPACES["synthia16"])

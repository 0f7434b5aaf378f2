import pytest

from lsr_jax.data import label_spaces
from lsr_jax.data.layouts import LABEL_FORMATS, LAYOUTS


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_agree_with_the_label_spaces(name):
    layout = LAYOUTS[name]
    assert layout.name == name
    assert layout.label_format in LABEL_FORMATS
    assert not layout.ignored & layout.ids.keys()
    for space in layout.spaces:
        if space == "synthia16of19":  # leaves three classes without labels
            continue
        for raw, class_name in layout.ids.items():
            classes = label_spaces.SPACES[space].classes
            index = classes.index(class_name) if class_name in classes else 255
            assert label_spaces.SPACES[space].lut[raw] == index
        for raw in layout.ignored:
            assert label_spaces.SPACES[space].lut[raw] == 255
    for subset in layout.subsets.values():
        assert subset.part in layout.parts


def test_official_counts():
    counts = {
        name: [part.count for part in layout.parts.values()]
        for name, layout in LAYOUTS.items()
    }
    assert counts == {
        "gta5": [24966],
        "synthia_rand_cityscapes": [9400],
        "cityscapes": [2975, 500, 19998],
        "cross_city": [3200, 100] * 4,
        "urbansyn": [7500],
        "camvid": [367, 101, 233],
    }

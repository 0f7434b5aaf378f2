import dataclasses

import pytest

from lsr_jax.data import listing
from lsr_jax.data.image_io import Pair
from lsr_jax.data.layouts import LAYOUTS, Subset
from lsr_jax.errors import InputError

NAMES = [f"{i:05d}" for i in range(9400)]


def test_a_rule_holds_out_the_published_numbers():
    counts = {
        "synthia_rand_cityscapes": (9400, 8057, 1343),
        "cityscapes": (2975, 2479, 496),
        "gta5": (24904, 21346, 3558),
    }
    for name, (total, train, held) in counts.items():
        names = [str(i) for i in range(total)]
        kept = listing.choose(LAYOUTS[name], "train_lsr", names, "")
        out = listing.choose(LAYOUTS[name], "val_lsr", names, "")
        assert (len(kept), len(out)) == (train, held)
        assert sorted(kept + out) == sorted(names)


def test_the_rule_is_that_of_its_docstring():
    fifth = {"fifth": Subset("train", 1, 5, held_out=True)}
    layout = dataclasses.replace(LAYOUTS["gta5"], subsets=fifth)
    assert listing.choose(layout, "fifth", NAMES[:10], "") == ["00004", "00009"]
    assert listing.choose(layout, "train", NAMES[:3], "") == NAMES[:3]
    with pytest.raises(
        InputError, match=r"^here: .*'fifth', found none among the 3 of"
    ):
        listing.choose(layout, "fifth", NAMES[:3], "here")


@pytest.mark.parametrize("name", LAYOUTS)
def test_pairs_are_found(name, downloads):
    layout = LAYOUTS[name]
    files = listing.open_files(layout, downloads / name)
    found = {
        split: listing.list_part(files, part) for split, part in layout.parts.items()
    }
    counts = {split: len(one.pairs) for split, one in found.items() if one.pairs}
    assert (
        counts
        == {
            "gta5": {"train": 8},
            "synthia_rand_cityscapes": {"train": 8},
            "cityscapes": {"train": 7, "val": 3},
            "cross_city": {
                "rome_train": 4,
                "rome_test": 3,
                "rio_train": 4,
                "rio_test": 3,
            },
        }[name]
    )
    for split, one in found.items():
        assert not one.problems
        assert list(one.pairs) == sorted(one.pairs)
        labelled = layout.parts[split].labels is not None
        assert all((pair.label is not None) == labelled for pair in one.pairs)


def test_zips_hold_what_the_folders_hold(downloads):
    layout = LAYOUTS["cityscapes"]
    listings = [
        listing.list_part(
            listing.open_files(layout, downloads / name), layout.parts["train"]
        )
        for name in ("cityscapes", "zips")
    ]
    assert listings[0] == listings[1]


def test_a_missing_folder_is_one_line_with_the_commands(tmp_path):
    for root, found in ((tmp_path / "none", "no such folder"), (tmp_path, "none of")):
        with pytest.raises(InputError, match=f"^{root}: .*images/.*{found}") as caught:
            listing.open_files(LAYOUTS["gta5"], root)
        text = str(caught.value)
        assert f"python -m lsr_jax.data.check gta5 --root {root}" in text
        assert f"python -m lsr_jax.data.prepare gta5 --root {root}" in text
        assert "\n" not in text


def test_lists_of_the_originals(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(
        "/images/1.png\t/labels/1.png\n\nimages/2.png labels/2.png\nx.png\n"
    )
    assert listing.read_list(path) == [
        Pair("images/1.png", "labels/1.png"),
        Pair("images/2.png", "labels/2.png"),
        Pair("x.png", None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("../up.png x.png\n", "not below"),
        ("a.png ../../up.png\n", "not below"),
        ("a.png b.png c.png\n", "line 1: .* found 3 words"),
        ("\n\n", "has no 'image label' lines"),
    ],
)
def test_bad_lists(text, message, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        listing.read_list(path)


def test_no_list_and_no_split(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt: cannot be read as a list"):
        listing.read_list(tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"train_lsr.*found 'vall'"):
        listing.part_of(LAYOUTS["gta5"], "vall")

import dataclasses

import pytest

from lsr_jax.data import listing
from lsr_jax.data.archives import Folder
from lsr_jax.data.image_io import Pair
from lsr_jax.data.layouts import LAYOUTS, Part, Subset
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
            "urbansyn": {"train": 7},
            "camvid": {"train": 4, "val": 3},
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


class ListFile:
    """Reads lists over a folder of files in a layout, which are empty."""

    def __init__(self, layout, root, names):
        self.layout, self.root = layout, root
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        files = Folder(root)
        found = listing.list_parts(files, layout).values()
        self.labels = {
            pair.image: pair[1:] if pair.label else ()
            for f in found
            for pair in f.pairs
        }
        self.exists = files.exists

    def __call__(self, text):
        path = self.root.parent / "list.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return listing.read_list(path, self.layout, self.root, self.labels, self.exists)


GTA5_NAMES = [
    f"{d}/{i:05d}.png" for d in ("images", "labels", "pseudo") for i in (1, 2)
]
PORTS = dataclasses.replace(
    LAYOUTS["gta5"],
    parts={
        "train": Part("photos/*/*.jpg", "masks/*/*.png"),
        "loose": Part("loose/*.png", None),
    },
)


@pytest.fixture
def gta5(tmp_path):
    return ListFile(LAYOUTS["gta5"], tmp_path / "gta5", GTA5_NAMES)


@pytest.fixture
def ports(tmp_path):
    names = [f"{name}/{i}" for name in ("my sea", "sea", "bay") for i in (1, 2)]
    files = [
        f"{d}/{n}.{e}" for n in names for d, e in (("photos", "jpg"), ("masks", "png"))
    ]
    files += ["loose/9.png", "my photo.png", "own/sea/1.png"]
    return ListFile(PORTS, tmp_path / "ports", files)


def gta5_pairs(*numbers, labels="labels"):
    return [Pair(f"images/{i:05d}.png", f"{labels}/{i:05d}.png") for i in numbers]


PLAIN = "images/00001.png labels/00001.png\nimages/00002.png labels/00002.png\n"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace("images", "/images").replace("labels", "/labels"),
        PLAIN.replace(" ", "\t"),
        PLAIN.replace("\n", "\r\n\r\n"),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.replace("/", "\\"),
        PLAIN.replace("images", "./images"),
        PLAIN.replace("images", "/data/GTA5/images").replace(
            "labels", "/data/GTA5/labels"
        ),
        PLAIN.replace("images", "C:\\GTA5\\images").replace(
            "labels", "C:\\GTA5\\labels"
        ),
        PLAIN.replace("images", "gta5/images").replace("labels", "gta5/labels"),
        "00001.png 00001.png\n00002.png 00002.png\n",
        "00001.png\n00002.png\n",
        "00001\n00002",
        "images/00001.png\nimages/00002.png",
        "/data/GTA5/images/00001.png\n/data/GTA5/images/00002.png",
    ],
)
def test_one_list_in_all_the_ways_to_write_it(text, gta5):
    assert gta5(text) == gta5_pairs(1, 2)


def test_absolute_paths_and_labels_of_its_own(gta5):
    text = PLAIN.replace("images", f"{gta5.root}/images")
    assert gta5(text.replace("labels", f"{gta5.root}/pseudo")) == gta5_pairs(
        1, 2, labels="pseudo"
    )
    assert gta5(PLAIN.replace("labels", "pseudo")) == gta5_pairs(1, 2, labels="pseudo")


def test_lists_of_the_repositories(tmp_path):
    """LSR: below fine/rgb; AdaptSegNet: below the split; MaxSquare: ids alone."""
    stem = "aachen/aachen_000000_000019"
    image, label = f"{stem}_leftImg8bit.png", f"{stem}_gtFine_labelIds.png"
    pair = Pair(f"leftImg8bit/train/{image}", f"gtFine/train/{label}")
    read = ListFile(LAYOUTS["cityscapes"], tmp_path / "cityscapes", pair)
    assert read(f"fine/rgb/train/{image} fine/gt/train/{label}\n") == [pair]
    assert read(f"train/{image}") == read(image) == read(stem) == [pair]
    names = ("Rio/Images/Test/pano_0.jpg", "Rio/Labels/Test/pano_0_eval.png")
    read = ListFile(LAYOUTS["cross_city"], tmp_path / "cross_city", names)
    assert read("pano_0") == read("/NTHU/Rio/Images/Test/pano_0.jpg") == [Pair(*names)]


def test_names_with_spaces(ports):
    pair = Pair("photos/my sea/1.jpg", "masks/my sea/1.png")
    for text in ("{} {}", "{}\t{}", "'{}' '{}'", '"{}" "{}"', '"{}"\t"{}"'):
        assert ports(text.format(*pair)) == [pair]
    assert ports("my photo.png") == [Pair("my photo.png", None)]
    assert ports("loose/9.png") == [Pair("loose/9.png", None)]
    assert ports("photos/my sea/1.jpg") == [pair]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("../up.png sea/1.jpg\n", "line 1: '../up.png': not below the data folder"),
        ("sea/1.jpg ../../up.png\n", "not below"),
        ("a.png b.png c.png\n", "line 1: .* found 3 words, .*; put a tab"),
        ("\n\n", "has no 'image label' lines"),
        ("1.jpg", "'1.jpg': could be photos/bay/1.jpg and photos/my sea/1.jpg; write"),
        ("sea/1.jpg\nsea/3.jpg", "line 2: 'sea/3.jpg': no such file below .*ports,"),
        # Neither of these is an image of the folder bay.
        ("photos/lake/1.jpg", "'photos/lake/1.jpg': no such file"),
        ("photos/lake/9.png", "'photos/lake/9.png': no such file"),
        ("sea/1.jpg pseudo/sea/1.png", "'pseudo/sea/1.png': no such label file"),
        # The same picture in the other's folders, whose labels may be others.
        (
            "/a/photos/sea/1.jpg /b/masks/sea/1.png",
            "'/b/masks/sea/1.png': no such label",
        ),
        (
            "/a/photos/sea/1.jpg\n/b/photos/sea/1.jpg",
            "line 2.*expected 'a/' .* found 'b/'",
        ),
        ("photos/sea/1.jpg\n/b/photos/sea/1.jpg", "expected 'no folder' in front"),
        # Else the own label would be taken for folders in front of the image.
        ("photos/sea/1.jpg,photos/sea/1.jpg", "line 1: .*: no such file"),
        ("photos/bay/1.jpg;photos/sea/1.jpg", "line 1: .*: no such file"),
        ("sea/1|photos/sea/1", "line 1: .*: no such file"),
    ],
)
def test_bad_lists(text, message, ports):
    with pytest.raises(InputError, match=message) as caught:
        ports(text)
    assert "\n" not in str(caught.value)


def test_a_list_names_files_of_its_data_set_only(ports, tmp_path):
    other = tmp_path / "elsewhere" / "masks" / "sea" / "1.png"
    other.parent.mkdir(parents=True)
    other.touch()
    with pytest.raises(InputError, match=f"line 1: '{other}': is outside of"):
        ports(f"photos/sea/1.jpg {other}")


def test_no_list_and_no_split(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt: cannot be read as a list"):
        listing.read_list(tmp_path / "none.txt", LAYOUTS["gta5"], tmp_path, {}, None)
    with pytest.raises(InputError, match=r"train_lsr.*found 'vall'"):
        listing.part_of(LAYOUTS["gta5"], "vall")


def test_what_is_not_used_is_named(tmp_path):
    layout = dataclasses.replace(
        LAYOUTS["gta5"], parts={"train": Part("images/*.png", "labels/*.png", 2)}
    )
    names = [*GTA5_NAMES, "images/3.JPG", "images/00001.jpg", "images/notes.csv"]
    read = ListFile(layout, tmp_path / "gta5", names)
    files = Folder(read.root)
    found = listing.list_part(files, layout.parts["train"])
    (line,) = listing.warnings(files, layout, "train", found)
    assert line == (
        "gta5 train: 1 image files do not fit images/*.png and are not used, first: "
        f"{read.root}/images/3.JPG"
    )
    (read.root / "images" / "00002.png").unlink()
    found = listing.list_part(files, layout.parts["train"])
    first, _ = listing.warnings(files, layout, "train", found)
    assert first == (
        "gta5 train: expected 2 images, as are published, found 1; the parts that are "
        "held out differ too"
    )

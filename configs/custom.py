"""Your own data to your own data, each described by a JSON file, see docs/your_data.md.

    python train.py --config configs/custom.py:source.json,target.json            LSR
    python train.py --config configs/custom.py:ports.json,ports.json,max_square,resnet50
    python train.py --config configs/custom.py:source.json,target.json,lsr,tiny

The words after the descriptions are those of configs/gta2cs.py, whose recipes and weights
of the terms are used; OCE's sums are weighted for the sizes and classes of the data.
Folders, sizes, classes and splits are those of the descriptions: the split "train" is
trained on and "val" is reported, else the first and the last one.

If all class names are Cityscapes', the network learns the smallest of its sets of 13, 16 or
19 classes that has them all; else the classes as they are described, which must be the same
for both.
"""

from lsr_jax.configs import common, gta2cs, real
from lsr_jax.configs.overlays import Overlay, merge
from lsr_jax.data import custom, label_spaces

ORIGIN = "configs/custom.py"


def overlays(argument=None):
    words = (argument or "").split(",")
    names = [word for word in words if word.endswith(custom.SUFFIX)]
    if len(names) != 2:
        raise ValueError(
            f"config argument: expected SOURCE.json,TARGET.json, found {len(names)} "
            "descriptions; see docs/your_data.md"
        )
    chosen = common.parse(",".join(word for word in words if word not in names))
    layouts = dict(zip(real.DOMAINS, map(custom.read, names), strict=True))
    space, classes = label_space(layouts.values())
    values = {"model.num_classes": classes}
    for (domain, layout), name in zip(layouts.items(), names, strict=True):
        if layout.size is None and not chosen.tiny:
            raise ValueError(
                f'{name}: "size": expected WIDTHxHEIGHT of the network\'s input, found '
                "nothing; add it"
            )
        parts = tuple(layout.parts)
        values |= {
            f"data.{domain}.name": name,
            f"data.{domain}.root": layout.root,
            f"data.{domain}.space": space,
            f"data.{domain}.size": layout.size or (0, 0),
            f"data.{domain}.train": "train" if "train" in parts else parts[0],
            f"data.{domain}.val": "val" if "val" in parts else parts[-1],
        }
    pair = Overlay(ORIGIN, values)
    sizes = [layout.size or real.TINY for layout in layouts.values()]
    return real.overlays(
        chosen,
        pair,
        weights={**gta2cs.WEIGHTS, **sums(sizes, classes)},
        sizes={},
        class_frequency="none",
    )


def get_config(argument=None):
    return merge(*overlays(argument))


def label_space(layouts):
    """The key of `label_spaces.SPACES` that has all classes, "" for their own; and ``C``."""
    names = {name for layout in layouts for name in layout.classes}
    names -= set(label_spaces.VOID_NAMES)
    for space in ("cityscapes13", "cityscapes16", "cityscapes"):
        if names <= set(label_spaces.SPACES[space].classes):
            return space, label_spaces.SPACES[space].num_classes
    return "", max(len(layout.classes) for layout in layouts)


def sums(sizes, classes):
    """The weights of OCE's sums over the features of both domains."""
    resnet = sum((height // 8 + 1) * (width // 8 + 1) for height, width in sizes)
    vgg = sum((height // 8) * (width // 8) for height, width in sizes)
    return {
        "oce,paper": common.oce_sums(
            gta2cs.OCE, features=resnet, channels=2048, classes=classes
        ),
        "oce,paper,vgg": common.oce_sums(
            gta2cs.OCE_VGG, features=vgg, channels=1024, classes=classes
        ),
    }

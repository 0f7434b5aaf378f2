"""Cityscapes to Cross-City (NTHU), 13 classes: DeepLabV2-ResNet101.

    python train.py --config configs/cs2crosscity.py               LSR, to Rome
    python train.py --config configs/cs2crosscity.py:lsr,tokyo     rome, rio, tokyo, taipei
    python train.py --config configs/cs2crosscity.py:max_square    any name in METHODS
    python train.py --config configs/cs2crosscity.py:lsr,tiny      small and short
    python train.py --config configs/cs2crosscity.py:batchnorm_only,like=max_square
                                                                   the control of MaxSquare

See configs/gta2cs.py for presets, `like=METHOD` and VGG backbones. Expects
data/cityscapes and data/cross_city (with the folders Rome, Rio, Tokyo, Taipei) as
downloaded, or prepared at the sizes below. Needs a GPU; LSR used one Titan RTX. Time and
accuracy have not been measured here.

Published mIoU on the 100 test images of Rome / Rio / Tokyo / Taipei with ResNet101:
source only 51.0 / 48.9 / 47.8 / 46.3, MaxSquare 53.9 / 52.0 / 49.7 / 49.8, with image-wise
weighting 54.5 / 53.3 / 50.5 / 50.6 (README of MaxSquareLoss, at 1024x512). LSR has commands
for this pair, but no scores.
"""

from lsr_jax.configs import common, gta2cs, real
from lsr_jax.configs.overlays import Overlay, merge

CITIES = ("rome", "rio", "tokyo", "taipei")
# The weights of MaxSquare's paper and of LSR's README are those of GTA5. The others are
# not published here and have them too.
WEIGHTS = {
    **gta2cs.WEIGHTS,
    "max_square": {**gta2cs.WEIGHTS["max_square"], "threshold": 0.98},
    "oce,paper": common.oce_sums(
        gta2cs.OCE, features=16_770, channels=2048, classes=13
    ),
    "oce,paper,vgg": common.oce_sums(
        gta2cs.OCE_VGG, features=16_384, channels=1024, classes=13
    ),
}
# (H, W) of images that differ from those below.
SIZES = {
    "lsr,released": {"source": (640, 1280), "target": (640, 1280)},
    **{
        name: {"source": (1024, 2048), "target": (1024, 2048)}
        for name in ("cag", "dacs,hrda", "dacs,mic")
    },
}


PAIR = {
    "data.source.name": "cityscapes",
    "data.source.root": "data/cityscapes",
    "data.source.space": "cityscapes13",
    "data.source.size": (512, 1024),
    "data.target.name": "cross_city",
    "data.target.root": "data/cross_city",
    "data.target.space": "cityscapes13",
    "data.target.size": (512, 1024),
    "model.num_classes": 13,
}


def overlays(argument=None):
    chosen = common.parse(argument, presets=CITIES)
    city = chosen.preset or CITIES[0]
    lists = {"data.target.train": f"{city}_train", "data.target.val": f"{city}_test"}
    pair = Overlay("configs/cs2crosscity.py", {**PAIR, **lists})
    return real.overlays(
        chosen, pair, weights=WEIGHTS, sizes=SIZES, class_frequency="cityscapes13"
    )


def get_config(argument=None):
    return merge(*overlays(argument))

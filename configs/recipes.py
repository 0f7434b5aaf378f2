"""How each method is trained in its paper or released code, whatever the domain pair.

Networks, initial weights, schedules, augmentation and splits; the weights of the terms
belong to the pairs. Steps are those of the released commands, with the horizon of the
polynomial decay, which is often longer.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

# Files that `init_from` of the first stage names; they are not part of this project.
INITIAL = {
    "torchvision": {
        "resnet50": "weights/resnet50-19c8e357.pth",
        "resnet101": "weights/resnet101-5d3b4d8f.pth",
        "vgg13": "weights/vgg13-c768596a.pth",
        "vgg16": "weights/vgg16-397923af.pth",
    },
    "deeplab": {
        "resnet101": "weights/DeepLab_resnet_pretrained_init-f81d91e8.pth",
        "vgg16": "weights/vgg16-397923af.pth",
    },
    "coco": {"resnet101": "weights/resnet101COCO-41f33a49.pth"},
}

ASPP_2 = (6, 12)  # the branches that AdaptSegNet, MaxSquare, OCE, LSR and DACS run
ASPP_4 = (6, 12, 18, 24)  # ADVENT, CLAN, Feature To Adapt and BDL
TRAINED_AFFINE = {"batch_norm": "train", "freeze_stem_affine": True}
FROZEN_AFFINE = {"batch_norm": "frozen_affine", "freeze_stem_affine": False}
MAX_SQUARE = {"aspp_dilations": ASPP_2, **TRAINED_AFFINE}
DUPLICATED = {"optimizer.duplicate_updates": "sequential"}


class Recipe(NamedTuple):
    """How a method is trained.

    Attributes:
      network: keys of ``config.model``; the heads follow from the method.
      initial: key of `INITIAL`, the weights of the first stage.
      pretrained: whether a source stage comes first; else the method starts from the
        initial weights.
      stage: flattened keys of its own stages.
      augment: keys of `AUGMENTATION`, of source and target images.
      held_out: this part of the training images is left out: "lsr", "oce"; "": none.
      preset: of the method.
    """

    network: Mapping = MappingProxyType(MAX_SQUARE)
    initial: str = "deeplab"
    pretrained: bool = False
    stage: Mapping = MappingProxyType(DUPLICATED)
    augment: tuple[str, str] = ("none", "none")
    held_out: str = ""
    preset: str | None = None


def steps(number, horizon=None, warmup=0, **more):
    """Keys of a stage of ``number`` steps in an optimiser of duplicated parameters."""
    return {
        "steps": number,
        "optimizer.horizon": horizon or number,
        "optimizer.warmup_steps": warmup,
        **DUPLICATED,
        **more,
    }


LSR = Recipe(
    initial="torchvision",
    pretrained=True,
    stage=steps(27_450, 50_000),
    augment=("released", "flip_blur"),
    held_out="lsr",
    preset="released",
)
CONTROL = LSR._replace(preset=None)
ADAPT_SEG_NET = Recipe(
    network={"aspp_dilations": ASPP_2, **FROZEN_AFFINE},
    stage=steps(150_000, 250_000),
)
ADVENT = Recipe(
    network={"aspp_dilations": ASPP_4, **FROZEN_AFFINE},
    stage=steps(120_000, 250_000),
)
# CLAN also resizes its images to 0.8 or 1.1 of their size, but not their labels.
CLAN = Recipe(
    network={"aspp_dilations": ASPP_4, **FROZEN_AFFINE},
    stage=steps(100_000, warmup=5_000),
    augment=("flip", "flip"),
    preset="released",
)

RECIPES = {
    "source_only": CONTROL,
    "source_continued": CONTROL,
    "batchnorm_only": CONTROL,
    "target_only": CONTROL,
    "adapt_seg_net": ADAPT_SEG_NET,
    "min_ent": ADVENT,
    "adv_ent": ADVENT,
    "clan": CLAN,
    # Published for classification; network and augmentation are those of CLAN.
    "swd": CLAN._replace(pretrained=True, stage=steps(27_450, 50_000), preset=None),
    "bdl": Recipe(
        network={"aspp_dilations": ASPP_4, **FROZEN_AFFINE},
        stage=steps(80_000, 250_000),
    ),
    "max_square": Recipe(
        pretrained=True,
        stage=steps(29_750, 29_760),
        augment=("flip_blur", "flip_blur"),
    ),
    "cag": Recipe(
        network={
            "architecture": "deeplabv3plus",
            "aspp_dilations": (6, 12, 18),
            "batch_norm": "train",
            "freeze_stem_affine": False,
        },
        initial="torchvision",
        pretrained=True,
        stage={
            "steps": 62_412,
            "batch_size": 4,
            "optimizer.learning_rate": 1e-4,
            "optimizer.head_multiplier": 1.0,
            "optimizer.weight_decay": 2e-4,
            "optimizer.horizon": 90_000,
            "optimizer.offset": 1,
        },
        augment=("flip", "flip"),
        preset="released",
    ),
    "feature_to_adapt": CLAN._replace(stage=steps(150_000, warmup=7_500)),
    "class_mix": Recipe(
        network={"aspp_dilations": ASPP_2, **FROZEN_AFFINE},
        initial="coco",
        stage=steps(
            250_000,
            **{
                "batch_size": 2,
                "weights.skip_head": True,
                "augment.source.crop": (512, 512),
                "augment.target.crop": (512, 512),
            },
        ),
        preset="released",
    ),
    "oce": Recipe(
        pretrained=True,
        stage=steps(24_750, 24_760),
        augment=("flip_blur", "flip_blur"),
        held_out="oce",
        preset="released",
    ),
    "lsr": LSR,
}


def recipe(method):
    """How ``method`` is trained; one without a recipe of its own as the controls are."""
    return RECIPES.get(method, CONTROL)

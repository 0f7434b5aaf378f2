"""How each method is trained in its paper or released code, whatever the domain pair.

Networks, initial weights, schedules, augmentation and splits; the weights of the terms
belong to the pairs. Steps are those of the released commands, with the horizon of the
polynomial decay, which is often longer.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from lsr_jax.data.augment import AUGMENTATION

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
SINGLE = {"head": "single", "aspp_dilations": ASPP_2, **TRAINED_AFFINE}
LEVELS = {"head": "multi_level", "aspp_dilations": ASPP_2, **TRAINED_AFFINE}


class Recipe(NamedTuple):
    """How a method is trained.

    Attributes:
      network: keys of ``config.model``.
      initial: key of `INITIAL`, the weights of the first stage.
      pretrain: keywords of `source_only.make` for the source stage before it; None
        where the method starts from the initial weights.
      stage: flattened keys of its own stages.
      augment: keys of `AUGMENTATION`, or keywords, for source and target images.
      held_out: the split of this name is left out of the training images: "lsr",
        "oce"; "" trains on all of them.
      preset: of the method.
    """

    network: dict = SINGLE
    initial: str = "deeplab"
    pretrain: dict | None = None
    stage: Mapping = MappingProxyType({})
    augment: tuple = ("none", "none")
    held_out: str = ""
    preset: str | None = None


DUPLICATED = {"optimizer.duplicate_updates": "sequential"}
LSR = Recipe(
    initial="torchvision",
    pretrain={},
    stage={"steps": 27_450, "optimizer.horizon": 50_000, **DUPLICATED},
    augment=("released", "flip_blur"),
    held_out="lsr",
    preset="released",
)
CONTROL = LSR._replace(preset=None)
MAX_SQUARE = Recipe(
    pretrain={},
    stage={"steps": 29_750, "optimizer.horizon": 29_760, **DUPLICATED},
    augment=("flip_blur", "flip_blur"),
)
ADAPT_SEG_NET = Recipe(
    network={"head": "multi_level", "aspp_dilations": ASPP_2, **FROZEN_AFFINE},
    stage={"steps": 150_000, "optimizer.horizon": 250_000, **DUPLICATED},
)
ADVENT = ADAPT_SEG_NET._replace(
    network={"head": "multi_level", "aspp_dilations": ASPP_4, **FROZEN_AFFINE},
    stage={"steps": 120_000, "optimizer.horizon": 250_000, **DUPLICATED},
)
# CLAN also resizes its images to 0.8 or 1.1 of their size, without their labels.
CLAN = Recipe(
    network={"head": "two_heads", "aspp_dilations": ASPP_4, **FROZEN_AFFINE},
    stage={
        "steps": 100_000,
        "optimizer.horizon": 100_000,
        "optimizer.warmup_steps": 5_000,
        **DUPLICATED,
    },
    augment=("flip", "flip"),
)
CROP_512 = {**AUGMENTATION["none"], "crop": (512, 512)}
CAG_CROP = {**AUGMENTATION["flip"], "crop": (512, 896)}

RECIPES = {
    "source_only": CONTROL,
    "source_continued": CONTROL,
    "batchnorm_only": CONTROL,
    "target_only": CONTROL,
    "max_square": MAX_SQUARE,
    "lsr": LSR,
    "oce": Recipe(
        pretrain={},
        stage={"steps": 24_750, "optimizer.horizon": 24_760, **DUPLICATED},
        augment=("flip_blur", "flip_blur"),
        held_out="oce",
        preset="released",
    ),
    "min_ent": ADVENT,
    "adv_ent": ADVENT,
    "adapt_seg_net": ADAPT_SEG_NET,
    "clan": CLAN,
    "feature_to_adapt": CLAN._replace(
        stage={
            "steps": 150_000,
            "optimizer.horizon": 150_000,
            "optimizer.warmup_steps": 7_500,
            **DUPLICATED,
        },
    ),
    "class_mix": Recipe(
        network={"head": "single", "aspp_dilations": ASPP_2, **FROZEN_AFFINE},
        initial="coco",
        stage={
            "steps": 250_000,
            "optimizer.horizon": 250_000,
            "batch_size": 2,
            "weights.skip_head": True,
            **DUPLICATED,
        },
        augment=(CROP_512, CROP_512),
        preset="released",
    ),
    # Published for classification; network and schedule are those of CLAN.
    "swd": CLAN._replace(pretrain={"auxiliary": 1.0}),
    "bdl": Recipe(
        network={"head": "single", "aspp_dilations": ASPP_4, **FROZEN_AFFINE},
        stage={"steps": 80_000, "optimizer.horizon": 250_000, **DUPLICATED},
    ),
    "cag": Recipe(
        network={"architecture": "deeplabv3plus", "batch_norm": "train"},
        initial="torchvision",
        pretrain={},
        stage={
            "steps": 62_412,
            "batch_size": 4,
            "optimizer.learning_rate": 1e-4,
            "optimizer.head_multiplier": 1.0,
            "optimizer.weight_decay": 2e-4,
            "optimizer.horizon": 90_000,
        },
        augment=(CAG_CROP, CAG_CROP),
    ),
}

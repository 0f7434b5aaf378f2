"""How each method is trained in its paper or released code, on any domain pair.

Networks, initial weights, schedules, augmentation and lists of training images. `RECIPES`
has a row for every method, and one for each preset with another schedule, such as
"lsr,paper". The weights of the terms and the sizes of the images belong to the pairs. A
comment marks what is not published and was chosen here.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

# Files for `init_from` of the first stage; they are not part of this project. Where a
# method's own file has another backbone it starts from that of ImageNet, as LSR does.
IMAGENET = {
    "resnet50": "weights/resnet50-19c8e357.pth",
    "resnet101": "weights/resnet101-5d3b4d8f.pth",
    "vgg13": "weights/vgg13-c768596a.pth",
    "vgg16": "weights/vgg16-397923af.pth",
    "resnet101_v1c": "weights/resnet101_v1c-e67eebb6.pth",  # open-mmlab
    **{f"mit_b{n}": f"weights/mit_b{n}.pth" for n in range(6)},  # SegFormer
    # Of this project: there are no pre-trained weights.
    **dict.fromkeys(("mini", "mini_v1c", "mit_mini"), "scratch"),
}
INITIAL = {
    "imagenet": IMAGENET,
    "deeplab": {
        **IMAGENET,
        "resnet101": "weights/DeepLab_resnet_pretrained_init-f81d91e8.pth",
    },
    # ImageNet, then COCO. Without COCO others found 48.9 for 48.5 on SYNTHIA.
    "coco": {**IMAGENET, "resnet101": "weights/resnet101COCO-41f33a49.pth"},
}

ASPP_2 = (6, 12)  # the branches that AdaptSegNet, MaxSquare, OCE, LSR and DACS run
ASPP_4 = (6, 12, 18, 24)  # ADVENT, CLAN, Feature To Adapt and BDL
TRAINED_AFFINE = {"batch_norm": "train", "freeze_stem_affine": True}
FROZEN_AFFINE = {"batch_norm": "frozen_affine", "freeze_stem_affine": False}


class Recipe(NamedTuple):
    """How a method is trained. Keys of stages are flattened, ``optimizer.decay_steps``.

    Attributes:
      stage: keys of its own stages.
      named: stage -> keys of that one, over those.
      source: keys of the source stage before them; None: there is none, and the method
        starts from the initial weights.
      vgg: keys of every stage with a VGG; None: the VGG of the paper is an FCN8s, which
        is not built here.
      network: keys of ``config.model``; the heads follow from the method.
      backbone: if none is chosen.
      evaluation: keys of ``config.evaluation``.
      initial: key of `INITIAL`, the weights of the first stage.
      augment: keys of `AUGMENTATION`, of source and target images.
      widths: to which images are resized at random before they are cropped, in pixels.
      preprocessing: of the images, see `default.data`.
      lists: the repository whose list of training images is used, "lsr", "oce" or
        "max_square", if the data set has it; "": all images.
      preset: of the method, if none is chosen.
    """

    stage: Mapping
    named: Mapping[str, Mapping] = MappingProxyType({})
    source: Mapping | None = None
    vgg: Mapping | None = MappingProxyType({})
    network: Mapping = MappingProxyType({"aspp_dilations": ASPP_2, **TRAINED_AFFINE})
    backbone: str = "resnet101"
    evaluation: Mapping = MappingProxyType({})
    initial: str = "deeplab"
    augment: tuple[str, str] = ("none", "none")
    widths: tuple[int, int] | None = None
    preprocessing: str = "caffe"
    lists: str = ""
    preset: str | None = None

    @property
    def first(self):
        """Keys of the stage on one domain alone: the source stage, or the oracle's."""
        return self.stage if self.source is None else self.source


def steps(number, decay_steps=None, *, warmup=0, **more):
    """Keys of a stage of ``number`` steps in an optimiser of duplicated parameters."""
    return {
        "steps": number,
        "optimizer.decay_steps": decay_steps or number,
        "optimizer.warmup_steps": warmup,
        "optimizer.duplicate_updates": "sequential",
        **more,
    }


def crops(height, width):
    """Keys of a stage that trains on crops."""
    size = (height, width)
    return {"augment.source.crop": size, "augment.target.crop": size}


ADAPT_SEG_NET = Recipe(
    stage=steps(150_000, 250_000),
    vgg={"optimizer.head_multiplier": 1.0, "optimizer.duplicate_updates": "off"},
    network={"aspp_dilations": ASPP_2, **FROZEN_AFFINE},
)
ADVENT = Recipe(
    stage=steps(120_000, 250_000),
    network={"aspp_dilations": ASPP_4, **FROZEN_AFFINE},
)
# Without its random resizing of images, which leaves their labels as they are.
CLAN = ADVENT._replace(
    stage=steps(100_000, warmup=5_000),
    augment=("flip", "flip"),
    preset="released",
)
FEATURE_TO_ADAPT = CLAN._replace(stage=steps(150_000, warmup=7_500))
MAX_SQUARE = Recipe(
    stage=steps(29_750, 29_760),
    source=steps(80_000, 200_000),
    augment=("flip_blur", "flip_blur"),
    lists="max_square",
)
LSR = Recipe(
    stage=steps(49_580, 50_000),
    source=steps(250_000),
    initial="imagenet",
    augment=("released", "flip_blur"),
    lists="lsr",
    preset="released",
)
CAG = {
    "batch_size": 4,
    "optimizer.learning_rate": 1e-4,
    "optimizer.head_multiplier": 1.0,
    "optimizer.weight_decay": 2e-4,
    "optimizer.schedule_offset": 1,
    **crops(512, 896),
}
# Resizing by bicubic interpolation, where the original's is bilinear; and jitter and blur are
# decided for each image, where the original decides for the batch.
DAFORMER = Recipe(
    stage=steps(
        40_000,
        warmup=1_500,
        batch_size=2,
        **crops(512, 512),
        **{
            "optimizer.name": "adamw",
            "optimizer.learning_rate": 6e-5,
            "optimizer.weight_decay": 0.01,
            "optimizer.decay_norms": False,
            "optimizer.power": 1.0,
            "optimizer.warmup": "multiplies",
            "optimizer.duplicate_updates": "off",
            "augment.source.majority": 0.75,
            "augment.source.drawn_pixels": 1_500,
            "augment.target.margins": (15 / 512, 120 / 512, 0.0, 0.0),
            "rare_classes.temperature": 0.01,
            "rare_classes.min_pixels": 3_000,
        },
    ),
    network={
        "aspp_dilations": ASPP_2,
        "batch_norm": "train",
        "freeze_stem_affine": False,
    },
    backbone="mit_b5",
    initial="imagenet",
    augment=("flip", "flip"),
    preprocessing="imagenet",
)
HRDA = DAFORMER._replace(
    stage={
        **DAFORMER.stage,
        **crops(1024, 1024),
        "augment.source.drawn_pixels": 6_000,
        "augment.target.margins": (30 / 1024, 240 / 1024, 30 / 2048, 30 / 2048),
        "remat_passes": True,  # not of the original: the same numbers, less memory
    },
    network={**DAFORMER.network, "detail": 0.5},
    evaluation={"window": (1024, 1024), "batch_size": 1},
)
RARE_CLASSES = ("daformer", "hrda", "mic")  # presets of DACS with rare class sampling
# MIC's, on any method (the word ``masked``); the default blocks are for crops of 1024 pixels.
MASKED = {"masked.weight": 1.0}
SMALL_BLOCKS = {"masked.block": 8}  # of the small images of `streets` and of ``tiny``
# For maps that the defaults of a method do not fit, as the 9x17 cells of tiny images.
SMALL_MAPS = {"sapnet": {"windows": (1, 3, 5, 7)}}

RECIPES = {
    "adapt_seg_net": ADAPT_SEG_NET,
    "min_ent": ADVENT,
    "adv_ent": ADVENT,
    "clan": CLAN,
    # Its segmentation code is not public: CLAN's network, MaxSquare's schedule.
    "swd": CLAN._replace(
        stage=MAX_SQUARE.stage, source=MAX_SQUARE.source, vgg=None, preset=None
    ),
    "bdl": ADVENT._replace(
        stage=steps(120_000, 250_000),
        named={"adversarial": {"steps": 80_000}},
        vgg=None,
    ),
    "max_square": MAX_SQUARE,
    # The source stage replaces a warm-up whose settings are not published.
    "cag": Recipe(
        stage={"steps": 62_412, "optimizer.decay_steps": 90_000, **CAG},
        source={"steps": 80_000, "optimizer.decay_steps": 200_000, **CAG},
        network={
            "architecture": "deeplabv3plus",
            "aspp_dilations": (6, 12, 18),
            "batch_norm": "train",
            "freeze_stem_affine": False,
        },
        initial="imagenet",
        augment=("flip", "flip"),
        widths=(1100, 3300),
        preprocessing="unit",
        preset="released",
    ),
    "feature_to_adapt": FEATURE_TO_ADAPT,
    # Up to 100,000 steps; warm-up and decay of the code.
    "feature_to_adapt,paper": FEATURE_TO_ADAPT._replace(
        stage=steps(
            100_000,
            150_000,
            warmup=7_500,
            **{
                "optimizer.discriminator_rate": 5e-5,
                "optimizer.discriminator_decay": 5e-4,
            },
        )
    ),
    # Nothing of its segmentation is published but the result: AdaptSegNet's network,
    # initial weights, images, schedule, SGD for the network and Adam for the classifier.
    # Features, guidance, weight, windows, stride, dropout and the normalisation of a
    # batch of one image: `sapnet.make` and `models.attention_pyramid`.
    "sapnet": ADAPT_SEG_NET,
    "dacs": ADAPT_SEG_NET._replace(
        stage=steps(
            250_000, batch_size=2, **crops(512, 512), **{"weights.skip_head": True}
        ),
        vgg={},
        initial="coco",
        preset="released",
    ),
    "dacs,daformer": DAFORMER,
    "dacs,hrda": HRDA,
    "dacs,mic": HRDA,
    "oce": MAX_SQUARE._replace(
        stage=steps(24_750, 24_760), lists="oce", preset="released"
    ),
    "lsr": LSR,
    # The length of its pre-training is unknown: as many images as in the released code.
    "lsr,paper": LSR._replace(
        stage=steps(27_450, 250_000),
        source=steps(25_000, 250_000, batch_size=10, **crops(512, 512)),
        augment=("paper", "flip_blur"),
    ),
}


def recipe(method, variant=None):
    """How ``method``, with the preset ``variant``, is trained; LSR's if it has no row."""
    return RECIPES.get(f"{method},{variant}") or RECIPES.get(method, LSR)


def preset(method):
    """The preset of ``method`` if none is chosen; None: its defaults."""
    return recipe(method).preset

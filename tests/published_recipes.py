"""How the papers and their released code train, written down by hand.

Nothing here is read from the configs. The numbers behind each row are the sections of
methods.md and next_methods.md, the project's sheets of what papers say and code does.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest


class Stage(NamedTuple):
    """Schedule, batch and optimiser of a stage."""

    steps: int
    decay_steps: int
    warmup_steps: int = 0
    batch_size: int = 1
    learning_rate: float = 2.5e-4
    head_multiplier: float = 10.0
    duplicate_updates: str = "sequential"
    weight_decay: float = 5e-4
    schedule_offset: int = 0
    name: str = "sgd"
    power: float = 0.9
    warmup: str = "replaces"
    decay_norms: bool = True


class Row(NamedTuple):
    """What a config must say. Sizes are (H, W); pairs are of source and target.

    ``augment`` is what is not 0 in the last stage, ``discriminator`` rate and decay, and
    ``weights`` a part of the keywords of the last stage's method.
    """

    stages: dict[str, Stage]
    initial: str
    aspp: tuple[int, ...]
    batch_norm: str
    head: str = "single"
    augment: tuple[dict, dict] = ({}, {})
    lists: tuple[str, str] = ("train", "train")
    discriminator: tuple[float, float] = (1e-4, 0.0)
    sizes: tuple = ((720, 1280), (512, 1024))
    weights: Mapping[str, Any] = MappingProxyType({})
    backbone: str = "resnet101"
    architecture: str = "deeplabv2"
    preprocessing: str = "caffe"


CAFFE = "weights/DeepLab_resnet_pretrained_init-f81d91e8.pth"
TORCHVISION = "weights/resnet101-5d3b4d8f.pth"
VGG16 = {"initial": "weights/vgg16-397923af.pth", "backbone": "vgg16"}
FLIP = {"flip": 0.5}
FLIP_BLUR = {"flip": 0.5, "blur": 1.0}

ASN = Row(  # 0.1, 0.2, 0.4, 1.4, 1.5, 1.12, 1.14, 2.6
    {"adapt": Stage(150_000, 250_000)},
    CAFFE,
    (6, 12),
    "frozen_affine",
    "multi_level",
    weights={
        "adversarial": 0.001,
        "auxiliary_adversarial": 0.0002,
        "auxiliary": 0.1,
    },
)
ASN_VGG = ASN._replace(  # 0.2, 1.7
    stages={
        "adapt": Stage(150_000, 250_000, head_multiplier=1.0, duplicate_updates="off")
    },
    **VGG16,
    head="single",
    weights={"adversarial": 0.001, "auxiliary_adversarial": 0.0, "auxiliary": 0.0},
)
ADVENT = ASN._replace(  # 1.4, 1.14, 2.5
    stages={"adapt": Stage(120_000, 250_000)}, aspp=(6, 12, 18, 24)
)
CLAN = Row(  # 0.5, 1.4, 1.12, 1.14, 2.7
    {"adapt": Stage(100_000, 100_000, 5_000)},
    CAFFE,
    (6, 12, 18, 24),
    "frozen_affine",
    "two_heads",
    (FLIP, FLIP),
    weights={
        "adversarial": 0.001,
        "weight_discrepancy": 0.02,
        "strength": 40.0,
        "epsilon": 0.4,
        "gamma": 2.0,
        "warmup_steps": 5_000,
        "discriminator_warmup_steps": 5_000,
        "decay_steps": 100_000,
    },
)
F2A = CLAN._replace(  # 1.14, 2.8
    stages={"adapt": Stage(150_000, 150_000, 7_500)},
    weights={
        **CLAN.weights,
        "norm": 0.00015,
        "norm_delta": 0.12,
        "norm_rate": 1.5,
        "weight_discrepancy": 0.018,
        "warmup_steps": 0,
        "discriminator_warmup_steps": 7_500,
        "decay_steps": 150_000,
    },
)
BDL_ROUND = Stage(120_000, 250_000)
BDL = ADVENT._replace(  # 1.14, 2.10
    stages={
        "adversarial": Stage(80_000, 250_000),
        "round_1": BDL_ROUND,
        "round_2": BDL_ROUND,
    },
    head="single",
    weights={
        "adversarial": 0.001,
        "self_training": 1.0,
        "portion": 0.5,
        "cap": 0.9,
    },
)
MAX_SQUARE = Row(  # 0.4, 1.4, 1.5, 1.12, 1.14, 2.4
    {"source": Stage(80_000, 200_000), "adapt": Stage(29_750, 29_760)},
    CAFFE,
    (6, 12),
    "train",
    augment=(FLIP_BLUR, FLIP_BLUR),
    lists=("train_max_square", "train"),
    weights={"entropy": 0.1, "image_weighting": 0.2, "guidance": 0.0},
)
MULTI = MAX_SQUARE._replace(  # 1.12, 2.4
    head="multi_level",
    sizes=((720, 1280), (640, 1280)),
    weights={
        "entropy": 0.09,
        "image_weighting": 0.2,
        "auxiliary": 0.1,
        "guidance": pytest.approx(0.1 * 0.09),
        "threshold": 0.95,
    },
)
OCE = MAX_SQUARE._replace(  # 1.12, 1.14, 2.3
    stages={"source": Stage(80_000, 200_000), "adapt": Stage(24_750, 24_760)},
    lists=("train_oce", "train_oce"),
)
LSR = Row(  # 1.5, 1.12, 1.14, 2.2.1, 2.2.6: the released code
    {"source": Stage(250_000, 250_000), "adapt": Stage(49_580, 50_000)},
    TORCHVISION,
    (6, 12),
    "train",
    augment=({**FLIP_BLUR, "white_point": 75, "jitter": 20}, FLIP_BLUR),
    lists=("train_lsr", "train_lsr"),
    sizes=((720, 1280), (640, 1280)),
)
LSR_PAPER = LSR._replace(  # 1.12, 2.1; steps of the pre-training are chosen here
    stages={
        "source": Stage(25_000, 250_000, batch_size=10),
        "adapt": Stage(27_450, 250_000),
    },
    augment=({**FLIP_BLUR, "white_point": 75, "jitter": 25}, FLIP_BLUR),
    sizes=((720, 1280), (512, 1024)),
)
CAG_RATES = {
    "batch_size": 4,
    "learning_rate": 1e-4,
    "head_multiplier": 1.0,
    "duplicate_updates": "off",
    "weight_decay": 2e-4,
    "schedule_offset": 1,
}
CAG_STAGE = Stage(62_412, 90_000, **CAG_RATES)
CAG = Row(  # 1.8, 1.12, 1.14, 2.9; the steps of the warm-up are chosen here
    {
        "source": Stage(80_000, 200_000, **CAG_RATES),
        **dict.fromkeys(("stage_1", "stage_2", "stage_3"), CAG_STAGE),
    },
    TORCHVISION,
    (6, 12, 18),
    "train",
    architecture="deeplabv3plus",
    preprocessing="unit",
    augment=tuple(
        {**FLIP, "crop": (512, 896), "scale": (1100 / width, 3300 / width)}
        for width in (1914, 2048)
    ),
    sizes=((1052, 1914), (1024, 2048)),
    weights={
        "anchor_labels": 0.5,
        "probability_labels": 0.5,
        "distance_source": 0.7,
        "distance_target": 0.7,
        "gap": 2.5,
        "probability": 0.95,
        "minimum": 10,
        "cap": 3000,
    },
)
DACS = Row(  # 2.12
    {"adapt": Stage(250_000, 250_000, batch_size=2)},
    "weights/resnet101COCO-41f33a49.pth",
    (6, 12),
    "frozen_affine",
    augment=({"crop": (512, 512)}, {"crop": (512, 512)}),
    weights={"confidence": 0.968, "mixed": 1.0, "teacher_momentum": 0.99},
)

# next_methods.md: 2.3 to 2.10. Rows 15 and 120 of 512 are the margins of a crop there.
DAFORMER = Row(
    {
        "adapt": Stage(
            40_000,
            40_000,
            1_500,
            batch_size=2,
            learning_rate=6e-5,
            duplicate_updates="off",
            weight_decay=0.01,
            name="adamw",
            power=1.0,
            warmup="multiplies",
            decay_norms=False,
        )
    },
    "weights/mit_b5.pth",
    (6, 12),
    "train",
    augment=(
        {**FLIP, "crop": (512, 512), "majority": 0.75, "drawn_pixels": 1500},
        {**FLIP, "crop": (512, 512), "margins": (15 / 512, 120 / 512, 0.0, 0.0)},
    ),
    sizes=((704, 1280), (512, 1024)),
    weights={
        "confidence": 0.968,
        "teacher_momentum": 0.999,
        "ramp_from": 0,
        "source_divisor": "pixels",
        "classes_of": "batch",
        "void": True,
        "share": "batch",
        "mixed": 1.0,
        "feature_distance": 0.005,
        "distance_classes": (6, 7, 11, 12, 13, 14, 15, 16, 17, 18),
        "distance_ratio": 0.75,
        "jitter": 0.2,
        "jitter_probability": 0.8,
        "blur_sigma": (0.15, 1.15),
        "blur_probability": 0.5,
        "masked": 0.0,
    },
    backbone="mit_b5",
    architecture="daformer",
    preprocessing="imagenet",
)
HRDA = DAFORMER._replace(
    augment=(
        {**FLIP, "crop": (1024, 1024), "majority": 0.75, "drawn_pixels": 6000},
        {
            **FLIP,
            "crop": (1024, 1024),
            "margins": (30 / 1024, 240 / 1024, 30 / 2048, 30 / 2048),
        },
    ),
    sizes=((1407, 2560), (1024, 2048)),
)
MIC = HRDA._replace(
    weights={
        **HRDA.weights,
        "masked": 1.0,
        "mask_ratio": 0.7,
        "mask_block": 64,
        "mask_augmented": True,
    }
)
V1C = {
    "initial": "weights/resnet101_v1c-e67eebb6.pth",
    "backbone": "resnet101_v1c",
    "architecture": "deeplabv2",
}


def oce(*numbers):
    """Weights, in the columns of the table in 2.3."""
    names = "clustering orthogonality sparsity entropy entropy_ratio"
    return dict(zip(names.split(), numbers, strict=True))


def oce_sums(means, sizes):
    """The form of the slides: each weight over what its sum, or norm, is to its mean."""
    clustering, orthogonality, sparsity, *entropy = means
    features, channels, classes = sizes
    sums = (
        clustering / channels**0.5,
        orthogonality / (features * classes),
        sparsity / (channels * classes),
    )
    return oce(*sums, *entropy) | {"distance_of": "vectors", "reduce": "sum"}


def lsr(*numbers, **more):
    """Weights, in the columns of the table in 2.2.6."""
    names = "entropy entropy_ratio norm perpendicularity clustering"
    return dict(zip(names.split(), numbers, strict=True), **more)

"""GTA5 to Cityscapes, 19 classes: DeepLabV2-ResNet101, one image of each domain a step.

    python train.py --config configs/gta2cs.py              LSR
    python train.py --config configs/gta2cs.py:max_square   any name in METHODS
    python train.py --config configs/gta2cs.py:lsr,vgg16    another backbone
    python train.py --config configs/gta2cs.py:lsr,tiny     small and short, to try things

Expects data/gta5 and data/cityscapes as downloaded or prepared (1280x720 and 1024x512);
--config.data.source.root=DIR and --config.data.target.root=DIR name others. Starts from
torchvision's ImageNet weights in weights/ as LSR does; --config.source.init_from=FILE
names others, "scratch" none. Needs a GPU; LSR used one Titan RTX. Time and accuracy have
not been measured here.

Published mIoU on Cityscapes val with ResNet101: source only 36.9, MaxSquare+IW 45.2
(ICCV 2019), LSR 46.0 (CVPRW 2021, Table 1).
"""

from configs import common, default
from lsr_jax.data.augment import AUGMENTATION

# Weights of the released README (LSR) and of the paper (MaxSquare, Sec. 4).
WEIGHTS = {
    "max_square": {"entropy": 0.1, "image_weighting": 0.2},
    "lsr": {
        "clustering": 0.1,
        "perpendicularity": 0.2,
        "norm": 0.025,
        "entropy": 0.1,
        "entropy_ratio": 0.2,
    },
}
IMAGENET = {
    "resnet50": "weights/resnet50-19c8e357.pth",
    "resnet101": "weights/resnet101-5d3b4d8f.pth",
    "vgg13": "weights/vgg13-c768596a.pth",
    "vgg16": "weights/vgg16-397923af.pth",
}
VGG16 = {"lsr": {"clustering": 0.2, "perpendicularity": 0.4, "norm": 0.01}}
PRESETS = {"lsr": "released"}


def get_config(argument=None):
    chosen = common.parse(argument)
    config = default.get_config()
    config.data.source.name = "gta5"
    config.data.source.root = "data/gta5"
    config.data.source.space = "cityscapes"
    config.data.source.size = (720, 1280)
    # LSR trains on 6 of 7 GTA5 images and 5 of 6 of Cityscapes; it holds out the rest.
    config.data.source.train = "train_lsr"
    config.data.source.val = "val_lsr"
    config.data.source.on_bad_example = "skip"  # GTA5 has pairs of different sizes
    config.data.target.name = "cityscapes"
    config.data.target.root = "data/cityscapes"
    config.data.target.space = "cityscapes"
    config.data.target.size = (512, 1024)
    config.data.target.train = "train_lsr"
    vgg = VGG16 if (chosen.backbone or "").startswith("vgg") else {}
    weights = {method: {**WEIGHTS[method], **vgg.get(method, {})} for method in WEIGHTS}
    complete(config, chosen, weights=weights)
    return config


def complete(config, chosen, *, weights, class_frequency="gta5"):
    """What all pairs of real data sets share: network, stages, the tiny version.

    Args:
      config: with its data set.
      chosen: the argument of the config file.
      weights: method -> keywords of its ``make`` in this benchmark.
      class_frequency: of LSR's released histogram, a key of the class count.
    """
    config.data.workers = 4
    config.model.backbone = chosen.backbone or "resnet101"

    def adaptation(method):
        keywords = dict(weights.get(method, {}))
        if method == "lsr":
            keywords["class_frequency"] = class_frequency
        return adapt(method, keywords)

    common.set_stages(
        config, chosen.method or "lsr", study=(), pretrain=pretrain, adapt=adaptation
    )
    first = config[config.stages[0]]
    first.init_from = IMAGENET.get(config.model.backbone, "scratch")
    # LSR feeds BGR minus mean to weights that were trained on normalised RGB.
    first.weights.allow_other_preprocessing = True
    if chosen.tiny:
        first.init_from = "scratch"
        shrink(config, chosen.backbone)


def pretrain(method):
    c = default.stage(method)
    c.steps = 80_000
    c.optimizer.horizon = 200_000
    c.augment.source.update(AUGMENTATION["released"])
    c.augment.target.update(AUGMENTATION["flip_blur"])  # seen by the oracle alone
    return c


def adapt(method, weights):
    c = default.stage(method, PRESETS.get(method), **weights)
    c.steps = 27_450
    c.optimizer.horizon = 50_000
    c.optimizer.duplicate_updates = "sequential"
    c.augment.source.update(AUGMENTATION["released"])
    c.augment.target.update(AUGMENTATION["flip_blur"])
    return c


def shrink(config, backbone=None, size=(64, 128), steps=6):
    """Small images, a small fresh network and few steps, on any folder of the layout."""
    common.shorten(config, steps=steps)
    for domain in (config.data.source, config.data.target):
        domain.size = size
    config.data.workers = 0
    config.model.backbone = backbone or "mini"
    config.model.initialisation = "scratch"
    config.model.freeze_stem_affine = False
    config.model.aspp_dilations = (2, 4, 6, 8)
    config.evaluation.batch_size = 2
    config.evaluation.panel_images = 2

"""GTA5 to Cityscapes: DeepLabV2-ResNet101, one image of each domain a step.

    python train.py --config configs/gta2cs.py              LSR
    python train.py --config configs/gta2cs.py:max_square   any name in METHODS
    python train.py --config configs/gta2cs.py:lsr,vgg16    another backbone
    python train.py --config configs/gta2cs.py:lsr,tiny     the same stages in 20 steps

Expects data/gta5 and data/cityscapes as downloaded (--config.data.source.root=DIR) and
ImageNet weights (--config.source.init_from=FILE). Published mIoU on Cityscapes val with
ResNet101: source only 36.9, MaxSquare+IW 45.2, LSR 46.0 (LSR, CVPRW 2021, Table 1).
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
PRESETS = {"lsr": "released"}


def get_config(argument=None):
    chosen = common.parse(argument)
    config = default.get_config()
    config.data.source.name = "gta5"
    config.data.source.root = "data/gta5"
    config.data.source.space = "cityscapes"
    config.data.source.size = (720, 1280)
    config.data.target.name = "cityscapes"
    config.data.target.root = "data/cityscapes"
    config.data.target.space = "cityscapes"
    config.data.target.size = (512, 1024)
    config.data.workers = 4
    config.model.backbone = chosen.backbone or "resnet101"
    common.set_stages(
        config, chosen.method or "lsr", study=(), pretrain=pretrain, adapt=adapt
    )
    if chosen.tiny:
        common.shorten(config)
    return config


def pretrain(method):
    c = default.stage(method)
    c.steps = 80_000
    c.optimizer.horizon = 200_000
    c.augment.source.update(AUGMENTATION["released"])
    return c


def adapt(method):
    c = default.stage(method, PRESETS.get(method), **WEIGHTS.get(method, {}))
    c.steps = 27_450
    c.optimizer.horizon = 50_000
    c.optimizer.duplicate_updates = "sequential"
    c.augment.source.update(AUGMENTATION["released"])
    c.augment.target.update(AUGMENTATION["flip"])
    return c

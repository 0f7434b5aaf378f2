"""streets: the embedded benchmark, rendered scenes to camera scenes, drawn by the code itself.

    python train.py --config configs/streets.py                  source-only, the BatchNorm
                                                                 control, MaxSquare, LSR
    python train.py --config configs/streets.py:lsr              source-only, LSR
    python train.py --config configs/streets.py:lsr,tiny         the same in a minute
    python train.py --config configs/streets.py:cag              source-only, three stages
    python train.py --config configs/streets.py:bdl              source-only, adversary,
                                                                 two rounds of labels
    python train.py --config configs/streets.py:lsr,released     a preset of the method
    python train.py --config configs/streets.py:target_only      the oracle
    python train.py --config configs/streets.py:batchnorm_only,like=clan
                                                                 the control of a method
                                                                 with heads of its own
    python train.py --config configs/streets.py:lsr,photometric  a shift that BatchNorm
                                                                 statistics alone repair
    python train.py --config configs/streets.py:lsr,large        256x512, for a GPU

Results, with command, machine and spread: docs/results/streets.md.
"""

from typing import NamedTuple

from lsr_jax.augment.preprocess import AUGMENTATION
from lsr_jax.configs import common, default, recipes, stages
from lsr_jax.streets import PRESETS

OCE = {
    "clustering": 0.02,
    "orthogonality": 0.1,
    "sparsity": 0.02,
    "entropy": 1.0,
    "entropy_ratio": 0.2,
}
# A stage is over long before the warm-up of the papers.
NO_WARMUP = {"warmup_steps": 0, "discriminator_warmup_steps": 0}
# The weights of the terms here; the papers' weights belong to ImageNet networks.
WEIGHTS = {
    "min_ent": {"entropy": 0.1, "auxiliary_entropy": 0.02},
    "clan": {**NO_WARMUP, "decay_steps": None},
    "feature_to_adapt": NO_WARMUP,
    "feature_to_adapt,paper": NO_WARMUP,
    "feature_to_adapt,released": NO_WARMUP,
    "swd": {"discrepancy": 10.0},
    "max_square": {"entropy": 1.0, "image_weighting": 0.2},
    "max_square,paper": {"entropy": 1.0 / 19},  # it is a sum over classes
    "oce": OCE,
    "lsr": {
        "clustering": 6e-4,
        "perpendicularity": 0.2,
        "norm": 0.025,
        "entropy": 1.0,
        "entropy_ratio": 0.2,
    },
    # Its distance is a mean over channels and no sum of squares.
    "lsr,released": {"clustering": 0.1},
}
STUDY = ("batchnorm_only", "max_square", "lsr")


class Schedule(NamedTuple):
    """Steps of both stages, and images of a pre-training batch (twice the adaptation's)."""

    pretrain_steps: int
    adapt_steps: int
    batch_size: int


SCHEDULES = {
    "streets": Schedule(1000, 250, 8),
    "photometric": Schedule(1000, 250, 8),
    "large": Schedule(20000, 5000, 8),
    "tiny": Schedule(20, 20, 8),
}


def get_config(argument=None):
    chosen = common.parse(argument, presets=PRESETS)
    preset = chosen.preset or "streets"
    config = default.get_config()

    config.cpu_devices = 2
    if preset == "streets" and chosen.method != "target_only":
        config.recorded = ("docs/results/streets_oracle.json",)

    for domain, look in (("source", "rendered"), ("target", "camera")):
        config.data[domain].name = f"streets_{look}"
        config.data[domain].preset = preset
        config.data[domain].space = "streets"
    config.data.preprocessing = "imagenet"

    config.model.backbone = chosen.backbone or "mini"
    config.model.initialisation = "scratch"
    config.model.freeze_stem_affine = False
    config.model.aspp_dilations = (2, 4, 6, 8)
    names = [chosen.method] if chosen.method else STUDY
    weights = {**WEIGHTS, "oce,paper": summed(preset)}
    losses = {
        name: common.losses(chosen, name, weights, like=chosen.like) for name in names
    }
    config.model.head = losses[names[0]].head
    network = recipes.recipe(chosen.like or chosen.method).network
    if network.get("architecture") == "deeplabv3plus":
        # Half of the dilations of DeepLabV2, at half of its resolution.
        config.model.architecture = "deeplabv3plus"
        config.model.aspp_dilations = (1, 2, 3)
    common.check_network(config.model)

    auxiliary = {"auxiliary": common.AUXILIARY[config.model.head]}
    stages.set_stages(
        config,
        chosen.method,
        like=chosen.like,
        study=STUDY,
        pretrain=lambda method: pretrain(method, auxiliary, SCHEDULES[preset]),
        adapt=lambda method: adapt(method, losses[method].keywords, SCHEDULES[preset]),
    )
    return config


def summed(preset):
    """Weights of the sums of OCE's slides, over the images of an adaptation step."""
    height, width = PRESETS[preset].size
    cells = (height // 8 + 1) * (width // 8 + 1)
    return common.oce_sums(
        OCE, features=SCHEDULES[preset].batch_size * cells, channels=512, classes=19
    )


def pretrain(method, keywords, schedule):
    c = default.stage(method, **keywords)
    c.steps = schedule.pretrain_steps
    c.log_every = min(c.log_every, c.steps // 4)
    c.batch_size = schedule.batch_size
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 2e-3
    c.optimizer.head_multiplier = 1.0
    c.optimizer.weight_decay = 0.02
    c.optimizer.warmup_steps = min(100, schedule.pretrain_steps // 10)
    for domain in ("source", "target"):
        c.augment[domain].update(AUGMENTATION["heavy"])
    return c


def adapt(method, keywords, schedule):
    c = default.stage(method, **keywords)
    c.steps = schedule.adapt_steps
    c.log_every = min(c.log_every, c.steps // 4)
    c.batch_size = schedule.batch_size // 2
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 5e-4
    c.optimizer.head_multiplier = 1.0
    c.optimizer.weight_decay = 0.02
    c.augment.source.update(AUGMENTATION["heavy"])
    c.augment.target.update(AUGMENTATION["flip"])
    return c

"""streets: the embedded benchmark, rendered scenes to camera scenes, drawn by the code itself.

    python train.py --config configs/streets.py                  the BatchNorm control,
                                                                 MaxSquare, LSR, DACS
    python train.py --config configs/streets.py:lsr              LSR
    python train.py --config configs/streets.py:scratch          source-only, then the same
                                                                 from its 1,000 steps
    python train.py --config configs/streets.py:lsr,tiny         source-only and LSR in a
                                                                 minute
    python train.py --config configs/streets.py:cag              three stages
    python train.py --config configs/streets.py:bdl              adversary, two rounds of
                                                                 labels
    python train.py --config configs/streets.py:lsr,released     a preset of the method
    python train.py --config configs/streets.py:mic              DAFormer, HRDA and MIC are
                                                                 presets of dacs
    python train.py --config configs/streets.py:daformer,mit_mini
                                                                 on DAFormer's network
    python train.py --config configs/streets.py:lsr,masked       MIC's masked consistency
                                                                 on any method
    python train.py --config configs/streets.py:target_only      the oracle, 1,000 steps
    python train.py --config configs/streets.py:batchnorm_only,like=clan
                                                                 the control of a method
                                                                 with heads of its own
    python train.py --config configs/streets.py:lsr,photometric  a shift that BatchNorm
                                                                 statistics alone repair
    python train.py --config configs/streets.py:lsr,large        256x512, for a GPU

Methods start from `streets_mini`, a network that was trained on rendered images for longer
(lsr_jax/assets/README.md), where it is their network: `mini` with one head, images of
96x192. All others train it first, as `scratch` does.

Results, with command, machine and spread: docs/results/streets.md.
"""

from typing import NamedTuple

from lsr_jax.augment.preprocess import AUGMENTATION
from lsr_jax.configs import common, recipes, stages
from lsr_jax.configs.overlays import Overlay, at, merge
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
    **recipes.SMALL_MAPS,  # 13x25 cells
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
    # The networks start from nothing, so there are no features of ImageNet to hold.
    "dacs,daformer": {"feature_distance": 0.0},
    "dacs,hrda": {"feature_distance": 0.0},
    "dacs,mic": {"feature_distance": 0.0, "mask_block": 8},
    # Its distance is a mean over channels and no sum of squares.
    "lsr,released": {"clustering": 0.1},
}
STUDY = ("batchnorm_only", "max_square", "lsr", "dacs")
START = "streets_mini"
STARTED = ("streets", "photometric", "wide")  # presets that it begins


class Schedule(NamedTuple):
    """Steps of both stages, and images of a pre-training batch (twice the adaptation's)."""

    pretrain_steps: int
    adapt_steps: int
    batch_size: int


SCHEDULES = {
    "streets": Schedule(1000, 250, 8),
    "photometric": Schedule(1000, 250, 8),
    "large": Schedule(20000, 5000, 8),
    "wide": Schedule(1000, 300, 8),
    "tiny": Schedule(20, 20, 8),
}


ORIGIN = "configs/streets.py"


def overlays(argument=None):
    chosen = common.parse(argument, presets=PRESETS)
    return build(chosen, chosen.preset or "streets")


def build(chosen, preset, weights=WEIGHTS):
    """Stages and overlays of the chosen method on the domains of a preset.

    Args:
      chosen: the argument of the config file.
      preset: key of `PRESETS`.
      weights: rows of keywords of ``make``, see `common.keywords`.
    """
    schedule = SCHEDULES[preset]
    names = [chosen.method] if chosen.method else STUDY
    weights = {**weights, "oce,paper": summed(preset)}
    losses = {
        name: common.losses(chosen, name, weights, ORIGIN, like=chosen.like)
        for name in names
    }
    head = losses[names[0]].head
    two_scales = chosen.variant in ("hrda", "mic")
    backbone = chosen.backbone or ("mini_v1c" if two_scales else "mini")
    network = recipes.recipe(chosen.like or chosen.method).network
    architecture = common.architecture(backbone, network)
    common.check_network(backbone, architecture, head)

    values = {
        "cpu_devices": 2,
        "data.preprocessing": "imagenet",
        "model.architecture": architecture,
        "model.backbone": backbone,
        "model.head": head,
        "model.detail": 0.5 if two_scales else None,
        "model.initialisation": "scratch",
        "model.freeze_stem_affine": False,
        # DeepLabV3+ has half of the dilations of DeepLabV2, at half of its resolution.
        "model.aspp_dilations": (
            (1, 2, 3) if architecture == "deeplabv3plus" else (2, 4, 6, 8)
        ),
    }
    for domain, look in (("source", "rendered"), ("target", "camera")):
        domain_values = {
            "name": f"streets_{look}",
            "preset": preset,
            "space": "streets",
        }
        values |= at(f"data.{domain}", domain_values)

    fits = (backbone, head, architecture) == ("mini", "single", "deeplabv2")
    begin = START if fits and not chosen.scratch and preset in STARTED else "previous"
    # On the images that it was trained on, it is the source stage.
    replaces = begin == START and preset != "wide"
    if replaces and chosen.method == "source_only":
        begin, replaces = "previous", False
    if replaces and preset == "streets":
        recorded = ["start"] + ["oracle"] * (chosen.method != "target_only")
        values["recorded"] = tuple(f"docs/results/streets_{r}.json" for r in recorded)
    links = stages.links(
        chosen.method,
        like=chosen.like,
        study=STUDY,
        initial=begin,
        source=not replaces,
    )
    found = [Overlay(ORIGIN, values)]
    for name, link in links.items():
        if name in ("source", "target"):
            keys = {"method.auxiliary": common.AUXILIARY[head], **pretrain(schedule)}
        else:
            for part in losses[link.method].overlays:
                found.append(Overlay(part.origin, at(f"{name}.method", part.values)))
            keys = adapt(schedule)
            if chosen.masked:
                keys |= recipes.MASKED | recipes.SMALL_BLOCKS
            if chosen.variant in recipes.RARE_CLASSES:
                keys |= at("rare_classes", rare_classes(PRESETS[preset].size))
        found += [Overlay(ORIGIN, at(name, keys)), stages.overlay(name, link)]
    return {name: link.method for name, link in links.items()}, found


def get_config(argument=None):
    return merge(*overlays(argument))


def summed(preset):
    """Weights of the sums of OCE's slides, over the images of an adaptation step."""
    height, width = PRESETS[preset].size
    cells = (height // 8 + 1) * (width // 8 + 1)
    return common.oce_sums(
        OCE, features=SCHEDULES[preset].batch_size * cells, channels=512, classes=19
    )


def rare_classes(size):
    """DAFormer's sampling, with the same share of the image for a class."""
    height, width = size
    pixels = round(3000 * height * width / (1052 * 1914))
    return {"temperature": 0.01, "min_pixels": pixels}


ADAMW = {
    "optimizer.name": "adamw",
    "optimizer.head_multiplier": 1.0,
    "optimizer.weight_decay": 0.02,
}


def pretrain(schedule):
    """Keys of the stage on one domain alone."""
    return {
        "steps": schedule.pretrain_steps,
        "log_every": min(50, schedule.pretrain_steps // 4),
        "batch_size": schedule.batch_size,
        **ADAMW,
        "optimizer.learning_rate": 2e-3,
        "optimizer.warmup_steps": min(100, schedule.pretrain_steps // 10),
        **at("augment.source", AUGMENTATION["heavy"]),
        **at("augment.target", AUGMENTATION["heavy"]),
    }


def adapt(schedule):
    """Keys of the stages of the methods."""
    return {
        "steps": schedule.adapt_steps,
        "log_every": min(50, schedule.adapt_steps // 4),
        "batch_size": schedule.batch_size // 2,
        **ADAMW,
        "optimizer.learning_rate": 5e-4,
        **at("augment.source", AUGMENTATION["heavy"]),
        **at("augment.target", AUGMENTATION["flip"]),
    }

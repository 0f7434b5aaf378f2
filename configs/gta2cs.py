"""GTA5 to Cityscapes, 19 classes: DeepLabV2-ResNet101, one image of each domain a step.

    python train.py --config configs/gta2cs.py              LSR
    python train.py --config configs/gta2cs.py:max_square   any name in METHODS
    python train.py --config configs/gta2cs.py:lsr,paper    a preset of the method
    python train.py --config configs/gta2cs.py:lsr,vgg16    another backbone
    python train.py --config configs/gta2cs.py:lsr,tiny     small and short, to try things

Networks, initial weights, schedules and augmentation of each method: configs/recipes.py.
Expects data/gta5 and data/cityscapes as downloaded or prepared (1280x720 and 1024x512);
--config.data.source.root=DIR and --config.data.target.root=DIR name others, and weights
in weights/, see `recipes.INITIAL`; the key init_from of the first stage names others,
"scratch" none. Needs a GPU; LSR used one Titan RTX. Time and accuracy have not been
measured here.

Published mIoU on Cityscapes val with ResNet101:

    source only         36.6 AdaptSegNet family, 36.9 MaxSquare and LSR, 37.0 OCE
    target only         64.8 (LSR), 65.1 (AdaptSegNet)
    adapt_seg_net       42.4; one level 41.4, least squares 44.1, feature level 39.0
    min_ent             42.3
    adv_ent             43.8
    clan                43.2
    swd                 44.5, as quoted by Feature To Adapt
    bdl                 48.5, on source images translated by a CycleGAN, which are not made here
    max_square          44.3; image-wise 45.2; and multi-level 46.4 (preset "multi_level")
    cag                 50.2 (the mean of its printed row is 50.1), after a warm-up that is
                        aligned adversarially; here it is trained on the source alone
    feature_to_adapt    norm only 43.3, with CLAN 44.8; flipped images averaged 44.0, 45.7
    class_mix           52.1 (DACS), on 512x512 crops and shrunken labels
    oce                 45.9; without its entropy term 45.3
    lsr                 46.0 (Table 1)

With VGG16: AdaptSegNet 35.0.
"""

from configs import common, default, recipes
from lsr_jax.data.augment import AUGMENTATION

# The weights of this pair with ResNet101; a method that is not here has its defaults.
WEIGHTS = {
    "clan": {"strength": 40.0},
    "feature_to_adapt": {"strength": 40.0},
    "max_square": {"entropy": 0.1, "image_weighting": 0.2},
    "oce": {
        "clustering": 0.02,
        "orthogonality": 2.0,
        "sparsity": 0.5,
        "entropy": 0.1,
        "entropy_ratio": 0.2,
    },
    "lsr": {
        "clustering": 0.1,
        "perpendicularity": 0.2,
        "norm": 0.025,
        "entropy": 0.1,
        "entropy_ratio": 0.2,
    },
}
VGG16 = {
    "oce": {
        "clustering": 0.1,
        "orthogonality": 0.02,
        "sparsity": 0.02,
        "entropy": 0.02,
        "entropy_ratio": 0.2,
    },
    "lsr": {"clustering": 0.2, "perpendicularity": 0.4, "norm": 0.01},
}


def get_config(argument=None):
    chosen = common.parse(argument)
    config = default.get_config()
    config.data.source.name = "gta5"
    config.data.source.root = "data/gta5"
    config.data.source.space = "cityscapes"
    config.data.source.size = (720, 1280)
    config.data.source.val = "val_lsr"
    config.data.source.on_bad_example = "skip"  # GTA5 has pairs of different sizes
    config.data.target.name = "cityscapes"
    config.data.target.root = "data/cityscapes"
    config.data.target.space = "cityscapes"
    config.data.target.size = (512, 1024)
    complete(config, chosen, weights=WEIGHTS, vgg16=VGG16)
    return config


def complete(config, chosen, *, weights, vgg16, class_frequency="gta5"):
    """What all pairs of real data sets share: network, stages, the tiny version.

    Args:
      config: with its data sets.
      chosen: the argument of the config file.
      weights: method -> keywords of its ``make`` in this benchmark, with ResNet101.
      vgg16: the same with VGG16, over the others.
      class_frequency: of LSR's released histogram, a key of the class count.
    """
    method = chosen.method or "lsr"
    recipe = recipes.recipe(method)
    vgg = (chosen.backbone or "").startswith("vgg")
    own = {**weights.get(method, {}), **(vgg16.get(method, {}) if vgg else {})}
    keywords = common.keywords(chosen, method, own, recipe.preset)
    if keywords.get("class_frequency", "none") != "none":
        keywords["class_frequency"] = class_frequency
    config.data.workers = 4
    config.model.update(recipe.network)
    config.model.backbone = chosen.backbone or "resnet101"
    config.model.head = common.head(method, keywords)
    for domain in (config.data.source, config.data.target):
        if domain.train == "train" and recipe.held_out:
            domain.train = f"train_{recipe.held_out}"

    files = recipes.INITIAL[recipe.initial]
    initial = files.get(config.model.backbone, "scratch")
    common.set_stages(
        config,
        method,
        pretrain=pretrain,
        adapt=lambda name: adapt(name, recipe, keywords),
        initial=None if recipe.pretrained else initial,
    )
    if recipe.pretrained:
        config[config.stages[0]].init_from = initial
    for stage in config.stages:
        # LSR feeds BGR minus mean to weights that were trained on normalised RGB.
        config[stage].weights.allow_other_preprocessing = True
    if method == "cag":
        set_cag(config)
    if chosen.tiny:
        shrink(config, chosen.backbone)


def pretrain(method, keywords):
    c = default.stage(method, **keywords)
    c.steps = 80_000
    c.optimizer.horizon = 200_000
    c.augment.source.update(AUGMENTATION["released"])
    c.augment.target.update(AUGMENTATION["flip_blur"])  # seen by the oracle alone
    return c


def adapt(method, recipe, keywords):
    c = default.stage(method, **keywords)
    for domain, name in zip(("source", "target"), recipe.augment, strict=True):
        c.augment[domain].update(AUGMENTATION[name])
    c.update_from_flattened_dict(recipe.stage)
    return c


def set_cag(config):
    """CAG: RGB in 0..1, widths of 2200 times 0.5 to 1.5, crops of 896x512.

    Its warm-up has no published settings: the source stage has those of the others.
    """
    config.source.batch_size = config.stage_1.batch_size
    for key in ("learning_rate", "head_multiplier", "weight_decay"):
        config.source.optimizer[key] = config.stage_1.optimizer[key]
    config.data.preprocessing = "unit"
    config.data.target.size = (1024, 2048)
    if config.data.source.name == "gta5":
        config.data.source.size = (1052, 1914)
    for stage in config.stages:
        for domain in ("source", "target"):
            width = config.data[domain].size[1]
            config[stage].augment[domain].crop = (512, 896)
            config[stage].augment[domain].scale = (1100 / width, 3300 / width)


def shrink(config, backbone=None, size=(64, 128), steps=6):
    """Small images, a small fresh network and few steps, on any folder of the layout."""
    common.shorten(config, steps=steps)
    for domain in (config.data.source, config.data.target):
        domain.size = size
    for stage in config.stages:
        if "/" in config[stage].init_from:
            config[stage].init_from = "scratch"
        for domain in ("source", "target"):
            config[stage].augment[domain].update({"crop": None, "scale": None})
    config.data.workers = 0
    config.model.backbone = backbone or "mini"
    config.model.initialisation = "scratch"
    config.model.freeze_stem_affine = False
    two = config.model.architecture == "deeplabv2"
    config.model.aspp_dilations = (2, 4, 6, 8) if two else (1, 2, 3)
    config.evaluation.batch_size = 2
    config.evaluation.panel_images = 2

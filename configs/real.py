"""What the pairs of real data sets share: from their tables and a recipe to all stages."""

from lsr_jax.augment.preprocess import AUGMENTATION
from lsr_jax.configs import common, default, recipes, stages
from lsr_jax.data.layouts import LAYOUTS

DEFAULT = "lsr"  # what is trained if no method is named, and like what a control is


def complete(config, chosen, *, weights, sizes, class_frequency="gta5"):
    """Data, network and stages of a method, and the tiny version of them.

    Args:
      config: with the data sets and the sizes of most methods.
      chosen: the argument of the config file.
      weights: rows "method", "method,preset" and "method,vgg" of keywords of ``make``.
      sizes: rows "method" and "method,preset" of domain -> (H, W) that differ.
      class_frequency: of LSR's released histogram, a key of the class count.

    Raises:
      ValueError: a method without the backbone that is asked for.
    """
    method = chosen.method or DEFAULT
    like = chosen.like or (DEFAULT if method in common.CONTROLS else method)
    variant = common.variant(chosen, like, recipes.preset(like))
    recipe = recipes.recipe(like, variant)

    losses = common.losses(chosen, method, weights, like=like, default=recipes.preset)
    keywords = dict(losses.keywords)
    if keywords.get("class_frequency", "none") != "none":
        keywords["class_frequency"] = class_frequency
    config.model.update(recipe.network)
    config.model.backbone = chosen.backbone or "resnet101"
    config.model.head = losses.head
    vgg = common.is_vgg(chosen.backbone)
    if vgg and recipe.vgg is None:
        raise ValueError(
            f"config argument: the {chosen.backbone} of {like} is an FCN8s, which is not "
            "built here; name resnet50 or resnet101"
        )
    common.check_network(config.model)

    set_data(config, recipe, common.merged(sizes, like, f"{like},{variant}"))
    initial = recipes.INITIAL[recipe.initial][config.model.backbone]
    stages.set_stages(
        config,
        method,
        like=like,
        pretrain=lambda name: stage(name, losses.source, recipe, recipe.first, vgg),
        adapt=lambda name: stage(name, keywords, recipe, recipe.stage, vgg),
        initial=initial,
        source=recipe.source is not None,
    )
    for name in config.stages:
        config[name].update_from_flattened_dict(recipe.named.get(name, {}))
        set_widths(config, config[name].augment, recipe.widths)
    if initial == "scratch" or chosen.tiny:
        set_fresh(config)
    if chosen.tiny:
        shrink(config, chosen.backbone)


def set_data(config, recipe, sizes):
    """Sizes, normalisation, and the training images of those who hold some out."""
    config.data.workers = 4
    config.data.preprocessing = recipe.preprocessing
    for name in ("source", "target"):
        domain = config.data[name]
        domain.size = sizes.get(name, domain.size)
        splits = LAYOUTS[domain.name].splits
        if domain.train == "train" and f"train_{recipe.lists}" in splits:
            domain.train = f"train_{recipe.lists}"
            if domain.val in LAYOUTS[domain.name].subsets:
                domain.val = f"val_{recipe.lists}"
            if name == "target":  # for the selection target_heldout
                config.evaluation.heldout = f"val_{recipe.lists}"


def stage(method, keywords, recipe, keys, vgg):
    """A stage with the augmentation of a recipe and these of its keys."""
    c = default.stage(method, **keywords)
    for domain, name in zip(("source", "target"), recipe.augment, strict=True):
        c.augment[domain].update(AUGMENTATION[name])
    c.update_from_flattened_dict({**keys, **(recipe.vgg if vgg else {})})
    # LSR feeds BGR minus mean to weights that were trained on normalised RGB.
    c.weights.allow_other_preprocessing = True
    return c


def set_widths(config, augment, widths):
    """Random resizing to these widths; None: none."""
    for domain in ("source", "target") if widths else ():
        width = config.data[domain].size[1]
        augment[domain].scale = tuple(wanted / width for wanted in widths)


def set_fresh(config):
    """Without weights from a file: another initialisation, of which all is trained."""
    config.model.initialisation = "scratch"
    config.model.batch_norm = "train"
    config.model.freeze_stem_affine = False


def shrink(config, backbone=None, size=(64, 128), steps=6):
    """Small images, a small fresh network and few steps, on any folder of the layout."""
    stages.shorten(config, steps=steps)
    for domain in (config.data.source, config.data.target):
        domain.size = size
        if domain.val in LAYOUTS[domain.name].subsets:
            domain.val = "val_lsr"  # a seventh, so a few images are enough
    for name in config.stages:
        if "/" in config[name].init_from:
            config[name].init_from = "scratch"
        for domain in ("source", "target"):
            config[name].augment[domain].update({"crop": None, "scale": None})
    config.data.workers = 0
    config.model.backbone = backbone or "mini"
    two = config.model.architecture == "deeplabv2"
    config.model.aspp_dilations = (2, 4, 6, 8) if two else (1, 2, 3)
    config.evaluation.batch_size = 2
    config.evaluation.panel_images = 2

"""Configs of real data sets: a pair's tables and a recipe to all stages."""

from lsr_jax import streets
from lsr_jax.augment.preprocess import AUGMENTATION
from lsr_jax.configs import common, recipes, stages
from lsr_jax.configs.overlays import Overlay, at, flatten
from lsr_jax.data import custom, label_spaces
from lsr_jax.methods import dacs

DEFAULT = "lsr"  # what is trained if no method is named, and like what a control is
DOMAINS = ("source", "target")
TINY = (64, 128)  # (H, W) of images of "tiny"


def overlays(chosen, pair, *, weights, sizes, class_frequency="gta5"):
    """Stages and overlays of a method on a domain pair, in order:

    the pair, the recipe's network and data, then in each stage the method's keywords, the
    recipe and the place of the stage, then what fresh weights and ``tiny`` need.

    Args:
      chosen: the argument of the config file.
      pair: overlay with the data sets and the sizes of most methods.
      weights: rows "method", "method,preset" and "method,vgg" of keywords of ``make``.
      sizes: rows "method" and "method,preset" of domain -> (H, W) that differ.
      class_frequency: of LSR's released histogram, a key of the class count.

    Raises:
      ValueError: a backbone that the method does not have.
    """
    method = chosen.method or DEFAULT
    like = chosen.like or (DEFAULT if method in common.CONTROLS else method)
    variant = common.variant(chosen, like, recipes.preset(like))
    recipe = recipes.recipe(like, variant)
    vgg = common.is_vgg(chosen.backbone)
    if vgg and recipe.vgg is None:
        raise ValueError(
            f"config argument: the {chosen.backbone} of {like} is an FCN8s, which is not "
            "built here; name resnet50 or resnet101"
        )
    losses = common.losses(
        chosen, method, weights, pair.origin, like=like, default=recipes.preset
    )
    backbone = chosen.backbone or recipe.backbone
    architecture = common.architecture(backbone, recipe.network)
    common.check_network(backbone, architecture, losses.head)
    initial = "scratch" if chosen.scratch else recipes.INITIAL[recipe.initial][backbone]
    links = stages.links(
        method, like=like, initial=initial, source=recipe.source is not None
    )

    origin = f"configs/recipes.py: {like}"
    network = {
        **recipe.network,
        "architecture": architecture,
        "backbone": backbone,
        "head": losses.head,
    }
    own_sizes = common.rows(sizes, like, f"{like},{variant}")
    found = [
        pair,
        Overlay(origin, at("model", network) | at("evaluation", recipe.evaluation)),
        Overlay(pair.origin, {f"data.{d}.size": own_sizes[d] for d in own_sizes}),
    ]
    found.append(Overlay(origin, data(recipe, flatten(found))))
    images = augmentation(recipe, flatten(found))
    for name, link in links.items():
        alone = name in DOMAINS
        method_overlays = [losses.source] if alone else losses.overlays
        keywords = flatten(method_overlays)
        if keywords.get("class_frequency", "none") != "none":
            own = {"class_frequency": class_frequency}
            method_overlays = [*method_overlays, Overlay(pair.origin, own)]
        if keywords.get("feature_distance"):
            own = Overlay(pair.origin, things(pair.values["data.source.space"]))
            method_overlays = [*method_overlays, own]
        keys = {
            **images,
            **(recipe.first if alone else recipe.stage),
            **(recipe.vgg if vgg else {}),
            # LSR feeds BGR minus mean to weights that were trained on normalised RGB.
            "weights.allow_other_preprocessing": True,
            **recipe.named.get(name, {}),
            **({} if alone or not chosen.masked else recipes.MASKED),
        }
        found += [
            *(
                Overlay(o.origin, at(f"{name}.method", o.values))
                for o in method_overlays
            ),
            Overlay(origin, at(name, keys)),
            stages.overlay(name, link),
        ]
    if initial == "scratch" or chosen.tiny:
        found.append(Overlay("fresh weights: all are trained", FRESH))
    if chosen.tiny:
        found.append(Overlay("tiny", tiny(links, flatten(found), chosen.backbone)))
    return {name: link.method for name, link in links.items()}, found


# Without weights from a file: another initialisation, of which all is trained.
FRESH = {
    "model.initialisation": "scratch",
    "model.batch_norm": "train",
    "model.freeze_stem_affine": False,
}


# Of a stage on small images, or on so few that a class may be in none.
WHOLE_IMAGES = {
    f"augment.{domain}.{key}": value
    for domain in DOMAINS
    for key, value in (
        *(("crop", None), ("scale", None)),
        *(("majority", 1.0), ("drawn_pixels", 0)),
    )
} | {"rare_classes.temperature": 0.0, **recipes.SMALL_BLOCKS}


def things(space):
    """Which classes of a label space DAFormer's feature distance holds; none: no distance."""
    names = [label_spaces.NAMES[c] for c in dacs.THINGS]
    classes = label_spaces.SPACES[space].classes if space else ()
    found = label_spaces.indices(classes, names)
    return {"distance_classes": found} if found else {"feature_distance": 0.0}


def data(recipe, values):
    """Normalisation, and the training images of those who hold some out."""
    found = {"data.workers": 4, "data.preprocessing": recipe.preprocessing}
    lists = recipe.lists
    for name in DOMAINS:
        splits, subsets = splits_of(values[f"data.{name}.name"])
        train = values.get(f"data.{name}.train", "train")
        if train == "train" and f"train_{lists}" in splits:
            found[f"data.{name}.train"] = f"train_{lists}"
            if values.get(f"data.{name}.val", "val") in subsets:
                found[f"data.{name}.val"] = f"val_{lists}"
            if name == "target":  # for the selection target_heldout
                found["evaluation.heldout"] = f"val_{lists}"
    return found


def splits_of(dataset):
    """All splits of a data set, and those by rule; drawn images have none by rule."""
    if dataset.startswith("streets_"):
        return streets.PARTS, ()
    layout = custom.find_layout(dataset)
    return layout.splits, tuple(layout.subsets)


def augmentation(recipe, values):
    """Augmentation of a stage, with random resizing to the widths of the recipe."""
    found = {}
    for domain, name in zip(DOMAINS, recipe.augment, strict=True):
        found |= at(f"augment.{domain}", AUGMENTATION[name])
        if recipe.widths:
            preset = values.get(f"data.{domain}.preset")
            size = (
                streets.PRESETS[preset].size
                if preset
                else values[f"data.{domain}.size"]
            )
            width = size[1]
            scale = tuple(wanted / width for wanted in recipe.widths)
            found[f"augment.{domain}.scale"] = scale
    return found


def tiny(links, values, backbone=None, size=TINY, steps=6):
    """Small images, a small fresh network and few steps, on any folder of the layout."""
    architecture = values.get("model.architecture", "deeplabv2")
    small = "mit_mini" if architecture == "daformer" else "mini"
    found = {
        **stages.short(links, steps),
        "data.workers": 0,
        "model.backbone": backbone or small,
        "model.aspp_dilations": (
            (2, 4, 6, 8) if architecture == "deeplabv2" else (1, 2, 3)
        ),
        "evaluation.batch_size": 2,
        "evaluation.window": None,
        "evaluation.panel_images": 2,
    }
    for domain in DOMAINS:
        if not values.get(f"data.{domain}.preset"):
            found[f"data.{domain}.size"] = size
        _, subsets = splits_of(values[f"data.{domain}.name"])
        if values.get(f"data.{domain}.val", "val") in subsets:
            found[f"data.{domain}.val"] = "val_lsr"  # a seventh: few images are enough
    for name, link in links.items():
        found |= at(name, WHOLE_IMAGES)
        found |= at(f"{name}.method", recipes.SMALL_MAPS.get(link.method, {}))
        if "/" in values[f"{name}.init_from"]:
            found[f"{name}.init_from"] = "scratch"
    return found

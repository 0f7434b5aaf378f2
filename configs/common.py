"""The words after the colon, ``:method,backbone,tiny``, and what they mean for the losses."""

from typing import NamedTuple

from lsr_jax.configs.overlays import Overlay, flatten
from lsr_jax.methods import METHODS
from lsr_jax.models import BACKBONES, mix_transformer

LIKE = "like="
# Baselines: each can be trained with the network and schedule of any method.
CONTROLS = ("source_only", "source_continued", "batchnorm_only", "target_only")
# Weight of the second head's cross-entropy in the source stage: AdaptSegNet and
# MaxSquare's multi-level networks; the equal heads of CLAN.
AUXILIARY = {"single": 0.0, "multi_level": 0.1, "two_heads": 1.0}


class Arguments(NamedTuple):
    """The words after the colon of ``--config configs/FILE.py:...``.

    ``variant`` is a preset of the method, or of ``like``, the method whose network and
    schedule are used; ``preset`` is one of the benchmark; ``scratch`` is for fresh weights
    in place of trained ones; ``masked`` adds masked image consistency to the method.
    """

    method: str | None
    variant: str | None
    like: str | None
    backbone: str | None
    preset: str | None
    tiny: bool
    scratch: bool
    masked: bool


def parse(argument, presets=()):
    """Words in any order, separated by commas; at most one of a kind.

    Raises:
      ValueError: a word that is no method, backbone or preset, two of a kind, a preset or
        ``like=METHOD`` without the method that it belongs to, or ``masked`` where it would
        change nothing or be there twice.
    """
    kinds = {
        "method": tuple(METHODS),
        "variant": tuple(
            dict.fromkeys(word for name in METHODS for word in variants(name))
        ),
        "like": tuple(f"{LIKE}{name}" for name in METHODS if name not in CONTROLS),
        "backbone": tuple(BACKBONES),
        "preset": tuple(presets),
        "tiny": ("tiny",),
        "scratch": ("scratch",),
        "masked": ("masked",),
    }
    found = dict.fromkeys(kinds)
    for word in filter(None, (argument or "").split(",")):
        kind = next((kind for kind, words in kinds.items() if word in words), None)
        if kind is None:
            shown = kinds | {"like": (f"{LIKE}METHOD, which is no control",)}
            words = dict.fromkeys(word for kind in shown.values() for word in kind)
            known = ", ".join(words)
            raise ValueError(f"config argument: {word!r} is unknown; known: {known}")
        if found[kind] is not None:
            raise ValueError(
                f"config argument: two of a kind: {found[kind]!r} and {word!r}"
            )
        found[kind] = word
    if found["like"] and not found["method"]:
        raise ValueError(
            f"config argument: {found['like']!r} needs a method to train, such as "
            f"batchnorm_only,{found['like']}"
        )
    found["like"] = (found["like"] or "").removeprefix(LIKE) or None
    if found["variant"] and not found["method"]:
        owners = [name for name in METHODS if found["variant"] in variants(name)]
        if len(owners) == 1:  # such as mic, a preset of dacs alone
            found["method"] = owners[0]
    named = [name for name in (found["method"], found["like"]) if name]
    known = [word for name in named for word in variants(name)]
    if found["variant"] is not None and found["variant"] not in known:
        raise ValueError(
            f"config argument: {found['variant']!r} is no preset of "
            f"{' or '.join(named) or 'a method, which must be named beside it'}; known: "
            f"{', '.join(known) or 'none'}"
        )
    if found["masked"] and found["method"] in ("source_only", "target_only"):
        raise ValueError(
            f"config argument: 'masked' is for methods that adapt, found "
            f"{found['method']!r}; name source_continued or batchnorm_only"
        )
    if found["masked"] and found["variant"] == "mic":
        raise ValueError(
            "config argument: 'mic' has masked image consistency already; leave 'masked' out"
        )
    switches = {key: found[key] is not None for key in ("tiny", "scratch", "masked")}
    return Arguments(**{**found, **switches})


def variants(method):
    """The presets of a method: name -> keywords of its ``make``."""
    return METHODS[method].presets


def variant(chosen, method, default=None):
    """The chosen preset if it is one of this method, else the default."""
    return chosen.variant if chosen.variant in variants(method) else default


def rows(table, *names):
    """The named rows of a table, merged; later rows win."""
    return {key: value for name in names for key, value in table.get(name, {}).items()}


def keywords(chosen, method, weights, origin, default=None):
    """Overlays with keywords of a method's ``make``.

    Args:
      chosen: the argument of the config file.
      method: a key of `METHODS`.
      weights: of the benchmark. Merged in this order: row "method", the preset, rows
        "method,preset", "method,vgg" and "method,preset,vgg".
      origin: the file that defines the weights.
      default: preset, if none is chosen.
    """
    presets, preset = variants(method), variant(chosen, method, default)
    vgg = is_vgg(chosen.backbone)
    own = [f"{method},{preset}"]
    if vgg:
        own += [f"{method},vgg", f"{method},{preset},vgg"]
    found = [
        Overlay(origin, rows(weights, method)),
        Overlay(f"preset {preset} of {method}", presets.get(preset, {})),
        Overlay(origin, rows(weights, *own)),
    ]
    free = chosen.variant not in presets
    if vgg and free and head(method, flatten(found)) == "multi_level":
        single = "preset single: a VGG has one level"
        found.append(Overlay(single, presets["single"]))
    return found


def oce_sums(weights, *, features, channels, classes):
    """Weights for the sums of OCE's slides, where ``weights`` are for the code's means.

    They are not published. These are the code's, divided by the ratio of the sum, or
    norm, to the mean.

    Args:
      weights: "clustering", "orthogonality" and "sparsity".
      features: feature cells of a step, of both domains.
      channels: of a feature.
      classes: of the head.
    """
    return {
        "clustering": weights["clustering"] / channels**0.5,
        "orthogonality": weights["orthogonality"] / (features * classes),
        "sparsity": weights["sparsity"] / (channels * classes),
    }


class Losses(NamedTuple):
    """A method's keywords, and what follows from them.

    Attributes:
      overlays: keywords of its ``make``.
      head: key of ``config.model``.
      source: keywords of ``source_only``: the same loss on the source alone.
    """

    overlays: list[Overlay]
    head: str
    source: Overlay


def losses(chosen, method, weights, origin, *, like=None, default=lambda method: None):
    """The losses of a method; a control has the heads and the source loss of ``like``.

    Args:
      chosen: the argument of the config file.
      method: a key of `METHODS`.
      weights: see `keywords`.
      origin: the file that defines the weights.
      like: the method whose heads and source loss a control takes.
      default: ``method -> preset``, if none is chosen.
    """
    control = like is not None and method in CONTROLS
    subject = like if control else method
    found = keywords(chosen, subject, weights, origin, default(subject))
    own = flatten(found)
    heads = head(subject, own)
    source = {"auxiliary": AUXILIARY[heads], "gamma": own.get("gamma", 0.0)}
    source = Overlay(f"source loss of {subject}", source)
    return Losses([source] if control else found, heads, source)


def head(method, keywords):
    """The heads of the network that a method needs; one where it can use any."""
    return METHODS[method].make(**keywords).heads[0]


def is_vgg(backbone):
    """Whether it is one; None is the default, a ResNet."""
    return (backbone or "").startswith("vgg")


def architecture(backbone, network):
    """The architecture of a backbone in a recipe's network, ``config.model``."""
    if isinstance(BACKBONES[backbone], mix_transformer.Architecture):
        return "daformer"
    return network.get("architecture", "deeplabv2")


def check_network(backbone, architecture, head):
    """Raise ValueError where a method needs what the backbone does not have."""
    if is_vgg(backbone) and architecture != "deeplabv2":
        raise ValueError(
            f"config argument: {architecture} of cag needs a ResNet, found {backbone}; "
            "name resnet50 or resnet101"
        )
    if is_vgg(backbone) and head == "multi_level":
        raise ValueError(
            f"config argument: two levels need layer3 of a ResNet, found {backbone}; "
            "name a ResNet, or a preset with one level"
        )
    if head != "single" and architecture != "deeplabv2":
        raise ValueError(
            f"config argument: {architecture} has a single head, the method needs {head}; "
            "name another backbone, or leave like=cag out"
        )

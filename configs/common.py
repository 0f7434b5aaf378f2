"""What the files of the domain pairs share: reading ``:method,backbone,tiny``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from lsr_jax.methods import METHODS

BACKBONES = ("mini", "resnet50", "resnet101", "vgg13", "vgg16")


class Arguments(NamedTuple):
    """What stands behind the colon of ``--config configs/x.py:...``.

    ``variant`` is one of the method's ``PRESETS``, ``preset`` one of the benchmark's.
    """

    method: str | None
    variant: str | None
    backbone: str | None
    preset: str | None
    tiny: bool


def parse(argument, presets=()):
    """Words in any order, separated by commas; at most one of a kind.

    Raises:
      ValueError: a word that is no method, backbone or preset, or two of a kind.
    """
    variants = {name: getattr(METHODS[name], "PRESETS", {}) for name in METHODS}
    kinds = {
        "method": tuple(METHODS),
        "variant": tuple(dict.fromkeys(word for v in variants.values() for word in v)),
        "backbone": BACKBONES,
        "preset": tuple(presets),
        "tiny": ("tiny",),
    }
    found = dict.fromkeys(kinds)
    for word in filter(None, (argument or "").split(",")):
        kind = next((kind for kind, words in kinds.items() if word in words), None)
        if kind is None:
            known = ", ".join(word for words in kinds.values() for word in words)
            raise ValueError(f"config argument: {word!r} is unknown; known: {known}")
        if found[kind] is not None:
            raise ValueError(
                f"config argument: two of a kind: {found[kind]!r} and {word!r}"
            )
        found[kind] = word
    known = variants.get(found["method"], {})
    if found["variant"] is not None and found["variant"] not in known:
        raise ValueError(
            f"config argument: {found['variant']!r} is no preset of "
            f"{found['method'] or 'a method, which must be named beside it'}; known: "
            f"{', '.join(known) or 'none'}"
        )
    return Arguments(**{**found, "tiny": found["tiny"] is not None})


def keywords(chosen, method, weights, preset=None):
    """Keywords of a method's ``make``: a preset that is asked for has the last word.

    Args:
      chosen: the argument of the config file.
      method: a key of `METHODS`.
      weights: those of the benchmark.
      preset: what the benchmark's weights belong to, where no preset is asked for.
    """
    presets = getattr(METHODS[method], "PRESETS", {})
    if chosen.variant is not None:
        return {**weights, **presets[chosen.variant]}
    found = {**(presets[preset] if preset else {}), **weights}
    vgg = (chosen.backbone or "").startswith("vgg")
    if vgg and head(method, found) == "multi_level":  # VGG has one level
        found |= presets["single"]
    return found


def head(method, keywords):
    """The heads of the network that a method needs; one where it can use any."""
    return METHODS[method].make(**keywords).heads[0]


class Link(NamedTuple):
    """One of the stages of a method.

    Attributes:
      init_from: the stage whose network it starts from; "source" stands for the initial
        weights where a run has no source stage.
      labeller: the stage whose network labels for it; "start": the one it starts from.
      keywords: of the method's ``make``, over those of the benchmark.
    """

    init_from: str = "source"
    labeller: str = "start"
    keywords: Mapping[str, object] = MappingProxyType({})


CHAINS = {
    # Each stage starts from the one before and recomputes the anchors with it.
    "cag": {
        "stage_1": Link(),
        "stage_2": Link("stage_1"),
        "stage_3": Link("stage_2"),
    },
    # Every round starts anew, with labels of the network of the stage before.
    "bdl": {
        "adversarial": Link(keywords={"self_training": 0.0}),
        "round_1": Link(labeller="adversarial"),
        "round_2": Link(labeller="round_1"),
    },
}
# Weight of the second head's cross-entropy in the source stage: AdaptSegNet and
# MaxSquare's multi-level networks; the equal heads of CLAN.
AUXILIARY = {"single": 0.0, "multi_level": 0.1, "two_heads": 1.0}


def set_stages(config, method, *, study=(), pretrain, adapt, initial=None):
    """Write ``config.stages`` and a section for each.

    Args:
      config: gets the stages; its network is set.
      method: one method to run, or None for all of ``study`` from one pre-training.
      study: methods and controls that share the ``source`` stage.
      pretrain: ``(method, keywords) -> stage`` of a network's first stage.
      adapt: ``method -> stage`` of what follows.
      initial: what a method without a source stage starts from; None for a source
        stage.
    """
    keywords = {"auxiliary": AUXILIARY[config.model.head]}
    if method == "target_only":
        config.stages = ("target",)
        config.target = pretrain(method, keywords)
        return
    config.stages = ()
    if initial is None:
        config.stages = ("source",)
        config.source = pretrain("source_only", keywords)
    if method == "source_only":
        return
    chains = [(method, CHAINS.get(method, {"adapt": Link()}))]
    if method is None:
        chains = [(name, {name: Link()}) for name in study]
    for name, chain in chains:
        config.stages += tuple(chain)
        for stage, link in chain.items():
            config[stage] = adapt(name)
            anew = initial is not None and link.init_from == "source"
            config[stage].init_from = initial if anew else link.init_from
            config[stage].labeller = link.labeller
            config[stage].method.update(link.keywords)


def shorten(config, steps=20):
    """The same stages in seconds: ``steps`` each, everything logged."""
    for name in config.stages:
        config[name].steps = steps
        config[name].log_every = 5
    config.evaluation.batchnorm_images = 8

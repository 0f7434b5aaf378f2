"""What the files of the domain pairs share: reading ``:method,backbone,tiny``."""

from collections.abc import Mapping
from typing import NamedTuple

from lsr_jax.methods import METHODS

BACKBONES = ("mini", "resnet50", "resnet101", "vgg13", "vgg16")


class Arguments(NamedTuple):
    """What stands behind the colon of ``--config configs/x.py:...``."""

    method: str | None
    backbone: str | None
    preset: str | None
    tiny: bool


def parse(argument, presets=()):
    """Words in any order, separated by commas; at most one of a kind.

    Raises:
      ValueError: a word that is no method, backbone or preset, or two of a kind.
    """
    found = {"method": None, "backbone": None, "preset": None, "tiny": None}
    kinds = {
        "method": tuple(METHODS),
        "backbone": BACKBONES,
        "preset": tuple(presets),
        "tiny": ("tiny",),
    }
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
    return Arguments(**{**found, "tiny": found["tiny"] is not None})


class Link(NamedTuple):
    """One stage of a method that has several.

    Attributes:
      init_from: the stage whose network it starts from.
      labeller: the stage whose network labels for it; "start": the one it starts from.
      keywords: of the method's ``make``, over those of the benchmark.
    """

    init_from: str
    labeller: str = "start"
    keywords: Mapping[str, object] = {}


CHAINS = {
    # Each stage starts from the one before and recomputes the anchors with it.
    "cag": {
        "stage_1": Link("source"),
        "stage_2": Link("stage_1"),
        "stage_3": Link("stage_2"),
    },
    # Every round starts anew, with labels of the network of the stage before.
    "bdl": {
        "adversarial": Link("source", keywords={"self_training": 0.0}),
        "round_1": Link("source", labeller="adversarial"),
        "round_2": Link("source", labeller="round_1"),
    },
}


def set_stages(config, method, *, study, pretrain, adapt):
    """Write ``config.stages`` and a section for each.

    Args:
      config: gets the stages.
      method: one method to run, or None for all of ``study`` from one pre-training.
      study: methods and controls that share the ``source`` stage.
      pretrain: ``method -> stage`` of a network's first stage.
      adapt: ``method -> stage`` of what starts from the ``source`` stage.
    """
    if method == "target_only":
        config.stages = ("target",)
        config.target = pretrain("target_only")
        return
    config.source = pretrain("source_only")
    if method == "source_only":
        config.stages = ("source",)
        return
    if method in CHAINS:
        set_chain(config, method, adapt)
        return
    names = {"adapt": method} if method else {name: name for name in study}
    config.stages = ("source", *names)
    for stage, name in names.items():
        config[stage] = adapt(name)
        config[stage].init_from = "source"


def set_chain(config, method, adapt):
    """Write the ``source`` stage's followers of a method of `CHAINS`."""
    chain = CHAINS[method]
    config.stages = ("source", *chain)
    for stage, link in chain.items():
        config[stage] = adapt(method)
        config[stage].init_from = link.init_from
        config[stage].labeller = link.labeller
        config[stage].method.update(link.keywords)


def set_deeplabv3plus(config, dilations=(6, 12, 18)):
    """CAG's network: output stride 16, a decoder, one learning rate for all of it."""
    config.model.architecture = "deeplabv3plus"
    config.model.aspp_dilations = dilations
    for stage in config.stages:
        config[stage].optimizer.head_multiplier = 1.0


def shorten(config, steps=20):
    """The same stages in seconds: ``steps`` each, everything logged."""
    for name in config.stages:
        config[name].steps = steps
        config[name].log_every = 5
    config.evaluation.batchnorm_images = 8

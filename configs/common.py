"""What the files of the domain pairs share: reading ``:method,backbone,tiny``."""

from collections.abc import Mapping
from types import MappingProxyType
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

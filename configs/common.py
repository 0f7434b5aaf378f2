"""What the files of the domain pairs share: reading ``:method,backbone,tiny``."""

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
    names = {"adapt": method} if method else {name: name for name in study}
    config.stages = ("source", *names)
    for stage, name in names.items():
        config[stage] = adapt(name)
        config[stage].init_from = "source"


def shorten(config, steps=20):
    """The same stages in seconds: ``steps`` each, everything logged."""
    for name in config.stages:
        config[name].steps = steps
        config[name].log_every = 5
    config.evaluation.batchnorm_images = 8

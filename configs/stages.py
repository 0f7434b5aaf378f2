"""The stages of a run: which follow on which, and what each starts from."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from lsr_jax.configs import common


class Link(NamedTuple):
    """One of the stages of a method.

    Attributes:
      init_from: the stage whose network it starts from; "source" stands for the initial
        weights where a run has no source stage.
      pseudo_labeler: the stage whose network labels for it; "start": the one it starts from.
      keywords: of the method's ``make``, over those of the benchmark.
    """

    init_from: str = "source"
    pseudo_labeler: str = "start"
    keywords: Mapping[str, object] = MappingProxyType({})


ADAPT = {"adapt": Link()}
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
        "round_1": Link(pseudo_labeler="adversarial"),
        "round_2": Link(pseudo_labeler="round_1"),
    },
}


def chain(method, like=None):
    """The stages of a method; of a control those that lead to the last one of ``like``."""
    if method not in common.CONTROLS:
        return CHAINS.get(method, ADAPT)
    whole = CHAINS.get(like, ADAPT)
    stage, found = list(whole)[-1], {}
    while stage in whole:
        found = {stage: Link(whole[stage].init_from), **found}
        stage = whole[stage].init_from
    return found


def set_stages(
    config,
    method,
    *,
    pretrain,
    adapt,
    like=None,
    study=(),
    initial="previous",
    source=True,
):
    """Write ``config.stages`` and a section for each.

    Args:
      config: gets the stages; its network is set.
      method: one method to run, or None for all of ``study`` from one pre-training.
      pretrain: ``method -> stage`` of a network's first stage.
      adapt: ``method -> stage`` of what follows.
      like: the method of which a control has the stages.
      study: methods and controls that share the ``source`` stage.
      initial: what the first stage starts from.
      source: whether a ``source`` stage comes before those of the method.
    """
    alone = {"source_only": "source", "target_only": "target"}.get(method)
    config.stages = (alone,) if alone else ("source",) if source else ()
    for stage in config.stages:
        config[stage] = pretrain(f"{stage}_only")
        config[stage].init_from = initial
    if alone:
        return
    chains = [(method, chain(method, like))]
    if method is None:
        chains = [(name, {name: Link()}) for name in study]
    for name, links in chains:
        config.stages += tuple(links)
        for stage, link in links.items():
            config[stage] = adapt(name)
            anew = link.init_from == "source" and not source
            config[stage].init_from = initial if anew else link.init_from
            config[stage].pseudo_labeler = link.pseudo_labeler
            config[stage].method.update(link.keywords)


def shorten(config, steps=20):
    """The same stages in seconds: ``steps`` each, everything logged."""
    for name in config.stages:
        config[name].steps = steps
        config[name].log_every = 5
    config.evaluation.batchnorm_images = 8

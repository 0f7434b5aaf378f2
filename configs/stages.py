"""The stages of a run: their order, and what each starts from."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from lsr_jax.configs import common
from lsr_jax.configs.overlays import Overlay, at


class Link(NamedTuple):
    """One of the stages of a method.

    Attributes:
      init_from: the stage whose network it starts from; "source" means the initial
        weights if the run has no source stage.
      pseudo_labeler: the stage whose network labels for it; "start": the one it starts from.
      keywords: of the method's ``make``, over those of the benchmark.
      method: a key of `METHODS`; "" until `links` sets it.
    """

    init_from: str = "source"
    pseudo_labeler: str = "start"
    keywords: Mapping[str, object] = MappingProxyType({})
    method: str = ""


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


def links(method, *, like=None, study=(), initial="previous", source=True):
    """The stages of a run: name -> `Link`.

    Args:
      method: one method to run, or None for all of ``study`` from one pre-training.
      like: the method whose stages a control takes.
      study: methods and controls that share the ``source`` stage.
      initial: what the first stage starts from.
      source: whether a ``source`` stage comes before those of the method.
    """
    alone = {"source_only": "source", "target_only": "target"}.get(method)
    if alone:
        return {alone: Link(initial, method=method)}
    found = {"source": Link(initial, method="source_only")} if source else {}
    chains = {method: chain(method, like)}
    if method is None:
        chains = {name: {name: Link()} for name in study}
    for name, whole in chains.items():
        for stage, link in whole.items():
            anew = link.init_from == "source" and not source
            start = initial if anew else link.init_from
            found[stage] = link._replace(init_from=start, method=name)
    return found


def overlay(stage, link):
    """The values that a link sets in its stage."""
    values = {"init_from": link.init_from, "pseudo_labeler": link.pseudo_labeler}
    values |= at("method", link.keywords)
    return Overlay("configs/stages.py", at(stage, values))


def short(stages, steps=20):
    """The same stages in seconds: ``steps`` each, everything logged."""
    values = {"evaluation.batchnorm_images": 8}
    for stage in stages:
        values |= at(stage, {"steps": steps, "log_every": 5})
    return values

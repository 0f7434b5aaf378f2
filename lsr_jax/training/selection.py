"""Which checkpoint of a stage is reported: the last, or the best by a named rule.

A rule scores a state by its mIoU with running statistics on a labelled split:

* ``source_val``: the reported split of the source; needs no target label.
* ``target_heldout``: ``evaluation.heldout``, target labels that are not reported.
* ``oracle``: the very target labels that are reported.

Later stages start from the last step whatever the rule, so that no target label finds
its way into training.
"""

from __future__ import annotations

from collections.abc import Mapping

from lsr_jax.data import pipeline
from lsr_jax.errors import InputError
from lsr_jax.evaluation import metrics, predictor
from lsr_jax.training.stage import Experiment
from lsr_jax.training.state import TrainState

RULES = ("last", "source_val", "target_heldout", "oracle")


def split_of(config: Mapping) -> tuple[str, str] | None:
    """Domain and split on which the rule of a config scores; None for ``last``.

    Raises:
      InputError: no such rule, or the held-out split is missing or reported.
    """
    rule, heldout = config["evaluation"]["selection"], config["evaluation"]["heldout"]
    reported = config["data"]["target"]["val"]
    if rule not in RULES:
        raise InputError(
            f"evaluation.selection: expected one of {', '.join(RULES)}, found {rule!r}"
        )
    if rule == "target_heldout" and heldout in ("", reported):
        raise InputError(
            "evaluation.heldout: expected a labelled split of the target domain other "
            f"than the reported {reported!r}, found {heldout!r}; name one, or choose "
            "the selection oracle"
        )
    splits = {
        "last": None,
        "source_val": ("source", config["data"]["source"]["val"]),
        "target_heldout": ("target", heldout),
        "oracle": ("target", reported),
    }
    return splits[rule]


def label(facts: Mapping, reported: str) -> str:
    """The rule to print beside the numbers of a checkpoint on a target split.

    A choice by the split that is reported is an oracle's, whatever it was meant as.
    """
    best = facts["best"]
    if best is None:
        return "last"
    if best["domain"] == "source":
        return "source_val"
    return "oracle" if best["split"] == reported else "target_heldout"


class Selector:
    """Scores the states of all stages of one experiment; compiled once."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.split = split_of(experiment.config)
        model = experiment.model
        scores = predictor.network(
            model.forward, experiment.normalise, prediction=model.prediction
        )
        self._predictor = predictor.Predictor(
            scores, num_classes=model.num_classes, mesh=experiment.mesh
        )

    def due(self, stage: str, step: int) -> bool:
        """Whether the state after ``step`` is scored."""
        if self.split is None:
            return False
        c = self.experiment.config
        every = c["evaluation"]["every"] or c[stage]["checkpoint_every"]
        return step % every == 0 or step == c[stage]["steps"]

    def better(self, state: TrainState, step: int, best: Mapping | None) -> dict:
        """The best of ``best`` and this state, the earlier one if they are equal."""
        domain, split = self.split
        size = self.experiment.evaluation_batch_size()
        source = self.experiment.domains[domain].open(split)
        with pipeline.eval_batches(source, batch_size=size) as batches:
            matrix = self._predictor.confusion(
                state.params["model"], state.model_state, batches
            )
        score = float(metrics.mean_iou(metrics.iou(matrix)))
        if best is not None and not score > best["miou"]:
            return dict(best)
        return {"step": step, "miou": score, "domain": domain, "split": split}

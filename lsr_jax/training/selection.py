"""Which checkpoint of a stage is reported: the last, or the best by a named rule.

A rule scores a state with running statistics, by its mIoU on a labelled split or by one of
the `unsupervised.CRITERIA` of target training images:

* ``source_val``: the reported split of the source; needs no target label.
* ``target_infomax``, ``target_agreement``: need no label.
* ``target_heldout``: ``evaluation.heldout``, target labels that are not reported.
* ``oracle``: the very target labels that are reported.

Later stages start from the last step whatever the rule, so that no target label is used
for training.
"""

from __future__ import annotations

from collections.abc import Mapping

from lsr_jax.data import pipeline, records
from lsr_jax.errors import InputError
from lsr_jax.evaluation import confusion, predictor, unsupervised
from lsr_jax.training.stage import Run, Stage
from lsr_jax.training.state import TrainState


def split_of(config: Mapping) -> tuple[str, str] | None:
    """Domain and split on which the rule of a config scores; None for ``last``.

    Raises:
      InputError: the held-out split is missing or reported.
    """
    rule, heldout = config["evaluation"]["selection"], config["evaluation"]["heldout"]
    target = config["data"]["target"]
    reported = target["val"]
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
        **dict.fromkeys(unsupervised.RULES, ("target", target["train"])),
    }
    return splits[rule]


def labelled_split_of(config: Mapping) -> tuple[str, str] | None:
    """The split of `split_of` where the rule reads its labels; else None."""
    unlabelled = config["evaluation"]["selection"] in unsupervised.RULES
    return None if unlabelled else split_of(config)


class Selector:
    """Scores the states of all stages of a run."""

    def __init__(self, run: Run):
        """Opens the split whose labels the rule reads.

        Raises:
          InputError: the rule needs labels, and the split has none.
        """
        self._run = run
        self._rule = run.config["evaluation"]["selection"]
        self.split = split_of(run.config)
        if labelled := labelled_split_of(run.config):
            domain, split = labelled
            self._source = run.domains[domain].open(split)
            if not records.is_labelled(self._source):
                raise InputError(
                    f"evaluation.selection: {self._rule} scores the {domain} split "
                    f"{split}, which has no labels; choose last or target_infomax"
                )
        model, mesh = run.model, run.mesh
        augmentation = predictor.ONE_VIEW.configured(run.config)
        self._predictor = predictor.Predictor.of(
            model, run.normalise, mesh=mesh, augmentation=augmentation
        )
        self._criteria = unsupervised.Estimator(
            model.forward, run.normalise, mesh=mesh, prediction=model.prediction
        )

    def is_due(self, stage: Stage, step: int) -> bool:
        """Whether the state after ``step`` is scored."""
        if self.split is None:
            return False
        every = self._run.config["evaluation"]["every"]
        every = every or stage.config["checkpoint_every"]
        return step % every == 0 or step == stage.config["steps"]

    def better(self, state: TrainState, step: int, best: Mapping | None) -> dict:
        """The better of ``best`` and this state, the earlier one if they are equal."""
        score = self._score(state.params["model"], state.model_state)
        if best is not None and not score > best.get("score", best.get("miou")):
            return dict(best)
        split = self.split[1]
        return {"step": step, "score": score, "rule": self._rule, "split": split}

    def _score(self, params, model_state):
        if criterion := unsupervised.RULES.get(self._rule):
            with self._run.statistics_batches() as batches:
                return self._criteria(params, model_state, batches)[criterion]
        size = self._run.evaluation_batch_size()
        with pipeline.eval_batches(self._source, batch_size=size) as batches:
            matrix = self._predictor.confusion(params, model_state, batches)
        declared = self._run.domains[self.split[0]].space.declared
        return float(confusion.mean_iou(matrix, declared))

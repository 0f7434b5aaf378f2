"""Which checkpoint of a stage is reported: the last, or the best by a named rule.

A rule scores a state by its mIoU with running statistics on a labelled split:

* ``source_val``: the reported split of the source; needs no target label.
* ``target_heldout``: ``evaluation.heldout``, target labels that are not reported.
* ``oracle``: the very target labels that are reported.

Later stages start from the last step whatever the rule, so that no target label is used
for training.
"""

from __future__ import annotations

from collections.abc import Mapping

from lsr_jax.data import pipeline, records
from lsr_jax.errors import InputError
from lsr_jax.evaluation import confusion, predictor
from lsr_jax.training.stage import Run, Stage
from lsr_jax.training.state import TrainState


def split_of(config: Mapping) -> tuple[str, str] | None:
    """Domain and split on which the rule of a config scores; None for ``last``.

    Raises:
      InputError: the held-out split is missing or reported.
    """
    rule, heldout = config["evaluation"]["selection"], config["evaluation"]["heldout"]
    reported = config["data"]["target"]["val"]
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


class Selector:
    """Scores the states of all stages of a run."""

    def __init__(self, run: Run):
        """Opens the split on which the rule scores; raises InputError without labels."""
        self._run = run
        self.split = split_of(run.config)
        if self.split:
            domain, split = self.split
            self._source = run.domains[domain].open(split)
            if not records.is_labelled(self._source):
                raise InputError(
                    f"evaluation.selection: {run.config['evaluation']['selection']} "
                    f"scores the {domain} split {split}, which has no labels; choose last"
                )
        scores = predictor.network(
            run.model.forward,
            run.normalise,
            prediction=run.model.prediction,
            corners=run.model.corners,
        )
        self._predictor = predictor.Predictor(
            scores, num_classes=run.model.num_classes, mesh=run.mesh
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
        domain, split = self.split
        size = self._run.evaluation_batch_size()
        with pipeline.eval_batches(self._source, batch_size=size) as batches:
            matrix = self._predictor.confusion(
                state.params["model"], state.model_state, batches
            )
        declared = self._run.domains[domain].space.declared
        score = float(confusion.mean_iou(matrix, declared))
        if best is not None and not score > best["miou"]:
            return dict(best)
        return {"step": step, "miou": score, "domain": domain, "split": split}

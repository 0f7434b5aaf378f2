"""Networks and ensembles measured on both domains of a config, as rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from lsr_jax.data import pipeline, records
from lsr_jax.errors import InputError
from lsr_jax.evaluation import predictor as evaluation_predictor
from lsr_jax.evaluation.evaluate import Evaluator
from lsr_jax.evaluation.predictor import PROTOCOLS, Averaging, Predictor, Protocol
from lsr_jax.report import panel, results
from lsr_jax.training.stage import Run
from lsr_jax.training.weights import Trained
from lsr_jax.types import PyTree


class Options(NamedTuple):
    """How networks are measured."""

    protocols: tuple[Protocol, ...] = PROTOCOLS
    averaging: Averaging = evaluation_predictor.ONE_VIEW


ONE_PASS = Options()


class Entry(NamedTuple):
    """A network, or an ensemble of several, and the name of its line."""

    name: str
    members: tuple[Trained, ...]
    weights: tuple[float, ...] = (1.0,)

    def facts(self) -> dict:
        """What stands beside its numbers."""
        first, *others = self.members
        if not others:
            chosen = ["method", "seed", "step", "selection", "weights"]
            chosen += ["newest"] if first.newest is not None else []
            return {name: getattr(first, name) for name in chosen}
        pairs = list(zip(self.weights, self.members, strict=True))
        seeds = {member.seed for member in self.members}
        text = " ".join(f"{weight} {member.weights}" for weight, member in pairs)
        return {
            "method": " + ".join(f"{w:g} {member.method}" for w, member in pairs),
            "seed": seeds.pop() if len(seeds) == 1 else None,
            "step": None,
            "selection": "/".join(dict.fromkeys(m.selection for m in self.members)),
            "weights": hashlib.sha256(text.encode()).hexdigest(),
            "members": [
                {
                    "weight": weight,
                    "stage": member.stage,
                    **Entry("", (member,)).facts(),
                }
                for weight, member in pairs
            ],
        }


class Evaluation:
    """Measures networks on the data of one experiment; each is compiled once."""

    def __init__(self, experiment: Run, options: Options = ONE_PASS):
        self.experiment = experiment
        self.options = options
        self.config = experiment.config["evaluation"]
        self.space = experiment.domains["target"].space
        self.networks: dict[str, Trained] = {}
        self._evaluators: dict[str, Evaluator] = {}

    def network(self, stage: str) -> Trained:
        """The trained network of a stage, restored once for tables and figures."""
        if stage not in self.networks:
            self.networks[stage] = self.experiment.trained(stage)
        return self.networks[stage]

    def entry(self, stage: str) -> Entry:
        """The line of a stage."""
        return Entry(stage, (self.network(stage),))

    def rows(self, entry: Entry) -> Iterator[dict]:
        """Both domains, both kinds of BatchNorm statistics, every protocol.

        Raises:
          InputError: another number of classes than the data have.
        """
        self._check_classes(entry)
        predictor, params = self.predictor(entry)
        facts = entry.facts()
        data = self.experiment.config["data"]
        for bn, model_state in self.statistics(entry).items():
            for domain in ("target", "source"):
                with self.batches(self.experiment.open(domain, "val")) as batches:
                    found = predictor.confusions(
                        params, model_state, batches, protocols=self.options.protocols
                    )
                for protocols, matrix in found.items():
                    same = " ".join(protocols[1:])
                    yield results.make(
                        matrix,
                        classes=self.space.classes,
                        subsets=self.space.subsets(),
                        stage=entry.name,
                        domain=domain,
                        split=data[domain]["val"],
                        bn=bn,
                        protocol=protocols[0],
                        averaging=self.options.averaging.words(),
                        data=self.experiment.domains[domain].fingerprint,
                        **({"same_as": same} if same else {}),
                        **facts,
                    )

    def predictor(self, entry: Entry) -> tuple[Predictor, PyTree]:
        """What predicts for an entry, and its parameters."""
        evaluators = [self._of(member) for member in entry.members]
        if len(evaluators) == 1:
            return evaluators[0], entry.members[0].params
        scores = evaluation_predictor.ensemble(
            [evaluator.network_scores for evaluator in evaluators], entry.weights
        )
        mesh = self.experiment.mesh
        predictor = Predictor(scores, num_classes=self.space.num_classes, mesh=mesh)
        return predictor, tuple(member.params for member in entry.members)

    def statistics(self, entry: Entry) -> dict[str, PyTree]:
        """``{bn: model_state}``, "target" where all networks can re-estimate theirs."""
        found = {"running": _joined([m.model_state for m in entry.members])}
        if all(m.model.arguments.get("batch_norm") != "eval" for m in entry.members):
            found["target"] = _joined(
                [self.target_statistics(m) for m in entry.members]
            )
        return found

    def target_statistics(self, network: Trained) -> PyTree:
        """BatchNorm statistics of the first unlabelled target training images."""
        source = self.experiment.open("target", "train")
        count = min(self.config["batchnorm_images"], len(source))
        with self.batches(First(source, count)) as batches:
            return self._of(network).target_statistics(
                network.params, network.model_state, batches
            )

    def batches(self, source: Sequence) -> pipeline.Batches:
        """Batches that the devices divide."""
        size = self.experiment.evaluation_batch_size()
        return pipeline.eval_batches(source, batch_size=size)

    def pictures(self, entries: Sequence[Entry]) -> tuple[np.ndarray, np.ndarray, dict]:
        """Target validation images, their truth and the prediction of every entry."""
        source = self.experiment.open("target", "val")
        decode = partial(records.decode, labelled=True, same_size=False)
        # Spread over the split, so that one street or city does not fill the page.
        count = min(self.config["panel_images"], len(source))
        chosen = [decode(source[i * len(source) // count]) for i in range(count)]
        images = np.stack([example["image"] for example in chosen])
        predictions = {}
        for entry in entries:
            predictor, params = self.predictor(entry)
            state = _joined([member.model_state for member in entry.members])
            predictions[entry.name] = predictor.predict(params, state, images)
        # As stored, labels may be of several sizes.
        size = images.shape[1:3]
        truths = [panel.nearest(example["label"], size) for example in chosen]
        return images, np.stack(truths), predictions

    def _of(self, network):
        model = network.model
        key = f"{network.preprocessing} {sorted(model.arguments.items())}"
        if key not in self._evaluators:
            self._evaluators[key] = Evaluator(
                model.forward,
                num_classes=model.num_classes,
                preprocess=network.normalise,
                prediction=model.prediction,
                averaging=self.options.averaging,
                mesh=self.experiment.mesh,
            )
        return self._evaluators[key]

    def _check_classes(self, entry):
        expected = self.space.num_classes
        for member in entry.members:
            if member.model.num_classes != expected:
                raise InputError(
                    f"{entry.name}: expected a network of {expected} classes, as the "
                    f"labels have, found {member.model.num_classes}; choose the config "
                    "of its data"
                )


class First:
    """The first ``count`` records of a source."""

    def __init__(self, source: Sequence, count: int):
        self.source = source
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return self.source[index]


def _joined(parts: list) -> PyTree:
    """What `Predictor` takes for one network, or for several."""
    return parts[0] if len(parts) == 1 else tuple(parts)

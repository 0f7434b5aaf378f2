"""Evaluation of networks and ensembles on both domains of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax import cli
from lsr_jax.augment import preprocess
from lsr_jax.data import custom, pipeline, records
from lsr_jax.errors import InputError
from lsr_jax.evaluation import batchnorm, predictor, unsupervised
from lsr_jax.evaluation.predictor import (
    ONE_VIEW,
    PROTOCOLS,
    Predictor,
    Protocol,
    TestTimeAugmentation,
)
from lsr_jax.models import Model
from lsr_jax.report import results
from lsr_jax.training import distributed, selection
from lsr_jax.training.stage import Run
from lsr_jax.training.weights import ANY_SIZE, Trained
from lsr_jax.types import IGNORE, PyTree


class Entry(NamedTuple):
    """A network, or an ensemble of several, and its name in the tables."""

    name: str
    members: tuple[Trained, ...]
    weights: tuple[float, ...] = (1.0,)

    def facts(self) -> dict:
        """The part of its rows that describes the network."""
        first, *others = self.members
        if not others:
            keys = ["method", "seed", "step", "selection", "weights"]
            keys += ["newest"] if first.newest is not None else []
            return {key: getattr(first, key) for key in keys}
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
                {"weight": w, "stage": member.stage, **Entry("", (member,)).facts()}
                for w, member in pairs
            ],
        }


class Compiled(NamedTuple):
    """The functions of a network that evaluation compiles, once for all its weights."""

    predictor: Predictor
    estimate_statistics: Callable[..., PyTree]
    criteria: unsupervised.Estimator


class Evaluation:
    """Evaluate networks on the data of one run.

    Args:
      run: see `open_run`.
      protocols: see `Predictor.confusions`.
      augmentation: at test time, in windows as the config says where it names none.

    Attributes:
      has_training_images: whether statistics can be re-estimated on target images.
      unscored: domain -> why it has no rows: it was not opened, or has no labels.
      scored: the other domains, whose validation split is labelled.
      taught: indices of the source's classes, where they are fewer; else None.
    """

    def __init__(
        self,
        run: Run,
        *,
        protocols: Sequence[Protocol] = PROTOCOLS,
        augmentation: TestTimeAugmentation = ONE_VIEW,
    ):
        self.run = run
        self.protocols = protocols
        self.augmentation = augmentation.configured(run.config)
        self.space = run.domains["target"].space
        self.has_training_images = run.domains["target"].has_training_images
        self.unscored = {}
        for domain in ("target", "source"):
            if domain not in run.domains:
                self.unscored[domain] = "its data folder is missing"
            elif not records.is_labelled(run.open(domain, "val")):
                self.unscored[domain] = "it has no labels"
        self.scored = [name for name in run.domains if name not in self.unscored]
        self.scored.sort(reverse=True)  # the target first
        declared = run.domains.get("source", run.domains["target"]).space.declared
        self.taught = declared if len(declared) < self.space.num_classes else None
        self._entries: dict[str, Entry] = {}
        self._compiled: dict[str, Compiled] = {}

    def entry(self, stage: str) -> Entry:
        """The network of a stage, restored once for tables and figures."""
        if stage not in self._entries:
            self._entries[stage] = Entry(stage, (self.run.trained(stage),))
        return self._entries[stage]

    def rows(self, entry: Entry) -> Iterator[results.Row]:
        """Rows of the scored domains, both kinds of BatchNorm statistics and every protocol.

        Raises:
          InputError: a network with another number of classes than the labels.
        """
        expected = self.space.num_classes
        for member in entry.members:
            if member.model.num_classes != expected:
                raise InputError(
                    f"{entry.name}: the labels have {expected} classes, the network "
                    f"{member.model.num_classes}; use the config of its data"
                )
        own, params = self.predictor(entry)
        facts = entry.facts()
        data = self.run.config["data"]
        for bn, model_state in self.statistics(entry).items():
            criteria = self.criteria(entry, model_state)
            for domain in self.scored:
                with self.batches(domain) as batches:
                    found = own.confusions(
                        params, model_state, batches, protocols=self.protocols
                    )
                for (protocol, *same), matrix in found.items():
                    yield results.make(
                        matrix,
                        classes=self.space.classes,
                        subsets=self.space.subsets(),
                        declared=self.run.domains[domain].space.declared,
                        taught=self.taught if domain == "target" else None,
                        stage=entry.name,
                        domain=domain,
                        split=data[domain]["val"],
                        bn=bn,
                        protocol=protocol,
                        averaging=self.augmentation.describe(),
                        dataset=self.dataset(domain),
                        data=self.run.domains[domain].fingerprint,
                        **({"same_as": same[0]} if same else {}),
                        **(criteria if domain == "target" else {}),
                        **facts,
                    )

    def dataset(self, domain: str) -> str:
        """Name of a domain's data set; of one's own data with the first digits of a hash."""
        spec = self.run.config["data"][domain]
        name = [spec["name"], spec["preset"]]
        if spec["name"].endswith(custom.SUFFIX) and domain in self.run.domains:
            fingerprint = self.run.domains[domain].fingerprint
            name = [Path(spec["name"]).stem, fingerprint[: results.DIGITS]]
        return " ".join(filter(None, name))

    def predictor(self, entry: Entry) -> tuple[Predictor, PyTree]:
        """The predictor of an entry, and its parameters."""
        found = [self._compile(m.model, m.preprocessing) for m in entry.members]
        if len(found) == 1:
            return found[0].predictor, entry.members[0].params
        members = [one.predictor.halves for one in found]
        scores = predictor.ensemble(members, entry.weights)
        own = Predictor(scores, num_classes=self.space.num_classes, mesh=self.run.mesh)
        return own, tuple(member.params for member in entry.members)

    def statistics(self, entry: Entry) -> dict[str, PyTree]:
        """``{bn: model_state}``, "target" where all networks can re-estimate theirs."""
        found = {"running": _joined([m.model_state for m in entry.members])}
        trains = [m.model.arguments.get("batch_norm") != "eval" for m in entry.members]
        if self.has_training_images and all(trains):
            parts = [self.target_statistics(m) for m in entry.members]
            found["target"] = _joined(parts)
        return found

    def target_statistics(self, network: Trained) -> PyTree:
        """BatchNorm statistics of the first unlabelled target training images."""
        compiled = self._compile(network.model, network.preprocessing)
        with self.run.statistics_batches() as batches:
            return compiled.estimate_statistics(
                network.params, network.model_state, batches
            )

    def criteria(self, entry: Entry, model_state: PyTree) -> dict[str, float]:
        """`unsupervised.CRITERIA` of one network, on the same images; none of several."""
        if len(entry.members) > 1 or not self.has_training_images:
            return {}
        (network,) = entry.members
        compiled = self._compile(network.model, network.preprocessing)
        with self.run.statistics_batches() as batches:
            return compiled.criteria(network.params, model_state, batches)

    def batches(self, domain: str) -> pipeline.Batches:
        """Batches of a validation split that the devices divide."""
        size = self.run.evaluation_batch_size()
        source = self.run.open(domain, "val")
        return pipeline.eval_batches(source, batch_size=size)

    def check(self) -> None:
        """Read what is scored, and trace the evaluations with its shapes alone.

        Raises:
          InputError: what would stop the report after the training.
        """
        run, model, config = self.run, self.run.model, self.run.config
        batch_size, hidden = run.evaluation_batch_size(), not distributed.is_main()
        compiled = self._compile(model, config["data"]["preprocessing"])
        network = jax.eval_shape(lambda: model.init(jax.random.key(0), ANY_SIZE))
        splits = [(domain, config["data"][domain]["val"]) for domain in self.scored]
        if chosen := selection.labelled_split_of(config):
            splits.append(chosen)
        for domain, split in dict.fromkeys(splits):
            source, name = run.domains[domain].open(split), f"check {domain} {split}"
            traced, found = set(), False
            with (
                pipeline.eval_batches(source, batch_size=batch_size) as batches,
                cli.progress_bar(len(source), name, "image", disable=hidden) as bar,
            ):
                for images, valid, _ in batches:
                    bar.update(int(valid.sum()))
                    found = found or (images.label[valid] != IGNORE).any()
                    sizes = images.image.shape[1:3], images.label.shape[1:]
                    if sizes not in traced:
                        compiled.predictor.trace(*network, images, valid, sizes)
                        traced.add(sizes)
            if not found:
                raise results.no_score(domain, split)
        self.examples("target", config["evaluation"]["panel_images"])
        shape = *run.sizes["target"], 3
        image = jax.ShapeDtypeStruct((batch_size, *shape), jnp.uint8)
        compiled.criteria.trace(*network, image)
        if model.arguments.get("batch_norm") == "eval":
            return

        def train(params, model_state, image):
            return model.forward(params, model_state, run.normalise(image), True)

        count = len(run.statistics_images())
        for size in {min(count, batchnorm.GROUP), count % batchnorm.GROUP} - {0}:
            image = jax.ShapeDtypeStruct((size, *shape), jnp.uint8)
            try:
                jax.eval_shape(train, *network, image)
            except InputError as error:
                raise InputError(
                    f"evaluation.batchnorm_images: {count} target images leave a group "
                    f"of {size} to take statistics over ({error}); choose another number"
                ) from error

    def examples(self, domain: str, count: int) -> tuple[list[int], np.ndarray, list]:
        """Positions, images and labels of validation images spread over the split.

        Labels are None in a split without.
        """
        source = self.run.open(domain, "val")
        count = min(count, len(source))
        positions = [i * len(source) // count for i in range(count)]
        labelled = records.is_labelled(source)
        decode = partial(records.decode, labelled=labelled, same_size=False)
        chosen = [decode(source[position]) for position in positions]
        truths = [example.pop("label", None) for example in chosen]
        return positions, records.stack(chosen, size=None)["image"], truths

    def predictions(
        self, entries: Sequence[Entry], images: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Name -> predicted classes of every entry, with running statistics."""
        found = {}
        for entry in entries:
            own, params = self.predictor(entry)
            state = _joined([member.model_state for member in entry.members])
            found[entry.name] = own.predict(params, state, images)
        return found

    def _compile(self, model: Model, preprocessing: str) -> Compiled:
        key = f"{preprocessing} {sorted(model.arguments.items())}"
        if key not in self._compiled:
            normalise = partial(preprocess.normalise, preprocessing=preprocessing)
            mesh, forward = self.run.mesh, model.forward
            self._compiled[key] = Compiled(
                Predictor.of(
                    model, normalise, mesh=mesh, augmentation=self.augmentation
                ),
                batchnorm.estimator(forward, normalise, mesh=mesh),
                unsupervised.Estimator(
                    forward, normalise, mesh=mesh, prediction=model.prediction
                ),
            )
        return self._compiled[key]


def _joined(parts: list) -> PyTree:
    """The argument of `Predictor` for one network, or for several."""
    return parts[0] if len(parts) == 1 else tuple(parts)

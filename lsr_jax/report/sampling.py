"""Feature vectors of trained networks, on the same balanced cells for each of them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax.data import pipeline
from lsr_jax.errors import InputError
from lsr_jax.ops import pseudo_labels, resample
from lsr_jax.report import features
from lsr_jax.report.features import Sample
from lsr_jax.report.measuring import Evaluation
from lsr_jax.training import sharding

SEED = 0  # of the draw of cells


class LabelMaps(NamedTuple):
    """The labels of a split at the size of the feature map, by two rules.

    Attributes:
      frequency_aware: ``[N, h, w]``, `pseudo_labels.histogram_downsample`.
      nearest: ``[N, h, w]``, `resample.nearest` as PIL.
    """

    frequency_aware: np.ndarray
    nearest: np.ndarray


class Sampler:
    """Cells of the validation splits, and what the evaluated networks make of them."""

    def __init__(self, evaluation: Evaluation):
        self.evaluation = evaluation
        self.experiment = evaluation.experiment
        self.space = evaluation.space
        self.num_classes = self.experiment.model.num_classes
        self._maps: dict[str, LabelMaps] = {}
        self._gather = jax.jit(self._gather)
        self._downsample = jax.jit(self._downsample, static_argnames="size")

    def confusion(self, stage: str) -> np.ndarray:
        """Confusion matrix on the target, ``[C, C]``, rows = truth.

        That of the table: running statistics, the first of its protocols.
        """
        entry = self.evaluation.entry(stage)
        predictor, params = self.evaluation.predictor(entry)
        state = self.evaluation.network(stage).model_state
        protocol = self.evaluation.options.protocols[0]
        with self._batches("target") as batches:
            return predictor.confusion(params, state, batches, protocol=protocol)

    def label_maps(self, domain: str) -> LabelMaps:
        """The validation labels of a domain at the size of the feature map."""
        if domain not in self._maps:
            found = []
            with self._batches(domain) as batches:
                for images, valid, _ in batches:
                    size = self.feature_size(images.image)
                    # One at a time: labels may be large, and their one-hot form is.
                    for label in images.label[valid]:
                        found.append(self._downsample(label[None], size=size))
            parts = zip(*found, strict=True)
            self._maps[domain] = LabelMaps(*(np.concatenate(part) for part in parts))
        return self._maps[domain]

    def choose(self, domain: str, count: int) -> np.ndarray:
        """Places of at most ``count`` cells of every class of a domain.

        Raises:
          InputError: no cell of the split has a class.
        """
        labels = self.label_maps(domain).frequency_aware
        places = features.balanced_choice(
            labels, count=count, num_classes=self.num_classes, seed=SEED
        )
        if len(places) < 2:
            raise InputError(
                f"figures: expected labelled {domain} images, found no cell with a "
                "class; check the split"
            )
        return places

    def sample(self, stage: str, domain: str, count: int) -> Sample:
        """A network's vectors of at most ``count`` cells of every class."""
        network = self.evaluation.network(stage)
        model = network.params, network.model_state
        places = self.choose(domain, count)
        labels = self.label_maps(domain).frequency_aware
        found, seen = [], 0
        with self._batches(domain) as batches:
            for images, valid, _ in batches:
                end = seen + valid.sum() * labels[0].size
                inside = places[(places >= seen) & (places < end)] - seen
                if len(inside):
                    image = sharding.shard_batch(images.image, self.experiment.mesh)
                    # Few different lengths, so that few programs are compiled.
                    length = 1 << (len(inside) - 1).bit_length()
                    vectors = self._gather(*model, image, np.resize(inside, length))
                    found.append(np.asarray(vectors, np.float32)[: len(inside)])
                seen = end
        return Sample(np.concatenate(found), labels.reshape(-1)[places])

    def _batches(self, domain: str) -> pipeline.Batches:
        return self.evaluation.batches(self.experiment.open(domain, "val"))

    def _outputs(self, params, model_state, image):
        inputs = self.experiment.normalise(image)
        return self.experiment.model.forward(params, model_state, inputs, False)[0]

    def _gather(self, params, model_state, image, index):
        maps = self._outputs(params, model_state, image).features
        return maps.reshape(-1, maps.shape[-1])[index]

    def _downsample(self, label, size):
        label = label.astype(jnp.int32)
        aware = pseudo_labels.histogram_downsample(
            label, size=size, num_classes=self.num_classes
        )
        return aware, resample.nearest(label, size)

    def feature_size(self, images: np.ndarray) -> tuple[int, int]:
        """``(h, w)`` of the feature map of ``[B, H, W, 3]`` images; nothing is computed."""
        model = self.experiment.model
        fresh = jax.eval_shape(
            lambda key: model.init(key, images.shape[1:3]), jax.random.key(0)
        )
        return jax.eval_shape(self._outputs, *fresh, images).features.shape[1:3]

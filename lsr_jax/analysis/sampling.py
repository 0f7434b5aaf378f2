"""Feature vectors of trained networks, on the same balanced cells for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax import pseudo_labels, resample
from lsr_jax.analysis import features
from lsr_jax.analysis.features import Sample
from lsr_jax.data import pipeline
from lsr_jax.errors import InputError
from lsr_jax.evaluation import metrics
from lsr_jax.training import sharding
from lsr_jax.training.experiment import Experiment, Network

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
    """Cells of the validation splits of an experiment, and what its networks make of them."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self.space = experiment.domains["target"].space
        self.num_classes = experiment.model.num_classes
        self._maps: dict[str, LabelMaps] = {}
        self._networks: dict[str, Network] = {}
        self._count = jax.jit(self._count)
        self._gather = jax.jit(self._gather)
        self._downsample = jax.jit(self._downsample, static_argnames="size")

    def network(self, stage: str) -> Network:
        """The trained network of a stage, restored once."""
        if stage not in self._networks:
            self._networks[stage] = self.experiment.trained(stage)
        return self._networks[stage]

    def confusion(self, stage: str) -> np.ndarray:
        """Confusion matrix on the target, labels as stored, ``[C, C]``, rows = truth."""
        network = self.network(stage)
        total = np.zeros((self.num_classes, self.num_classes), np.int64)
        for images, valid in self._images("target"):
            inputs = sharding.put_batch((*images, valid), self.experiment.mesh)
            total += self._count(network.params, network.model_state, *inputs)
        return total

    def label_maps(self, domain: str) -> LabelMaps:
        """The validation labels of a domain at the size of the feature map."""
        if domain not in self._maps:
            found = []
            for images, valid in self._images(domain):
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
        network = self.network(stage)
        places = self.choose(domain, count)
        labels = self.label_maps(domain).frequency_aware
        cells = labels[0].size
        found, seen = [], 0
        for images, valid in self._images(domain):
            inside = places[(places >= seen) & (places < seen + valid.sum() * cells)]
            if len(inside):
                image = sharding.put_batch(images.image, self.experiment.mesh)
                # Few different lengths, so that few programs are compiled.
                index = np.resize(inside - seen, 1 << (len(inside) - 1).bit_length())
                vectors = self._gather(
                    network.params, network.model_state, image, index
                )
                found.append(np.asarray(vectors, np.float32)[: len(inside)])
            seen += valid.sum() * cells
        return Sample(np.concatenate(found), labels.reshape(-1)[places])

    def _images(self, domain: str) -> Iterator:
        """Batches with what only fills up at their end."""
        devices = self.experiment.mesh.devices.size
        wanted = self.experiment.config["evaluation"]["batch_size"]
        size = -(-wanted // devices) * devices
        source = self.experiment.open(domain, "val")
        with pipeline.eval_batches(source, batch_size=size) as batches:
            for images, valid, _ in batches:
                yield images, np.asarray(valid)

    def _outputs(self, params, model_state, image):
        inputs = self.experiment.normalise(image)
        return self.experiment.model.forward(params, model_state, inputs, False)[0]

    def _count(self, params, model_state, image, label, valid):
        logits = self._outputs(params, model_state, image).logits
        enlarged = resample.bilinear(logits.astype(jnp.float32), label.shape[1:])
        return metrics.confusion_matrix(
            label, enlarged.argmax(axis=-1), self.num_classes, valid
        )

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

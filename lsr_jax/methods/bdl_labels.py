"""BDL's pseudo-labels: class-wise thresholds over the target set, then one PNG an image."""

from __future__ import annotations

import collections
import json

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax import resample, self_training
from lsr_jax.data import relabelled
from lsr_jax.types import IGNORE, Preparation

SUMMARY = "summary.json"


def write(given: Preparation, *, portion: float, cap: float) -> None:
    """Label the target training images with a network, into the folder of a stage.

    Two passes: the first counts confidences, the second writes what reaches the
    threshold of its class. A ``summary.json`` says what that left: threshold, pixels
    predicted and share kept of every class. Labels of an earlier attempt are replaced as
    a whole. Of several processes all compute and one writes.

    Args:
      given: of the stage.
      portion: see `self_training.histogram_thresholds`.
      cap: likewise.
    """

    def probabilities(image):
        outputs, _ = given.forward(given.params, given.model_state, image, False)
        # Enlarged as probabilities, not as logits (SSL.py).
        return resample.bilinear(jax.nn.softmax(outputs.logits), image.shape[1:3])

    @given.compile
    def count(image, valid):
        found = probabilities(image)
        label = found.argmax(axis=-1).astype(jnp.int32)
        label = jnp.where(valid[:, None, None], label, IGNORE)
        return self_training.confidence_histogram(
            label, found.max(axis=-1), num_classes=given.num_classes
        )

    @given.compile
    def keep(image, thresholds):
        label = self_training.class_thresholded(probabilities(image), thresholds)
        return label.astype(jnp.uint8)

    histogram = sum(
        np.asarray(count(images.image, valid), np.int64)
        for images, valid, _ in given.batches("target", False)
    )
    thresholds = self_training.histogram_thresholds(histogram, portion=portion, cap=cap)

    def labels():
        index = 0
        for images, valid, _ in given.batches("target", False):
            found = keep(images.image, np.asarray(thresholds, np.float32))
            for label, usable in zip(np.asarray(found), valid, strict=True):
                if usable:
                    yield index, label
                index += 1

    if not given.writes:
        collections.deque(labels(), maxlen=0)
        return
    kept = np.zeros(256, np.int64)
    with relabelled.writing(given.folder / relabelled.FOLDER) as folder:
        for index, label in labels():
            relabelled.write(folder, index, label)
            kept += np.bincount(label.ravel(), minlength=256)
        summary = _summary(thresholds, histogram.sum(axis=-1), kept)
        (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")


def _summary(thresholds, predicted, kept):
    return [
        {
            "class": number,
            "threshold": float(threshold),
            "pixels": int(pixels),
            "kept": float(kept[number] / pixels) if pixels else 0.0,
        }
        for number, (threshold, pixels) in enumerate(
            zip(thresholds, predicted, strict=True)
        )
    ]

"""BDL (CVPR 2019) without its image translation, which is a data set and not a loss."""

from __future__ import annotations

import collections
import json

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax.data import pseudo_label_store
from lsr_jax.keywords import Fraction, Probability, Weight
from lsr_jax.methods import adversarial as adversarial_terms
from lsr_jax.methods import common
from lsr_jax.ops import diagnostics, pseudo_labels, resample
from lsr_jax.types import IGNORE, Aux, Method, Preparation


def make(
    *,
    segmentation: Weight = 1.0,
    adversarial: Weight = 0.001,
    discriminator: Weight = 0.5,
    self_training: Weight = 1.0,
    portion: Fraction = 0.5,
    cap: Probability = 0.9,
) -> Method:
    """BDL's adaptation (CVPR 2019): output space adversary, then rounds of self-training.

    ``L = CE(source) + a BCE(D(p_t), source) + s CE(target, pseudo-labels)``. The
    discriminator minimises half of ``BCE(D(p_s), source)`` and half of ``BCE(D(p_t),
    target)``; ``p`` are class probabilities at image resolution (``BDL.py``). The
    pseudo-labels are written once, before step 0, by the stage's pseudo-labeler
    (``SSL.py``).

    Args:
      segmentation: weight of ``CE(source)``.
      adversarial: ``a``; 0 builds no discriminator.
      discriminator: factor on the discriminator's loss; with 0 it does not learn.
      self_training: ``s``; 0 is the stage before the first round, without pseudo-labels.
      portion: of the pixels of a class that get no label, see
        `pseudo_labels.class_thresholds`.
      cap: the largest threshold.
    """
    weights = {
        "segmentation": segmentation,
        "adversarial": adversarial,
        "discriminator": discriminator if adversarial != 0 else 0.0,
        "self_training": self_training,
    }

    init = adversarial_terms.discriminators(("main",) if adversarial else ())

    def prepare(state, given):
        write_pseudo_labels(given, portion=portion, cap=cap)
        return state

    def loss(params, state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)

        def view(outputs, images):
            return common.upsampled_probabilities(outputs.logits, images.image)

        terms = {
            "segmentation": lambda: common.segmentation(source, batch.source),
            "adversarial": lambda: adversarial_terms.network_loss(
                params["disc"]["main"], view(target, batch.target)
            ),
            "discriminator": lambda: adversarial_terms.discriminator_loss(
                params["disc"]["main"],
                view(source, batch.source),
                view(target, batch.target),
            ),
            "self_training": lambda: (
                common.segmentation(target, batch.target),
                diagnostics.pseudo_labels(
                    batch.target.label, num_classes=target.logits.shape[-1]
                ),
            ),
        }
        total, metrics = common.weighted(terms, weights)
        outputs = {"source": source, "target": target}
        return total, Aux(metrics, state, model_state, outputs)

    if self_training == 0:
        return Method(init, loss)
    return Method(init, loss, prepare, pseudo_labelled=True)


SUMMARY = "summary.json"


def write_pseudo_labels(given: Preparation, *, portion: float, cap: float) -> None:
    """Label the target training images with a network, into the folder of a stage.

    The first pass over the images counts confidences, the second writes the labels that
    reach the threshold of their class. ``summary.json`` has threshold, predicted pixels
    and kept fraction of every class. Labels of an earlier attempt are replaced as a
    whole. All processes compute, one writes.

    ``portion`` and ``cap`` as in `pseudo_labels.histogram_thresholds`.
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
        return pseudo_labels.confidence_histogram(
            label, found.max(axis=-1), num_classes=given.num_classes
        )

    @given.compile
    def keep(image, thresholds):
        label = pseudo_labels.class_thresholded(probabilities(image), thresholds)
        return label.astype(jnp.uint8)

    histogram = sum(
        np.asarray(count(images.image, valid), np.int64)
        for images, valid, _ in given.batches("target", False)
    )
    thresholds = pseudo_labels.histogram_thresholds(histogram, portion=portion, cap=cap)

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
    with pseudo_label_store.writing(given.folder / pseudo_label_store.FOLDER) as folder:
        for index, label in labels():
            pseudo_label_store.write(folder, index, label)
            kept += np.bincount(label.ravel(), minlength=256)
        pixels = histogram.sum(axis=-1)
        summary = [
            {
                "class": c,
                "threshold": float(thresholds[c]),
                "pixels": int(pixels[c]),
                "kept": float(kept[c] / pixels[c]) if pixels[c] else 0.0,
            }
            for c in range(given.num_classes)
        ]
        (folder / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")

"""CAG-UDA (NeurIPS 2019): its loss, and the anchors, computed before step 0 or read."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax import files, losses
from lsr_jax.errors import InputError
from lsr_jax.keywords import Probability, Range, Weight
from lsr_jax.methods import common
from lsr_jax.ops import diagnostics, prototypes, pseudo_labels, resample
from lsr_jax.types import Aux, Frozen, Method, Outputs, Preparation


class CAGState(NamedTuple):
    """Anchors ``[C, D]``, how many means each is made of ``[C]``, and the labelling network.

    All are fixed during a stage; a count of 0 is a class without anchor.
    """

    anchors: jax.Array
    count: jax.Array
    pseudo_labeler: Frozen
    pseudo_labeler_state: Frozen


PRESETS = {
    "paper": {"distance_of": "cells"},
    "released": {"distance_of": "image_means"},
}
TARGET_TERMS = ("anchor_labels", "probability_labels", "distance_target")


def make(
    *,
    segmentation: Weight = 1.0,
    anchor_labels: Weight = 0.5,
    probability_labels: Weight = 0.5,
    distance_source: Weight = 0.7,
    distance_target: Weight = 0.7,
    distance_of: Literal["image_means", "cells"] = "image_means",
    gap: Annotated[float, Range(unit="difference of two distances")] = 2.5,
    probability: Probability = 0.95,
    minimum: Annotated[int, Range(least=1, unit="cells")] = 10,
    cap: Annotated[float, Range(least=1, unit="images")] = 3000,
    anchors: str = "",
) -> Method:
    """CAG-UDA (NeurIPS 2019): anchors of the categories give labels and pull features.

    ``L = CE(source) + (CE(target, y_a) + CE(target, y_p)) / 2 + 0.7 (D_s + D_t)``.

    A frozen network of the stage before labels the target: ``y_a`` is the class of the
    nearest anchor where it is nearest by ``gap``, ``y_p`` the arg-max where its
    probability is above ``probability``. Both, and ``D`` towards the anchors, at the
    resolution of the features (CAG_UDA ``models/adaptation_model.py``).

    Args:
      segmentation: weight of ``CE(source)``.
      anchor_labels: of ``CE(target, y_a)``.
      probability_labels: of ``CE(target, y_p)``.
      distance_source: of ``D_s``, with the true labels.
      distance_target: of ``D_t``, with ``y_a``.
      distance_of: "image_means", the released `losses.anchor_distance` of the class
        means of images; "cells", the poster's `losses.cell_anchor_distance`.
      gap: see `pseudo_labels.nearest_anchor`.
      probability: see `pseudo_labels.thresholded`.
      minimum: cells of an image behind a class mean.
      cap: images behind an anchor, see `prototypes.running_mean`.
      anchors: file of anchors to use in place of those of the source images, see
        `read_anchors`.
    """
    weights = {
        "segmentation": segmentation,
        "anchor_labels": anchor_labels,
        "probability_labels": probability_labels,
        "distance_source": distance_source,
        "distance_target": distance_target,
    }

    def init(key, params, model_state, spec):
        del key
        start = jnp.zeros((spec.num_classes, spec.feature_dim))
        count = jnp.zeros(spec.num_classes)
        return {}, CAGState(start, count, Frozen(params), Frozen(model_state))

    def prepare(state, given):
        if anchors:
            found = read_anchors(anchors, state.anchors.shape)
        else:
            found = source_anchors(
                given, state.anchors.shape[1], minimum=minimum, cap=cap
            )
        return CAGState(*found, Frozen(given.params), Frozen(given.model_state))

    def labels(state, images, ctx):
        outputs, _ = ctx.forward(
            state.pseudo_labeler.value, state.pseudo_labeler_state.value, images, False
        )
        nearest = pseudo_labels.nearest_anchor(
            outputs.features, state.anchors, state.count > 0, gap=gap
        )
        probabilities = jax.nn.softmax(outputs.logits)
        return nearest, pseudo_labels.thresholded(probabilities, threshold=probability)

    def distance(outputs, label, state):
        if distance_of == "cells":
            return losses.cell_anchor_distance(
                outputs.features, label, state.anchors, state.count > 0
            )
        means, valid = class_means(outputs, label, minimum)
        return losses.anchor_distance(means, valid & (state.count > 0), state.anchors)

    def loss(params, state, batch, ctx):
        source, target, model_state = common.both_domains(params, batch, ctx)
        diagnosed = {}
        if any(weights[term] != 0 for term in TARGET_TERMS):
            by_anchor, by_probability = labels(state, batch.target.image, ctx)
            for rule, label in (("anchor", by_anchor), ("probability", by_probability)):
                diagnosed |= diagnostics.pseudo_labels(
                    label, num_classes=len(state.anchors), rule=rule
                )
        size = source.features.shape[1:3]
        terms = {
            "segmentation": lambda: common.segmentation(source, batch.source),
            "anchor_labels": lambda: losses.cross_entropy(target.logits, by_anchor),
            "probability_labels": lambda: losses.cross_entropy(
                target.logits, by_probability
            ),
            "distance_source": lambda: distance(
                source, resample.nearest(batch.source.label, size, rule="torch"), state
            ),
            "distance_target": lambda: distance(target, by_anchor, state),
        }
        total, metrics = common.weighted(terms, weights)
        outputs = {"source": source, "target": target}
        return total, Aux(metrics | diagnosed, state, model_state, outputs)

    return Method(init, loss, prepare)


def class_means(
    outputs: Outputs, label: jax.Array, minimum: int
) -> tuple[jax.Array, jax.Array]:
    """`losses.image_class_means` of the cells that are predicted as ``label`` ``[B, h, w]``."""
    return losses.image_class_means(
        outputs.features,
        label,
        outputs.logits.argmax(axis=-1).astype(label.dtype),
        num_classes=outputs.logits.shape[-1],
        minimum=minimum,
    )


VECTORS, COUNT = "objective_vectors", "objective_num"


def source_anchors(
    given: Preparation, feature_dim: int, *, minimum: int, cap: float
) -> tuple[jax.Array, jax.Array]:
    """Running mean over the source images, in order, of their class means.

    In evaluation mode, over the cells that are predicted as they are labelled; the label
    is shrunk by torch's nearest neighbour (CAG_UDA ``cac.py``, which goes over the
    images four times). ``minimum`` and ``cap`` as in `make`.

    Returns:
      anchors ``[C, D]`` and how many images are behind each, ``[C]``.
    """

    @given.compile
    def add(anchors, images, valid):
        outputs, _ = given.forward(given.params, given.model_state, images.image, False)
        label = resample.nearest(
            images.label, outputs.features.shape[1:3], rule="torch"
        )
        means, exist = class_means(outputs, label, minimum)
        return prototypes.running_mean(*anchors, means, exist & valid[:, None], cap=cap)

    shapes = (given.num_classes, feature_dim), (given.num_classes,)
    # Of numpy, which every process has: an array on a device belongs to one process.
    anchors = tuple(np.zeros(shape, np.float32) for shape in shapes)
    for images, valid, _ in given.batches("source", True):
        anchors = add(anchors, images, valid)
    return anchors


def read_anchors(path: str, shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Anchors from a file: the released ones, or another run's.

    Args:
      path: ``.npz`` with "objective_vectors" ``[C, D]`` and "objective_num" ``[C]``, as
        ``python -m lsr_jax.convert anchors`` writes it, or ``.npy`` with the vectors
        alone; a row of zeros is a class without anchor there.
      shape: ``(C, D)`` of the network.

    Raises:
      InputError: an unreadable file, other entries, another shape, or numbers that are
        no anchors.
    """
    where = f"method.anchors {path}"
    expected = f"an .npy file or an .npz with {VECTORS!r} and {COUNT!r}"
    remedy = "write one with python -m lsr_jax.convert anchors"
    with (
        files.reading(where, expected, remedy),
        files.expanded(path, key="method.anchors").open("rb") as file,
    ):
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            vectors, count = loaded, (loaded != 0).any(axis=-1)
        else:
            with loaded:
                vectors, count = loaded[VECTORS], loaded[COUNT]
        # Numbers too large for float32 become infinite.
        with np.errstate(over="ignore"):
            vectors = vectors.astype(np.float32, casting="same_kind")
        if not (np.isfinite(vectors).all() and np.isfinite(count).all()):
            raise ValueError("numbers that are not finite")
        if (count < 0).any():
            raise ValueError("a count below 0")
    if vectors.shape != shape or count.shape != shape[:1]:
        raise InputError(
            f"method.anchors {path}: expected {shape[0]} classes of {shape[1]} channels, "
            f"found vectors of shape {vectors.shape} and counts of {count.shape}"
        )
    return jnp.asarray(vectors), jnp.asarray(count, jnp.float32)

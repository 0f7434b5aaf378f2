"""Where CAG's anchors come from: the source images, or a file."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax import decoding, losses, paths, prototypes, resample
from lsr_jax.errors import InputError
from lsr_jax.types import Preparation

VECTORS, COUNT = "objective_vectors", "objective_num"


def of_source(
    given: Preparation, feature_dim: int, *, minimum: int, cap: float
) -> tuple[jax.Array, jax.Array]:
    """Running mean over the source images, in order, of their class means.

    In evaluation mode, over the cells that are predicted as they are labelled; the label
    is shrunk by torch's nearest neighbour (CAG_UDA ``cac.py``, which goes over the
    images four times).

    Args:
      given: of the stage.
      feature_dim: ``D``.
      minimum: cells of an image behind its class mean.
      cap: see `prototypes.running_mean`.

    Returns:
      anchors ``[C, D]`` and how many images are behind each, ``[C]``.
    """

    @given.compile
    def add(anchors, images, valid):
        outputs, _ = given.forward(given.params, given.model_state, images.image, False)
        label = resample.nearest(
            images.label, outputs.features.shape[1:3], rule="torch"
        )
        means, exist = losses.image_class_means(
            outputs.features,
            label,
            outputs.logits.argmax(axis=-1).astype(label.dtype),
            num_classes=given.num_classes,
            minimum=minimum,
        )
        return prototypes.running_mean(*anchors, means, exist & valid[:, None], cap=cap)

    shapes = (given.num_classes, feature_dim), (given.num_classes,)
    # Of numpy: an array on the device of one process is none for all of them.
    anchors = tuple(np.zeros(shape, np.float32) for shape in shapes)
    for images, valid, _ in given.batches("source", True):
        anchors = add(anchors, images, valid)
    return anchors


def read(path: str, shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
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
        decoding.reading(where, expected, remedy),
        paths.expanded(path, key="method.anchors").open("rb") as file,
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

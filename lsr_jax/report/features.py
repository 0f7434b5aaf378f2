"""The numbers behind the figures: feature vectors, class shares, training curves.

Feature vectors are ``N`` of length ``D`` with a class each; angles are in degrees. What
is undefined (a class without vectors, an angle at a zero vector) is NaN.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lsr_jax.errors import InputError
from lsr_jax.ops import numerics
from lsr_jax.types import IGNORE

PERPLEXITY = 30
COMPONENTS = 50


class Sample(NamedTuple):
    """Feature vectors of one domain.

    Attributes:
      vectors: float32 ``[N, D]``.
      labels: ``[N]`` class indices.
    """

    vectors: np.ndarray
    labels: np.ndarray


def balanced_choice(
    labels: np.ndarray, *, count: int, num_classes: int, seed: int
) -> np.ndarray:
    """Draw at most ``count`` cells of every class without replacement.

    The draw depends on labels and seed alone, so two networks with feature maps of one
    size are compared on the same cells.

    Args:
      labels: class indices of any shape, 255 = ignore.
      count: cells of a class; a class with fewer gives all of them.
      num_classes: ``C``.
      seed: of the draw.

    Returns:
      ``[N]`` ascending positions in the flattened labels.
    """
    flat = np.asarray(labels).reshape(-1)
    order = np.random.default_rng(seed).permutation(flat.size)
    shuffled = flat[order]
    chosen = [order[shuffled == c][:count] for c in range(num_classes)]
    return np.sort(np.concatenate(chosen))


def class_means(sample: Sample, *, num_classes: int) -> np.ndarray:
    """Prototypes ``[C, D]``: the mean vector of each class, NaN where it is absent."""
    means = np.full((num_classes, sample.vectors.shape[1]), np.nan)
    for c in np.unique(sample.labels):
        means[c] = sample.vectors[sample.labels == c].mean(axis=0, dtype=np.float64)
    return means


def norm_interval(vectors: np.ndarray) -> np.ndarray:
    """2.5 %, 50 % and 97.5 % quantile of the norms (LSR, Fig. 5)."""
    return np.quantile(numerics.norms(vectors), (0.025, 0.5, 0.975))


def inner_angles(sample: Sample, prototypes: np.ndarray) -> np.ndarray:
    """Angle ``[N]`` between each vector and the prototype of its class (LSR, Fig. 5)."""
    own = numerics.unit_rows(prototypes[sample.labels])
    cosines = (numerics.unit_rows(sample.vectors) * own).sum(axis=-1)
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


def prototype_angles(prototypes: np.ndarray) -> np.ndarray:
    """Mean angle ``[C]`` of each prototype to all others that exist (LSR, Fig. 6).

    ``theta_c = mean_{j != c} arccos(cos(p_c, p_j))``; at most 90 for the non-negative
    features behind a ReLU.
    """
    angles = numerics.angles(prototypes)
    defined = ~np.isnan(angles)
    totals, counts = np.where(defined, angles, 0).sum(axis=1), defined.sum(axis=1)
    return np.divide(totals, counts, out=np.full(len(angles), np.nan), where=counts > 0)


def class_shares(labels: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Share of every class ``[C + 1]``, the unlabelled cells last (LSR, Fig. 4)."""
    flat = np.asarray(labels).reshape(-1)
    places = np.where(flat == IGNORE, num_classes, flat).astype(np.int64)
    return np.bincount(places, minlength=num_classes + 1) / flat.size


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """A confusion matrix in shares of its true class ``[C, C]``, NaN where absent."""
    counts = np.asarray(matrix, np.float64)
    true = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, true, out=np.full(counts.shape, np.nan), where=true > 0)


def joined(samples: Sequence[Sample]) -> tuple[Sample, np.ndarray]:
    """Several samples as one, and which of them each vector came from, ``[N]``."""
    whole = Sample(*(np.concatenate(part) for part in zip(*samples, strict=True)))
    sizes = [len(sample.labels) for sample in samples]
    return whole, np.repeat(np.arange(len(samples)), sizes)


def principal(vectors: np.ndarray, components: int = 2) -> np.ndarray:
    """Coordinates ``[N, components]`` along the directions of largest variance."""
    # Imported here: a run without these figures does not wait for scikit-learn.
    from sklearn.decomposition import PCA

    # The solver by covariance is deterministic, the signs of directions too.
    found = PCA(components, svd_solver="covariance_eigh")
    return found.fit_transform(np.asarray(vectors, np.float64))


def tsne(vectors: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """t-SNE ``[N, 2]`` (Barnes-Hut) of the first 50 principal components.

    Perplexity 30, or less where there are few vectors; starts from the principal
    components. One thread: the order in which several add up is not reproducible.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    reduced = principal(vectors, min(COMPONENTS, *vectors.shape))
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    method = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    with threadpool_limits(1):
        return method.fit_transform(reduced.astype(np.float32)).astype(np.float64)


def read_curves(path: Path) -> pd.DataFrame:
    """The metrics of a stage's ``metrics.jsonl`` by step; empty without one.

    Raises:
      InputError: a line that is not a JSON object with a step.
    """
    # The last line of a run in progress may be incomplete.
    text = (
        path.read_text(encoding="utf-8").rpartition("\n")[0] if path.is_file() else ""
    )
    if not text:
        return pd.DataFrame()
    try:
        found = pd.read_json(io.StringIO(text), lines=True).set_index("step")
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}); restore the file") from error
    return found.select_dtypes("number")

"""The numbers behind the figures: feature vectors, class shares, training curves.

Feature vectors are ``N`` of length ``D`` with a class each; angles are in degrees. What
is undefined (a class without vectors, an angle at a zero vector) is NaN.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lsr_jax.errors import InputError
from lsr_jax.ops import numerics
from lsr_jax.types import IGNORE

PERPLEXITY = 30
COMPONENTS = 50
Curves = dict[str, tuple[np.ndarray, np.ndarray]]
"""Metric -> steps and values."""


class Sample(NamedTuple):
    """Feature vectors of one domain.

    Attributes:
      vectors: float32 ``[N, D]``.
      labels: ``[N]`` class indices.
    """

    vectors: np.ndarray
    labels: np.ndarray


class Ring(NamedTuple):
    """Median and 95 % interval of the norms of a sample."""

    low: float
    median: float
    high: float


def balanced_choice(
    labels: np.ndarray, *, count: int, num_classes: int, seed: int
) -> np.ndarray:
    """Places of at most ``count`` cells of every class, drawn without replacement.

    Which cells are drawn depends on labels and seed alone, so two networks with feature
    maps of one size are compared on the same cells.

    Args:
      labels: class indices of any shape, 255 = ignore.
      count: cells of a class; a class with fewer gives all of them.
      num_classes: ``C``.
      seed: of the draw.

    Returns:
      ``[N]`` ascending places in the flattened labels.
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


def norm_ring(vectors: np.ndarray) -> Ring:
    """2.5 %, 50 % and 97.5 % quantile of the norms (LSR, Fig. 5)."""
    return Ring(*np.quantile(numerics.norms(vectors), (0.025, 0.5, 0.975)).tolist())


def inner_angles(sample: Sample, prototypes: np.ndarray) -> np.ndarray:
    """Angle ``[N]`` between each vector and the prototype of its class (LSR, Fig. 5)."""
    own = prototypes[sample.labels]
    products = (numerics.unit_rows(sample.vectors) * numerics.unit_rows(own)).sum(
        axis=-1
    )
    return np.degrees(np.arccos(np.clip(products, -1, 1)))


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
    """Coordinates ``[N, components]`` along the directions of largest variance.

    A direction's sign is such that its largest entry is positive, so that the result
    does not depend on the linear algebra library.
    """
    vectors = np.asarray(vectors, np.float64)
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    directions = directions[:, ::-1][:, :components]
    largest = np.abs(directions).argmax(axis=0)
    directions *= np.sign(directions[largest, np.arange(directions.shape[1])])
    return centred @ directions


def tsne(vectors: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """t-SNE ``[N, 2]`` (Barnes-Hut) of the first 50 principal components.

    Perplexity 30, or less where there are few vectors; starts from the principal
    components. One thread: the order in which several add up is not reproducible.
    """
    # Imported here: a run without these figures does not wait for scikit-learn.
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    reduced = principal(vectors, min(COMPONENTS, vectors.shape[1]))
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    method = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    with threadpool_limits(1):
        return method.fit_transform(reduced.astype(np.float32)).astype(np.float64)


def read_curves(path: Path) -> Curves:
    """The curves in a stage's ``metrics.jsonl``; empty without one.

    Raises:
      InputError: a line that is not a JSON object with a step.
    """
    found: dict[str, list] = {}
    lines = path.read_text().splitlines(True) if path.is_file() else []
    for line in lines:
        if not line.endswith("\n"):  # the last one, of a run in progress
            break
        try:
            entry = json.loads(line)
            step = entry.pop("step")
        except (ValueError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{path}: not a line of metrics: {line[:60]!r}; restore the file"
            ) from error
        for name, value in entry.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, []).append((step, value))
    return {name: tuple(np.array(pairs).T) for name, pairs in found.items()}

"""Feature vectors in the plane: principal components and t-SNE, reproducible."""

from __future__ import annotations

import numpy as np

PERPLEXITY = 30
COMPONENTS = 50


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

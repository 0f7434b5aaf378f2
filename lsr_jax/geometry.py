"""Norms and angles of vectors on the host, in float64; angles are in degrees.

What is undefined (an angle at a zero vector) is NaN.
"""

from __future__ import annotations

import numpy as np


def norms(vectors: np.ndarray) -> np.ndarray:
    """L2 norms ``[N]`` of ``[N, D]``."""
    return np.linalg.norm(np.asarray(vectors, np.float64), axis=-1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors divided by their L2 norms; a zero vector becomes NaN."""
    vectors = np.asarray(vectors, np.float64)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    undefined = np.full(vectors.shape, np.nan)
    return np.divide(vectors, length, out=undefined, where=length > 0)


def angles(vectors: np.ndarray) -> np.ndarray:
    """``arccos(cos(p_i, p_j))`` ``[N, N]`` of ``[N, D]``, NaN on the diagonal."""
    directions = unit(vectors)
    found = np.degrees(np.arccos(np.clip(directions @ directions.T, -1, 1)))
    np.fill_diagonal(found, np.nan)
    return found

"""CAG's category anchors, from the file of its repository to one without PyTorch."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from lsr_jax import errors
from lsr_jax import files as files_lib
from lsr_jax.convert import files
from lsr_jax.methods.cag import COUNT, VECTORS


def convert(
    path: str | pathlib.Path, out: str | pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Writes the anchors in ``path`` as an ``.npz`` for the method's ``anchors``.

    Args:
      path: what `torch.save` wrote: the ``[C, D]`` array alone, as CAG's ``cac.py``, or
        a dict of it and the counts ``[C]``, as its training reads them. Without counts
        every class with a vector other than 0 counts once.
      out: ``.npz`` to create.

    Returns:
      vectors ``[C, D]`` and counts ``[C]``.

    Raises:
      InputError: an unreadable file, one without anchors, or ``out`` is no new .npz.
    """
    path, out = pathlib.Path(path), pathlib.Path(out)
    if out.suffix != ".npz" or out.exists():
        raise errors.InputError(f"--out {out}: expected the name of a new .npz file")
    if not path.is_file():
        raise errors.InputError(f"{path}: no such file")
    content = files.read_torch(path)
    entries = content if isinstance(content, Mapping) else {VECTORS: content}
    vectors = _array(entries.get(VECTORS), path)
    if vectors.ndim != 2:
        raise errors.InputError(
            f"{path}: expected an array of classes by channels, alone or as {VECTORS!r} "
            "of a dict; found none"
        )
    present = (vectors != 0).any(axis=1)
    count = _array(entries.get(COUNT, present), path).reshape(-1)
    np.savez(out, **{VECTORS: vectors, COUNT: count})
    return vectors, count


def _array(value, path):
    if hasattr(value, "shape"):
        return files.to_numpy(value, str(path))
    with files_lib.reading(path, "an array of numbers", files.AGAIN):
        return np.asarray(0.0 if value is None else value, float)

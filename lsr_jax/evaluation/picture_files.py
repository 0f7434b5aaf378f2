"""Image files that predictions are made of, and the files that they become."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from lsr_jax import paths
from lsr_jax.data import reading
from lsr_jax.errors import InputError


def find_images(pattern: str) -> list[Path]:
    """The files that a pattern matches, sorted.

    Raises:
      InputError: there are none, or one whose name is no UTF-8.
    """
    matched = glob.glob(os.path.expanduser(pattern), recursive=True)
    found = sorted(path for path in map(paths.checked, matched) if path.is_file())
    if not found:
        inside = "; name the files in it, as DIR/*.png" if matched else ""
        raise InputError(
            f"--images {pattern}: expected a pattern of image files, found none{inside}"
        )
    return found


def name_outputs(paths: Sequence[Path]) -> dict[Path, Path]:
    """Image -> PNG below the folder of a kind, as the images lie below theirs.

    Raises:
      InputError: two images would get one name.
    """
    base = os.path.commonpath([path.absolute().parent for path in paths])
    names = {}
    for path in paths:
        name = path.absolute().relative_to(base).with_suffix(".png")
        if name in names:
            raise InputError(
                f"--images: expected names that differ without their endings, found "
                f"{names[name]} and {path}"
            )
        names[name] = path
    return {path: name for name, path in names.items()}


def prepare_folder(out: Path, kinds: Sequence[str]) -> None:
    """Make the folders, before anything is computed.

    Raises:
      InputError: they cannot be made or written.
    """
    try:
        for kind in kinds:
            (out / kind).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error}") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: cannot be written; choose another folder")


def read(path: Path) -> np.ndarray:
    """RGB uint8 ``[H, W, 3]``; the header is looked at before anything is decoded.

    Raises:
      InputError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return reading.decode_image(data, str(path))


def write(path: Path, picture: np.ndarray) -> None:
    """Write a PNG.

    Raises:
      InputError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = picture[..., ::-1] if picture.ndim == 3 else picture
    if not cv2.imwrite(os.fspath(path), stored):
        raise InputError(f"{path}: cannot be written; choose another --out")

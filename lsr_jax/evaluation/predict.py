"""Class maps of images of any size: by resizing, or by a sliding window.

Image files that predictions are made of, and the files that they become.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import numpy as np

from lsr_jax.data import image_io, label_spaces
from lsr_jax.data.label_spaces import LabelSpace
from lsr_jax.errors import InputError
from lsr_jax.evaluation.predictor import Predictor, Size
from lsr_jax.types import PyTree

KINDS = ("color", "train_ids", "cityscapes_ids", "overlay")


class Network(NamedTuple):
    """What predicts, and with which parameters and statistics."""

    predictor: Predictor
    params: PyTree
    model_state: PyTree


def resized(
    network: Network, images: Iterable[np.ndarray], *, size: Size, batch_size: int
) -> Iterator[np.ndarray]:
    """Class maps of images that are resized to ``size`` for the network.

    Images are shrunk or enlarged as training images are (PIL's bicubic), scores are
    enlarged to each image's own size. No more than ``batch_size`` images are held.

    Args:
      network: of `Network`.
      images: uint8 ``[H, W, 3]``, of any sizes.
      size: ``(H, W)`` of the network's input.
      batch_size: images that pass through the network together.

    Yields:
      uint8 ``[H, W]`` for each image, in order.
    """
    for batch in _batches(images, batch_size):
        inputs = np.stack([image_io.resize_image(image, size) for image in batch])
        maps = _views(network, inputs, batch_size)
        for row, image in enumerate(batch):
            own = jax.tree.map(lambda one, row=row: one[row : row + 1], maps)
            yield network.predictor.labels(own, image.shape[:2])[0]


def slide(
    network: Network,
    image: np.ndarray,
    *,
    window: Size,
    overlap: float,
    batch_size: int,
) -> np.ndarray:
    """The class map of one image from windows at its own resolution.

    Scores of all windows over a pixel are averaged. An image smaller than the window is
    continued by its border. Scores are kept for one row of windows at a time, so memory
    grows with the width of the image alone.

    Args:
      network: of `Network`; probabilities are better averaged than logits.
      image: uint8 ``[H, W, 3]``.
      window: ``(H, W)`` of the network's input.
      overlap: share of a window that the next one covers again, 0 to below 1.
      batch_size: windows that pass through the network together.

    Returns:
      uint8 ``[H, W]``.
    """
    height, width = image.shape[:2]
    lacking = [
        max(0, side - own) for side, own in zip(window, (height, width), strict=True)
    ]
    image = np.pad(image, ((0, lacking[0]), (0, lacking[1]), (0, 0)), mode="edge")
    tops, lefts = (
        starts(length, side, overlap)
        for length, side in zip(image.shape[:2], window, strict=True)
    )
    result = np.empty(image.shape[:2], np.uint8)
    shape = (window[0], image.shape[1], network.predictor.num_classes)
    band = np.zeros(shape, np.float32)
    for top, following in zip(tops, [*tops[1:], image.shape[0]], strict=True):
        strip = image[top : top + window[0]]
        crops = (strip[:, left : left + window[1]] for left in lefts)
        positions = iter(lefts)
        for batch in _batches(crops, batch_size):
            maps = _views(network, np.stack(batch), batch_size)
            for scores in network.predictor.scores(maps, window)[: len(batch)]:
                left = next(positions)
                band[:, left : left + window[1]] += scores
        # Below the next row of windows the sums are not complete yet.
        done = following - top
        result[top:following] = band[:done].argmax(-1)
        band = np.concatenate([band[done:], np.zeros_like(band[:done])])
    return result[:height, :width]


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin: a stride apart, the last one at the end.

    >>> starts(10, 4, 0.5)
    [0, 2, 4, 6]
    >>> starts(9, 4, 0.0)
    [0, 4, 5]
    """
    stride = max(1, round(window * (1 - overlap)))
    count = -(-(length - window) // stride) + 1
    return [min(i * stride, length - window) for i in range(count)]


def render(
    kind: str, label: np.ndarray, image: np.ndarray, space: LabelSpace
) -> np.ndarray:
    """What is written for an image.

    Args:
      kind: "color" paints the classes; "overlay" the image under them, half and half;
        "train_ids" and "cityscapes_ids" map to the ids of the 19 classes, the latter as
        the benchmark server wants them.
      label: indices of the space's classes, uint8 ``[H, W]``.
      image: uint8 ``[H, W, 3]``.
      space: the classes.

    Returns:
      uint8 ``[H, W]`` or RGB ``[H, W, 3]``.
    """
    if kind in ("train_ids", "cityscapes_ids"):
        return ids(kind, space)[label]
    color = label_spaces.colorize(label, space)
    if kind == "color":
        return color
    return (image // 2 + color // 2 + (image % 2 + color % 2) // 2).astype(np.uint8)


def ids(kind: str, space: LabelSpace) -> np.ndarray:
    """The id of every class of a space: uint8 ``[C]``.

    Classes that are not among the 19 keep their index as trainId.

    Raises:
      InputError: Cityscapes ids of classes that Cityscapes has not.
    """
    rows = {row.name: row for row in label_spaces.CLASSES}
    strange = [name for name in space.classes if name not in rows]
    if kind == "train_ids" and strange:
        return np.arange(space.num_classes, dtype=np.uint8)
    if strange:
        raise InputError(
            f"kinds: cityscapes_ids expects classes of Cityscapes, found {strange[0]!r}; "
            "choose other kinds"
        )
    key = {"train_ids": "train_id", "cityscapes_ids": "cityscapes_id"}[kind]
    return np.array([getattr(rows[name], key) for name in space.classes], np.uint8)


def _views(network: Network, images: np.ndarray, batch_size: int) -> PyTree:
    """Filled up with the last image, so that every batch has one size."""
    filled = np.minimum(np.arange(batch_size), len(images) - 1)
    return network.predictor.views(network.params, network.model_state, images[filled])


def _batches(items: Iterable, size: int) -> Iterator[Sequence]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def find_images(pattern: str) -> list[Path]:
    """The files that a pattern matches, sorted.

    Raises:
      InputError: there are none.
    """
    matched = glob.glob(os.path.expanduser(pattern), recursive=True)
    found = sorted(path for path in map(Path, matched) if path.is_file())
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
    return image_io.decode_image(data, str(path))


def write(path: Path, picture: np.ndarray) -> None:
    """Write a PNG.

    Raises:
      InputError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = picture[..., ::-1] if picture.ndim == 3 else picture
    if not cv2.imwrite(os.fspath(path), stored):
        raise InputError(f"{path}: cannot be written; choose another --out")

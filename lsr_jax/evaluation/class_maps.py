"""Class maps of images of any size: by resizing, or by a sliding window."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from lsr_jax.data import image_io
from lsr_jax.evaluation.predictor import Predictor, Size
from lsr_jax.types import PyTree


class Network(NamedTuple):
    """A predictor with the parameters and BatchNorm statistics that it runs with."""

    predictor: Predictor
    params: PyTree
    model_state: PyTree

    def maps(self, images: list[np.ndarray], batch_size: int) -> PyTree:
        """`Predictor.maps` of images, padded with the last one to ``batch_size``."""
        padded = images + [images[-1]] * (batch_size - len(images))
        return self.predictor.maps(self.params, self.model_state, np.stack(padded))


def resize(
    network: Network, images: Sequence[np.ndarray], *, size: Size, batch_size: int
) -> list[np.ndarray]:
    """Class maps of images that are resized to ``size`` for the network.

    Images are resized as training images are (PIL's bicubic), scores are enlarged to
    each image's own size.

    Args:
      network: trained.
      images: at most ``batch_size`` of uint8 ``[H, W, 3]``, of any sizes.
      size: ``(H, W)`` of the network's input.
      batch_size: to which the images are padded, so that one program serves all.

    Returns:
      uint8 ``[H, W]`` for each image.
    """
    inputs = [image_io.resize_image(image, size) for image in images]
    maps = network.maps(inputs, batch_size)
    return [
        network.predictor.labels(
            jax.tree.map(lambda x, row=row: x[row : row + 1], maps), image.shape[:2]
        )[0]
        for row, image in enumerate(images)
    ]


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
    padded by its border. Scores are stored for one row of windows at a time, so memory
    grows with the width of the image alone.

    Args:
      network: trained; probabilities are better averaged than logits.
      image: uint8 ``[H, W, 3]``.
      window: ``(H, W)`` of the network's input.
      overlap: share of a window that the next one covers again, 0 to below 1.
      batch_size: windows that pass through the network together.

    Returns:
      uint8 ``[H, W]``.
    """
    height, width = image.shape[:2]
    missing = max(0, window[0] - height), max(0, window[1] - width)
    image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    tops = window_starts(image.shape[0], window[0], overlap)
    lefts = window_starts(image.shape[1], window[1], overlap)
    result = np.empty(image.shape[:2], np.uint8)
    shape = window[0], image.shape[1], network.predictor.num_classes
    band = np.zeros(shape, np.float32)
    for top, following in zip(tops, [*tops[1:], image.shape[0]], strict=True):
        strip = image[top : top + window[0]]
        for batch in batches(lefts, batch_size):
            crops = [strip[:, left : left + window[1]] for left in batch]
            maps = network.maps(crops, batch_size)
            scores = network.predictor.scores(maps, window)
            for left, one in zip(batch, scores, strict=False):
                band[:, left : left + window[1]] += one
        # Below the next row of windows the sums are not complete yet.
        done = following - top
        result[top:following] = band[:done].argmax(-1)
        band = np.concatenate([band[done:], np.zeros_like(band[:done])])
    return result[:height, :width]


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin: a stride apart, the last one at the end.

    >>> window_starts(10, 4, 0.5)
    [0, 2, 4, 6]
    >>> window_starts(9, 4, 0.0)
    [0, 4, 5]
    """
    stride = max(1, round(window * (1 - overlap)))
    count = -(-(length - window) // stride) + 1
    return [min(i * stride, length - window) for i in range(count)]


def batches(items: Iterable, size: int) -> Iterator[list]:
    """Lists of ``size`` items, the last one of what is left."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch

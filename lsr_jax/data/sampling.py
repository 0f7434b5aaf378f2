"""Rare class sampling (DAFormer, CVPR 2022): draw a class, then an image that shows it.

What is drawn for an example depends on the seed and on its number alone.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from lsr_jax import cli
from lsr_jax.data import processes, records
from lsr_jax.errors import InputError
from lsr_jax.keywords import CountOrZero, NonNegative


class RareClasses(NamedTuple):
    """The distribution that source images are drawn from, see `rare_classes`.

    Attributes:
      classes: ``[K]`` ids of the classes that occur, the rarest first.
      probabilities: ``[K]`` of them.
      images: K arrays of the images that are drawn for a class, all equally likely.
    """

    classes: np.ndarray
    probabilities: np.ndarray
    images: tuple[np.ndarray, ...]

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """A class and an image."""
        place = rng.choice(len(self.classes), p=self.probabilities)
        return int(self.classes[place]), int(rng.choice(self.images[place]))


def rare_classes(
    pixels: np.ndarray,
    names: tuple[str, ...],
    *,
    temperature: NonNegative = 0.0,
    min_pixels: CountOrZero = 3000,
) -> RareClasses | None:
    """The distribution ``P(c) = softmax_c((1 - f_c) / T)`` over the classes that occur.

    ``f_c`` is the share of class ``c`` of all labelled pixels. DAFormer's
    ``datasets/uda_dataset.py``, which computes it in float32.

    Args:
      pixels: ``[N, C]`` pixels of each class in each image, see `class_pixels`.
      names: of the C classes.
      temperature: ``T``; 0 for none: images are shuffled.
      min_pixels: an image is drawn for a class of which it has more pixels than this.

    Raises:
      InputError: a class has no such image.
    """
    if not temperature:
        return None
    total = pixels.sum(axis=0)
    classes = np.argsort(total, kind="stable")
    classes = classes[total[classes] > 0]
    images = tuple(np.flatnonzero(pixels[:, c] > min_pixels) for c in classes)
    for c, found in zip(classes, images, strict=True):
        if not len(found):
            raise InputError(
                f"rare_classes.min_pixels: expected less than {pixels[:, c].max()}, the "
                f"most pixels of {names[c]} in an image, found {min_pixels}; lower it"
            )
    rarity = (1 - total[classes] / total.sum()) / temperature
    weights = np.exp(rarity - rarity.max(initial=0))
    return RareClasses(classes, weights / weights.sum(), images)


class Drawn:
    """Decoded examples drawn with replacement, without end.

    With ``rare``, each has the class ``drawn`` that it was drawn for; without, all images
    are equally likely.
    """

    def __init__(
        self, examples: records.Decoded, seed: int, rare: RareClasses | None = None
    ):
        self._examples, self._seed, self._rare = examples, seed, rare

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng((self._seed, index))
        if self._rare is None:
            return self._examples[int(rng.integers(len(self._examples)))]
        drawn, image = self._rare.draw(rng)
        return {**self._examples[image], "drawn": np.int32(drawn)}


def class_pixels(
    source: records.Source, num_classes: int, *, progress: bool = True
) -> np.ndarray:
    """Pixels ``[N, C]`` of each class in each image of a source, in labels as downloaded.

    A prepared folder has them stored; else every label is read once.

    Raises:
      InputError: a label cannot be used, and bad examples are not to be skipped.
    """
    if isinstance(source, records.Joined):
        parts = [class_pixels(p, num_classes, progress=progress) for p in source.parts]
        return np.concatenate(parts)
    if hasattr(source, "class_pixels"):
        return source.class_pixels(num_classes)
    read = getattr(source, "full_label", lambda i: records.decode_label(source[i]))
    skip = getattr(source, "on_bad_example", "stop") == "skip"

    def count(index):
        try:
            label = read(index)
        except InputError:
            if not skip:
                raise
            return np.zeros(num_classes, np.int64)
        return np.bincount(label.ravel(), minlength=num_classes)[:num_classes]

    bar = cli.progress_bar(
        len(source), "counting pixels", "image", disable=not progress
    )
    with ThreadPoolExecutor(processes.cores()) as pool, bar:
        counts = []
        for one in pool.map(count, range(len(source))):
            counts.append(one)
            bar.update()
    return np.stack(counts)

"""Records of a data set, and how they are decoded and batched.

A source is any picklable object with ``len()`` whose ``source[i]`` is a dict of

* ``image``: PNG bytes or uint8 RGB ``[H, W, 3]``;
* ``label``: PNG bytes of 8 bits and one channel, uint8 ``[H, W]``, or a function without
  arguments that returns it; missing where there are no labels;
* ``id``: a name for error messages;
* ``lut``: uint8 ``[256]``, optional; then the label holds raw ids, and ``lut[id]`` is
  the class.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np

from lsr_jax.data import image_io
from lsr_jax.errors import InputError


class Source(Protocol):
    """Random access to the records of one domain and split."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


def decode(
    record: dict[str, Any], *, labelled: bool, same_size: bool = True
) -> dict[str, Any]:
    """Decodes a record to ``{image, label, id, valid}``, arrays of uint8.

    A label that may not be used, without `labelled`, is dropped before it is decoded.
    With `same_size` it must have the size of its image.

    Raises:
      InputError: the record cannot be used; the message begins with its id.
    """
    name = _name(record)
    image = _pixels(record["image"], f"{name}: image", image_io.decode_image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(
            f"{name}: expected an RGB image of 8 bits, found {image.dtype} of shape "
            f"{image.shape}; convert the file"
        )
    example = {"image": image, "id": name, "valid": record.get("valid", True)}
    if labelled:
        example["label"] = decode_label(record, image.shape[:2] if same_size else None)
    return example


def decode_label(
    record: dict[str, Any], size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decodes the label of a record alone, of `size` or of whatever size; see `decode`."""
    name, label = _name(record), record.get("label")
    if label is None:
        raise InputError(f"{name}: has no label; remove the record")
    label = label() if callable(label) else label
    label = _pixels(label, f"{name}: label", image_io.decode_label, "grey")
    if label.ndim != 2 or label.dtype != np.uint8:
        raise InputError(
            f"{name}: expected a label of one channel and 8 bits, found {label.dtype} of "
            f"shape {label.shape}; store ids in a grey PNG"
        )
    if size is not None and label.shape != size:
        raise InputError(
            f"{name}: expected a label of the image's size {image_io.by(size)}, found "
            f"{image_io.by(label.shape)}; resize or remove the pair"
        )
    return cv2.LUT(label, record["lut"]) if "lut" in record else label


class Decoded:
    """A source of decoded examples instead of records.

    With ``on_bad_example = "skip"`` on the source, a record that cannot be used is
    replaced by the next one, which is not ``valid``, and reported once on stderr.
    """

    def __init__(self, source: Source, *, labelled: bool, same_size: bool = True):
        self._source = source
        self._options = {"labelled": labelled, "same_size": same_size}
        self._skip = getattr(source, "on_bad_example", "stop") == "skip"
        self._skipped: set[int] = set()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        for offset in range(len(self._source)):
            place = (index + offset) % len(self._source)
            try:
                example = decode(self._source[place], **self._options)
                return {**example, "valid": offset == 0}
            except InputError as error:
                if not self._skip:
                    raise
                if place not in self._skipped:
                    self._skipped.add(place)
                    count = f"{len(self._skipped)} in this process"
                    print(f"skipped ({count}): {error}", file=sys.stderr)
        raise InputError(
            "data: no record can be used; run python -m lsr_jax.data.check"
        )


class Joined:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self.on_bad_example = getattr(sources[0], "on_bad_example", "stop")
        self.parts = sources
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict:
        place = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[place - 1]) if place else 0
        return self.parts[place][index - first]


class First:
    """The first ``count`` records of a source, or all if it has fewer."""

    def __init__(self, source: Source, count: int):
        self.source = source
        self.count = min(count, len(source))
        self.on_bad_example = getattr(source, "on_bad_example", "stop")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return self.source[index]


def is_labelled(source: Source) -> bool:
    """Whether records have labels, by the first one of each part that can be read.

    Raises:
      InputError: some of the joined parts have labels and others have none.
    """
    parts = source.parts if isinstance(source, Joined) else [source]
    found = {_has_label(part) for part in parts}
    if len(found) > 1:
        raise InputError(
            "data: expected labels in all of the joined splits or in none; name splits "
            "of one kind"
        )
    return found.pop()


def _has_label(source):
    for index in range(len(source)):
        try:
            return "label" in source[index]
        except InputError:
            if getattr(source, "on_bad_example", "stop") == "stop":
                raise
    return False


def stack(
    examples: Sequence[dict[str, Any]], *, size: tuple[int, int] | None
) -> dict[str, Any]:
    """Makes a batch of decoded records: arrays stacked, ids in a tuple.

    All images must have `size` ``(H, W)``; None: that of the first.

    Raises:
      InputError: an image or label has another size.
    """
    size = size or examples[0]["image"].shape[:2]
    for example in examples:
        if example["image"].shape[:2] != size:
            raise InputError(
                f"{example['id']}: expected an image of {image_io.by(size)}, as the first "
                f"of its set or batch, found {image_io.by(example['image'].shape)}; bring "
                "all images to one size"
            )
        label, first = example.get("label"), examples[0].get("label")
        if label is not None and label.shape != first.shape:
            raise InputError(
                f"{example['id']}: expected a label of {image_io.by(first.shape)}, as the "
                f"first of its batch, found {image_io.by(label.shape)}; evaluate one image "
                "a batch on one device: evaluation.batch_size=1, num_devices=1"
            )
    batch = {"id": tuple(example["id"] for example in examples)}
    for key in examples[0].keys() - {"id"}:
        batch[key] = np.stack([example[key] for example in examples])
    return batch


def image_size(source: Source) -> tuple[int, int]:
    """Returns height and width of the first image."""
    return Decoded(source, labelled=False)[0]["image"].shape[:2]


def _name(record):
    name = record["id"]
    return name.decode() if isinstance(name, bytes) else str(name)


def _pixels(data, where, decoder, *options):
    if isinstance(data, np.ndarray):
        return data
    if not data.startswith(image_io.PNG):
        raise image_io.broken(where, f"{len(data)} bytes that are no PNG")
    cv2.setNumThreads(0)  # Grain's threads already use the cores
    return decoder(data, where, *options)

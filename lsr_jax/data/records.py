"""The records of a data set: what they hold, how they are decoded and batched.

A source is any picklable object with ``len()`` and ``source[i]`` returning a dict of
``image`` (PNG bytes or uint8 RGB ``[H, W, 3]``), ``label`` (PNG bytes of 8 bits and one
channel, or uint8 ``[H, W]``; absent without labels) and ``id`` (a name for messages).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np

from lsr_jax.errors import InputError


class Source(Protocol):
    """Random access to the records of one domain and split."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


def decode(record: dict[str, Any], *, labelled: bool) -> dict[str, Any]:
    """Turns a record into ``{image, label, id, valid}``, arrays of uint8.

    Without the right to labels, `labelled` False, a label is dropped, not decoded.

    Raises:
      InputError: the record cannot be used; the message begins with its id.
    """
    name = _text(record["id"])
    image = _decode(record["image"], cv2.IMREAD_COLOR_RGB, f"{name}: image")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(
            f"{name}: expected an RGB image of 8 bits, found {image.dtype} of shape "
            f"{image.shape}; convert the file"
        )
    example = {"image": image, "id": name, "valid": record.get("valid", True)}
    if labelled:
        example["label"] = _decode_label(record, name, image.shape[:2])
    return example


def _decode_label(record, name, size):
    if record.get("label") is None:
        raise InputError(f"{name}: expected a label, found none; remove the record")
    label = _decode(record["label"], cv2.IMREAD_UNCHANGED, f"{name}: label")
    if label.ndim != 2 or label.dtype != np.uint8:
        raise InputError(
            f"{name}: expected a label of one channel and 8 bits, found {label.dtype} of "
            f"shape {label.shape}; store trainIds in a grey PNG"
        )
    if label.shape != size:
        raise InputError(
            f"{name}: expected a label of the image's size {_by(size)}, found "
            f"{_by(label.shape)}; resize or remove the pair"
        )
    return label


def _decode(data, mode, what):
    if isinstance(data, np.ndarray):
        return data
    # Grain's threads already use the cores.
    cv2.setNumThreads(0)
    array = cv2.imdecode(np.frombuffer(data, np.uint8), mode) if data else None
    if array is None:
        raise InputError(
            f"{what}: expected a PNG, found {len(data)} bytes that cannot be decoded; "
            "restore the file or remove the record"
        )
    return array


def stack(
    examples: Sequence[dict[str, Any]], *, size: tuple[int, int] | None
) -> dict[str, Any]:
    """Makes a batch of decoded records: arrays stacked, ids in a tuple.

    Raises:
      InputError: an image has not `size`, or, for None, not that of the batch's first.
    """
    size = size or examples[0]["image"].shape[:2]
    for example in examples:
        if example["image"].shape[:2] != size:
            raise InputError(
                f"{example['id']}: expected an image of {_by(size)}, as the first of its "
                f"set or batch, found {_by(example['image'].shape)}; bring all images to "
                "one size"
            )
    batch = {"id": tuple(example["id"] for example in examples)}
    for key in examples[0].keys() - {"id"}:
        batch[key] = np.stack([example[key] for example in examples])
    return batch


def image_size(source: Source) -> tuple[int, int]:
    """Height and width of the first image."""
    return decode(source[0], labelled=False)["image"].shape[:2]


def _text(name):
    return name.decode() if isinstance(name, bytes) else str(name)


def _by(size):
    return f"{size[0]}x{size[1]} (height x width)"

"""Reading one image and its label from the files of a data set, with every check.

The header is looked at before anything is decoded, so no file can ask for more memory
than `LARGEST_IMAGE` pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from lsr_jax.data import headers
from lsr_jax.data.files import Files
from lsr_jax.data.headers import BadExample
from lsr_jax.data.layouts import Layout
from lsr_jax.errors import InputError

Size = tuple[int, int] | None
# What is decoded in this process: Pillow hands EPS to another program.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP")


class Pair(NamedTuple):
    """The names of an image and of its label, None where there is none."""

    image: str
    label: str | None


class Reader:
    """Reads pairs of one data set."""

    def __init__(self, files: Files, layout: Layout):
        self._files = files
        self._format = layout.label_format
        self._known = np.zeros(256, bool)
        self._known[[*layout.ids, *layout.ignored]] = True

    def image(self, name: str) -> np.ndarray:
        """RGB uint8 ``[H, W, 3]``.

        Raises:
          BadExample: the file is unreadable, truncated, too large or not 8-bit RGB.
        """
        return decode_image(self.data(name), self._files.where(name))

    def label(self, name: str) -> np.ndarray:
        """Ids, uint8 ``[H, W]``.

        Raises:
          BadExample: as for images, or an id is not known.
        """
        where = self._files.where(name)
        data = self.data(name)
        headers.check_label(data, where, self._format)
        label = decode_label(data, where, self._format)
        counts = np.bincount(label.ravel(), minlength=256)
        unknown = np.flatnonzero((counts > 0) & ~self._known)
        if unknown.size:
            found = unknown[0]
            known = spans(np.flatnonzero(self._known))
            raise BadExample(
                "unknown id",
                f"{where}: expected ids among {known}, found {found}; correct the id map "
                "or the file",
            )
        return label

    def pair(self, pair: Pair) -> tuple[np.ndarray, np.ndarray | None]:
        """Image and label, None where there is none.

        Raises:
          BadExample: one of them is unusable, or their sizes differ.
        """
        image = self.image(pair.image)
        if pair.label is None:
            return image, None
        return image, self.label_of(pair, image.shape[:2])

    def label_of(self, pair: Pair, image_size: tuple[int, int]) -> np.ndarray:
        """The label of a pair whose image has this ``(H, W)``.

        Raises:
          BadExample: it is unusable, or of another size.
        """
        label = self.label(pair.label)
        self._check_sizes(pair, image_size, label.shape)
        return label

    def glance(self, pair: Pair) -> None:
        """What can be found without decoding: existence, headers, sizes, truncation.

        Raises:
          BadExample: see `pair`.
        """
        sizes = []
        for name in filter(None, pair):
            try:
                head, tail, _ = self._files.ends(name)
            except InputError as error:
                raise BadExample("unreadable", str(error)) from error
            where = self._files.where(name)
            if not head.startswith(headers.PNG) and not name.endswith(".png") and head:
                continue  # other formats are looked at when they are decoded
            if not head.startswith(headers.PNG):
                raise headers.broken(where, "no PNG" if head else "an empty file")
            if tail and tail != headers.END:
                raise headers.broken(where, "a PNG without end: it is truncated")
            if name == pair.label:
                sizes.append(headers.check_label(head, where, self._format))
            else:
                sizes.append(headers.check_image(head, where))
        if len(sizes) == 2:
            self._check_sizes(pair, *sizes)

    def data(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
          BadExample: the file cannot be read.
        """
        try:
            return self._files.read(name)
        except InputError as error:
            raise BadExample("unreadable", str(error)) from error

    def _check_sizes(self, pair, image_size, label_size):
        if image_size != label_size:
            raise BadExample(
                "wrong size",
                f"{self._files.where(pair.label)}: expected the image's size "
                f"{headers.by(image_size)}, found {headers.by(label_size)}; remove the "
                "pair or skip it with on_bad_example=skip",
            )


def decode_image(data: bytes, where: str) -> np.ndarray:
    """RGB uint8 ``[H, W, 3]`` of the bytes of a PNG or of another format.

    Raises:
      BadExample: see `Reader.image`.
    """
    if not data.startswith(headers.PNG):
        return _decode_by_pil(data, where, "RGB")
    headers.check_image(data[:64], where)
    # cv2 is a third faster than PIL and gives the same pixels.
    return _decode_by_cv2(data, where, cv2.IMREAD_COLOR_RGB)


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """PIL's bicubic, as all originals; ``size`` is ``(H, W)``, None keeps the image."""
    if size is None or image.shape[:2] == tuple(size):
        return image
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(resized)


def resize_label(label: np.ndarray, size: Size) -> np.ndarray:
    """PIL's nearest."""
    if size is None or label.shape == tuple(size):
        return label
    resized = Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST)
    return np.asarray(resized)


def palette_colors(data: bytes) -> np.ndarray:
    """``[256, 3]`` colours of a palette PNG, black where it has none."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        colors = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
    return np.concatenate([colors, np.zeros((256 - len(colors), 3), np.uint8)])


def spans(numbers: Iterable[int]) -> str:
    """``[0, 1, 2, 7]`` -> ``"0-2, 7"``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = int(number)
        else:
            runs.append([int(number), int(number)])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def decode_label(data: bytes, where: str, label_format: str) -> np.ndarray:
    """Ids ``[H, W]`` of a PNG whose header has been checked.

    Raises:
      BadExample: it cannot be decoded, or an id needs more than 8 bits.
    """
    if label_format == "palette":
        # cv2 would give colours.
        _check_end(data, where)
        headers.check_sums(data, where)
        return _decode_by_pil(data, where, None)
    # PIL would keep the high byte of 16 bits.
    label = _decode_by_cv2(data, where, cv2.IMREAD_UNCHANGED)
    if label_format == "red16":
        label = label[..., 2]  # cv2 delivers blue, green, red
        if label.max() > 255:
            raise BadExample(
                "unknown id",
                f"{where}: expected ids up to 255, found {label.max()}; take the label "
                "file as it was downloaded",
            )
    return label.astype(np.uint8)


def _decode_by_cv2(data, where, mode):
    _check_end(data, where)
    with headers.reading(where):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    if pixels is None:
        raise headers.broken(where, "a PNG that cannot be decoded")
    return pixels


def _decode_by_pil(data, where, mode):
    with headers.reading(where), _open(data) as image:
        headers.check_pixels(*image.size, where)
        return np.array(image.convert(mode) if mode else image)


def _open(data):
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise ValueError(f"none of {', '.join(FORMATS)}") from None


def _check_end(data, where):
    if not data.endswith(headers.END):
        raise headers.broken(where, "a PNG without end: it is truncated")

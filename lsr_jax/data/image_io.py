"""Decode, check, resize and encode images and label files.

The header of a PNG is checked before anything is decoded, so that no file can make a
decoder allocate memory for more than `LARGEST_IMAGE` pixels.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from lsr_jax import files
from lsr_jax.data.archives import Files
from lsr_jax.data.layouts import LABEL_FORMATS, Layout
from lsr_jax.errors import InputError

LARGEST_IMAGE = 2**26  # pixels; Cityscapes has 2**21
PNG = b"\x89PNG\r\n\x1a\n"
END = struct.pack(">I4s", 0, b"IEND") + b"\xae\x42\x60\x82"
# What Pillow decodes by itself; it would hand EPS to another program.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP")
KINDS = ("missing pair", "unreadable", "wrong mode", "wrong size", "unknown id")
"""Kinds of a `BadExample`, as `lsr_jax.data.check` counts them."""

Size = tuple[int, int] | None
"""``(H, W)`` of the result of a resize, or None for the size of the file."""

_GREY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6  # PNG colour types
_TYPE_NAMES = {_GREY: "grey", _RGB: "RGB", _PALETTE: "palette", _RGBA: "RGB + alpha"}
_FORMATS = {  # colour types and bit depths
    "image": ((_RGB, _RGBA), (8,)),
    "palette": ((_PALETTE,), (1, 2, 4, 8)),
    "grey": ((_GREY,), (8,)),
    "red16": ((_RGB,), (16,)),
}


class BadExample(InputError):
    """An image or label that cannot be used; `kind` is one of `KINDS`."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind

    def __reduce__(self):
        return BadExample, (self.kind, str(self))


class Pair(NamedTuple):
    """Names of an image file and of its label file, None without a label."""

    image: str
    label: str | None


class Reader:
    """Reads images and labels of one data set; all errors are `BadExample`."""

    def __init__(self, files: Files, layout: Layout):
        self.files = files
        self._format = layout.label_format
        self._known = np.zeros(256, bool)
        self._known[[*layout.ids, *layout.ignored]] = True

    def data(self, name: str) -> bytes:
        """Returns the bytes of a file."""
        try:
            return self.files.read(name)
        except InputError as error:
            raise BadExample("unreadable", str(error)) from error

    def image(self, name: str) -> np.ndarray:
        """Returns RGB uint8 ``[H, W, 3]``."""
        return decode_image(self.data(name), self.files.where(name))

    def label(self, name: str) -> np.ndarray:
        """Returns ids, uint8 ``[H, W]``."""
        where = self.files.where(name)
        label = decode_label(self.data(name), where, self._format)
        present = np.bincount(label.ravel(), minlength=256) > 0
        unknown = np.flatnonzero(present & ~self._known)
        if unknown.size:
            raise BadExample(
                "unknown id",
                f"{where}: id {unknown[0]} is unknown; correct the id map or the file",
            )
        return label

    def label_of(self, pair: Pair, image_size: tuple[int, int]) -> np.ndarray:
        """Returns the label of a pair, which must have the size of its image."""
        label = self.label(pair.label)
        self._check_sizes(pair, image_size, label.shape)
        return label

    def pair(self, pair: Pair) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns image and label; the label is None where the pair has none."""
        image = self.image(pair.image)
        label = self.label_of(pair, image.shape[:2]) if pair.label else None
        return image, label

    def header_problem(self, pair: Pair) -> BadExample | None:
        """Checks all that needs no decoding: existence, headers, sizes, truncation."""
        try:
            self._check_headers(pair)
        except BadExample as problem:
            return problem
        return None

    def _check_headers(self, pair):
        sizes = []
        for name in filter(None, pair):
            try:
                head, tail, _ = self.files.ends(name)
            except InputError as error:
                raise BadExample("unreadable", str(error)) from error
            where = self.files.where(name)
            if head and not head.startswith(PNG) and not name.endswith(".png"):
                continue  # other formats are checked when they are decoded
            file_format = self._format if name == pair.label else "image"
            sizes.append(check_header(head, where, file_format))
            if tail:
                _check_end(tail, where)
        if len(sizes) == 2:
            self._check_sizes(pair, *sizes)

    def _check_sizes(self, pair, image_size, label_size):
        if image_size != label_size:
            raise BadExample(
                "wrong size",
                f"{self.files.where(pair.label)}: expected the image's size "
                f"{by(image_size)}, found {by(label_size)}; remove the "
                "pair or skip it with on_bad_example=skip",
            )


def decode_image(data: bytes, where: str) -> np.ndarray:
    """Decodes an image file to RGB uint8 ``[H, W, 3]``.

    Args:
      data: the file.
      where: its name in error messages.

    Raises:
      BadExample: the file is damaged, truncated, too large or not 8-bit RGB.
    """
    if not data.startswith(PNG):
        return _decode_by_pil(data, where, "RGB")
    check_header(data, where, "image")
    # cv2 is a third faster than PIL and gives the same pixels.
    return _decode_by_cv2(data, where, cv2.IMREAD_COLOR_RGB)


def decode_label(data: bytes, where: str, label_format: str) -> np.ndarray:
    """Decodes a label file to ids, uint8 ``[H, W]``.

    Args:
      data: the file.
      where: its name in error messages.
      label_format: key of `layouts.LABEL_FORMATS`.

    Raises:
      BadExample: the file is damaged, truncated, too large or of another format, or an
        id needs more than 8 bits.
    """
    check_header(data, where, label_format)
    if label_format == "palette":
        # cv2 would return colours.
        _check_end(data, where)
        _check_sums(data, where)
        return _decode_by_pil(data, where, None)
    # PIL would return the high byte of 16 bits.
    label = _decode_by_cv2(data, where, cv2.IMREAD_UNCHANGED)
    if label_format == "red16":
        label = label[..., 2]  # cv2 returns blue, green, red
        if label.max() > 255:
            raise BadExample(
                "unknown id",
                f"{where}: expected ids up to 255, found {label.max()}; take the label "
                "file as it was downloaded",
            )
    return label.astype(np.uint8)


def check_header(data: bytes, where: str, file_format: str) -> tuple[int, int]:
    """Returns ``(H, W)`` of a PNG, of which the first bytes are enough.

    Args:
      data: the file.
      where: its name in error messages.
      file_format: "image", or key of `layouts.LABEL_FORMATS`.

    Raises:
      BadExample: it is no PNG, has another colour type or bit depth, or is too large.
    """
    if not data.startswith(PNG):
        raise broken(where, f"{len(data)} bytes that are no PNG")
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise broken(where, "a PNG without header")
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    _check_pixels(width, height, where)
    kinds, depths = _FORMATS[file_format]
    if kind not in kinds or depth not in depths:
        expected = LABEL_FORMATS.get(file_format, "an 8-bit RGB image")
        raise BadExample(
            "wrong mode",
            f"{where}: expected {expected}, found {depth}-bit "
            f"{_TYPE_NAMES.get(kind, 'grey + alpha')}; convert it, or take the file as it "
            "was downloaded",
        )
    return height, width


def broken(where: str, found: str) -> BadExample:
    """Returns the error for a file that is no readable image."""
    return BadExample(
        "unreadable",
        f"{where}: expected an image file, found {found}; restore the file",
    )


def png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 grey ``[H, W]`` or RGB ``[H, W, 3]`` without loss."""
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1]
    # On grainy images run lengths are both faster and smaller than full matching.
    run_lengths = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, *run_lengths]
    _, encoded = cv2.imencode(".png", pixels, options)
    return encoded.tobytes()


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Resizes ``[H, W, 3]`` by PIL's bicubic, as all original implementations."""
    if size is None or image.shape[:2] == tuple(size):
        return image
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(resized)


def resize_label(label: np.ndarray, size: Size) -> np.ndarray:
    """Resizes ``[H, W]`` by PIL's nearest neighbour."""
    if size is None or label.shape == tuple(size):
        return label
    resized = Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST)
    return np.asarray(resized)


def by(size: tuple[int, int]) -> str:
    """Formats ``(H, W)`` for error messages."""
    return f"{size[0]}x{size[1]} (height x width)"


def _check_pixels(width, height, where):
    if not 0 < width * height <= LARGEST_IMAGE:
        raise BadExample(
            "unreadable",
            f"{where}: expected at most {LARGEST_IMAGE} pixels, found "
            f"{by((height, width))}; remove the file",
        )


def _check_end(data, where):
    if not data.endswith(END):
        raise broken(where, "a PNG without end: it is truncated")


def _check_sums(data, where):
    # PIL does not verify the CRC of the chunks that hold pixels.
    start = len(PNG)
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])
        found = zlib.crc32(data[start + 4 : end - 4]).to_bytes(4)
        if found != data[end - 4 : end]:
            raise broken(where, "a PNG that cannot be decoded")
        start = end


def _decode_by_cv2(data, where, mode):
    _check_end(data, where)
    with _decoding(where):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    if pixels is None:
        raise broken(where, "a PNG that cannot be decoded")
    return pixels


def _decode_by_pil(data, where, mode):
    with _decoding(where):
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.UnidentifiedImageError:
            raise ValueError(f"none of {', '.join(FORMATS)}") from None
        with image:
            _check_pixels(*image.size, where)
            return np.array(image.convert(mode) if mode else image)


def _decoding(where) -> contextlib.AbstractContextManager[None]:
    unreadable = functools.partial(BadExample, "unreadable")
    return files.reading(where, "an image file", "restore the file", error=unreadable)

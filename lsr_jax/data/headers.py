"""Headers of image files: size, mode and end, before anything is decoded."""

from __future__ import annotations

import contextlib
import functools
import struct
import zlib

from lsr_jax import decoding
from lsr_jax.data.layouts import LABEL_FORMATS
from lsr_jax.errors import InputError

LARGEST_IMAGE = 2**26  # pixels; Cityscapes has 2**21
PNG = b"\x89PNG\r\n\x1a\n"
END = struct.pack(">I4s", 0, b"IEND") + b"\xae\x42\x60\x82"
_GREY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6  # colour types of PNG
_MODES = {
    "palette": ((_PALETTE,), (1, 2, 4, 8)),
    "grey": ((_GREY,), (8,)),
    "red16": ((_RGB,), (16,)),
}
_TYPE_NAMES = {_GREY: "grey", _RGB: "RGB", _PALETTE: "palette", _RGBA: "RGB + alpha"}
# The kinds of a BadExample, as `check` counts them.
KINDS = ("missing pair", "unreadable", "wrong mode", "wrong size", "unknown id")


class BadExample(InputError):
    """A pair that cannot be used; the message begins with the file."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind

    def __reduce__(self):
        return BadExample, (self.kind, str(self))


def check_label(data: bytes, where: str, label_format: str) -> tuple[int, int]:
    """``(H, W)`` of a PNG of ids.

    Raises:
      BadExample: it is no PNG, or of another mode or bit depth.
    """
    if not data.startswith(PNG):
        raise broken(where, "no PNG")
    size, depth, kind = _header(data, where)
    kinds, depths = _MODES[label_format]
    if kind not in kinds or depth not in depths:
        raise BadExample(
            "wrong mode",
            f"{where}: expected {LABEL_FORMATS[label_format]}, found {depth}-bit "
            f"{_TYPE_NAMES.get(kind, 'grey + alpha')}; take the label file of ids as it "
            "was downloaded",
        )
    return size


def check_image(data: bytes, where: str) -> tuple[int, int]:
    """``(H, W)`` of a PNG image.

    Raises:
      BadExample: it is not 8-bit RGB.
    """
    size, depth, kind = _header(data, where)
    if kind not in (_RGB, _RGBA) or depth != 8:
        raise BadExample(
            "wrong mode",
            f"{where}: expected an 8-bit RGB image, found {depth}-bit "
            f"{_TYPE_NAMES.get(kind, 'grey + alpha')}; convert the file",
        )
    return size


def check_sums(data: bytes, where: str) -> None:
    """Raises BadExample for a chunk of a PNG with another CRC; PIL skips that of pixels."""
    place = len(PNG)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        found = zlib.crc32(data[place + 4 : end - 4]).to_bytes(4)
        if found != data[end - 4 : end]:
            raise broken(where, "a PNG that cannot be decoded")
        place = end


def check_pixels(width: int, height: int, where: str) -> None:
    """Raises BadExample for an image that would need too much memory."""
    if not 0 < width * height <= LARGEST_IMAGE:
        raise BadExample(
            "unreadable",
            f"{where}: expected at most {LARGEST_IMAGE} pixels, found "
            f"{by((height, width))}; remove the file",
        )


def broken(where: str, found: object) -> BadExample:
    """What to raise for a file that is no readable image."""
    return BadExample(
        "unreadable",
        f"{where}: expected an image file, found {found}; restore the file",
    )


def reading(where: str) -> contextlib.AbstractContextManager[None]:
    """Turns whatever a decoder raises into a BadExample; see `decoding.reading`."""
    unreadable = functools.partial(BadExample, "unreadable")
    return decoding.reading(
        where, "an image file", "restore the file", error=unreadable
    )


def by(size: tuple[int, int]) -> str:
    """``(H, W)`` in messages."""
    return f"{size[0]}x{size[1]} (height x width)"


def _header(data, where):
    """``(H, W)``, bits a channel and colour type of a PNG."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise broken(where, "a PNG without header")
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    check_pixels(width, height, where)
    return (height, width), depth, kind

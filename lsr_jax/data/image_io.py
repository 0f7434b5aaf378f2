"""Headers of image files: size, mode and end, before anything is decoded.

Encoded pairs of image and label, counted and hashed on their way to the disk.

Nothing here imports JAX or TFDS, so that worker processes start quickly.

Reading one image and its label from the files of a data set, with every check.

The header is looked at before anything is decoded, so no file can ask for more memory
than `LARGEST_IMAGE` pixels.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
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
    """Turns whatever a decoder raises into a BadExample; see `files.reading`."""
    unreadable = functools.partial(BadExample, "unreadable")
    return files.reading(where, "an image file", "restore the file", error=unreadable)


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


class Record(NamedTuple):
    """One encoded pair.

    Attributes:
      id: names the image, in messages and in lists.
      image: PNG, RGB; or the bytes of the file as it came.
      label: PNG, 8-bit grey.
      sha256: hex digest of the decoded image and label.
      pixels: ``[256]`` number of pixels of each label value.
    """

    id: str
    image: bytes
    label: bytes
    sha256: str
    pixels: np.ndarray


def digest(*arrays: np.ndarray) -> str:
    """Hex sha256 over the bytes of image ``[H, W, 3]``, then label ``[H, W]``."""
    return sha256(b"".join(array.tobytes() for array in arrays))


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


class Tally:
    """Counts the records of a split while they pass."""

    def __init__(self):
        self._lines = hashlib.sha256()
        self.count = 0
        self.pixels = np.zeros(256, np.int64)

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        """The same records, counted."""
        for record in records:
            yield record
            self._lines.update(f"{record.id} {record.sha256}\n".encode())
            self.pixels += record.pixels
            self.count += 1

    @property
    def sha256(self) -> str:
        """Over the lines ``"<id> <sha256>"`` in the order of the records."""
        return self._lines.hexdigest()


def combined_sha256(splits: Mapping[str, Mapping]) -> str:
    """Over the lines ``"<split> <sha256>"`` in the order of the names."""
    lines = "".join(f"{name} {splits[name]['sha256']}\n" for name in sorted(splits))
    return hashlib.sha256(lines.encode()).hexdigest()


def png(pixels: np.ndarray) -> bytes:
    """Encodes grey ``[H, W]`` or RGB ``[H, W, 3]`` of 8 bits, without loss."""
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1]
    # On grainy images run lengths are both faster and smaller than full matching.
    run_lengths = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, *run_lengths]
    _, encoded = cv2.imencode(".png", pixels, options)
    return encoded.tobytes()


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
        check_label(data, where, self._format)
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
            if not head.startswith(PNG) and not name.endswith(".png") and head:
                continue  # other formats are looked at when they are decoded
            if not head.startswith(PNG):
                raise broken(where, "no PNG" if head else "an empty file")
            if tail and tail != END:
                raise broken(where, "a PNG without end: it is truncated")
            if name == pair.label:
                sizes.append(check_label(head, where, self._format))
            else:
                sizes.append(check_image(head, where))
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
                f"{by(image_size)}, found {by(label_size)}; remove the "
                "pair or skip it with on_bad_example=skip",
            )


def decode_image(data: bytes, where: str) -> np.ndarray:
    """RGB uint8 ``[H, W, 3]`` of the bytes of a PNG or of another format.

    Raises:
      BadExample: see `Reader.image`.
    """
    if not data.startswith(PNG):
        return _decode_by_pil(data, where, "RGB")
    check_image(data[:64], where)
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
        check_sums(data, where)
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
    with reading(where):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    if pixels is None:
        raise broken(where, "a PNG that cannot be decoded")
    return pixels


def _decode_by_pil(data, where, mode):
    with reading(where), _open(data) as image:
        check_pixels(*image.size, where)
        return np.array(image.convert(mode) if mode else image)


def _open(data):
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise ValueError(f"none of {', '.join(FORMATS)}") from None


def _check_end(data, where):
    if not data.endswith(END):
        raise broken(where, "a PNG without end: it is truncated")

"""Decode, check, resize and encode images and label files.

The only reader of image files. What a file carries beside its pixels is decided here,
and documented in docs/your_data.md: an orientation (EXIF) is applied, a transparency and
a colour profile are ignored, and what would be read in two ways is an error.

The header is checked before anything is decoded, so that no file can make a decoder
allocate memory for more than `LARGEST_IMAGE` pixels.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pathlib
import struct
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image

from lsr_jax import files
from lsr_jax.data.archives import Files, Folder
from lsr_jax.data.layouts import LABEL_FORMATS, Layout
from lsr_jax.errors import InputError

LARGEST_IMAGE = 2**26  # pixels; Cityscapes has 2**21
HEAD = 64  # bytes of a PNG that say its size and mode
PNG = b"\x89PNG\r\n\x1a\n"
END = struct.pack(">I4s", 0, b"IEND") + b"\xae\x42\x60\x82"
# What Pillow decodes by itself; it would hand EPS to another program.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP")
LOSSY = ("JPEG", "MPO", "WEBP")  # they may change ids
KINDS = ("missing pair", "unreadable", "wrong mode", "wrong size", "unknown id")
"""Kinds of a `BadExample`, as `lsr_jax.data.check` counts them."""

Size = tuple[int, int] | None
"""``(H, W)`` of the result of a resize, or None for the size of the file."""

_GREY, _RGB, _PALETTE = ("grey", "grey + alpha"), ("RGB", "RGB + alpha"), ("palette",)
_PNG_MODES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey + alpha", 6: "RGB + alpha"}
_PIL_MODES = {  # mode and bits
    "1": ("grey", 1),
    "L": ("grey", 8),
    "LA": ("grey + alpha", 8),
    "P": ("palette", 8),
    "PA": ("palette", 8),
    "RGB": ("RGB", 8),
    "RGBA": ("RGB + alpha", 8),
    "I": ("grey", 16),  # of a PGM
    "I;16": ("grey", 16),
    "I;16B": ("grey", 16),
}
_TAKEN = {  # modes and bits of a channel
    "image": ((*_GREY, *_RGB, *_PALETTE), (1, 2, 4, 8)),
    "palette": (_PALETTE, (1, 2, 4, 8)),
    "grey": ((*_GREY, *_RGB), (8, 16)),
    "red16": (_RGB, (16,)),
    "colors": ((*_RGB, *_PALETTE), (1, 2, 4, 8)),
}
_ORIENTATION = 274  # EXIF tag
_TURNED = {  # its value -> the upright picture
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


class Header(NamedTuple):
    """What a file says of its pixels."""

    format: str  # "PNG", or as Pillow calls it
    size: tuple[int, int]  # (H, W) of the upright picture
    mode: str  # such as "grey" or "RGB + alpha"
    bits: int  # of a channel
    orientation: int = 1  # EXIF value, 1 is upright


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
        self._format, self._painted = layout.label_format, layout.painted
        self._note = layout.note
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
        data = self.data(name)
        try:
            label = decode_label(data, where, self._format, self._painted)
        except BadExample as problem:
            raise self._noted(problem) from problem
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
            return self._noted(problem)
        except InputError as error:
            return BadExample("unreadable", str(error))
        return None

    def _noted(self, problem):
        if problem.kind != "wrong mode" or not self._note:
            return problem
        return BadExample(problem.kind, f"{problem}; {self._note}")

    def _check_headers(self, pair):
        sizes = []
        for name in filter(None, pair):
            where = self.files.where(name)
            file_format = self._format if name == pair.label else "image"
            with self.files.open(name) as file:
                head = file.read(HEAD)
                sizes.append(check_header(head, where, file_format, file).size)
                # In an archive it would have to be inflated.
                if head.startswith(PNG) and isinstance(self.files, Folder):
                    file.seek(max(0, file.seek(0, os.SEEK_END) - len(END)))
                    _check_end(file.read(), where)
        if len(set(sizes)) == 2:
            # An orientation stands behind the first bytes.
            sizes = [_read_header(self.data(n), self.files.where(n)).size for n in pair]
            self._check_sizes(pair, *sizes)

    def _check_sizes(self, pair, image_size, label_size):
        if image_size != label_size:
            raise BadExample(
                "wrong size",
                f"{self.files.where(pair.label)}: expected the size of the upright image "
                f"{by(image_size)}, found {by(label_size)}; correct the label, remove the "
                "pair or skip it with on_bad_example=skip",
            )


def decode_image(data: bytes, where: str) -> np.ndarray:
    """Decodes an image file to upright RGB, uint8 ``[H, W, 3]``.

    Grey is repeated, colours of a palette are looked up, a transparency is dropped.
    Errors name the file as `where`.

    Raises:
      BadExample: the file is damaged, truncated, too large, has more than one picture, or
        has other channels, or more than 8 bits of one.
    """
    header = check_header(data, where, "image")
    if header.format != "PNG":
        return _decode_by_pil(data, where, header, "RGB")
    # cv2 is a third faster than PIL and gives the same pixels.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return _upright(_decode_by_cv2(data, where, flags), header)


def decode_label(
    data: bytes, where: str, label_format: str, painted: Sequence[int] = ()
) -> np.ndarray:
    """Decodes a label file to upright ids, uint8 ``[H, W]``.

    `label_format` is a key of `layouts.LABEL_FORMATS`; for "colors", `painted` has
    ``0xRRGGBB`` of each id from 0 on.

    Raises:
      BadExample: the file is damaged, truncated, too large, lossy, has more than one
        picture or another format, or an id needs more than 8 bits.
    """
    header = check_header(data, where, label_format)
    if label_format == "colors":
        return _ids_of_colors(decode_image(data, where), where, np.array(painted))
    if label_format == "palette" or header.format != "PNG":
        if header.format == "PNG":  # cv2 would return colours
            _check_end(data, where)
            with _opened(io.BytesIO(data), where) as image:
                image.verify()  # decoding passes over wrong CRCs
        label = _decode_by_pil(data, where, header, None)
    else:  # PIL would return the high byte of 16 bits
        label = _upright(_decode_by_cv2(data, where, cv2.IMREAD_UNCHANGED), header)
    if label.ndim == 3 and label_format == "red16":
        label = label[..., 2]  # cv2 returns blue, green, red
    elif label.ndim == 3:
        channels, label = label[..., :3], label[..., 0]
        if header.mode in _RGB and (channels != label[..., None]).any():
            raise BadExample(
                "wrong mode",
                f"{where}: expected ids, found colours: red, green and blue differ; "
                "store the ids in a grey file, or name the colors, see docs/your_data.md",
            )
    if label.max() > 255:
        raise BadExample(
            "unknown id",
            f"{where}: expected ids up to 255, found {label.max()}; correct the id or "
            "take the label file as it was downloaded",
        )
    return np.ascontiguousarray(label, np.uint8)


def _ids_of_colors(image, where, painted):
    colors = (image.astype(np.int64) << (16, 8, 0)).sum(axis=2)
    order = np.argsort(painted)
    places = np.searchsorted(painted[order], colors).clip(max=len(painted) - 1)
    label = order[places].astype(np.uint8)
    unknown = colors[painted[label] != colors]
    if unknown.size:
        raise BadExample(
            "unknown id",
            f"{where}: color #{unknown[0]:06x} is unknown; add it to the description or "
            "correct the file",
        )
    return label


def _read_header(data, where, file=None):
    if not data.startswith(PNG):
        with _opened(file or io.BytesIO(data), where) as image:
            header = _pil_header(image)
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    else:
        if len(data) < 33 or data[12:16] != b"IHDR":
            raise broken(where, "a PNG without header")
        width, height, bits, kind = struct.unpack(">IIBB", data[16:26])
        _check_pixels(width, height, where)
        header = Header("PNG", (height, width), _PNG_MODES.get(kind, "?"), bits)
        frames = 1
        if any(word in data for word in (b"eXIf", b"acTL", b"exif")):
            with _opened(file or io.BytesIO(data), where) as image:
                header = _turned_header(header, image)
                frames = getattr(image, "n_frames", 1)
    if frames != 1:
        raise BadExample(
            "wrong mode",
            f"{where}: expected one picture, found {frames}; store them in a file each",
        )
    return header


def check_header(
    data: bytes, where: str, file_format: str, file: BinaryIO | None = None
) -> Header:
    """Returns what a file says of its pixels.

    `data` are its bytes, or the first ones of `file`; of a PNG they are enough, but for
    its orientation. `file_format` is "image" or a key of `layouts.LABEL_FORMATS`.

    Raises:
      BadExample: it is no image, too large, has more than one picture, or another mode
        or bit depth.
    """
    header = _read_header(data, where, file)
    modes, bits = _TAKEN[file_format]
    lossy = file_format != "image" and header.format in LOSSY
    if header.mode not in modes or header.bits not in bits or lossy:
        expected = LABEL_FORMATS.get(file_format, "an 8-bit RGB, grey or palette image")
        found = f"{header.format}, which may change ids" if lossy else ""
        raise BadExample(
            "wrong mode",
            f"{where}: expected {expected}, found "
            f"{found or f'{header.bits}-bit {header.mode}'}; convert it, or take the file "
            "as it was downloaded",
        )
    return header


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


def jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encodes uint8 RGB ``[H, W, 3]``, colors at half resolution; quality 1 to 100."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, encoded = cv2.imencode(".jpg", pixels[..., ::-1], options)
    return encoded.tobytes()


def write_png(path: str | os.PathLike, pixels: np.ndarray, *, remedy: str) -> None:
    """Writes uint8 grey ``[H, W]`` or RGB ``[H, W, 3]``.

    Raises:
      InputError: it cannot be written.
    """
    try:
        pathlib.Path(path).write_bytes(png(pixels))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}; {remedy}"
        ) from error


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


def _decode_by_cv2(data, where, mode):
    _check_end(data, where)
    with _decoding(where):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    if pixels is None:
        raise broken(where, "a PNG that cannot be decoded")
    return pixels


def _decode_by_pil(data, where, header, mode):
    with _opened(io.BytesIO(data), where) as image:
        pixels = np.array(image.convert(mode) if mode else image)
    return _upright(pixels, header)


@contextlib.contextmanager
def _opened(file, where):
    with _decoding(where):
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.UnidentifiedImageError:
            raise ValueError(f"none of {', '.join(FORMATS)}") from None
        _check_pixels(*image.size, where)
        with image:
            yield image


def _pil_header(image):
    mode, bits = _PIL_MODES.get(image.mode, (image.mode, 8))
    if image.format == "TIFF":
        bits = max(image.tag_v2.get(258, (bits,)))
        if "jpeg" in image.info.get("compression", ""):
            mode = "JPEG in a TIFF"
        elif mode in _RGB and bits > 8:
            mode = f"{mode} in a TIFF"  # Pillow would return the high bytes
        elif image.tag_v2.get(262) == 0:
            mode = f"{mode} from white to black"  # Pillow would invert 8 bits alone
    elif image.format == "PPM":
        largest = image.tile[0].args[-1]
        if isinstance(largest, int) and largest != 2**bits - 1:
            mode = f"{mode} of 0 to {largest}"  # Pillow would scale it
    header = Header(image.format, image.size[::-1], mode, bits)
    # Pillow applies the orientation of a TIFF by itself.
    return header if image.format == "TIFF" else _turned_header(header, image)


def _turned_header(header, image):
    orientation = image.getexif().get(_ORIENTATION, 1)
    size = header.size[::-1] if orientation in (5, 6, 7, 8) else header.size
    return header._replace(size=size, orientation=orientation)


def _upright(pixels, header):
    turn = _TURNED.get(header.orientation)
    return np.ascontiguousarray(turn(pixels)) if turn else pixels


def _decoding(where) -> contextlib.AbstractContextManager[None]:
    unreadable = functools.partial(BadExample, "unreadable")
    return files.reading(where, "an image file", "restore the file", error=unreadable)

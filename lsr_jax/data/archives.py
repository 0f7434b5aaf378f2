"""Files of a data set as downloaded: in a folder, or inside zip archives.

A name is relative to the root, with slashes, and never leaves it. Archives are read
without unpacking them to the disk.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pathlib
import re
import zipfile
from collections.abc import Iterator, Sequence

from lsr_jax import files
from lsr_jax.errors import InputError

LARGEST = 256 * 2**20  # bytes of one file, inflated; GTA5's largest images have 5 MB
HEAD, TAIL = 64, 12  # bytes that `Folder.ends` reads

Stars = tuple[str, ...]
"""What each star of a pattern stands for in a name."""


class Folder:
    """Files below a folder; picklable.

    `read` and `ends` raise InputError for a file that is missing, damaged or larger than
    `LARGEST`.
    """

    def __init__(self, root: str | os.PathLike):
        self._root = pathlib.Path(root)

    def match(self, pattern: str) -> dict[Stars, str]:
        """Finds all files that fit a pattern.

        A star stands for a part of one name, ``{a,b}`` for a or b.
        """
        fits = expression(pattern)
        found = {}
        for option in options(pattern):
            for path in self._root.glob(option):
                name = path.relative_to(self._root).as_posix()
                fit = fits.fullmatch(name)
                if fit and path.is_file():
                    found[fit.groups()] = name
        return found

    def read(self, name: str) -> bytes:
        """Reads a whole file."""
        with self._open(name) as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise _too_large(self.where(name))
        return data

    def ends(self, name: str) -> tuple[bytes, bytes, int]:
        """Reads the first `HEAD` and last `TAIL` bytes; returns them and the size."""
        with self._open(name) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(HEAD)
            file.seek(max(0, size - TAIL))
            return head, file.read(TAIL), size

    def where(self, name: str) -> str:
        """Formats a name for error messages."""
        return os.fspath(self._root / name)

    @contextlib.contextmanager
    def _open(self, name):
        path = self._root / inside(name)
        with _reading(self.where(name)), path.open("rb") as file:
            yield file


class Zips:
    """Members of zip archives, as if all were unpacked into one folder; see `Folder`."""

    def __init__(self, paths: Sequence[str | os.PathLike]):
        self._paths = tuple(map(os.fspath, paths))
        for path in self._paths:
            _archive(path)  # raises for a damaged one

    def match(self, pattern: str) -> dict[Stars, str]:
        """See `Folder.match`."""
        fits = expression(pattern)
        found = {}
        for path in self._paths:
            for name in _archive(path).NameToInfo:
                fit = fits.fullmatch(name)
                if fit and is_inside(name):
                    found[fit.groups()] = name
        return found

    def read(self, name: str) -> bytes:
        """See `Folder.read`."""
        with _reading(self.where(name)):
            archive = _archive(self._holder(name))
            if archive.getinfo(name).file_size > LARGEST:
                raise _too_large(self.where(name))
            return archive.read(name)

    def ends(self, name: str) -> tuple[bytes, bytes, int]:
        """See `Folder.ends`; the tail would have to be inflated and is empty."""
        with _reading(self.where(name)):
            archive = _archive(self._holder(name))
            with archive.open(name) as file:
                return file.read(HEAD), b"", archive.getinfo(name).file_size

    def where(self, name: str) -> str:
        """See `Folder.where`."""
        return f"{self._holder(name)}/{name}"

    def _holder(self, name):
        holders = (p for p in self._paths if name in _archive(p).NameToInfo)
        return next(holders, self._paths[0])


Files = Folder | Zips


def is_inside(name: str) -> bool:
    """Tells whether a relative name with slashes stays below its root."""
    # Control characters would break a message, a list or a path.
    odd = name.startswith("/") or "\\" in name or min(name, default=" ") < " "
    return not odd and ".." not in name.split("/")


def inside(name: str) -> str:
    """Returns the name.

    Raises:
      InputError: it would leave the root.
    """
    if not is_inside(name):
        raise InputError(f"{name!r}: not below the data folder; correct the list")
    return name


@functools.lru_cache
def expression(pattern: str) -> re.Pattern:
    """Translates a pattern into a regular expression with a group for every star."""
    parts = []
    for part in re.split(r"(\*|\{[^}]*\})", pattern):
        if part == "*":
            parts.append("([^/]*)")
        elif part.startswith("{"):
            choices = part.strip("{}").split(",")
            parts.append(f"(?:{'|'.join(map(re.escape, choices))})")
        else:
            parts.append(re.escape(part))
    return re.compile("".join(parts))


def options(pattern: str) -> Iterator[str]:
    """Yields the pattern once for every choice in its braces, for `Path.glob`."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    # Odd parts stood in braces.
    choices = [p.split(",") if i % 2 else [p] for i, p in enumerate(parts)]
    yield from map("".join, itertools.product(*choices))


@functools.lru_cache(maxsize=8)
def _archive(path: str) -> zipfile.ZipFile:
    # Kept open: reading the directory of an archive takes as long as many images.
    with _reading(path):
        return zipfile.ZipFile(path)


def _reading(where: str) -> contextlib.AbstractContextManager[None]:
    return files.reading(where, "a file that can be read", "restore the file")


def _too_large(where: str) -> InputError:
    return InputError(f"{where}: larger than {LARGEST} bytes; remove the file")

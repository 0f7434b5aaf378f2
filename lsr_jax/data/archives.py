"""Files of a data set as downloaded: in a folder, or inside zip archives.

A name is relative to the root, with slashes. No name leaves the root, and nothing is
unpacked to the disk.
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
from typing import Protocol

from lsr_jax import files
from lsr_jax.errors import InputError

LARGEST = 256 * 2**20  # bytes of one file, inflated; GTA5's largest images have 5 MB
HEAD, TAIL = 64, 12  # bytes that `Files.ends` reads

Stars = tuple[str, ...]


class Files(Protocol):
    """Random access to named files; picklable."""

    def match(self, pattern: str) -> dict[Stars, str]:
        """What the stars of a pattern stand for -> the name, of every file it fits."""

    def read(self, name: str) -> bytes:
        """The whole file."""

    def ends(self, name: str) -> tuple[bytes, bytes, int]:
        """The first `HEAD` bytes, the last `TAIL` bytes (if cheap), and the size."""

    def where(self, name: str) -> str:
        """The name in messages."""


class Folder:
    """Files below a folder."""

    def __init__(self, root: str | os.PathLike):
        self._root = pathlib.Path(root)

    def match(self, pattern: str) -> dict[Stars, str]:
        """See `Files`. A star stands for part of one name, ``{a,b}`` for a or b."""
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
        """See `Files`.

        Raises:
          InputError: the file cannot be read or is too large.
        """
        path = self._root / inside(name)
        with _reading(self.where(name)), path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise _too_large(self.where(name))
        return data

    def ends(self, name: str) -> tuple[bytes, bytes, int]:
        """See `Files`.

        Raises:
          InputError: the file cannot be read.
        """
        path = self._root / inside(name)
        with _reading(self.where(name)), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(HEAD)
            file.seek(max(0, size - TAIL))
            return head, file.read(TAIL), size

    def where(self, name: str) -> str:
        """See `Files`."""
        return os.fspath(self._root / name)


class Zips:
    """Members of zip archives, as if all were unpacked into one folder."""

    def __init__(self, paths: Sequence[str | os.PathLike]):
        self._paths = tuple(map(os.fspath, paths))
        for path in self._paths:
            for name in _archive(path).namelist():
                if not is_inside(name):
                    raise InputError(
                        f"{path}: expected names inside the archive, found {name!r}; "
                        "download the archive again from its owner"
                    )

    def match(self, pattern: str) -> dict[Stars, str]:
        """See `Files`."""
        fits = expression(pattern)
        found = {}
        for path in self._paths:
            for name in _archive(path).namelist():
                if fit := fits.fullmatch(name):
                    found[fit.groups()] = name
        return found

    def read(self, name: str) -> bytes:
        """See `Files`.

        Raises:
          InputError: the member is missing, damaged or too large.
        """
        archive, member = self._find(name)
        if member.file_size > LARGEST:
            raise _too_large(self.where(name))
        with _reading(self.where(name)):
            return archive.read(member)

    def ends(self, name: str) -> tuple[bytes, bytes, int]:
        """See `Files`; the tail would have to be inflated and is empty.

        Raises:
          InputError: the member is missing or damaged.
        """
        archive, member = self._find(name)
        with _reading(self.where(name)), archive.open(member) as file:
            return file.read(HEAD), b"", member.file_size

    def where(self, name: str) -> str:
        """See `Files`."""
        holder = next((p for p in self._paths if name in _names(p)), self._paths[0])
        return f"{holder}/{name}"

    def _find(self, name):
        for path in self._paths:
            if name in _names(path):
                archive = _archive(path)
                return archive, archive.getinfo(name)
        with _reading(self.where(name)):
            raise FileNotFoundError("no such member")


def is_inside(name: str) -> bool:
    """Whether a relative name with slashes stays below its root."""
    # Control characters would break a message, a list or a path.
    odd = name.startswith("/") or "\\" in name or min(name, default=" ") < " "
    return not odd and ".." not in name.split("/")


def inside(name: str) -> str:
    """The name itself.

    Raises:
      InputError: it would leave the root.
    """
    if not is_inside(name):
        raise InputError(
            f"{name!r}: expected a path below the data folder, found one that leaves it; "
            "correct the list"
        )
    return name


@functools.lru_cache
def expression(pattern: str) -> re.Pattern:
    """A pattern as a regular expression with a group for every star."""
    parts = []
    for part in re.split(r"(\*|\{[^}]*\})", pattern):
        if part == "*":
            parts.append("([^/]*)")
        elif part.startswith("{"):
            options = part.strip("{}").split(",")
            parts.append(f"(?:{'|'.join(map(re.escape, options))})")
        else:
            parts.append(re.escape(part))
    return re.compile("".join(parts))


def options(pattern: str) -> Iterator[str]:
    """The pattern once for every choice in its braces, for `Path.glob`."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    # Odd parts stood in braces.
    choices = [p.split(",") if i % 2 else [p] for i, p in enumerate(parts)]
    yield from map("".join, itertools.product(*choices))


@functools.lru_cache(maxsize=8)
def _archive(path: str) -> zipfile.ZipFile:
    # Kept open: reading the directory of an archive takes as long as many images.
    with _reading(path):
        return zipfile.ZipFile(path)


@functools.lru_cache(maxsize=8)
def _names(path: str) -> frozenset[str]:
    return frozenset(_archive(path).namelist())


def _reading(where: str) -> contextlib.AbstractContextManager[None]:
    return files.reading(where, "a file that can be read", "restore the file")


def _too_large(where: str) -> InputError:
    return InputError(
        f"{where}: expected at most {LARGEST} bytes, found more; remove the file"
    )

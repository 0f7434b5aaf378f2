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
from typing import BinaryIO

from lsr_jax import files
from lsr_jax.errors import InputError

LARGEST = 256 * 2**20  # bytes of one file, inflated; GTA5's largest images have 5 MB


class Files:
    """Files of a data set below one root, see `Folder` and `Zips`; picklable.

    `read`, `open` and `version` raise InputError for a file that is missing, damaged or,
    when it is read, larger than `LARGEST`.
    """

    def match(self, pattern: str) -> dict[tuple[str, ...], str]:
        """Finds all files that fit a pattern: what its stars stand for -> name.

        A star stands for a part of one name that does not begin with a dot, ``{a,b}`` for
        a or b. The ending of the file may be in capitals.

        Raises:
          InputError: two files differ in nothing that a star stands for, or one has a
            name that would break a message or a list.
        """
        found = {}
        for name in self.names(pattern):
            stars = expression(pattern).fullmatch(inside(name)).groups()
            if stars in found:
                raise InputError(
                    f"{self.where(name)}: {found[stars]} is a second file for one place "
                    f"of {pattern}; remove one of them"
                )
            found[stars] = name
        return found

    def read(self, name: str) -> bytes:
        """Reads a whole file."""
        with self.open(name) as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise InputError(
                f"{self.where(name)}: larger than {LARGEST} bytes; remove the file"
            )
        return data


class Folder(Files):
    """Files below a folder."""

    def __init__(self, root: str | os.PathLike):
        self._root = pathlib.Path(root)

    def names(self, pattern: str) -> list[str]:
        """Finds the names of all files that fit a pattern."""
        found = []
        for folder in {os.path.dirname(option) for option in options(pattern)}:
            # Stars are the only special characters of a pattern.
            literal = re.sub(r"[?\[]", r"[\g<0>]", folder)
            for path in self._root.glob(os.path.join(literal, "*")):
                name = path.relative_to(self._root).as_posix()
                if expression(pattern).fullmatch(name) and path.is_file():
                    found.append(name)
        return sorted(found)

    def exists(self, name: str) -> bool:
        """Tells whether there is such a file below the root."""
        return not objection(name) and (self._root / name).is_file()

    def version(self, name: str) -> str:
        """Returns what changes with the content: size and modification time."""
        with _reading(self.where(name)):
            stat = (self._root / inside(name)).stat()
            return f"{stat.st_size} {stat.st_mtime_ns}"

    def where(self, name: str) -> str:
        """Formats a name for error messages."""
        return os.fspath(self._root / name)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Opens a file; whatever is raised while it is open becomes an InputError."""
        path = self._root / inside(name)
        with _reading(self.where(name)), path.open("rb") as file:
            yield file


class Zips(Files):
    """Members of zip archives, as if all were unpacked into one folder."""

    def __init__(self, paths: Sequence[str | os.PathLike]):
        """Reads the directories of the archives.

        Raises:
          InputError: one is damaged, or has a member that would leave the root.
        """
        self._paths = tuple(map(os.fspath, paths))
        for path in self._paths:
            for name in _archive(path).namelist():
                inside(name, f"{path}: member ")

    def names(self, pattern: str) -> list[str]:
        """See `Folder.names`."""
        members = itertools.chain(*(_archive(path).namelist() for path in self._paths))
        return sorted(filter(expression(pattern).fullmatch, members))

    def exists(self, name: str) -> bool:
        """See `Folder.exists`."""
        return any(name in _archive(path).NameToInfo for path in self._paths)

    def version(self, name: str) -> str:
        """See `Folder.version`: size and CRC."""
        with _reading(self.where(name)):
            info = _archive(self._holder(name)).getinfo(name)
            return f"{info.file_size} {info.CRC:08x}"

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """See `Folder.open`."""
        where = self.where(name)
        with _reading(where), _archive(self._holder(name)).open(name) as file:
            yield file

    def where(self, name: str) -> str:
        """See `Folder.where`."""
        return f"{self._holder(name)}/{name}"

    def _holder(self, name):
        holders = (p for p in self._paths if name in _archive(p).NameToInfo)
        return next(holders, self._paths[0])


def inside(name: str, where: str = "") -> str:
    """Returns the name.

    Raises:
      InputError: it would leave the root, or break a message, a list or a path.
    """
    if problem := objection(name):
        raise InputError(f"{where}{name!r}: {problem}; rename it or correct the list")
    return name


def objection(name: str) -> str:
    """Says why a relative name cannot be used; "" for one that stays below its root."""
    if name.startswith("/") or ".." in name.split("/"):
        return "not below the data folder"
    if "\\" in name:
        return "has a backslash, expected slashes"
    if min(name, default=" ") < " ":
        return "has a control character in its name"
    return ""


@functools.lru_cache
def expression(pattern: str) -> re.Pattern:
    """Translates a pattern into a regular expression with a group for every star."""
    # The ending after the last dot, unless that dot is in a folder or before a star.
    rest, dot, ending = re.fullmatch(r"(.*?)(?:(\.)([^.*/]*))?", pattern, re.S).groups()
    if ending is not None and ending.count("{") != ending.count("}"):
        rest, dot = pattern, None
    return re.compile(
        _translated(rest) + (rf"\.(?i:{_translated(ending)})" if dot else ""), re.S
    )


def _translated(pattern):
    parts = [""]
    for part in re.split(r"(\*|\{[^}]*\})", pattern):
        if part == "*":
            # ._0001.png is no file of a data set: a Mac writes it beside 0001.png.
            begins = parts[-1][-1:] in ("", "/")
            parts.append(r"((?!\.)[^/]*)" if begins else "([^/]*)")
        elif part.startswith("{"):
            choices = part.strip("{}").split(",")
            parts.append(f"(?:{'|'.join(map(re.escape, choices))})")
        elif part:
            parts.append(re.escape(part))
    return "".join(parts)


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

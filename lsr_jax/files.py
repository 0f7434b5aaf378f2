"""Paths as users write them, in flags, configs and lists.

Files that are whole or not there, whatever happens while they are written.

Reading what others wrote: whatever its decoder raises becomes one `InputError`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from pathlib import Path

from lsr_jax.errors import InputError, one_line


def expanded(path: str | os.PathLike, *, key: str = "") -> Path:
    """A path with its ``~`` or ``~name`` replaced by that home folder.

    Args:
      path: see `checked`.
      key: the flag or the key that has it, for messages.

    Raises:
      InputError: no such home folder, or see `checked`.
    """
    try:
        return checked(path, key=key).expanduser()
    except RuntimeError:
        user = Path(path).parts[0]
        raise InputError(
            f"{_where(path, key)}: expected the home folder of {user}, found none; "
            "write the whole path"
        ) from None


def checked(path: str | os.PathLike, *, key: str = "") -> Path:
    """The path itself.

    Raises:
      InputError: it is empty, or its bytes are no UTF-8, which Orbax and OpenCV want.
    """
    text = os.fspath(path)
    if not text:
        raise InputError(f"{_where(path, key)}: expected a path, found nothing")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{_where(path, key)}: expected a name in UTF-8, found other bytes; choose "
            "another name"
        ) from None
    return Path(path)


def _where(path: str | os.PathLike, key: str) -> str:
    shown = os.fspath(path).encode(errors="backslashreplace").decode()
    return " ".join(filter(None, [key, shown])) or "path"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; in the end it takes its place in one move.

    A reader sees the old file or the new one; so does whoever starts the machine again
    after a power cut. Where the body fails, the old file stays.

    Raises:
      OSError: with the name of the file, which the system leaves out of a failed write.
    """
    temporary = path.with_name(f".new-{path.name}")
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def text(path: Path, content: str) -> None:
    """Replace a file by ``content``, see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts ``path`` into every OSError without a file name.

    Raises:
      OSError: as it came, with the name.
    """
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


LONGEST = 160  # characters of what is quoted


@contextlib.contextmanager
def reading(
    where: object,
    expected: str,
    remedy: str,
    *,
    error: Callable[[str], InputError] = InputError,
) -> Iterator[None]:
    """Runs a decoder over bytes that may be damaged, or made by an enemy.

    json, zipfile, pickle, Riegeli and OpenCV raise on such bytes what no manual of theirs
    names, so every `Exception` counts. Only the decoder and the checks of what it found
    belong in the block.

    Args:
      where: the file, or the record, at the head of the message.
      expected: what it should have been.
      remedy: what its owner can do.
      error: what is raised, from the message.

    Raises:
      InputError: of one line, ``where: expected …, found: …; remedy``; one that is
        raised inside passes as it is.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as found:
        text = f"{where}: expected {expected}, found: {reason(found)}; {remedy}"
        raise error(one_line(text)) from found


def read_json(path: str | os.PathLike, expected: str, remedy: str) -> dict:
    """The object that a JSON file holds.

    Raises:
      InputError: it cannot be read, is no JSON, or holds something else.
    """
    path = pathlib.Path(path)
    with reading(path, expected, remedy):
        content = json.loads(expanded(path).read_text())
        if not isinstance(content, dict):
            raise ValueError(f"{quoted(content)}, no object")
        return content


def reason(error: Exception) -> str:
    """What went wrong, in a few words on one line."""
    strerror = error.strerror if isinstance(error, OSError) else None
    lines = (strerror or str(error)).strip().splitlines()
    # A KeyError says no more than the key.
    if not lines or isinstance(error, LookupError):
        lines = [" ".join([type(error).__name__, *lines[:1]])]
    return lines[0][:LONGEST]


def quoted(found: object) -> str:
    """``repr``, no longer than a line can hold."""
    return f"{found!r:.{LONGEST}}"

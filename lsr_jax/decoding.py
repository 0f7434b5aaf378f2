"""Reading what others wrote: whatever its decoder raises becomes one `InputError`."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator

from lsr_jax import paths
from lsr_jax.errors import InputError, one_line

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
        content = json.loads(paths.expanded(path).read_text())
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

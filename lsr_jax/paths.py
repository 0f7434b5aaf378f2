"""Paths as users write them, in flags, configs and lists."""

from __future__ import annotations

import os
from pathlib import Path

from lsr_jax.errors import InputError


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

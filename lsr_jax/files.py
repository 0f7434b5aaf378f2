"""Paths as users write them, atomic writes, and readers for untrusted or corrupt bytes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lsr_jax.errors import InputError, one_line

LONGEST = 160  # characters of what an error message quotes


def expanded(path: str | os.PathLike, *, key: str = "") -> Path:
    """A path with ``~`` or ``~name`` replaced by that home folder.

    Raises:
      InputError: the path, which the flag or config key ``key`` has, is empty, or there
        is no such home folder.
    """
    text = os.fspath(path)
    if not text:
        raise InputError(f"{key or 'path'}: is empty")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        where = f"{key} {text}".strip()
        raise InputError(
            f"{where}: no such home folder; write the whole path"
        ) from None


def of_project(path: str | os.PathLike) -> Path:
    """A file that a config names relative to the checkout, such as recorded rows.

    An installed lsr_jax has no checkout: there the file lies beside the configs.
    """
    package = Path(__file__).parent
    installed = package / "configs" / Path(path).name
    checkout = package.parent / path
    return installed if installed.exists() and not checkout.exists() else checkout


def check_writable(folder: Path) -> None:
    """Raise InputError where ``--out folder`` cannot be made; nothing is made yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise InputError(f"--out {folder}: cannot be written; choose another --out")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to, which then replaces it atomically.

    Readers see the old file or the new one, also after a power cut. If the body raises,
    the old file stays.

    Raises:
      OSError: with the name of the file.
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
    """Add ``path`` to every OSError without a file name: the OS omits it when writing."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def reading(
    where: object,
    expected: str,
    remedy: str,
    *,
    error: Callable[[str], InputError] = InputError,
) -> Iterator[None]:
    """Run a decoder over untrusted or corrupt bytes.

    Decoders (json, zipfile, pickle, Riegeli, OpenCV) raise undocumented exceptions on
    such bytes, so every `Exception` counts. Only the decoder and the checks of its result
    belong in the block.

    Raises:
      InputError: or ``error``: ``where: expected …, found: …; remedy``. One that is raised
        inside passes unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as found:
        text = f"{where}: expected {expected}, found: {reason(found)}; {remedy}"
        raise error(one_line(text)) from found


def read_json(path: str | os.PathLike, expected: str, remedy: str) -> dict:
    """The object in a JSON file; raises InputError if there is none."""
    with reading(path, expected, remedy):
        text = expanded(path).read_text(encoding="utf-8-sig")
        content = json.loads(text, object_pairs_hook=_unique)
        if not isinstance(content, dict):
            raise ValueError(f"{quoted(content)}, not an object")
        return content


def _unique(pairs):
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {quoted(twice)} twice")
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
    """``repr``, shortened to `LONGEST` characters."""
    return f"{found!r:.{LONGEST}}"

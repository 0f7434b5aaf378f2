"""Files that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


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

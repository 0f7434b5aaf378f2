"""Replace the generated part of a Markdown page."""

from __future__ import annotations

from pathlib import Path

from lsr_jax.errors import InputError


def markers(name: str) -> tuple[str, str]:
    """The comments before and after the generated part ``name``."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def replace(path: Path, name: str, text: str) -> None:
    """Replace what is between the markers of a page by ``text``.

    Raises:
      InputError: the page does not contain each marker once, in order.
    """
    begin, end = markers(name)
    page = path.read_text() if path.is_file() else ""
    once = page.count(begin) == page.count(end) == 1
    if not once or end not in page.split(begin)[1]:
        raise InputError(
            f"{path}: expected the lines {begin!r} and {end!r} once each, in this order"
        )
    before, rest = page.split(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")

"""Documentation pages with a generated part between two markers."""

from __future__ import annotations

from pathlib import Path

from lsr_jax.errors import InputError


def markers(name: str) -> tuple[str, str]:
    """The lines between which the part ``name`` of a page is generated."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def replace(path: Path, name: str, text: str) -> None:
    """Put ``text`` between the markers of a page and leave the rest alone.

    Raises:
      InputError: the page does not hold each marker once, in order.
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

"""One self-contained HTML page of tables and pictures, readable on a phone, offline.

Every text is escaped, and the page has no script. Its template is ``page.html``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import pandas as pd
from PIL import Image

from lsr_jax.report.results import Table

MIN_WIDTH = 720  # CSS pixels below which a wide picture scrolls instead of shrinking
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=jinja2.select_autoescape(["html"]),
    keep_trailing_newline=True,
    trim_blocks=True,
    undefined=jinja2.StrictUndefined,
)


class Section(NamedTuple):
    """A part of a page: tables, then pictures, pairs of a PNG and its caption."""

    title: str
    tables: Sequence[Table] = ()
    pictures: Sequence[tuple[Path, str]] = ()


def document(title: str, facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    """The page as text; empty sections are left out."""
    sections = [part for part in sections if part.tables or part.pictures]
    functions = {"size": _size, "base64": _base64, "min_width": MIN_WIDTH}
    with pd.option_context("display.max_colwidth", None):
        return TEMPLATES.get_template("page.html").render(
            title=title, facts=facts, sections=sections, **functions
        )


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()

"""One self-contained HTML page of tables and pictures, readable on a phone, offline.

Every text is escaped, and the page has no script.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from PIL import Image

from lsr_jax.report.results import Table

STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1d1f23; --soft: #5c636e;
  --line: #d9dce1; --head: #f3f4f6; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --back: #15171a; --ink: #e6e8eb;
  --soft: #a3abb6; --line: #363b42; --head: #20242a; --link: #7ab8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--back);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem;
  border-bottom: 1px solid var(--line); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; }
a { color: var(--link); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem;
  margin: 1rem 0; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; }
.box { overflow-x: auto; max-width: 100%; border: 1px solid var(--line);
  border-radius: 6px; margin: .5rem 0 .3rem; }
table { border-collapse: collapse; font-size: .85rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; overflow-wrap: normal; }
thead th { background: var(--head); font-weight: 600; vertical-align: bottom; }
thead th[colspan] { text-align: left; color: var(--soft); }
tbody th { font-weight: 500; }
tbody tr:first-child > * { border-top: 1px solid var(--line); }
th:first-child { position: sticky; left: 0; background: var(--head); text-align: left; }
.caption, .note { color: var(--soft); font-size: .85rem; margin: 1.2rem 0 .3rem; }
.note { margin: .1rem 0; }
figure { margin: 1.6rem 0; }
figure .box { background: #fff; padding: 6px; }
figure img { display: block; width: 100%; height: auto; margin: 0 auto; }
figcaption { color: var(--soft); font-size: .85rem; }
"""
MIN_WIDTH = 720  # CSS pixels below which a wide picture scrolls instead of shrinking


class Section(NamedTuple):
    """A part of a page: tables, then pictures, pairs of a PNG and its caption."""

    title: str
    tables: Sequence[Table] = ()
    pictures: Sequence[tuple[Path, str]] = ()


def document(title: str, facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    """The page as text; empty sections are left out."""
    sections = [part for part in sections if part.tables or part.pictures]
    links = "".join(
        f'<a href="#part-{number}">{_text(part.title)}</a>'
        for number, part in enumerate(sections)
    )
    pairs = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in facts.items())
    parts = []
    for number, part in enumerate(sections):
        parts.append(f'<h2 id="part-{number}">{_text(part.title)}</h2>')
        parts += map(_table, part.tables)
        parts += [_picture(path, caption) for path, caption in part.pictures]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n<nav>{links}</nav>\n<dl>{pairs}</dl>\n"
        f"{body}\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    with pd.option_context("display.max_colwidth", None):
        cells = table.cells.to_html(border=0)
    notes = "".join(
        f'<p class="note">{_text(remark)} <code>{_text(what)}</code></p>'
        for remark, what in table.notes
    )
    return (
        f'<p class="caption">{_text(table.caption)}</p>\n'
        f'<div class="box" tabindex="0">{cells}</div>\n{notes}'
    )


def _picture(path: Path, caption: str) -> str:
    with Image.open(path) as image:
        width, height = image.size
    smallest = min(MIN_WIDTH, width // 2)
    source = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><div class="box" tabindex="0"><img alt="{_text(caption)}" '
        f'width="{width}" height="{height}" '
        f'style="min-width:{smallest}px;max-width:{width}px" '
        f'src="data:image/png;base64,{source}"></div>'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)

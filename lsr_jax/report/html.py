"""One self-contained HTML page: tables and pictures, readable on a phone, no network.

Every text is escaped, and the page holds no script: a class that calls itself
``<script>`` is just a long name.

Documentation pages with a generated part between two markers.

What is written beside the tables of a run: figures, ``index.html``, the model card.
"""

from __future__ import annotations

import base64
import html
import itertools
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lsr_jax import files
from lsr_jax.report import gallery, model_card, results
from lsr_jax.report.measuring import Evaluation
from lsr_jax.report.results import Column, Table
from lsr_jax.training import workdir

WIDEST = 720  # CSS pixels that a picture asks for before its box scrolls
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
thead .group { text-align: left; border-left: 1px solid var(--line); color: var(--soft); }
tbody th { text-align: left; font-weight: 500; }
th:first-child { position: sticky; left: 0; background: var(--head); text-align: left; }
tr.rule > * { border-top: 1px solid var(--line); }
.caption, .note { color: var(--soft); font-size: .85rem; margin: 1.2rem 0 .3rem; }
.note { margin: .1rem 0; }
figure { margin: 1.6rem 0; }
figure .box { background: #fff; padding: 6px; }
figure img { display: block; width: 100%; height: auto; margin: 0 auto; }
figcaption { color: var(--soft); font-size: .85rem; }
"""


class Section(NamedTuple):
    """A part of a page.

    Attributes:
      title: its heading.
      tables: first.
      pictures: then these, pairs of a PNG and its caption.
    """

    title: str
    tables: Sequence[Table] = ()
    pictures: Sequence[tuple[Path, str]] = ()


def document(title: str, facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    """The page as text; sections without content are left out."""
    sections = [part for part in sections if part.tables or part.pictures]
    links = "".join(
        f'<a href="#part-{number}">{_text(part.title)}</a>'
        for number, part in enumerate(sections)
    )
    pairs = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in facts.items())
    body = "\n".join(_section(number, part) for number, part in enumerate(sections))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n<nav>{links}</nav>\n<dl>{pairs}</dl>\n"
        f"{body}\n</body>\n</html>\n"
    )


def _section(number, part):
    inner = [_table(table) for table in part.tables]
    inner += [_picture(path, caption) for path, caption in part.pictures]
    return f'<h2 id="part-{number}">{_text(part.title)}</h2>\n' + "\n".join(inner)


def _table(table: Table) -> str:
    body = []
    cells = zip(*(column.cells for column in table.columns), strict=True)
    for number, (first, *rest) in enumerate(cells):
        kind = ' class="rule"' if number in table.rules else ""
        data = "".join(f"<td>{_text(cell)}</td>" for cell in rest)
        body.append(f'<tr{kind}><th scope="row">{_text(first)}</th>{data}</tr>')
    notes = "".join(
        f'<p class="note">{_text(remark)} <code>{_text(what)}</code></p>'
        for remark, what in table.notes
    )
    return (
        f'<p class="caption">{_text(table.caption)}</p>\n'
        f'<div class="box" tabindex="0"><table>\n<thead>{_head(table.columns)}</thead>\n'
        f"<tbody>{''.join(body)}</tbody>\n</table></div>\n{notes}"
    )


def _head(columns: Sequence[Column]) -> str:
    groups = [
        (name, len(list(part)))
        for name, part in itertools.groupby(columns, key=lambda column: column.group)
    ]
    above = "".join(
        f'<th class="group" colspan="{count}">{_text(name)}</th>'
        for name, count in groups
    )
    heads = "".join(f'<th scope="col">{_text(c.heading)}</th>' for c in columns)
    above = f"<tr>{above}</tr>" if any(name for name, _ in groups) else ""
    return f"{above}<tr>{heads}</tr>"


def _picture(path: Path, caption: str) -> str:
    data = path.read_bytes()
    width, height = struct.unpack(">II", data[16:24])  # of the PNG header
    least = min(WIDEST, width // 2)
    source = base64.b64encode(data).decode()
    return (
        f'<figure><div class="box" tabindex="0"><img alt="{_text(caption)}" '
        f'width="{width}" height="{height}" '
        f'style="min-width:{least}px;max-width:{width}px" '
        f'src="data:image/png;base64,{source}"></div>'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def write(
    evaluation: Evaluation,
    stages: Sequence[str],
    folder: Path,
    *,
    summary: Sequence[Table],
    details: Sequence[Table],
    figures: bool,
) -> None:
    """Write the training curves, the figures, ``model_card.md`` and ``index.html``.

    The page comes last: a report that has it is complete.

    Args:
      evaluation: of the run.
      stages: that were evaluated.
      folder: the report, in which ``panel.png`` already lies.
      summary: the table of all stages.
      details: the tables by class.
      figures: draw those that need the networks too, which takes minutes.
    """
    experiment = evaluation.experiment
    pictures = [gallery.PANEL, *gallery.curves(experiment, stages, folder)]
    if figures:
        pictures += gallery.write(evaluation, stages, folder)
    manifest = workdir.manifest(experiment.workdir)
    config = experiment.config
    facts = {
        "stages": ", ".join(stages),
        "source": config["data"]["source"]["name"],
        "target": config["data"]["target"]["name"],
        "network": config["model"]["backbone"],
        "seed": str(config["seed"]),
        "command": manifest["command"],
        "machine": results.machine(manifest),
    }
    sections = (
        Section("Scores", summary),
        Section("Figures", (), [(folder / p.file, p.caption) for p in pictures]),
        Section("By class", details),
    )
    text = model_card.markdown(
        config, manifest, evaluation.space.classes, stages, summary
    )
    files.text(folder / "model_card.md", text)
    title = f"lsr_jax: {experiment.workdir.name}"
    files.text(folder / "index.html", document(title, facts, sections))

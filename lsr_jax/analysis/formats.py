"""Tables as text for a terminal, as Markdown and as LaTeX."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Sequence

from lsr_jax.analysis.tables import Column, Table

WIDTH = 120
LONGEST_HEADING = 10
# What LaTeX takes for a command.
TEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
    }
)


def terminal(tables: Sequence[Table]) -> str:
    """At most 120 wide (but for commands); a wider table continues below itself."""
    return "\n\n".join(_terminal(table) for table in tables)


def markdown(tables: Sequence[Table]) -> str:
    """Pipe tables; a group stands above the heading in the same cell."""
    texts = []
    for caption, columns, notes, _ in tables:
        head = [f"{c.group}<br>{c.heading}" if c.group else c.heading for c in columns]
        marks = [":--", *["--:"] * (len(columns) - 1)]
        lines = ["| " + " | ".join(x) + " |" for x in (head, marks, *_body(columns))]
        remarks = [f"{remark} `{command}`" for remark, command in notes]
        texts.append("\n\n".join([caption, "\n".join(lines), *remarks]))
    return "\n\n".join(texts) + "\n"


def latex(tables: Sequence[Table]) -> str:
    r"""``tabular`` environments with ``\hline`` only, the caption as a comment."""
    texts = []
    for caption, columns, notes, rules in tables:
        lines = [f"% {caption}", *(f"% {remark} {what}" for remark, what in notes)]
        lines.append(rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}")
        groups = [(name, len(list(part))) for name, part in _groups(columns)]
        if len(groups) > 1:
            above = [rf"\multicolumn{{{n}}}{{c}}{{{_tex(name)}}}" for name, n in groups]
            lines.append(" & ".join(above) + r" \\")
        lines.append(_tex_line(column.heading for column in columns))
        for number, cells in enumerate(_body(columns)):
            lines += [r"\hline"] * (number in rules) + [_tex_line(cells)]
        texts.append("\n".join([*lines, r"\end{tabular}"]))
    return "\n\n".join(texts) + "\n"


def _terminal(table: Table) -> str:
    first, *rest = table.columns
    parts, part = [], [first]
    for column in rest:
        if len(part) > 1 and _total_width([*part, column]) > WIDTH:
            parts.append(part)
            part = [first]
        part.append(column)
    parts.append(part)
    texts = [textwrap.fill(table.caption, WIDTH)]
    texts += [_block(part, table.rules) for part in parts]
    texts += [f"{remark}\n    {command}" for remark, command in table.notes]
    return "\n\n".join(texts)


def _block(columns: Sequence[Column], rules: Sequence[int]) -> str:
    """Headings at the bottom of their rows, then the cells with rules between them."""
    headings = [_heading(column) for column in columns]
    rows = max(map(len, headings))
    headings = [[""] * (rows - len(lines)) + lines for lines in headings]
    lines = [_line(columns, cells) for cells in zip(*headings, strict=True)]
    groups = [(name, list(part)) for name, part in _groups(columns)]
    if len(groups) > 1:
        names = [name.ljust(_group_width(part)) for name, part in groups]
        lines.insert(0, " | ".join(names).rstrip())
    rule = ["-" * _total_width(columns)]
    for number, cells in enumerate(_body(columns)):
        lines += rule * (number in rules) + [_line(columns, cells)]
    return "\n".join(lines)


def _line(columns, cells):
    """The first cell to the left, the others to the right, bars between groups."""
    padded = [
        cell.rjust(_width(column)) if number else cell.ljust(_width(column))
        for number, (column, cell) in enumerate(zip(columns, cells, strict=True))
    ]
    pairs = zip(columns, padded, strict=True)
    texts = []
    for _, part in itertools.groupby(pairs, key=lambda pair: pair[0].group):
        group, cells = zip(*part, strict=True)
        texts.append("  ".join(cells).ljust(_group_width(group)))
    return " | ".join(texts).rstrip()


def _heading(column):
    """A long heading broken behind underscores and spaces."""
    lines = [""]
    for piece in re.findall(r"[^_ ]+[_ ]*", column.heading):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > LONGEST_HEADING:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _width(column):
    return max(map(len, (*_heading(column), *column.cells)))


def _group_width(columns):
    return max(
        len(columns[0].group), sum(map(_width, columns)) + 2 * (len(columns) - 1)
    )


def _total_width(columns):
    widths = [_group_width(list(part)) for _, part in _groups(columns)]
    return sum(widths) + 3 * (len(widths) - 1)


def _groups(columns):
    return itertools.groupby(columns, key=lambda column: column.group)


def _body(columns):
    return zip(*(column.cells for column in columns), strict=True)


def _tex_line(cells):
    return " & ".join(map(_tex, cells)) + r" \\"


def _tex(text):
    return text.translate(TEX)

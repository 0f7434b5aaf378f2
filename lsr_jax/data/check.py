"""Look at every file of a data set before anything is trained on it.

python -m lsr_jax.data.check gta5 --root data/gta5
python -m lsr_jax.data.check cityscapes --root DIR --strict --contact-sheet sheet.png

Exit codes: 0 all is well, 1 problems were found, 2 the check cannot run. Another number
of images than the official one is a warning, and with --strict a problem.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np

from lsr_jax.data import (
    commands,
    description,
    headers,
    labels,
    listing,
    reading,
    sheet,
)
from lsr_jax.data.examination import Report, examine_all
from lsr_jax.data.headers import BadExample
from lsr_jax.data.layouts import Layout
from lsr_jax.data.reading import Reader

SHOWN = 20  # problems that are printed in full
_WIDTH = 320  # pixels of a picture of the contact sheet


def render(layout: Layout, reports: Sequence[Report]) -> str:
    """Counts, problems and the shares of the classes as tables of text."""
    rows = [["split", "published", "images", *headers.KINDS, "ignored", "sizes"]]
    for report in reports:
        kinds = Counter(problem.kind for problem in report.problems)
        sizes = [f"{size} ({n})" for size, n in report.sizes.most_common(3)]
        rows.append(
            [
                report.name,
                str(report.official or "-"),
                str(report.images),
                *(str(kinds[kind]) for kind in headers.KINDS),
                _percent(report, list(layout.ids), invert=True),
                ", ".join(sizes) + (", ..." if len(report.sizes) > 3 else ""),
            ]
        )
    histogram = [["share of pixels", *(report.name for report in reports)]]
    for name in dict.fromkeys(layout.ids.values()):
        ids = [raw for raw, other in layout.ids.items() if other == name]
        histogram.append([name, *(_percent(report, ids) for report in reports)])
    return f"{_table(rows)}\n\n{_table(histogram)}"


def contact_sheet(layout: Layout, root: str, *, pairs: int) -> np.ndarray:
    """Images and coloured labels, spread evenly over the first labelled split.

    Raises:
      InputError: nothing of the kind lies there, or no pair can be read.
    """
    files = listing.open_files(layout, root)
    reader = Reader(files, layout)
    found = [
        pair
        for part in layout.parts.values()
        for pair in listing.list_part(files, part).pairs
        if pair.label
    ]
    if layout.spaces:
        space = labels.SPACES[layout.spaces[0]]
    else:
        space = labels.make_space(
            layout.name, layout.ids, layout.classes, layout.colors
        )
    cells = []
    for pair in found[:: max(1, len(found) // pairs)]:
        try:
            image, label = reader.pair(pair)
        except BadExample:
            continue  # the table names it
        if not cells:
            shape = (round(_WIDTH * image.shape[0] / image.shape[1]), _WIDTH)
        colored = labels.colorize(space.encode(label), space)
        nearest = np.stack(
            [reading.resize_label(c, shape) for c in np.moveaxis(colored, 2, 0)], 2
        )
        cells += [reading.resize_image(image, shape), nearest]
    if not cells:
        raise BadExample("unreadable", f"{root}: no pair can be drawn; see the table")
    cells = cells[: 2 * pairs]
    rows = [cells[start : start + 4] for start in range(0, len(cells), 4)]
    rows[-1] += [np.full_like(cells[0], 255)] * (len(rows[0]) - len(rows[-1]))
    return sheet.compose(rows, space.classes, space.colors)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""

    def command() -> int:
        options = _parser().parse_args(arguments)
        layout = description.find_layout(options.name)
        reports = examine_all(
            layout, options.root, splits=options.splits, workers=options.workers
        )
        print(render(layout, reports))
        problems = [str(problem) for r in reports for problem in r.problems]
        warnings = [warning for r in reports for warning in r.warnings]
        print(*(["", *problems[:SHOWN]] if problems else []), sep="\n", end="\n")
        if len(problems) > SHOWN:
            print(f"... and {len(problems) - SHOWN} more")
        remarks = [remark for r in reports for remark in r.remarks]
        for line in (*warnings, *remarks):
            print(f"warning: {line}")
        if options.contact_sheet:
            drawn = contact_sheet(layout, options.root, pairs=options.pairs)
            sheet.write(options.contact_sheet, drawn)
        count = len(problems) + (len(warnings) if options.strict else 0)
        print(f"{layout.title}: {count} problems, {len(warnings)} warnings")
        return 1 if count else 0

    return commands.guarded(command)


def _parser() -> argparse.ArgumentParser:
    parser = commands.Parser(prog="python -m lsr_jax.data.check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands.add_dataset(parser)
    parser.add_argument(
        "--strict", action="store_true", help="another count than published: a problem"
    )
    parser.add_argument("--contact-sheet", metavar="PNG", help="picture to write")
    parser.add_argument(
        "--pairs", type=commands.positive, default=8, help="pairs on the contact sheet"
    )
    return parser


def _percent(report: Report, ids: Sequence[int], *, invert: bool = False) -> str:
    total = report.pixels.sum()
    if not total:
        return "-"
    share = report.pixels[ids].sum() / total
    return f"{100 * (1 - share if invert else share):.2f} %"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of one width each, two spaces between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())

"""Check every file of a data set before training on it.

python -m lsr_jax.data.check gta5 --root data/gta5
python -m lsr_jax.data.check cityscapes --root DIR --strict --contact_sheet sheet.png

Exit codes: 0 no problems, 1 problems were found, 2 the check cannot run. Another number
of images than the official one is a warning, and with --strict a problem.
"""

from __future__ import annotations

import io
import os
import pathlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
from PIL import Image

from lsr_jax import cli
from lsr_jax.data import custom, image_io, label_spaces, listing, processes, sources
from lsr_jax.data.image_io import BadExample, Pair, Reader
from lsr_jax.data.label_spaces import Color
from lsr_jax.data.layouts import Layout
from lsr_jax.errors import InputError

SHOWN = 20  # problems that are printed in full
GAP = 4  # white pixels between the pictures of a contact sheet
_WIDTH = 320  # pixels of a picture of the contact sheet
_COLUMN, _ROW = 90, 18  # pixels of an entry of its legend


@dataclass
class Report:
    """Results of one split; `official` is the published number of images."""

    name: str
    official: int | None
    images: int
    problems: list[BadExample]
    warnings: list[str]
    sizes: Counter = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    other_palettes: int = 0


def examine(
    pair: Pair, *, reader: Reader, layout: Layout
) -> tuple[str, np.ndarray, bool] | BadExample:
    """Reads one pair in full.

    Returns:
      Size of the image, pixels of each id ``[256]``, and whether the palette of the label
      has other colours than in the published files; or the problem.
    """
    try:
        image, label = reader.pair(pair)
    except BadExample as error:
        return error
    height, width, _ = image.shape
    pixels, differs = np.zeros(256, np.int64), False
    if label is not None:
        pixels = np.bincount(label.ravel(), minlength=256)
        if layout.palette:
            with Image.open(io.BytesIO(reader.data(pair.label))) as stored:
                colors = bytes(stored.getpalette()).ljust(768, b"\0")
            differs = any(
                tuple(colors[3 * i : 3 * i + 3]) != color
                for i, color in layout.palette.items()
            )
    return f"{width}x{height}", pixels, differs


def examine_all(
    layout: Layout,
    root: str,
    *,
    splits: Sequence[str] | None = None,
    workers: int = 1,
    progress: bool = True,
) -> list[Report]:
    """Reads every file of a data set.

    Raises:
      InputError: `root` does not hold the data set.
      TrainingError: a worker process died.
    """
    reader = Reader(listing.open_files(layout, root), layout)
    listings = listing.list_parts(reader.files, layout)
    present = [
        name
        for name, part in layout.parts.items()
        if listings[name].pairs or part.required
    ]
    chosen = listing.choose_splits(present, splits, layout.name)
    total = sum(len(listings[name].pairs) for name in chosen)
    work = partial(examine, reader=reader, layout=layout)
    reports = []
    bar = cli.progress_bar(total, layout.name, "image", disable=not progress)
    with bar, processes.make_pool(workers) as pool:
        for name in chosen:
            found, part = listings[name], layout.parts[name]
            problems = list(found.problems.values())
            if not found.pairs:
                message = f"{root}: has no {part.images}"
                problems.append(BadExample("missing pair", message))
            warnings = listing.warnings(reader.files, layout, name, found)
            report = Report(name, part.count, len(found.pairs), problems, warnings)
            for result in processes.ordered(pool, work, found.pairs):
                bar.update()
                if isinstance(result, BadExample):
                    report.problems.append(result)
                    continue
                size, pixels, differs = result
                report.sizes[size] += 1
                report.pixels += pixels
                report.other_palettes += differs
            reports.append(report)
    return reports


def render(layout: Layout, reports: Sequence[Report]) -> str:
    """Formats counts, problems and the shares of the classes as two tables."""
    import pandas as pd  # here, so that worker processes start quickly

    counts, shares = {}, {}
    for report in reports:
        kinds = Counter(problem.kind for problem in report.problems)
        sizes = [f"{size} ({n})" for size, n in report.sizes.most_common(3)]
        classes, ignored = layout.pixels(report.pixels)
        total = report.pixels.sum()
        percent = [
            f"{100 * count / total:.2f} %" if total else "-"
            for count in (*classes.values(), ignored)
        ]
        counts[report.name] = {
            "published": report.official or "-",
            "images": report.images,
            **{kind: kinds[kind] for kind in image_io.KINDS},
            "ignored": percent.pop(),
            "sizes": ", ".join(sizes) + (", ..." if len(report.sizes) > 3 else ""),
        }
        shares[report.name] = dict(zip(classes, percent, strict=True))
    tables = pd.DataFrame(counts).T, pd.DataFrame(shares)
    first, second = (table.to_string(max_colwidth=None) for table in tables)
    return f"{first}\n\nshare of pixels\n{second}"


def contact_sheet(layout: Layout, root: str, *, pairs: int) -> np.ndarray:
    """Draws pairs spread evenly over the labelled images, see `compose`.

    Raises:
      InputError: `root` does not hold the data set, or no pair can be read.
    """
    reader = Reader(listing.open_files(layout, root), layout)
    found = [
        pair
        for part in listing.list_parts(reader.files, layout).values()
        for pair in part.pairs
        if pair.label
    ]
    space = sources.label_space({"space": ""}, layout)
    cells = []
    for pair in found[:: max(1, len(found) // pairs)]:
        try:
            image, label = reader.pair(pair)
        except BadExample:
            continue  # the table names it
        if not cells:
            shape = (round(_WIDTH * image.shape[0] / image.shape[1]), _WIDTH)
        label = image_io.resize_label(label, shape)
        colored = label_spaces.colorize(space.encode(label), space)
        cells += [image_io.resize_image(image, shape), colored]
    if not cells:
        raise InputError(f"{root}: no pair can be drawn; see the table")
    cells = cells[: 2 * pairs]
    rows = [cells[start : start + 4] for start in range(0, len(cells), 4)]
    rows[-1] += [np.full_like(cells[0], 255)] * (len(rows[0]) - len(rows[-1]))
    return compose(rows, space.classes, space.colors)


def compose(
    rows: Sequence[Sequence[np.ndarray]],
    classes: Sequence[str],
    colors: Sequence[Color],
) -> np.ndarray:
    """Draws pictures of one size in rows, with a legend below: uint8 RGB."""
    edges = ((0, GAP), (0, GAP), (0, 0))
    lines = [
        np.concatenate([np.pad(cell, edges, constant_values=255) for cell in row], 1)
        for row in rows
    ]
    return np.concatenate([*lines, _legend(lines[0].shape[1], classes, colors)], 0)


def write(path: str | os.PathLike, sheet: np.ndarray) -> None:
    """Writes a PNG.

    Raises:
      InputError: the path has another suffix or cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix != ".png" or not path.parent.is_dir():
        raise InputError(
            f"{path}: expected a .png file in a folder that exists; choose another path"
        )
    image_io.write_png(path, sheet, remedy="choose another path")


def _legend(width, classes, colors):
    columns = max(1, width // _COLUMN)
    rows = -(-len(classes) // columns)
    strip = np.full((rows * _ROW, width, 3), 255, np.uint8)
    for index, (name, color) in enumerate(zip(classes, colors, strict=True)):
        top, left = index // columns * _ROW, index % columns * _COLUMN
        strip[top + 3 : top + 15, left + 2 : left + 14] = color
        place, font = (left + 17, top + 13), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(strip, name, place, font, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def define(flags: cli.Flags) -> None:
    """Define the flags."""
    flags.path("root", "The folder as downloaded.", required=True)
    flags.list("splits", [], "Only these; default: all that are there.")
    flags.integer("workers", processes.cores(), "Reading processes.", lower_bound=1)
    flags.boolean(
        "strict", False, "Another number of images than published: a problem."
    )
    flags.path("contact_sheet", "PNG file to write: images beside their labels.")
    flags.integer("pairs", 8, "Pairs on the contact sheet.", lower_bound=1)


def check(options, name: str) -> int:
    """Read a data set and print what was found; returns the exit code."""
    if not options.contact_sheet:
        cli.refuse(options, ["pairs"], "a check without --contact_sheet")
    layout = custom.find_layout(name)
    reports = examine_all(
        layout, options.root, splits=options.splits, workers=options.workers
    )
    print(render(layout, reports))
    problems = [str(problem) for r in reports for problem in r.problems]
    warnings = [line for r in reports for line in r.warnings]
    print(*(["", *problems[:SHOWN]] if problems else []), sep="\n", end="\n")
    if len(problems) > SHOWN:
        print(f"... and {len(problems) - SHOWN} more")
    palettes = [
        f"{r.name}: {r.other_palettes} labels have another palette than the published "
        "files; their ids are read all the same"
        for r in reports
        if r.other_palettes
    ]
    for line in (*warnings, *palettes):
        print(f"warning: {line}")
    if options.contact_sheet:
        drawn = contact_sheet(layout, options.root, pairs=options.pairs)
        write(options.contact_sheet, drawn)
    count = len(problems) + (len(warnings) if options.strict else 0)
    print(f"{layout.title}: {count} problems, {len(warnings)} warnings")
    return 1 if count else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, check, argv, arguments=["NAME"])


if __name__ == "__main__":
    sys.exit(main())

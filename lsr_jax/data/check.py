"""Reading every pair of a data set, and counting what is wrong.

Contact sheets: pictures beside their coloured labels, and a legend.

Look at every file of a data set before anything is trained on it.

python -m lsr_jax.data.check gta5 --root data/gta5
python -m lsr_jax.data.check cityscapes --root DIR --strict --contact_sheet sheet.png

Exit codes: 0 all is well, 1 problems were found, 2 the check cannot run. Another number
of images than the official one is a warning, and with --strict a problem.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import tqdm

from lsr_jax import cli
from lsr_jax.data import custom, image_io, label_spaces, processes
from lsr_jax.data.image_io import BadExample, Pair, Reader
from lsr_jax.data.label_spaces import Color
from lsr_jax.data.layouts import Layout
from lsr_jax.errors import InputError


class Facts(NamedTuple):
    """What is noted of a good pair."""

    size: tuple[int, int]
    pixels: np.ndarray  # [256], all zero without a label
    palette_differs: bool


@dataclass
class Report:
    """What was found in a split."""

    name: str
    official: int | None
    images: int
    labelled: bool
    problems: list[BadExample] = field(default_factory=list)
    sizes: Counter = field(default_factory=Counter)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    other_palettes: int = 0

    def add(self, facts: Facts) -> None:
        """Counts a good pair."""
        self.sizes["{1}x{0}".format(*facts.size)] += 1
        self.pixels += facts.pixels
        self.other_palettes += facts.palette_differs

    @property
    def warnings(self) -> Iterator[str]:
        """What is unusual, but no problem by itself."""
        if self.official is not None and self.images != self.official:
            yield (
                f"{self.name}: expected {self.official} images, as are published, "
                f"found {self.images}"
            )

    @property
    def remarks(self) -> Iterator[str]:
        """What is worth knowing."""
        if self.other_palettes:
            yield (
                f"{self.name}: {self.other_palettes} labels have another palette than "
                "the published files; their ids are read all the same"
            )


def examine(pair: Pair, *, reader: Reader, layout: Layout) -> Facts | BadExample:
    """Reads one pair in full."""
    try:
        image, label = reader.pair(pair)
    except BadExample as error:
        return error
    if label is None:
        return Facts(image.shape[:2], np.zeros(256, np.int64), False)
    pixels = np.bincount(label.ravel(), minlength=256)
    differs = False
    if layout.palette:
        colors = image_io.palette_colors(reader.data(pair.label))
        differs = any(tuple(colors[i]) != c for i, c in layout.palette.items())
    return Facts(image.shape[:2], pixels, differs)


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
      InputError: nothing of the kind lies there.
      TrainingError: one of the processes died.
    """
    files = custom.open_files(layout, root)
    work = partial(examine, reader=Reader(files, layout), layout=layout)
    listings = {
        name: custom.list_part(files, part) for name, part in layout.parts.items()
    }
    present = [
        name
        for name, found in listings.items()
        if found.pairs or layout.parts[name].required
    ]
    chosen = custom.choose_splits(present, splits, layout.name)
    total = sum(len(listings[name].pairs) for name in chosen)
    reports = []
    bar = tqdm.tqdm(total=total, desc=layout.name, unit="image", disable=not progress)
    with bar, processes.make_pool(workers) as pool:
        for name in chosen:
            found, part = listings[name], layout.parts[name]
            report = Report(name, part.count, len(found.pairs), bool(part.labels))
            report.problems += found.problems.values()
            if not found.pairs:
                message = f"{root}: expected {part.images}, found none"
                report.problems.append(BadExample("missing pair", message))
            for result in processes.ordered(pool, work, found.pairs):
                bar.update()
                if isinstance(result, BadExample):
                    report.problems.append(result)
                else:
                    report.add(result)
            reports.append(report)
    return reports


GAP = 4  # white pixels between pictures
_COLUMN, _ROW = 90, 18  # pixels of an entry of the legend


def compose(
    rows: Sequence[Sequence[np.ndarray]],
    classes: Sequence[str],
    colors: Sequence[Color],
) -> np.ndarray:
    """Pictures of one size in rows, a legend below: uint8 RGB."""
    lines = [np.concatenate([_framed(cell) for cell in row], 1) for row in rows]
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
    if not cv2.imwrite(os.fspath(path), sheet[..., ::-1]):
        raise InputError(f"{path}: cannot be written; choose another path")


def _framed(picture: np.ndarray) -> np.ndarray:
    edges = ((0, GAP), (0, GAP), (0, 0))
    return np.pad(picture, edges, constant_values=255)


def _legend(width, classes, colors) -> np.ndarray:
    """Colour swatches with class names, in as many rows as they need."""
    columns = max(1, width // _COLUMN)
    rows = -(-len(classes) // columns)
    strip = np.full((rows * _ROW, width, 3), 255, np.uint8)
    for index, (name, color) in enumerate(zip(classes, colors, strict=True)):
        top, left = index // columns * _ROW, index % columns * _COLUMN
        strip[top + 3 : top + 15, left + 2 : left + 14] = color
        place, font = (left + 17, top + 13), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(strip, name, place, font, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


SHOWN = 20  # problems that are printed in full
_WIDTH = 320  # pixels of a picture of the contact sheet


def render(layout: Layout, reports: Sequence[Report]) -> str:
    """Counts, problems and the shares of the classes as tables of text."""
    rows = [["split", "published", "images", *image_io.KINDS, "ignored", "sizes"]]
    for report in reports:
        kinds = Counter(problem.kind for problem in report.problems)
        sizes = [f"{size} ({n})" for size, n in report.sizes.most_common(3)]
        rows.append(
            [
                report.name,
                str(report.official or "-"),
                str(report.images),
                *(str(kinds[kind]) for kind in image_io.KINDS),
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
    files = custom.open_files(layout, root)
    reader = Reader(files, layout)
    found = [
        pair
        for part in layout.parts.values()
        for pair in custom.list_part(files, part).pairs
        if pair.label
    ]
    if layout.spaces:
        space = label_spaces.SPACES[layout.spaces[0]]
    else:
        space = label_spaces.make_space(
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
        colored = label_spaces.colorize(space.encode(label), space)
        nearest = np.stack(
            [image_io.resize_label(c, shape) for c in np.moveaxis(colored, 2, 0)], 2
        )
        cells += [image_io.resize_image(image, shape), nearest]
    if not cells:
        raise BadExample("unreadable", f"{root}: no pair can be drawn; see the table")
    cells = cells[: 2 * pairs]
    rows = [cells[start : start + 4] for start in range(0, len(cells), 4)]
    rows[-1] += [np.full_like(cells[0], 255)] * (len(rows[0]) - len(rows[-1]))
    return compose(rows, space.classes, space.colors)


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
    layout = custom.find_layout(name)
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
        write(options.contact_sheet, drawn)
    count = len(problems) + (len(warnings) if options.strict else 0)
    print(f"{layout.title}: {count} problems, {len(warnings)} warnings")
    return 1 if count else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, check, argv, arguments=["NAME"])


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

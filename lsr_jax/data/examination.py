"""Reading every pair of a data set, and counting what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import tqdm

from lsr_jax.data import commands, listing, processes, reading
from lsr_jax.data.headers import BadExample
from lsr_jax.data.layouts import Layout
from lsr_jax.data.reading import Pair, Reader


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
        colors = reading.palette_colors(reader.data(pair.label))
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
    files = listing.open_files(layout, root)
    work = partial(examine, reader=Reader(files, layout), layout=layout)
    listings = {
        name: listing.list_part(files, part) for name, part in layout.parts.items()
    }
    present = [
        name
        for name, found in listings.items()
        if found.pairs or layout.parts[name].required
    ]
    chosen = commands.choose_splits(present, splits, layout.name)
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

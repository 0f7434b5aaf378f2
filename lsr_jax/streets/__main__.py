"""Command line: pairs of the two domains to look at, and the data prepared ahead.

python -m lsr_jax.streets --contact_sheet sheet.png --pairs 8 --size 256x128
python -m lsr_jax.streets --prepare --preset large --workers 8
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from lsr_jax import cli, streets
from lsr_jax.data import check, label_spaces, processes
from lsr_jax.errors import InputError

SMALLEST = 32  # pixels


def contact_sheet(
    preset: streets.Preset, *, pairs: int, size: tuple[int, int]
) -> np.ndarray:
    """Pictures and coloured labels of both domains side by side, a legend below.

    Returns:
      uint8 RGB. Row `i` has image `i` of the training split of the rendered domain, its
      label, and the same of the camera domain.
    """
    rows, space = [], label_spaces.SPACES["streets"]
    for index in range(pairs):
        cells = []
        for domain in streets.DOMAINS:
            image, label = streets.draw(
                index, domain=domain, split="train", preset=preset, size=size
            )
            cells += [image, label_spaces.colorize(label, space)]
        rows.append(cells)
    return check.compose(rows, space.classes, space.colors)


def define(flags: cli.Flags) -> None:
    """Define the flags."""
    flags.path("contact_sheet", "PNG file to write: pairs of both domains.")
    flags.boolean("prepare", False, "Draw all splits into the cache folder.")
    flags.enum("preset", "streets", tuple(streets.PRESETS), "Which benchmark.")
    flags.integer("pairs", 8, "Rows of the contact sheet.", lower_bound=1)
    flags.size("size", "Size of its pictures; default: the preset's.")
    flags.path("data_dir", "Cache folder.")
    workers = min(4, processes.cores())
    flags.integer("workers", workers, "Drawing processes.", lower_bound=1)


def draw(options) -> None:
    """Write the contact sheet, or prepare the data."""
    preset = streets.PRESETS[options.preset]
    if bool(options.contact_sheet) == options.prepare:
        raise InputError("give either --contact_sheet PNG or --prepare; see --help")
    if options.contact_sheet:
        cli.refuse(options, ["data_dir", "workers"], "--contact_sheet")
        size = options.size or preset.size
        if min(size) < SMALLEST:
            raise InputError(f"--size: expected {SMALLEST} pixels or more on each side")
        sheet = contact_sheet(preset, pairs=options.pairs, size=size)
        check.write(options.contact_sheet, sheet)
        return
    cli.refuse(options, ["pairs", "size"], "--prepare")
    # Imported here: only preparing needs TFDS.
    from lsr_jax.streets import dataset

    print(dataset.prepare(preset, data_dir=options.data_dir, workers=options.workers))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, draw, argv)


if __name__ == "__main__":
    sys.exit(main())

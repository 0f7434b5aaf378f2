"""Command line: pairs of the two domains to look at, and the data prepared ahead.

python -m lsr_jax.streets --contact-sheet sheet.png --pairs 8 --size 128x256
python -m lsr_jax.streets --prepare --preset large --workers 8
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import numpy as np

from lsr_jax import streets
from lsr_jax.data import check, commands, label_spaces, processes


def contact_sheet(
    preset: streets.Preset, *, pairs: int, size: tuple[int, int]
) -> np.ndarray:
    """Pictures and coloured labels of both domains side by side, a legend below.

    Returns:
      uint8 RGB. Row `i` has image `i` of the training split of the rendered domain, its
      label, and the same of the camera domain.
    """
    rows = []
    for index in range(pairs):
        cells = []
        for domain in streets.DOMAINS:
            image, label = streets.draw(
                index, domain=domain, split="train", preset=preset, size=size
            )
            cells += [
                image,
                label_spaces.colorize(label, label_spaces.SPACES["streets"]),
            ]
        rows.append(cells)
    space = label_spaces.SPACES["streets"]
    return check.compose(rows, space.classes, space.colors)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""

    def command() -> int:
        options = _parser().parse_args(arguments)
        preset = streets.PRESETS[options.preset]
        if options.contact_sheet:
            size = options.size or preset.size
            drawn = contact_sheet(preset, pairs=options.pairs, size=size)
            check.write(options.contact_sheet, drawn)
        if options.prepare:
            # Imported here, since TFDS is needed for nothing else.
            from lsr_jax.streets import dataset

            print(
                dataset.prepare(
                    preset, data_dir=options.data_dir, workers=options.workers
                )
            )
        return 0

    return commands.guarded(command)


def _parser() -> argparse.ArgumentParser:
    parser = commands.Parser(prog="python -m lsr_jax.streets", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--contact-sheet", type=pathlib.Path, metavar="PNG", help="picture to write"
    )
    what.add_argument(
        "--prepare", action="store_true", help="draw all splits into the cache folder"
    )
    parser.add_argument("--preset", choices=streets.PRESETS, default="streets")
    parser.add_argument(
        "--pairs", type=commands.positive, default=8, help="rows of the contact sheet"
    )
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="pixels of each picture of the contact sheet, by default the preset's",
    )
    parser.add_argument("--data-dir", type=pathlib.Path, help="cache folder")
    parser.add_argument(
        "--workers",
        type=commands.positive,
        default=min(4, processes.cores()),
        help="processes that draw",
    )
    return parser


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HxW such as 96x192, found {text!r}")
    if min(int(height), int(width)) < 32:
        raise argparse.ArgumentTypeError(f"expected 32 pixels or more, found {text!r}")
    return int(height), int(width)


if __name__ == "__main__":
    sys.exit(main())

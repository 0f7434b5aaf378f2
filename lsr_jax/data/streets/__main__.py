"""Command line: pairs of the two domains to look at, and the data prepared ahead.

python -m lsr_jax.data.streets --contact-sheet sheet.png --pairs 8 --size 128x256
python -m lsr_jax.data.streets --prepare --preset large --workers 8
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

import cv2
import numpy as np

from lsr_jax import errors
from lsr_jax.data import labels, streets

GAP = 4  # white pixels between pictures
LEGEND_ROW = 18


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
            cells += [image, labels.colorize(label, labels.SPACES["streets"])]
        rows.append(np.concatenate([_framed(cell) for cell in cells], 1))
    return np.concatenate([*rows, _legend(rows[0].shape[1])], 0)


def _framed(picture: np.ndarray) -> np.ndarray:
    edges = ((0, GAP), (0, GAP), (0, 0))
    return np.pad(picture, edges, constant_values=255)


def _legend(width: int) -> np.ndarray:
    """Colour swatches with class names, in as many rows as they need."""
    columns = max(1, width // 90)
    rows = -(-len(labels.CLASSES) // columns)
    strip = np.full((rows * LEGEND_ROW, width, 3), 255, np.uint8)
    for row in labels.CLASSES:
        top = row.train_id // columns * LEGEND_ROW
        left = row.train_id % columns * 90
        strip[top + 3 : top + 15, left + 2 : left + 14] = row.color
        place, font = (left + 17, top + 13), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(strip, row.name, place, font, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    try:
        options = _parser().parse_args(arguments)
        preset = streets.PRESETS[options.preset]
        if options.contact_sheet:
            size = options.size or preset.size
            _write_sheet(options.contact_sheet, preset, options.pairs, size)
        if options.prepare:
            # Imported here, since TFDS is needed for nothing else.
            from lsr_jax.data.streets import builder

            print(
                builder.prepare(
                    preset, data_dir=options.data_dir, workers=options.workers
                )
            )
    except errors.InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise errors.InputError(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m lsr_jax.data.streets", description=__doc__)
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
        "--pairs", type=_positive, default=8, help="rows of the contact sheet"
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
        type=_positive,
        default=min(4, os.cpu_count() or 1),
        help="processes that draw",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, found {text!r}")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected HxW such as 96x192, found {text!r}")
    if min(int(height), int(width)) < 32:
        raise argparse.ArgumentTypeError(f"expected 32 pixels or more, found {text!r}")
    return int(height), int(width)


def _write_sheet(
    path: pathlib.Path, preset: streets.Preset, pairs: int, size: tuple[int, int]
) -> None:
    if path.suffix != ".png" or not path.parent.is_dir():
        raise errors.InputError(
            f"{path}: expected a .png file in a folder that exists; choose another path"
        )
    sheet = contact_sheet(preset, pairs=pairs, size=size)
    written = cv2.imwrite(os.fspath(path), sheet[..., ::-1])
    if not written:
        raise errors.InputError(f"{path}: cannot be written; choose another path")


if __name__ == "__main__":
    sys.exit(main())

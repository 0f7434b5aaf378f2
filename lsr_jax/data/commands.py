"""What the command lines of this room share: arguments, beside `lsr_jax.commands`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lsr_jax.commands import Parser, guarded
from lsr_jax.data import processes
from lsr_jax.data.image_io import LARGEST_IMAGE, Size
from lsr_jax.errors import InputError

__all__ = ["Parser", "add_dataset", "choose_splits", "guarded", "positive", "size"]


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which files are meant."""
    parser.add_argument(
        "name", metavar="NAME", help="a data set by name, or FILE.json for your own"
    )
    parser.add_argument(
        "--root", required=True, metavar="DIR", help="the folder as downloaded"
    )
    parser.add_argument(
        "--splits",
        type=lambda text: tuple(text.split(",")),
        metavar="A,B",
        help="only these, by default all that are there",
    )
    parser.add_argument(
        "--workers",
        type=positive,
        default=processes.cores(),
        metavar="N",
        help="processes that read (default: one a core)",
    )


def choose_splits(
    present: Sequence[str], wanted: Sequence[str] | None, name: str
) -> Sequence[str]:
    """The splits to work on.

    Raises:
      InputError: one of them is not there.
    """
    for split in wanted or ():
        if split not in present:
            raise InputError(
                f"--splits: expected some of {', '.join(present)} of {name}, found "
                f"{split!r}"
            )
    return wanted or present


def positive(text: str) -> int:
    """A number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, found {text!r}")
    return int(text)


def size(text: str) -> Size:
    """``"1280x720"`` (width x height) -> ``(720, 1280)``, ``"full"`` -> None."""
    if text == "full":
        return None
    width, _, height = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(
            f"expected WIDTHxHEIGHT such as 1280x720, or full, found {text!r}"
        )
    if int(height) * int(width) > LARGEST_IMAGE:
        raise argparse.ArgumentTypeError(
            f"expected at most {LARGEST_IMAGE} pixels, found {text}"
        )
    return int(height), int(width)

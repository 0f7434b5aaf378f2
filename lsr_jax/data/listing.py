"""Which pairs a split holds: by pattern, by rule, or by a user's list."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from lsr_jax import paths
from lsr_jax.data.files import Files, Folder, Zips, expression, inside
from lsr_jax.data.headers import BadExample
from lsr_jax.data.layouts import Layout, Part, Subset
from lsr_jax.data.reading import Pair
from lsr_jax.errors import InputError

LIST_SUFFIX = ".txt"


class Listing(NamedTuple):
    """A part as found.

    Attributes:
      pairs: sorted by the name of the image; the label is None where it is missing.
      problems: name of an image without label or of a label without image -> what to say.
    """

    pairs: tuple[Pair, ...]
    problems: dict[str, BadExample]


def open_files(layout: Layout, root: str | os.PathLike) -> Files:
    """The files of a data set as downloaded.

    Raises:
      InputError: nothing of the kind lies there.
    """
    root = paths.expanded(root)
    required = [part for part in layout.parts.values() if part.required]
    for folder in layout.folders:
        files = Folder(root / folder)
        for part in required or layout.parts.values():
            if files.match(part.images):
                return files
    archives = [root / name for name in layout.zips]
    if archives and all(path.is_file() for path in archives):
        return Zips(archives)
    zips = f", or {' and '.join(layout.zips)}" if layout.zips else ""
    found = "none of them" if root.is_dir() else "no such folder"
    raise InputError(
        f"{root}: expected {layout.title} as downloaded ({layout.expected}{zips}) or as "
        f"prepared, found {found}; put it there or give another folder, then run "
        f"python -m lsr_jax.data.check {layout.name} --root {root} and, to store it at "
        f"training size, python -m lsr_jax.data.prepare {layout.name} --root {root} "
        "--size WIDTHxHEIGHT --out DIR"
    )


def list_part(files: Files, part: Part) -> Listing:
    """All pairs of a part."""
    images = files.match(part.images)
    labels = files.match(part.labels) if part.labels else {}
    pairs = [Pair(name, labels.get(stars)) for stars, name in images.items()]
    problems = {}
    if part.labels:
        lonely = [(pair.image, "label") for pair in pairs if pair.label is None]
        lonely += [(labels[stars], "image") for stars in labels.keys() - images.keys()]
        for name, partner in sorted(lonely):
            pattern = part.labels if partner == "label" else part.images
            problems[name] = BadExample(
                "missing pair",
                f"{files.where(name)}: expected its {partner} in {pattern}, found none; "
                "restore it or remove the file",
            )
    return Listing(tuple(sorted(pairs)), problems)


def is_list(split: str) -> bool:
    """Whether a split is a user's list file."""
    return split.endswith(LIST_SUFFIX)


def read_list(path: str | os.PathLike) -> list[Pair]:
    """A list in the originals' format: ``image label`` a line, or an image alone.

    Names are relative to the data folder; a leading slash means the same folder.

    Raises:
      InputError: no such file, no line, a third word, or a name that leaves the folder.
    """
    try:
        lines = paths.expanded(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: expected a list of 'image label' lines, found: {error}"
        ) from error
    pairs = []
    for number, line in enumerate(lines, 1):
        names = [name.lstrip("/") for name in line.split()]
        if not names:
            continue
        if len(names) > 2:
            raise InputError(
                f"{path}, line {number}: expected 'image label', found {len(names)} "
                "words; correct the list"
            )
        pairs.append(Pair(inside(names[0]), inside(names[1]) if names[1:] else None))
    if not pairs:
        raise InputError(f"{path}: expected 'image label' lines, found none")
    return pairs


def part_of(layout: Layout, split: str) -> str:
    """The part from which a named split is taken.

    Raises:
      InputError: there is no such split.
    """
    if split in layout.parts:
        return split
    if split in layout.subsets:
        return layout.subsets[split].part
    raise InputError(
        f"{layout.name}: expected a split of {', '.join(layout.splits)} or a list file "
        f"*{LIST_SUFFIX}, found {split!r}; correct the split's name"
    )


def part_of_image(layout: Layout, image: str) -> Part | None:
    """The part whose pattern an image's name fits."""
    for part in layout.parts.values():
        if expression(part.images).fullmatch(image):
            return part
    return None


def chosen(names: Sequence[str], subset: Subset | None) -> list[str]:
    """The names of a subset; all of them for None. `names` are sorted and complete."""
    if subset is None:
        return list(names)
    held, total = subset.held, subset.total
    return [
        name
        for i, name in enumerate(names)
        if ((i + 1) * held // total > i * held // total) == subset.held_out
    ]

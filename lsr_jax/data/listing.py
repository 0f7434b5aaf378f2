"""Find the image-label pairs of a data set: by pattern, by rule, or from a user's list."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from lsr_jax.data.archives import Files, Folder, Zips, inside
from lsr_jax.data.image_io import BadExample, Pair
from lsr_jax.data.layouts import LAYOUTS, Layout, Part
from lsr_jax.errors import InputError
from lsr_jax.files import expanded

LIST_SUFFIX = ".txt"  # of a user's list file, which is the name of a split


class Listing(NamedTuple):
    """The files of a part.

    Attributes:
      pairs: sorted by the name of the image; the label is None where it is missing.
      problems: name of an image without label or of a label without image -> the error.
    """

    pairs: tuple[Pair, ...]
    problems: dict[str, BadExample]


def open_files(layout: Layout, root: str | os.PathLike) -> Files:
    """Opens the folder or the archives of a data set as downloaded.

    Raises:
      InputError: `root` has neither.
    """
    root = expanded(root)
    required = [part for part in layout.parts.values() if part.required]
    for folder in layout.folders:
        files = Folder(root / folder)
        if any(files.match(p.images) for p in required or layout.parts.values()):
            return files
    archives = [root / name for name in layout.zips]
    if archives and all(path.is_file() for path in archives):
        return Zips(archives)
    part = next(iter(layout.parts.values()))
    expected = f"{part.images} and {part.labels or 'no labels'}"
    if layout.zips:
        expected += f", or {' and '.join(layout.zips)}"
    found = "none of them" if root.is_dir() else "no such folder"
    raise InputError(
        f"{root}: expected {layout.title} as downloaded ({expected}) or as "
        f"prepared, found {found}; put it there or give another folder, then run "
        f"python -m lsr_jax.data.check {layout.name} --root {root} and, to store it at "
        f"training size, python -m lsr_jax.data.prepare {layout.name} --root {root} "
        "--size WIDTHxHEIGHT --out DIR"
    )


def list_part(files: Files, part: Part) -> Listing:
    """Lists all pairs of a part."""
    images = files.match(part.images)
    labels = files.match(part.labels) if part.labels else {}
    pairs = [Pair(name, labels.get(stars)) for stars, name in images.items()]
    problems = {}
    if part.labels:
        missing = [(p.image, "label", part.labels) for p in pairs if p.label is None]
        missing += [
            (labels[stars], "image", part.images)
            for stars in labels.keys() - images.keys()
        ]
        for name, partner, pattern in sorted(missing):
            problems[name] = BadExample(
                "missing pair",
                f"{files.where(name)}: has no {partner} in {pattern}; restore it or "
                "remove the file",
            )
    return Listing(tuple(sorted(pairs)), problems)


def is_labelled(layout: Layout, name: str, found: Listing) -> bool:
    """Whether a part has labels.

    A built-in data set may lie there without: a target is adapted to without them.

    Raises:
      InputError: a description gives a pattern of labels, and no file matches it.
    """
    labelled = any(pair.label for pair in found.pairs)
    pattern = layout.parts[name].labels
    if found.pairs and pattern and not labelled and layout.name not in LAYOUTS:
        raise InputError(
            f"{layout.title}: splits.{name}.labels: no file matches {pattern!r} for "
            f"{len(found.pairs)} images; correct it, or leave it out for images without "
            "labels"
        )
    return labelled


def list_parts(files: Files, layout: Layout) -> dict[str, Listing]:
    """Lists all parts of a data set."""
    return {name: list_part(files, part) for name, part in layout.parts.items()}


def read_list(path: str | os.PathLike) -> list[Pair]:
    """Reads a list in the original implementations' format.

    A line is ``image label`` or an image alone. Names are relative to the data folder; a
    leading slash is ignored.

    Raises:
      InputError: no such file, no line, a third word, or a name that leaves the folder.
    """
    try:
        lines = expanded(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read as a list of 'image label' lines ({error})"
        ) from error
    pairs = []
    for number, line in enumerate(lines, 1):
        names = [inside(name.lstrip("/")) for name in line.split()]
        if len(names) > 2:
            raise InputError(
                f"{path}, line {number}: expected 'image label', found {len(names)} "
                "words; correct the list"
            )
        if names:
            pairs.append(Pair(names[0], names[1] if names[1:] else None))
    if not pairs:
        raise InputError(f"{path}: has no 'image label' lines")
    return pairs


def part_of(layout: Layout, split: str) -> str:
    """Returns the part from which a named split is taken.

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


def choose(
    layout: Layout, split: str, names: Sequence[str], where: object
) -> list[str]:
    """Returns the names that belong to a split.

    Args:
      layout: the data set.
      split: name of a part, or of a `Subset`, whose rule is applied.
      names: all names of the part, sorted.
      where: folder in error messages.

    Raises:
      InputError: there are no such names.
    """
    chosen = list(names)
    if subset := layout.subsets.get(split):
        held, total = subset.held, subset.total
        chosen = [
            name
            for i, name in enumerate(names)
            if ((i + 1) * held // total > i * held // total) == subset.held_out
        ]
    if not chosen:
        pattern = layout.parts[part_of(layout, split)].images
        raise InputError(
            f"{where}: expected images for split {split!r}, found none among the "
            f"{len(names)} of {pattern}; choose another split or add the files"
        )
    return chosen


def choose_splits(
    present: Sequence[str], wanted: Sequence[str] | None, name: str
) -> Sequence[str]:
    """The splits to work on: ``wanted``, or all.

    Raises:
      InputError: one of them does not exist.
    """
    for split in wanted or ():
        if split not in present:
            known = ", ".join(present)
            raise InputError(
                f"--splits: unknown split of {name} (found {split!r}, expected {known})"
            )
    return wanted or present

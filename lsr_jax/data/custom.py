"""A user's own data set, described by a JSON file: see docs/your_data.md.

Which pairs a split holds: by pattern, by rule, or by a user's list.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from lsr_jax import files as files_lib
from lsr_jax.data import archives, label_spaces
from lsr_jax.data.archives import Files, Folder, Zips, expression, inside
from lsr_jax.data.image_io import BadExample, Pair
from lsr_jax.data.layouts import LABEL_FORMATS, LAYOUTS, Layout, Part, Subset
from lsr_jax.errors import InputError, one_line

SUFFIX = ".json"
_IDS = {str(number): number for number in range(256)}
_KEYS = {
    "splits": dict,
    "label_format": str,
    "ids": dict,
    "ignored": list,
    "classes": list,
    "palette": dict,
}
_SPLIT_KEYS = {"images": str, "labels": str, "native_labels": bool}
_MOST_OPTIONS = 1000


def find_layout(name: str) -> Layout:
    """The layout with this name, or that of a description, ``FILE.json``.

    Raises:
      InputError: neither.
    """
    if name in LAYOUTS:
        return LAYOUTS[name]
    if name.endswith(SUFFIX):
        return read(name)
    raise InputError(
        f"data set {name!r}: expected {', '.join(LAYOUTS)} or the description of your "
        f"own, FILE{SUFFIX}; see docs/your_data.md"
    )


def read(path: str | os.PathLike) -> Layout:
    """Reads a description.

    Raises:
      InputError: the file is missing, no JSON, or says something unusable; the message
        names the file and the key.
    """
    path = files_lib.expanded(path)
    text = files_lib.read_json(
        path, "the description of a data set", "see docs/your_data.md"
    )
    text = _checked(path, text, _KEYS, "")
    for key in ("splits", "label_format", "ids"):
        if not text.get(key):
            raise _wrong(path, key, "a value", text.get(key))
    if text["label_format"] not in LABEL_FORMATS:
        raise _wrong(
            path, "label_format", " or ".join(LABEL_FORMATS), text["label_format"]
        )
    ids = {
        _id(path, "ids", raw): _name(path, "ids", name)
        for raw, name in text["ids"].items()
    }
    classes = _classes(path, text.get("classes"), ids)
    return Layout(
        name=re.sub(r"\W+", "_", path.stem).lower(),
        title=path.name,
        parts=_parts(path, text["splits"]),
        label_format=text["label_format"],
        ids=ids,
        ignored=frozenset(_id(path, "ignored", raw) for raw in text.get("ignored", ())),
        classes=classes,
        colors=_colors(path, classes, text.get("palette", {})),
    )


def _classes(path, given, ids):
    names = tuple(_name(path, "classes", name) for name in given or ())
    names = names or tuple(dict.fromkeys(ids.values()))
    for number, name in enumerate(names):
        if name not in ids.values():
            raise _wrong(path, "classes", "names that occur in ids", name)
        if name in names[:number]:
            raise _wrong(path, "classes", "every name once", name)
    # The last number of 8 bits stands for what is ignored.
    if len(names) > label_spaces.IGNORE:
        raise _wrong(path, "classes", f"at most {label_spaces.IGNORE}", len(names))
    return names


def _parts(path, splits):
    parts = {}
    for name, split in splits.items():
        key = f"splits.{name}"
        # TFDS keeps "all" for itself.
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "all":
            names = "names of small letters, digits and _, and not 'all'"
            raise _wrong(path, "splits", names, name)
        split = _checked(path, split, _SPLIT_KEYS, f"{key}.")
        images, truths = split.get("images"), split.get("labels")
        if not images or "*" not in images:
            raise _wrong(path, f"{key}.images", "a pattern with a star", images)
        if truths and truths.count("*") != images.count("*"):
            raise _wrong(path, f"{key}.labels", f"the stars of {images!r}", truths)
        for what in ("images", "labels"):
            _check_pattern(path, f"{key}.{what}", split.get(what))
        native = split.get("native_labels", False)
        parts[name] = Part(images, truths, native_labels=native)
    return parts


def _check_pattern(path, key, pattern):
    """Refuses what does not stay below the data folder, and what `Path.glob` refuses."""
    options = itertools.islice(archives.options(pattern or "x"), _MOST_OPTIONS + 1)
    for number, option in enumerate(options, 1):
        if not option or "**" in option or not archives.is_inside(option):
            expected = "a pattern below the data folder, with single stars"
            raise _wrong(path, key, expected, pattern)
        if number > _MOST_OPTIONS:
            raise _wrong(path, key, f"at most {_MOST_OPTIONS} choices", pattern)


def _colors(path, classes, palette):
    """One colour a class; the 19 have theirs unless the description says otherwise."""
    known = {row.name: row.color for row in label_spaces.CLASSES} | palette
    colors = []
    for name in classes:
        color = known.get(name)
        sized = isinstance(color, list | tuple) and len(color) == 3
        if not sized or not all(_is_byte(value) for value in color):
            raise _wrong(path, f"palette.{name}", "[red, green, blue] of 0-255", color)
        colors.append(tuple(color))
    return tuple(colors)


def _id(path, key, raw):
    # "7" and "07" would be one id.
    if str(raw) not in _IDS:
        raise _wrong(path, key, "ids of 0-255", raw)
    return _IDS[str(raw)]


def _name(path, key, name):
    if not isinstance(name, str) or not name:
        raise _wrong(path, key, "names of classes", name)
    return name


def _is_byte(value):
    return type(value) is int and 0 <= value <= 255


def _checked(path, found, known, prefix):
    """The entries that say something; null is as good as no entry."""
    if not isinstance(found, dict):
        raise _wrong(path, prefix.rstrip(".") or "file", "an object", found)
    for key, value in found.items():
        if key not in known:
            raise _wrong(path, prefix + key, f"one of the keys {', '.join(known)}", key)
        if value is not None and not isinstance(value, known[key]):
            raise _wrong(path, prefix + key, f"a {known[key].__name__}", value)
    return {key: value for key, value in found.items() if value is not None}


def _wrong(path, key, expected, found):
    text = f"{path}: {key}: expected {expected}, found {files_lib.quoted(found)}"
    return InputError(one_line(f"{text}; see docs/your_data.md"))


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
    root = files_lib.expanded(root)
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
        lines = files_lib.expanded(path).read_text().splitlines()
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


def choose_splits(
    present: Sequence[str], wanted: Sequence[str] | None, name: str
) -> Sequence[str]:
    """The splits to work on: ``wanted``, or all.

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

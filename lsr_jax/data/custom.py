"""A user's own data set, described by a JSON file; see docs/your_data.md."""

from __future__ import annotations

import itertools
import os
import re

from lsr_jax import files
from lsr_jax.data import archives, label_spaces
from lsr_jax.data.layouts import LABEL_FORMATS, LAYOUTS, Layout, Part
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
    """Returns the layout of a data set by its name, or by its description, ``FILE.json``.

    Raises:
      InputError: there is neither.
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
      InputError: the file is missing, no JSON, or has an unusable value; the message
        names the file and the key.
    """
    path = files.expanded(path)
    text = files.read_json(
        path, "the description of a data set", "see docs/your_data.md"
    )
    try:
        text = _checked(text, _KEYS, "")
        for key in ("splits", "label_format", "ids"):
            _require(text.get(key), key, "a value", text.get(key))
        kind = text["label_format"]
        _require(
            kind in LABEL_FORMATS, "label_format", " or ".join(LABEL_FORMATS), kind
        )
        ids = {_id("ids", raw): _name("ids", name) for raw, name in text["ids"].items()}
        classes = _classes(text.get("classes"), ids)
        return Layout(
            name=re.sub(r"\W+", "_", path.stem).lower(),
            title=path.name,
            parts={name: _part(name, split) for name, split in text["splits"].items()},
            label_format=kind,
            ids=ids,
            ignored=frozenset(_id("ignored", raw) for raw in text.get("ignored", ())),
            classes=classes,
            colors=_colors(classes, text.get("palette", {})),
        )
    except ValueError as error:
        raise InputError(one_line(f"{path}: {error}; see docs/your_data.md")) from error


def _require(fulfilled, key, expected, found):
    if not fulfilled:
        raise ValueError(f"{key}: expected {expected}, found {files.quoted(found)}")


def _checked(found, known, prefix):
    """Returns the entries that are not null, with keys and types checked."""
    _require(isinstance(found, dict), prefix.rstrip(".") or "file", "an object", found)
    for key, value in found.items():
        keys = f"one of the keys {', '.join(known)}"
        _require(key in known, prefix + key, keys, key)
        kind = known[key]
        fits = value is None or isinstance(value, kind)
        _require(fits, prefix + key, f"a {kind.__name__}", value)
    return {key: value for key, value in found.items() if value is not None}


def _part(name, split):
    key = f"splits.{name}"
    # TFDS reserves "all".
    fits = re.fullmatch(r"[a-z][a-z0-9_]*", name) and name != "all"
    _require(
        fits, "splits", "names of small letters, digits and _, and not 'all'", name
    )
    split = _checked(split, _SPLIT_KEYS, f"{key}.")
    images, labels = split.get("images"), split.get("labels")
    star = images and "*" in images
    _require(star, f"{key}.images", "a pattern with a star", images)
    same = not labels or labels.count("*") == images.count("*")
    _require(same, f"{key}.labels", f"the stars of {images!r}", labels)
    _check_pattern(f"{key}.images", images)
    if labels:
        _check_pattern(f"{key}.labels", labels)
    return Part(images, labels, native_labels=split.get("native_labels", False))


def _check_pattern(key, pattern):
    options = itertools.islice(archives.options(pattern), _MOST_OPTIONS + 1)
    for number, option in enumerate(options, 1):
        # `Path.glob` refuses an empty pattern; "**" would match whole folders.
        fits = option and "**" not in option and archives.is_inside(option)
        expected = "a pattern below the data folder, with single stars"
        _require(fits, key, expected, pattern)
        few = number <= _MOST_OPTIONS
        _require(few, key, f"at most {_MOST_OPTIONS} choices", pattern)


def _classes(given, ids):
    names = tuple(_name("classes", name) for name in given or ())
    names = names or tuple(dict.fromkeys(ids.values()))
    for number, name in enumerate(names):
        known = name in ids.values()
        _require(known, "classes", "names that occur in ids", name)
        _require(name not in names[:number], "classes", "every name once", name)
    # The last number of 8 bits means "ignore".
    most = label_spaces.IGNORE
    _require(len(names) <= most, "classes", f"at most {most}", len(names))
    return names


def _colors(classes, palette):
    """Returns one colour a class; the 19 keep theirs unless the palette has another."""
    known = {row.name: row.color for row in label_spaces.CLASSES} | palette
    colors = []
    for name in classes:
        color = known.get(name)
        sized = isinstance(color, list | tuple) and len(color) == 3
        fits = sized and all(type(v) is int and 0 <= v <= 255 for v in color)
        _require(fits, f"palette.{name}", "[red, green, blue] of 0-255", color)
        colors.append(tuple(color))
    return tuple(colors)


def _id(key, raw):
    # Looked up as text: as numbers, "7" and "07" would be one id.
    _require(str(raw) in _IDS, key, "ids of 0-255", raw)
    return _IDS[str(raw)]


def _name(key, name):
    _require(isinstance(name, str) and name, key, "names of classes", name)
    return name
<<<<<<< HEAD


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
=======
>>>>>>> main

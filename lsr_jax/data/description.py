"""A user's own data set, described by a JSON file: see docs/your_data.md."""

from __future__ import annotations

import itertools
import os
import re

from lsr_jax import decoding, paths
from lsr_jax.data import files, labels
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
    path = paths.expanded(path)
    text = decoding.read_json(
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
    if len(names) > labels.IGNORE:
        raise _wrong(path, "classes", f"at most {labels.IGNORE}", len(names))
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
    options = itertools.islice(files.options(pattern or "x"), _MOST_OPTIONS + 1)
    for number, option in enumerate(options, 1):
        if not option or "**" in option or not files.is_inside(option):
            expected = "a pattern below the data folder, with single stars"
            raise _wrong(path, key, expected, pattern)
        if number > _MOST_OPTIONS:
            raise _wrong(path, key, f"at most {_MOST_OPTIONS} choices", pattern)


def _colors(path, classes, palette):
    """One colour a class; the 19 have theirs unless the description says otherwise."""
    known = {row.name: row.color for row in labels.CLASSES} | palette
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
    text = f"{path}: {key}: expected {expected}, found {decoding.quoted(found)}"
    return InputError(one_line(f"{text}; see docs/your_data.md"))

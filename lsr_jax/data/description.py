"""A user's own data set, described by a JSON file: see docs/your_data.md."""

from __future__ import annotations

import json
import os
import pathlib
import re

from lsr_jax.data import labels
from lsr_jax.data.layouts import LABEL_FORMATS, LAYOUTS, Layout, Part
from lsr_jax.errors import InputError

SUFFIX = ".json"
_KEYS = {
    "splits": dict,
    "label_format": str,
    "ids": dict,
    "ignored": list,
    "classes": list,
    "palette": dict,
}
_SPLIT_KEYS = {"images": str, "labels": str, "native_labels": bool}


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
    path = pathlib.Path(path).expanduser()
    try:
        text = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected the description of a data set, found: {error}"
        ) from error
    _check_keys(path, text, _KEYS, "")
    for key in ("splits", "label_format", "ids"):
        if not text.get(key):
            raise _wrong(path, key, "a value", text.get(key))
    if text["label_format"] not in LABEL_FORMATS:
        raise _wrong(
            path, "label_format", " or ".join(LABEL_FORMATS), text["label_format"]
        )
    ids = {_id(path, "ids", raw): str(name) for raw, name in text["ids"].items()}
    classes = tuple(text.get("classes") or dict.fromkeys(ids.values()))
    if set(classes) - set(ids.values()):
        missing = sorted(set(classes) - set(ids.values()))[0]
        raise _wrong(path, "classes", "names that occur in ids", missing)
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


def _parts(path, splits):
    parts = {}
    for name, split in splits.items():
        key = f"splits.{name}"
        # TFDS keeps "all" for itself.
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "all":
            names = "names of small letters, digits and _, and not 'all'"
            raise _wrong(path, "splits", names, name)
        _check_keys(path, split, _SPLIT_KEYS, f"{key}.")
        images, truths = split.get("images"), split.get("labels")
        if not images or "*" not in images:
            raise _wrong(path, f"{key}.images", "a pattern with a star", images)
        if truths and truths.count("*") != images.count("*"):
            raise _wrong(path, f"{key}.labels", f"the stars of {images!r}", truths)
        native = split.get("native_labels", False)
        parts[name] = Part(images, truths, native_labels=native)
    return parts


def _colors(path, classes, palette):
    """One colour a class; the 19 have theirs unless the description says otherwise."""
    known = {row.name: row.color for row in labels.CLASSES} | palette
    colors = []
    for name in classes:
        color = known.get(name)
        if not color or len(color) != 3 or not all(_is_byte(value) for value in color):
            raise _wrong(path, f"palette.{name}", "[red, green, blue] of 0-255", color)
        colors.append(tuple(color))
    return tuple(colors)


def _id(path, key, raw):
    if not str(raw).isdecimal() or int(raw) > 255:
        raise _wrong(path, key, "ids of 0-255", raw)
    return int(raw)


def _is_byte(value):
    return isinstance(value, int) and 0 <= value <= 255


def _check_keys(path, found, known, prefix):
    if not isinstance(found, dict):
        raise _wrong(path, prefix.rstrip(".") or "file", "an object", found)
    for key, value in found.items():
        if key not in known:
            raise _wrong(path, prefix + key, f"one of the keys {', '.join(known)}", key)
        if value is not None and not isinstance(value, known[key]):
            raise _wrong(path, prefix + key, f"a {known[key].__name__}", value)


def _wrong(path, key, expected, found):
    return InputError(
        f"{path}: {key}: expected {expected}, found {found!r}; see docs/your_data.md"
    )

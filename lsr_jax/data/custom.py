"""A user's own data set, described by a JSON file; see docs/your_data.md."""

from __future__ import annotations

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
    "size": str,
    "root": str,
}
_SPLIT_KEYS = {"images": str, "labels": str, "native_labels": bool}


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
        size = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.get("size", "1x1"))
        _require(size, "size", "WIDTHxHEIGHT such as 1280x720", text.get("size"))
        _require(
            kind in LABEL_FORMATS, "label_format", " or ".join(LABEL_FORMATS), kind
        )
        given = [*(("ids", raw) for raw in text["ids"])]
        given += [("ignored", raw) for raw in text.get("ignored", ())]
        numbers = _numbers(given, painted=kind == "colors")
        ids = {numbers[raw]: _name("ids", name) for raw, name in text["ids"].items()}
        classes = _classes(text.get("classes"), ids)
        ignored = frozenset(numbers[str(raw)] for raw in text.get("ignored", ()))
        painted = tuple(map(_color, numbers)) if kind == "colors" else ()
        both = sorted(ignored & ids.keys())
        _require(not both, "ignored", "no id of a class", *both[:1] or [None])
        return Layout(
            name=re.sub(r"\W+", "_", path.stem).lower(),
            title=path.name,
            parts={name: _part(name, split) for name, split in text["splits"].items()},
            label_format=kind,
            ids=ids,
            ignored=ignored,
            classes=classes,
            colors=_colors(classes, ids, painted, text.get("palette", {})),
            painted=painted,
            size=(int(size[2]), int(size[1])) if "size" in text else None,
            root=os.fspath(path.parent / text.get("root", "")),
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
        _require(key in known, prefix + key, f"one of the keys {', '.join(known)}", key)
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
    same = labels is None or labels.count("*") == images.count("*")
    _require(same, f"{key}.labels", f"the stars of {images!r}", labels)
    for kind, pattern in (("images", images), ("labels", labels)):
        for option in () if pattern is None else archives.options(pattern):
            # `Path.glob` refuses an empty pattern; "**" would match whole folders.
            fits = option and "**" not in option and not archives.objection(option)
            expected = "a pattern below the data folder, with single stars"
            _require(fits, f"{key}.{kind}", expected, pattern)
    return Part(images, labels, native_labels=split.get("native_labels", False))


def _classes(given, ids):
    _require(given is None or given, "classes", "a name", given)
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


def _colors(classes, ids, painted, palette):
    """Returns one colour a class: of the palette, of its first id, or of the 19."""
    known = {row.name: row.color for row in label_spaces.CLASSES}
    for raw in sorted(ids, reverse=True) if painted else ():
        known[ids[raw]] = tuple(painted[raw].to_bytes(3))
    given = {}
    for name, color in palette.items():
        found = _name("palette", name)
        _require(found in ids.values(), "palette", "names that occur in ids", name)
        first = given.setdefault(found, color)
        key, expected = f"palette.{name}", f"{files.quoted(first)}, as another {found}"
        _require(color == first, key, expected, color)
    known |= given
    colors = []
    for name in classes:
        color = known.get(name)
        sized = isinstance(color, list | tuple) and len(color) == 3
        fits = sized and all(type(v) is int and 0 <= v <= 255 for v in color)
        _require(fits, f"palette.{name}", "[red, green, blue] of 0-255", color)
        colors.append(tuple(color))
    return tuple(colors)


def _numbers(given, *, painted):
    """Returns the id of every key as it is written; colours are counted."""
    found = {}
    for key, raw in given:
        # Looked up as text: as numbers, "7" and "07" would be one id.
        text = str(raw)
        if not painted:
            _require(text in _IDS, key, "ids of 0-255", raw)
        else:
            _require(_color(text) is not None, key, "colors such as #804080", raw)
            other = next((t for t in found if _color(t) == _color(text)), text)
            _require(other == text, key, f"every color once, {other} or", raw)
        found.setdefault(text, len(found) if painted else _IDS[text])
    _require(len(found) <= 256, "ids", "at most 256 colors", len(found))
    return found


def _color(text):
    found = re.fullmatch(r"#([0-9a-fA-F]{6})", text)
    return int(found[1], 16) if found else None


def _name(key, name):
    _require(isinstance(name, str) and name.strip(), key, "names of classes", name)
    return label_spaces.known_name(name.strip())

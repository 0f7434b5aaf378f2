"""Open data sets by name: from a domain of a config to random-access splits.

A real data set is read from a prepared folder if there is one, else from the files as
downloaded: slower, with the same results. Images are resized by PIL's bicubic, labels by
PIL's nearest neighbour. `streets` is drawn on first use.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from lsr_jax import files, streets
from lsr_jax.data import (
    archives,
    custom,
    image_io,
    label_spaces,
    layouts,
    listing,
    prepared,
    processes,
    records,
)
from lsr_jax.data.image_io import BadExample, Pair, Size
from lsr_jax.data.label_spaces import LabelSpace
from lsr_jax.data.layouts import Layout
from lsr_jax.errors import InputError
from lsr_jax.streets import dataset as streets_dataset

ON_BAD_EXAMPLE = ("stop", "skip")
# Keys of `Domain.identity` that say what labels mean, wherever the files are.
MEANING = ("classes", "ids", "ignored", "label_format", "painted")


class Domain(NamedTuple):
    """One domain of a benchmark, ready to read.

    Attributes:
      open: ``split name -> source``; a source has ``len()`` and ``[i]`` gives a record.
      fingerprint: sha256 that identifies the data of the splits, for the run's manifest.
      space: the classes that its labels are mapped to.
      identity: what the fingerprint is made of, as text, to say what differs.
      warnings: lines about data that can be used, but is not as published or described.
      version: ``split name -> text`` that changes with its files; none is read.
      has_training_images: whether ``train`` can be opened; evaluation does without.
    """

    open: Callable[[str], records.Source]
    fingerprint: str
    space: LabelSpace
    identity: Mapping[str, str] = {}
    warnings: tuple[str, ...] = ()
    version: Callable[[str], str] = str
    has_training_images: bool = True


def open_domains(
    data: Mapping,
    *,
    num_classes: int,
    names: Sequence[str] = ("source", "target"),
    training: bool = True,
) -> dict[str, Domain]:
    """Opens source and target of a config's ``data``, or those of them in ``names``.

    Without ``training``, the images of ``train`` may be missing.

    Raises:
      InputError: see `open_domain`; or the two and the network differ in their classes.
    """
    domains = {name: open_domain(data[name], training=training) for name in names}
    for line in warnings(domains):
        print(f"warning: {line}", file=sys.stderr)
    spaces = [domain.space for domain in domains.values()]
    source, target = spaces[0], spaces[-1]
    if source.classes != target.classes:
        pairs = itertools.zip_longest(source.classes, target.classes)
        number, (one, other) = next(
            (n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1]
        )
        raise InputError(
            f"data.source.space and data.target.space: expected the same classes, found "
            f"{source.name} with {source.num_classes} and {target.name} with "
            f"{target.num_classes}, of which class {number} is {one or 'none'} and "
            f"{other or 'none'}; choose spaces of the same classes in the same order"
        )
    if source.num_classes != num_classes:
        raise InputError(
            f"model.num_classes: expected {source.num_classes}, as the label space "
            f"{source.name} has, found {num_classes}; change one of them"
        )
    return domains


def warnings(domains: Mapping[str, Domain]) -> list[str]:
    """Returns the warnings of all domains, each once."""
    lines = [line for domain in domains.values() for line in domain.warnings]
    return list(dict.fromkeys(lines))


def identities(
    domains: Mapping[str, Domain], *, keys: Sequence[str] | None = None
) -> dict[str, str]:
    """Returns what identifies the data of a run, such as ``source.classes`` -> text."""
    return {
        f"{name}.{key}": text
        for name, domain in domains.items()
        for key, text in domain.identity.items()
        if keys is None or key in keys
    }


def open_domain(spec: Mapping, *, training: bool = True) -> Domain:
    """Opens the domain that a config's ``data.source`` or ``data.target`` describes.

    Args:
      spec: the keys of ``domain()`` in configs/default.py. ``name`` is a key of
        `DATASETS` or a description of one's own data, ``FILE.json``.
      training: whether it is an error that ``train`` has no images.

    Raises:
      InputError: unknown name, split, space or size, missing folder, unreadable data.
    """
    name = spec["name"]
    if spec["on_bad_example"] not in ON_BAD_EXAMPLE:
        raise InputError(
            f"data on_bad_example: expected {' or '.join(ON_BAD_EXAMPLE)}, found "
            f"{spec['on_bad_example']!r}"
        )
    if name not in DATASETS and not name.endswith(custom.SUFFIX):
        raise InputError(
            f"data name: expected one of {', '.join(DATASETS)} or a description of your "
            f"own data, FILE{custom.SUFFIX}, found {name!r}"
        )
    return DATASETS.get(name, _open_real)(spec, training=training)


def is_present(spec: Mapping) -> bool:
    """Whether the folder of a domain exists, and the description of one's own data."""
    if spec["name"].startswith("streets_"):  # drawn where it is missing
        return True
    described = not spec["name"].endswith(custom.SUFFIX)
    described = described or files.expanded(spec["name"]).is_file()
    return described and files.expanded(spec["root"], key="data root").is_dir()


def label_space(spec: Mapping, layout: Layout) -> LabelSpace:
    """Returns the classes that ``spec["space"]`` names, for the ids of a data set.

    Raises:
      InputError: no such space, one for other label files, or a class that it has not
        and that the description does not leave out.
    """
    name = spec["space"] or (layout.spaces[0] if layout.spaces else "")
    if not name:
        return label_spaces.make_space(
            layout.name, layout.ids, layout.classes, layout.colors
        )
    known = layout.spaces or tuple(label_spaces.SPACES)
    if name not in known:
        raise InputError(
            f"data space of {layout.name}: expected one of {', '.join(known)}, found "
            f"{name!r}"
        )
    space = label_spaces.SPACES[name]
    if layout.spaces:
        return space
    # Cityscapes' own names that a space leaves out are left out by its choice.
    taken = (*label_spaces.NAMES, *label_spaces.VOID_NAMES)
    if other := [one for one in layout.classes if one not in taken]:
        raise InputError(
            f"data space of {layout.name}: expected classes of {name} "
            f"({', '.join(space.classes)}), found {', '.join(other)}; rename them, leave "
            "them out of 'classes', or set the space to '' to learn these"
        )
    ids = {raw: one for raw, one in layout.ids.items() if one in layout.classes}
    if not set(ids.values()) & set(space.classes):
        raise InputError(
            f"data space of {layout.name}: expected some classes of {name}, found "
            f"{', '.join(sorted(set(ids.values())))}; set the space to '' to learn these"
        )
    return label_spaces.make_space(name, ids, space.classes)


class ReadOptions(NamedTuple):
    """How a real data set is read."""

    space: LabelSpace
    size: Size  # of the images; None: that of the files
    on_bad_example: str  # "stop" or "skip"


def _open_real(spec: Mapping, *, training: bool) -> Domain:
    layout = custom.find_layout(spec["name"])
    root = files.expanded(spec["root"], key="data root")
    size = tuple(spec["size"]) if any(spec["size"]) else None
    options = ReadOptions(label_space(spec, layout), size, spec["on_bad_example"])
    folder = prepared.find(root, layout, size)
    dataset = (
        Prepared(layout, folder, options) if folder else Raw(layout, root, options)
    )

    def open_split(split: str) -> records.Source:
        opened = [dataset.open(part) for part in listing.split_names(split)]
        return opened[0] if len(opened) == 1 else records.Joined(opened)

    train, val = (listing.split_names(spec[key]) for key in ("train", "val"))
    present = training or all(
        files.expanded(split).is_file()
        if listing.is_list(split)
        else dataset.has_images(split)
        for split in train
    )
    splits = [*(train if present else ()), *val]
    space = options.space
    ids = [f"{i} {space.classes[c]}" for i, c in enumerate(space.lut) if c < 255]
    identity = {
        "classes": ", ".join(space.classes),
        "ids": ", ".join(ids),
        **{k: str(v) for k, v in layout.meaning().items() if k != "ids"},
        "files": dataset.fingerprint(splits),
    }
    text = json.dumps({**identity, "size": size, "space": space.name})
    return Domain(
        open_split,
        hashlib.sha256(text.encode()).hexdigest(),
        space,
        identity,
        tuple(dict.fromkeys(dataset.warnings)),
        lambda split: dataset.fingerprint(listing.split_names(split)),
        present,
    )


def _open_streets(look: str, spec: Mapping, *, training: bool) -> Domain:
    del training  # drawn with all others
    name = spec["preset"]
    if name not in streets.PRESETS:
        raise InputError(
            f"data preset: expected one of {', '.join(streets.PRESETS)}, found {name!r}"
        )
    preset = streets.PRESETS[name]
    drawn = {
        "size": (tuple(spec["size"]), ((0, 0), preset.size)),
        "space": (spec["space"], ("", "streets")),
        "on_bad_example": (spec["on_bad_example"], ("stop",)),
    }
    for key, (found, allowed) in drawn.items():
        if found not in allowed:
            raise InputError(
                f"data {key}: expected {' or '.join(map(repr, allowed))} for the drawn "
                f"images of {spec['name']}, preset {name}; found {found!r}"
            )
    folder = streets_dataset.prepare(
        preset, data_dir=spec["root"] or None, workers=processes.cores()
    )
    space = label_spaces.SPACES["streets"]
    return Domain(
        open=lambda split: streets_dataset.open_split(folder, f"{look}_{split}"),
        fingerprint=streets_dataset.read_manifest(folder)["sha256"],
        space=space,
        identity={"classes": ", ".join(space.classes)},
    )


DATASETS: dict[str, Callable[[Mapping], Domain]] = {
    "streets_rendered": partial(_open_streets, "rendered"),
    "streets_camera": partial(_open_streets, "camera"),
    **dict.fromkeys(layouts.LAYOUTS, _open_real),
}


class Raw:
    """A data set as downloaded."""

    def __init__(self, layout: Layout, root: pathlib.Path, options: ReadOptions):
        self._layout, self._options, self._root = layout, options, root
        self._files = listing.open_files(layout, root)
        self._reader = image_io.Reader(self._files, layout)
        self.warnings: list[str] = []
        self.open = functools.cache(self._open)  # called for fingerprint and training
        self._list_part = functools.cache(
            lambda part: listing.list_part(self._files, layout.parts[part])
        )

    def _open(self, split: str) -> RawSource:
        """Opens a split or list, after a look at the header of every file."""
        pairs, bad = self._pairs(split)
        for image, label in pairs if any(pair.label for pair in pairs) else ():
            if not label and image not in bad:
                bad[image] = BadExample(
                    "missing pair",
                    f"{self._files.where(image)}: has no label, though others of {split} "
                    "have; add it or remove the image",
                )
        with ThreadPoolExecutor(8) as pool:
            problems = pool.map(self._reader.header_problem, pairs)
            bad |= {p.image: why for p, why in zip(pairs, problems, strict=True) if why}
        if bad:
            which = f"{self._layout.name}, {split}"
            _stop_or_tell(self._options, which, list(bad.values()))
        native = any(
            part.native_labels
            for part in self._layout.parts.values()
            if archives.expression(part.images).fullmatch(pairs[0].image)
        )
        pairs = [pair for pair in pairs if pair.image not in bad]
        options = self._options
        return RawSource(
            pairs,
            self._reader,
            lut=options.space.lut,
            size=options.size,
            label_size=None if native else options.size,
            on_bad_example=options.on_bad_example,
        )

    def _pairs(self, split):
        """Returns the pairs of a split or list, and the errors of files without partner."""
        if listing.is_list(split):
            listed = [self._list_part(part) for part in self._layout.parts]
            labels = {
                p.image: p[1:] if p.label else () for one in listed for p in one.pairs
            }
            exists = self._files.exists
            pairs = listing.read_list(split, self._layout, self._root, labels, exists)
            return pairs, {}
        part = listing.part_of(self._layout, split)
        found = self._list_part(part)
        self.warnings += listing.warnings(self._files, self._layout, part, found)
        images = [pair.image for pair in found.pairs]
        where = self._files.where("")
        chosen = set(listing.choose(self._layout, split, images, where))
        pairs = [pair for pair in found.pairs if pair.image in chosen]
        others = set(images) - chosen
        listing.is_labelled(self._layout, part, found)
        return pairs, {k: v for k, v in found.problems.items() if k not in others}

    def has_images(self, split: str) -> bool:
        """Tells whether there is an image of a named split."""
        return bool(self._list_part(listing.part_of(self._layout, split)).pairs)

    def fingerprint(self, splits: Iterable[str]) -> str:
        """Returns root, number and hash of the files, which are not read."""
        pairs = [pair for split in splits for pair in self.open(split).pairs]
        return f"{self._root}: {listing.fingerprint(self._files, pairs)}"


def _stop_or_tell(options, which, problems):
    """Raises the first problem, or prints it where bad examples are to be skipped."""
    if options.on_bad_example == "stop":
        raise InputError(str(problems[0]))
    print(
        f"skipped ({len(problems)} of {which}), first: {problems[0]}", file=sys.stderr
    )


@dataclass(frozen=True)
class RawSource:
    """Records read from the files of a data set; see `records`."""

    pairs: Sequence[Pair]
    reader: image_io.Reader
    lut: np.ndarray
    size: Size
    label_size: Size
    on_bad_example: str

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        pair = self.pairs[index]
        image = self.reader.image(pair.image)
        record = {"image": image_io.resize_image(image, self.size), "id": pair.image}
        if pair.label is not None:
            record["label"] = partial(self._label, pair, image.shape[:2])
            record["lut"] = self.lut
        return record

    def full_label(self, index: int) -> np.ndarray:
        """Returns the classes ``[H, W]`` of a label as downloaded."""
        return self.lut[self.reader.label(self.pairs[index].label)]

    def _label(self, pair, image_size):
        label = self.reader.label_of(pair, image_size)
        return image_io.resize_label(label, self.label_size)


class Prepared:
    """A folder that `lsr_jax.data.prepare` wrote."""

    def __init__(self, layout: Layout, folder: pathlib.Path, options: ReadOptions):
        """Reads the manifest.

        Raises:
          InputError: the folder holds another data set, or its labels or splits had
            another meaning when it was written.
        """
        self._layout, self._folder = layout, folder
        self._command = f"python -m lsr_jax.data.prepare {layout.argument}"
        self._names = functools.cache(self._read_names)
        self._warnings = functools.cache(self._odd)
        self.warnings: list[str] = []
        self.manifest = prepared.read_manifest(folder, command=self._command)
        with self._reading():
            stored = self.manifest["size"] and tuple(self.manifest["size"])
            prepared.check_identity(folder, self.manifest, layout.meaning())
        if stored and options.size and stored != options.size:
            raise InputError(
                f"{folder}: expected images of {prepared.folder_name(options.size)} (width x "
                f"height), found {prepared.folder_name(stored)}; prepare that size or "
                "change the config"
            )
        # Stored images of one size need no resizing.
        self._options = options._replace(size=None) if stored else options

    def open(self, split: str) -> PreparedSource:
        """Opens one split or list.

        Raises:
          InputError: an unknown split, a list that names other images or labels, images
            that could not be stored, or a damaged folder.
        """
        part, chosen = self._choose(split)
        splits = self.manifest["splits"]
        counts = {name: facts["count"] for name, facts in splits.items()}
        stored = prepared.open_split(
            self._folder, part, command=self._command, counts=counts
        )
        skipped = splits[part]["skipped"]
        names = [name for name in self._names(part) if name not in skipped]
        if problems := [skipped[name] for name in chosen if name in skipped]:
            _stop_or_tell(self._options, f"{self._folder}, {split}", problems)
        rows = {name: row for row, name in enumerate(names)}
        chosen = [(rows[name], name) for name in chosen if name in rows]
        space, size, on_bad_example = self._options
        with self._reading():
            lut = space.lut if splits[part]["labelled"] else None
            label_size = None if splits[part]["native_labels"] else size
        sizes = size, label_size
        return PreparedSource(stored, part, chosen, lut, *sizes, on_bad_example)

    def has_images(self, split: str) -> bool:
        """Tells whether a named split is stored."""
        return listing.part_of(self._layout, split) in self.manifest["splits"]

    def fingerprint(self, splits: Iterable[str]) -> str:
        """Returns the sha256 of the content of all records and the choice among them."""
        chosen = [self._choose(split) for split in splits]
        text = f"{self.manifest['sha256']} {chosen}"
        count = sum(len(names) for _, names in chosen)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return f"{self._folder}: {count} images, {digest}"

    def _choose(self, split):
        """Returns the part a split is taken from, and the names of its images."""
        if not listing.is_list(split):
            part = listing.part_of(self._layout, split)
            names = self._names(part)
            self.warnings += self._warnings(part)
            return part, listing.choose(self._layout, split, names, self._folder)
        parts = {
            name: part for part in self.manifest["splits"] for name in self._names(part)
        }
        with self._reading():  # a part without labels stores none that a list may name
            labels = {
                name: listing.label_names(self._layout, name)
                if self.manifest["splits"][part]["labelled"]
                else ()
                for name, part in parts.items()
            }
        every = {*parts, *(label for names in labels.values() for label in names)}
        pairs = listing.read_list(
            split, self._layout, self._folder, labels, every.__contains__
        )
        for image, label in pairs:
            if label is not None and label not in labels[image]:
                raise InputError(
                    f"{split}: {label} is no label that is stored for {image}; a list with "
                    "labels of its own needs the data set as downloaded, in data root"
                )
            if parts[image] != parts[pairs[0].image]:
                raise InputError(
                    f"{split}: expected images of one split of {self._folder}, found "
                    f"{image}; correct the list"
                )
        return parts[pairs[0].image], [image for image, _ in pairs]

    def _odd(self, part):
        """Returns what is odd about a part, as `listing.warnings` does of files."""
        lines = listing.count_warning(self._layout, part, len(self._names(part)))
        root, stored = self.manifest["root"], self.manifest["splits"][part]["files"]
        try:
            files = listing.open_files(self._layout, root)
            pairs = listing.list_part(files, self._layout.parts[part]).pairs
            now = listing.fingerprint(files, pairs)
        except InputError:
            return lines  # the originals are not needed any more
        if now != stored:
            lines.append(
                f"{self._folder} {part}: {root} has changed since it was prepared (found "
                f"{now}, prepared {stored}); remove the folder and prepare it again to "
                "use the new files"
            )
        return lines

    def _read_names(self, part):
        if part not in self.manifest["splits"]:
            raise InputError(
                f"{self._folder}: expected the split {part!r}, found "
                f"{', '.join(self.manifest['splits'])}; prepare it"
            )
        facts = self.manifest["splits"][part]
        file = prepared.NAMES.format(part)
        with self._reading():
            content = (self._folder / file).read_bytes()
            names = content.decode().split("\n")[:-1]
            if len(names) != facts["count"] + len(facts["skipped"]):
                raise ValueError(f"another number of lines in {file}")
            # Older folders have no hash; `PreparedSource` compares names and records.
            hashed = hashlib.sha256(content).hexdigest()
            if facts.get("names_sha256") not in (None, hashed):
                raise ValueError(f"another content of {file}")
        return names

    def _reading(self):
        return prepared.reading(self._folder, self._command)


@dataclass(frozen=True)
class PreparedSource:
    """Records of a prepared folder; see `records`."""

    stored: prepared.StoredSplit
    part: str
    rows: Sequence[tuple[int, str]]  # position and name of each chosen record
    lut: np.ndarray | None  # None without labels
    size: Size  # None: as stored
    label_size: Size
    on_bad_example: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row, name = self.rows[index]
        stored = self.stored[row]
        with self.stored.reading():
            found = stored["id"].decode()
            if found != name:
                raise ValueError(f"{found} in the place of {name}")
        record = {"image": stored["image"], "id": name}
        if self.lut is not None:
            record |= {"label": stored["label"], "lut": self.lut}
        if self.size is not None or not record["image"].startswith(image_io.PNG):
            image = image_io.decode_image(record["image"], name)
            record["image"] = image_io.resize_image(image, self.size)
        if self.size is not None and self.lut is not None:
            record["label"] = partial(self._label, stored["label"], name)
        return record

    def class_pixels(self, num_classes: int) -> np.ndarray:
        """Returns the pixels ``[N, C]`` of each class in the labels as downloaded."""
        folder, command = self.stored.folder, self.stored.command
        count = len(self.stored)
        pixels = prepared.read_pixels(folder, self.part, count=count, command=command)
        pixels = pixels[[row for row, _ in self.rows]]
        by_class = [pixels[:, self.lut == c].sum(axis=1) for c in range(num_classes)]
        return np.stack(by_class, axis=1)

    def _label(self, data, name):
        label = image_io.decode_label(data, name, "grey")
        return image_io.resize_label(label, self.label_size)

"""Open data sets by name: from a domain of a config to random-access splits.

A real data set is read from a prepared folder if there is one, else from the files as
downloaded: slower, with the same results. Images are resized by PIL's bicubic, labels by
PIL's nearest neighbour. `streets` is drawn on first use.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

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
from lsr_jax.data.image_io import Pair, Size
from lsr_jax.data.label_spaces import LabelSpace
from lsr_jax.data.layouts import Layout
from lsr_jax.errors import InputError
from lsr_jax.streets import dataset as streets_dataset

ON_BAD_EXAMPLE = ("stop", "skip")


class Domain(NamedTuple):
    """One domain of a benchmark, ready to read.

    Attributes:
      open: ``split name -> source``; a source has ``len()`` and ``[i]`` gives a record.
      fingerprint: sha256 that identifies the data of the splits, for the run's manifest.
      space: the classes that its labels are mapped to.
    """

    open: Callable[[str], records.Source]
    fingerprint: str
    space: LabelSpace


def open_domains(
    data: Mapping,
    *,
    num_classes: int,
    names: Sequence[str] = ("source", "target"),
) -> dict[str, Domain]:
    """Opens source and target of a config's ``data``, or those of them in ``names``.

    Raises:
      InputError: see `open_domain`; or the two and the network differ in their classes.
    """
    domains = {name: open_domain(data[name]) for name in names}
    spaces = [domain.space for domain in domains.values()]
    source, target = spaces[0], spaces[-1]
    if source.classes != target.classes:
        raise InputError(
            f"data.source.space and data.target.space: expected the same classes, found "
            f"{source.name} with {source.num_classes} and {target.name} with "
            f"{target.num_classes}; choose spaces of one number of classes"
        )
    if source.num_classes != num_classes:
        raise InputError(
            f"model.num_classes: expected {source.num_classes}, as the label space "
            f"{source.name} has, found {num_classes}; change one of them"
        )
    return domains


def open_domain(spec: Mapping) -> Domain:
    """Opens the domain that a config's ``data.source`` or ``data.target`` describes.

    Args:
      spec: the keys of ``domain()`` in configs/default.py. ``name`` is a key of
        `DATASETS` or a description of one's own data, ``FILE.json``.

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
    return DATASETS.get(name, _open_real)(spec)


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
      InputError: no such space, or one for other label files.
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
    own = sorted(set(layout.ids.values()))
    if not set(own) & set(space.classes):
        raise InputError(
            f"data space of {layout.name}: expected some classes of {name}, found "
            f"{', '.join(own)}; set the space to '' to learn these"
        )
    return label_spaces.make_space(name, layout.ids, space.classes)


class ReadOptions(NamedTuple):
    """How a real data set is read.

    Attributes:
      space: the classes.
      size: ``(H, W)`` of the images; None: that of the files.
      on_bad_example: "stop" or "skip".
    """

    space: LabelSpace
    size: Size
    on_bad_example: str


def _open_real(spec: Mapping) -> Domain:
    layout = custom.find_layout(spec["name"])
    root = files.expanded(spec["root"], key="data root")
    size = tuple(spec["size"]) if any(spec["size"]) else None
    options = ReadOptions(label_space(spec, layout), size, spec["on_bad_example"])
    folder = prepared.find(root, layout, size)
    dataset = (
        Prepared(layout, folder, options) if folder else Raw(layout, root, options)
    )

    def open_split(split: str) -> records.Source:
        opened = [dataset.open(part) for part in split.split("+")]
        return opened[0] if len(opened) == 1 else records.Joined(opened)

    splits = [*spec["train"].split("+"), *spec["val"].split("+")]
    return Domain(open_split, dataset.fingerprint(splits), options.space)


def _open_streets(look: str, spec: Mapping) -> Domain:
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
    return Domain(
        open=lambda split: streets_dataset.open_split(folder, f"{look}_{split}"),
        fingerprint=streets_dataset.read_manifest(folder)["sha256"],
        space=label_spaces.SPACES["streets"],
    )


DATASETS: dict[str, Callable[[Mapping], Domain]] = {
    "streets_rendered": partial(_open_streets, "rendered"),
    "streets_camera": partial(_open_streets, "camera"),
    **dict.fromkeys(layouts.LAYOUTS, _open_real),
}


class Raw:
    """A data set as downloaded."""

    def __init__(self, layout: Layout, root: pathlib.Path, options: ReadOptions):
        self._layout, self._options = layout, options
        self._files = listing.open_files(layout, root)
        self._reader = image_io.Reader(self._files, layout)
        self.open = functools.cache(self._open)  # called for fingerprint and training

    def _open(self, split: str) -> RawSource:
        """Opens a split or list, after a look at the header of every file.

        Raises:
          InputError: an unknown split, nothing in it, or, unless bad examples are to be
            skipped, a pair that cannot be used.
        """
        pairs, bad = self._pairs(split)
        with ThreadPoolExecutor(8) as pool:
            problems = pool.map(self._reader.header_problem, pairs)
            bad |= {p.image: why for p, why in zip(pairs, problems, strict=True) if why}
        if bad:
            first = next(iter(bad.values()))
            if self._options.on_bad_example == "stop":
                raise InputError(str(first))
            which = f"{len(bad)} of {self._layout.name}, {split}"
            print(f"skipped ({which}), first: {first}", file=sys.stderr)
        native = any(
            part.native_labels
            for part in self._layout.parts.values()
            if archives.expression(part.images).fullmatch(pairs[0].image)
        )
        pairs = [pair for pair in pairs if pair.image not in bad]
        return RawSource(pairs, self._reader, self._options, native)

    def _pairs(self, split):
        """Returns the pairs of a split or list, and the errors of files without partner."""
        if split.endswith(listing.LIST_SUFFIX):
            return listing.read_list(split), {}
        part = listing.part_of(self._layout, split)
        found = listing.list_part(self._files, self._layout.parts[part])
        images = [pair.image for pair in found.pairs]
        where = self._files.where("")
        chosen = set(listing.choose(self._layout, split, images, where))
        pairs = [pair for pair in found.pairs if pair.image in chosen]
        others = set(images) - chosen
        problems = {k: v for k, v in found.problems.items() if k not in others}
        labelled = listing.is_labelled(self._layout, part, found)
        return pairs, problems if labelled else {}

    def fingerprint(self, splits: Iterable[str]) -> str:
        """Returns the sha256 of names and sizes of the files, which are not read."""
        text = f"{self._options.size} {self._options.space.name}\n"
        lines = hashlib.sha256(text.encode())
        for split in splits:
            for pair in self.open(split).pairs:
                sizes = [self._files.ends(name)[2] for name in filter(None, pair)]
                lines.update(f"{split} {pair} {sizes}\n".encode())
        return lines.hexdigest()


class RawSource:
    """Records read from the files of a data set; see `records`."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        reader: image_io.Reader,
        options: ReadOptions,
        native_labels: bool,
    ):
        self.pairs, self.reader = pairs, reader
        self.on_bad_example = options.on_bad_example
        self._lut, self._size = options.space.lut, options.size
        self._label_size = None if native_labels else options.size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        pair = self.pairs[index]
        image = self.reader.image(pair.image)
        record = {"image": image_io.resize_image(image, self._size), "id": pair.image}
        if pair.label is not None:
            record["label"] = partial(self._label, pair, image.shape[:2])
            record["lut"] = self._lut
        return record

    def _label(self, pair, image_size):
        label = self.reader.label_of(pair, image_size)
        return image_io.resize_label(label, self._label_size)


class Prepared:
    """A folder that `lsr_jax.data.prepare` wrote."""

    def __init__(self, layout: Layout, folder: pathlib.Path, options: ReadOptions):
        """Reads the manifest.

        Raises:
          InputError: the folder holds another data set, size or id map.
        """
        self._layout, self._folder = layout, folder
        self._command = f"python -m lsr_jax.data.prepare {layout.name}"
        self._names = functools.cache(self._read_names)
        self.manifest = prepared.read_manifest(folder, command=self._command)
        ids = {str(raw): name for raw, name in layout.ids.items()}
        with self._reading():
            stored = self.manifest["size"] and tuple(self.manifest["size"])
            for key, expected in (("dataset", layout.name), ("ids", ids)):
                if (found := self.manifest[key]) != expected:
                    raise InputError(
                        f"{folder}: expected the {key} {expected}, found {found}; "
                        "prepare it again or choose another root"
                    )
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
          InputError: an unknown split, a list that names other images, or a damaged
            folder.
        """
        part, chosen = self._choose(split)
        splits = self.manifest["splits"]
        counts = {name: facts["count"] for name, facts in splits.items()}
        stored = prepared.open_split(
            self._folder, part, command=self._command, counts=counts
        )
        skipped = splits[part]["skipped"]
        names = [name for name in self._names(part) if name not in skipped]
        rows = {name: row for row, name in enumerate(names)}
        chosen = [(rows[name], name) for name in chosen if name in rows]
        return PreparedSource(stored, chosen, self._options, splits[part])

    def fingerprint(self, splits: Iterable[str]) -> str:
        """Returns the sha256 of the content of all records and the choice among them."""
        text = (
            f"{self.manifest['sha256']} {self._options.size} {self._options.space.name}"
        )
        chosen = [(split, self._choose(split)) for split in splits]
        return hashlib.sha256(f"{text} {chosen}".encode()).hexdigest()

    def _choose(self, split):
        """Returns the part a split is taken from, and the names of its images."""
        if not split.endswith(listing.LIST_SUFFIX):
            part = listing.part_of(self._layout, split)
            names = self._names(part)
            return part, listing.choose(self._layout, split, names, self._folder)
        chosen = [pair.image for pair in listing.read_list(split)]
        for part in self.manifest["splits"]:
            known = set(self._names(part))
            if chosen[0] in known:
                break
        for name in chosen:
            if name not in known:
                raise InputError(
                    f"{split}: expected images of one split of {self._folder}, found "
                    f"{name}; correct the list"
                )
        return part, chosen

    def _read_names(self, part):
        """Returns all names of a part, also of skipped images, in order."""
        if part not in self.manifest["splits"]:
            raise InputError(
                f"{self._folder}: expected the split {part!r}, found "
                f"{', '.join(self.manifest['splits'])}; prepare it"
            )
        facts = self.manifest["splits"][part]
        file = prepared.names_file(part)
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


class PreparedSource:
    """Records of a prepared folder; see `records`."""

    def __init__(
        self,
        stored: prepared.StoredSplit,
        rows: Sequence[tuple[int, str]],
        options: ReadOptions,
        facts: Mapping,
    ):
        """Selects records.

        Args:
          stored: all records of the split.
          rows: position and name of the chosen ones.
          options: with the size None if the images have their size already.
          facts: the split's entry in the manifest.
        """
        self.on_bad_example = options.on_bad_example
        self._stored, self._rows, self._size = stored, rows, options.size
        with stored.reading():
            self._lut = options.space.lut if facts["labelled"] else None
            self._label_size = None if facts["native_labels"] else options.size

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict:
        row, name = self._rows[index]
        stored = self._stored[row]
        with self._stored.reading():
            found = stored["id"].decode()
            if found != name:
                raise ValueError(f"{found} in the place of {name}")
        record = {"image": stored["image"], "id": name}
        if self._lut is not None:
            record |= {"label": stored["label"], "lut": self._lut}
        if self._size is not None or not record["image"].startswith(image_io.PNG):
            image = image_io.decode_image(record["image"], name)
            record["image"] = image_io.resize_image(image, self._size)
        if self._size is not None and self._lut is not None:
            record["label"] = partial(self._label, stored["label"], name)
        return record

    def _label(self, data, name):
        label = image_io.decode_label(data, name, "grey")
        return image_io.resize_label(label, self._label_size)

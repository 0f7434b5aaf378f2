"""Data sets read straight from the folders or archives as downloaded.

Slower than prepared records, with the same results: images resized by PIL's bicubic,
labels by PIL's nearest.

Datasets by name: from a config's domain to random-access splits.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from lsr_jax import files, streets
from lsr_jax.data import (
    custom,
    image_io,
    label_spaces,
    layouts,
    prepared,
    processes,
    records,
)
from lsr_jax.data.image_io import BadExample, Pair, Reader, Size
from lsr_jax.data.label_spaces import LabelSpace
from lsr_jax.data.layouts import Layout
from lsr_jax.errors import InputError
from lsr_jax.streets import dataset as streets_dataset

ON_BAD_EXAMPLE = ("stop", "skip")


class Raw:
    """A data set as downloaded."""

    def __init__(
        self,
        layout: Layout,
        root: str | os.PathLike,
        *,
        space: LabelSpace,
        size: Size = None,
        on_bad_example: str = "stop",
    ):
        """Finds the files; see `sources.open_domain` for the arguments.

        Raises:
          InputError: nothing of the kind lies there.
        """
        self._layout = layout
        self._files = custom.open_files(layout, root)
        self._reader = Reader(self._files, layout)
        self._space, self._size, self._on_bad = space, size, on_bad_example
        self._listings: dict[str, custom.Listing] = {}
        self._opened: dict[str, RawSource] = {}

    def open(self, split: str) -> RawSource:
        """One split or list, after a glance at the header of every file.

        Raises:
          InputError: an unknown split, nothing in it, or, unless bad examples are to be
            skipped, a pair that cannot be used.
        """
        if split not in self._opened:
            self._opened[split] = self._open(split)
        return self._opened[split]

    def _open(self, split):
        pairs, bad = self._pairs(split)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            problems = dict(zip(pairs, pool.map(self._glance, pairs), strict=True))
        bad |= {pair.image: why for pair, why in problems.items() if why}
        if bad and self._on_bad == "stop":
            raise InputError(next(iter(bad.values())))
        if bad:
            which = f"{len(bad)} of {self._layout.name}, {split}"
            first = next(iter(bad.values()))
            print(f"skipped ({which}), first: {first}", file=sys.stderr)
        return RawSource(
            [pair for pair in pairs if pair.image not in bad],
            self._reader,
            lut=self._space.lut,
            size=self._size,
            native_labels=self._native_labels(pairs[0]),
            on_bad_example=self._on_bad,
        )

    def _pairs(self, split):
        """The pairs of a split or list, and ``name -> what is wrong`` of lonely files."""
        if custom.is_list(split):
            return custom.read_list(split), {}
        name = custom.part_of(self._layout, split)
        part = self._layout.parts[name]
        if name not in self._listings:
            self._listings[name] = custom.list_part(self._files, part)
        found = self._listings[name]
        if not found.pairs:
            raise InputError(
                f"{self._files.where('')}: expected {part.images} for split {split!r}, "
                "found none; choose another split or add the files"
            )
        images = [pair.image for pair in found.pairs]
        wanted = set(custom.chosen(images, self._layout.subsets.get(split)))
        pairs = [pair for pair in found.pairs if pair.image in wanted]
        if not pairs:
            raise InputError(
                f"{self._files.where('')}: expected images for split {split!r}, found "
                f"none among {len(images)}; choose another split"
            )
        # Without a single label it is an unlabelled split.
        labelled = any(pair.label for pair in found.pairs)
        others = set(images) - wanted
        problems = found.problems.items() if labelled else ()
        return pairs, {name: str(why) for name, why in problems if name not in others}

    def _native_labels(self, pair: Pair) -> bool:
        part = custom.part_of_image(self._layout, pair.image)
        return part is not None and part.native_labels

    def fingerprint(self, splits: Iterable[str]) -> str:
        """sha256 over names and sizes of the files; their content is not read."""
        lines = hashlib.sha256(f"{self._size} {self._space.name}\n".encode())
        for split in splits:
            for pair in self.open(split).pairs:
                sizes = [self._files.ends(name)[2] for name in filter(None, pair)]
                lines.update(f"{split} {pair} {sizes}\n".encode())
        return lines.hexdigest()

    def _glance(self, pair: Pair) -> str | None:
        try:
            self._reader.glance(pair)
        except BadExample as error:
            return str(error)
        return None


class RawSource:
    """Records read from the files of a data set; see `records`."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        reader: Reader,
        *,
        lut: np.ndarray,
        size: Size,
        native_labels: bool,
        on_bad_example: str,
    ):
        self.pairs = pairs
        self.on_bad_example = on_bad_example
        self._reader, self._lut, self._size = reader, lut, size
        self._label_size = None if native_labels else size

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        pair = self.pairs[index]
        image = self._reader.image(pair.image)
        record = {
            "image": image_io.resize_image(image, self._size),
            "id": pair.image,
        }
        if pair.label is not None:
            record["label"] = partial(self._label, pair, image.shape[:2])
            record["lut"] = self._lut
        return record

    def _label(self, pair, image_size):
        label = self._reader.label_of(pair, image_size)
        return image_io.resize_label(label, self._label_size)


class Domain(NamedTuple):
    """One domain of a benchmark, ready to read.

    Attributes:
      open: ``split name -> source``; a source has ``len()`` and ``[i]`` gives a record.
      fingerprint: sha256 of what the splits hold, for the run's manifest.
      space: the classes that its labels are mapped to.
    """

    open: Callable[[str], Sequence]
    fingerprint: str
    space: LabelSpace


def open_domain(spec: Mapping) -> Domain:
    """The domain that a config's ``data.source`` or ``data.target`` describes.

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


def open_domains(data: Mapping, *, num_classes: int) -> dict[str, Domain]:
    """Source and target of a config's ``data``.

    Raises:
      InputError: see `open_domain`; or the two and the network differ in their classes.
    """
    domains = {name: open_domain(data[name]) for name in ("source", "target")}
    source, target = (domain.space for domain in domains.values())
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


def label_space(spec: Mapping, layout: Layout) -> LabelSpace:
    """The classes that ``spec["space"]`` names, for the ids of a data set.

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
    if layout.spaces:
        return label_spaces.SPACES[name]
    space = label_spaces.SPACES[name]
    own = sorted(set(layout.ids.values()))
    if not set(own) & set(space.classes):
        raise InputError(
            f"data space of {layout.name}: expected some classes of {name}, found "
            f"{', '.join(own)}; set the space to '' to learn these"
        )
    return label_spaces.make_space(name, layout.ids, space.classes)


def _open_real(spec: Mapping) -> Domain:
    """Prepared records where there are some, else the folders as downloaded."""
    layout = custom.find_layout(spec["name"])
    root = files.expanded(spec["root"], key="data root")
    size = tuple(spec["size"]) if any(spec["size"]) else None
    options = {
        "space": label_space(spec, layout),
        "size": size,
        "on_bad_example": spec["on_bad_example"],
    }
    folder = prepared.find_prepared(root, layout, size)
    if folder:
        dataset = prepared.Prepared(layout, folder, **options)
    else:
        dataset = Raw(layout, root, **options)

    def open_split(split: str) -> Sequence:
        opened = [dataset.open(part) for part in split.split("+")]
        return opened[0] if len(opened) == 1 else records.Joined(opened)

    splits = [*spec["train"].split("+"), *spec["val"].split("+")]
    return Domain(open_split, dataset.fingerprint(splits), options["space"])


def _streets(look: str) -> Callable[[Mapping], Domain]:
    """Drawn on first use into the cache folder, read from there ever after."""

    def open_streets(spec: Mapping) -> Domain:
        preset = spec["preset"]
        if preset not in streets.PRESETS:
            raise InputError(
                f"data preset: expected one of {', '.join(streets.PRESETS)}, "
                f"found {preset!r}"
            )
        _check_drawn(spec, streets.PRESETS[preset].size)
        folder = streets_dataset.prepare(
            streets.PRESETS[preset],
            data_dir=spec["root"] or None,
            workers=processes.cores(),
        )
        return Domain(
            open=lambda split: streets_dataset.open_split(folder, f"{look}_{split}"),
            fingerprint=streets_dataset.read_manifest(folder)["sha256"],
            space=label_spaces.SPACES["streets"],
        )

    return open_streets


def _check_drawn(spec: Mapping, size: tuple[int, int]) -> None:
    """Raise InputError for keys of a domain that say what the drawn images are not."""
    drawn = {
        "size": ((0, 0), tuple(size)),
        "space": ("", "streets"),
        "on_bad_example": ("stop",),
    }
    for key, allowed in drawn.items():
        found = tuple(spec[key]) if key == "size" else spec[key]
        if found not in allowed:
            raise InputError(
                f"data {key}: expected {' or '.join(map(repr, allowed))} for the drawn "
                f"images of {spec['name']}, preset {spec['preset']}; found {found!r}"
            )


DATASETS: dict[str, Callable[[Mapping], Domain]] = {
    "streets_rendered": _streets("rendered"),
    "streets_camera": _streets("camera"),
    **dict.fromkeys(layouts.LAYOUTS, _open_real),
}

"""Datasets by name: from a config's domain to random-access splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lsr_jax import paths
from lsr_jax.data import (
    description,
    labels,
    layouts,
    prepared,
    processes,
    raw,
    records,
    streets,
)
from lsr_jax.data.labels import LabelSpace
from lsr_jax.data.layouts import Layout
from lsr_jax.data.streets import builder
from lsr_jax.errors import InputError


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
    if spec["on_bad_example"] not in raw.ON_BAD_EXAMPLE:
        raise InputError(
            f"data on_bad_example: expected {' or '.join(raw.ON_BAD_EXAMPLE)}, found "
            f"{spec['on_bad_example']!r}"
        )
    if name not in DATASETS and not name.endswith(description.SUFFIX):
        raise InputError(
            f"data name: expected one of {', '.join(DATASETS)} or a description of your "
            f"own data, FILE{description.SUFFIX}, found {name!r}"
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
        return labels.make_space(layout.name, layout.ids, layout.classes, layout.colors)
    known = layout.spaces or tuple(labels.SPACES)
    if name not in known:
        raise InputError(
            f"data space of {layout.name}: expected one of {', '.join(known)}, found "
            f"{name!r}"
        )
    if layout.spaces:
        return labels.SPACES[name]
    space = labels.SPACES[name]
    own = sorted(set(layout.ids.values()))
    if not set(own) & set(space.classes):
        raise InputError(
            f"data space of {layout.name}: expected some classes of {name}, found "
            f"{', '.join(own)}; set the space to '' to learn these"
        )
    return labels.make_space(name, layout.ids, space.classes)


def _open_real(spec: Mapping) -> Domain:
    """Prepared records where there are some, else the folders as downloaded."""
    layout = description.find_layout(spec["name"])
    root = paths.expanded(spec["root"], key="data root")
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
        dataset = raw.Raw(layout, root, **options)

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
        folder = builder.prepare(
            streets.PRESETS[preset],
            data_dir=spec["root"] or None,
            workers=processes.cores(),
        )
        return Domain(
            open=lambda split: builder.open_split(folder, f"{look}_{split}"),
            fingerprint=builder.read_manifest(folder)["sha256"],
            space=labels.SPACES["streets"],
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

"""Datasets by name: from a config's domain to random-access splits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from lsr_jax.data import streets
from lsr_jax.data.streets import builder
from lsr_jax.errors import InputError


class Domain(NamedTuple):
    """One domain of a benchmark, ready to read.

    Attributes:
      open: ``split name -> source``; a source has ``len()`` and ``[i]`` gives a record.
      fingerprint: sha256 of what the splits hold, for the run's manifest.
    """

    open: Callable[[str], Sequence]
    fingerprint: str


def open_domain(spec: Mapping) -> Domain:
    """The domain that a config's ``data.source`` or ``data.target`` describes.

    Raises:
      InputError: unknown name, missing folder, unreadable data.
    """
    name = spec["name"]
    if name not in DATASETS:
        raise InputError(
            f"data name: expected one of {', '.join(DATASETS)}, found {name!r}"
        )
    return DATASETS[name](spec)


def _streets(look: str) -> Callable[[Mapping], Domain]:
    """Drawn on first use into the cache folder, read from there ever after."""

    def open_streets(spec: Mapping) -> Domain:
        preset = spec["preset"]
        if preset not in streets.PRESETS:
            raise InputError(
                f"data preset: expected one of {', '.join(streets.PRESETS)}, "
                f"found {preset!r}"
            )
        folder = builder.prepare(
            streets.PRESETS[preset],
            data_dir=spec["root"] or None,
            workers=len(os.sched_getaffinity(0)),
        )
        return Domain(
            open=lambda split: builder.open_split(folder, f"{look}_{split}"),
            fingerprint=builder.read_manifest(folder)["sha256"],
        )

    return open_streets


DATASETS: dict[str, Callable[[Mapping], Domain]] = {
    "streets_rendered": _streets("rendered"),
    "streets_camera": _streets("camera"),
}

"""Presets of the benchmark: domain shift, object sizes, image size, counts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

from lsr_jax import errors
from lsr_jax.streets.looks import Knobs
from lsr_jax.streets.scene import PROPORTIONS


class Counts(NamedTuple):
    """Number of images of each split; the field names are the split names."""

    rendered_train: int
    rendered_val: int
    camera_train: int
    camera_val: int
    camera_test: int


SPLITS = Counts._fields


def domain_and_part(split: str) -> tuple[str, str]:
    """Splits ``"camera_val"`` into ``("camera", "val")``."""
    domain, _, part = split.partition("_")
    return domain, part


@dataclass(frozen=True)
class Preset:
    """One fixed benchmark.

    Attributes:
      name: used in folder names and on the command line.
      size: ``(H, W)`` in pixels.
      knobs: how far the camera domain is shifted; the rendered domain never is.
      proportions: key of `PROPORTIONS`, the same for both domains.
      counts: images of each split.
      seed: another seed gives other scenes in every split.

    Raises:
      InputError: a value is out of range.
    """

    name: str
    size: tuple[int, int]
    knobs: Knobs
    proportions: str
    counts: Counts
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 32:
            _reject("size", "(height, width) of at least 32 pixels", self.size)
        if self.proportions not in PROPORTIONS:
            _reject("proportions", " or ".join(PROPORTIONS), self.proportions)
        if min(self.counts) < 1:
            _reject("counts", "at least one image a split", tuple(self.counts))
        for name, value in asdict(self.knobs).items():
            if not (math.isfinite(value) and 0 <= value <= 2):
                _reject(f"knobs.{name}", "a number from 0 to 2", value)


def _reject(field: str, expected: str, found: object) -> None:
    raise errors.InputError(
        f"streets preset, {field}: expected {expected}, found {found}; change it"
    )


DEFAULT_SHIFT = Knobs(appearance=1.25, photometry=0.5, geometry=1.0)

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="streets",
            size=(96, 192),
            knobs=DEFAULT_SHIFT,
            proportions="enlarged",
            counts=Counts(3000, 300, 2000, 300, 300),
        ),
        # Tone and optics alone, on the same kind of scenes: the shift that BatchNorm
        # statistics of the target repair.
        Preset(
            name="photometric",
            size=(96, 192),
            knobs=Knobs(appearance=0.0, photometry=1.0, geometry=0.0),
            proportions="enlarged",
            counts=Counts(3000, 300, 2000, 300, 300),
        ),
        # 2.7 times the pixels a side, so small things are resolved at ordinary size.
        Preset(
            name="large",
            size=(256, 512),
            knobs=DEFAULT_SHIFT,
            proportions="ordinary",
            counts=Counts(6000, 500, 4000, 500, 500),
        ),
        Preset(
            name="tiny",
            size=(64, 128),
            knobs=DEFAULT_SHIFT,
            proportions="enlarged",
            counts=Counts(48, 16, 48, 16, 16),
        ),
    )
}

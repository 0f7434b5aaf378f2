"""A benchmark of two domains, drawn instead of downloaded.

Street scenes with the 19 Cityscapes classes, seen by a pin-hole camera: `rendered` is
the labelled source domain, `camera` the target domain. An image depends only on its
domain, part, index and the preset.
"""

from __future__ import annotations

import operator
import random
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from lsr_jax.errors import InputError
from lsr_jax.streets import layout, scene, shading
from lsr_jax.streets.looks import Knobs, look, wide_look
from lsr_jax.streets.scene import PROPORTIONS

__all__ = ["DOMAINS", "PARTS", "PRESETS", "SPLITS", "Counts", "Knobs", "Preset", "draw"]

DOMAINS = ("rendered", "camera")
PARTS = ("train", "val", "test")


class Counts(NamedTuple):
    """Number of images of each split; the field names are the split names."""

    rendered_train: int
    rendered_val: int
    camera_train: int
    camera_val: int
    camera_test: int


SPLITS = Counts._fields


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
      wide: whether each image of the rendered domain draws its own look and proportions
        from ranges that contain those of both domains (domain randomisation).

    Raises:
      InputError: a value is out of range.
    """

    name: str
    size: tuple[int, int]
    knobs: Knobs
    proportions: str
    counts: Counts
    seed: int = 0
    wide: bool = False

    def __post_init__(self) -> None:
        sized = len(self.size) == 2 and min(self.size) >= 32
        checks = [
            ("size", sized, "(height, width) of at least 32 pixels"),
            ("proportions", self.proportions in PROPORTIONS, " or ".join(PROPORTIONS)),
            ("counts", min(self.counts) >= 1, "at least one image a split"),
        ]
        for name, value in asdict(self.knobs).items():
            # The comparison is false for NaN.
            checks.append((f"knobs.{name}", 0 <= value <= 2, "a number from 0 to 2"))
        for field, valid, expected in checks:
            if not valid:
                found = operator.attrgetter(field)(self)
                raise InputError(
                    f"streets preset, {field}: expected {expected}, found {found}"
                )


_SHIFT = Knobs(appearance=1.25, photometry=0.5, geometry=1.0)
_COUNTS = Counts(3000, 300, 2000, 300, 300)
_TINY = Counts(48, 16, 48, 16, 16)
_LARGE = Counts(6000, 500, 4000, 500, 500)
_WIDE = Counts(6000, 300, 600, 100, 100)
PRESETS = {
    preset.name: preset
    for preset in (
        Preset("streets", (96, 192), _SHIFT, "enlarged", _COUNTS),
        # Tone and optics alone, on the same kind of scenes: the shift that BatchNorm
        # statistics of the target repair.
        Preset("photometric", (96, 192), Knobs(photometry=1.0), "enlarged", _COUNTS),
        # 2.7 times the pixels a side, so small things are resolved at ordinary size.
        Preset("large", (256, 512), _SHIFT, "ordinary", _LARGE),
        # Of the shape of CamVid's photographs.
        Preset("wide", (144, 192), _SHIFT, "ordinary", _WIDE, wide=True),
        Preset("tiny", (64, 128), _SHIFT, "enlarged", _TINY),
    )
}


def draw(
    index: int,
    *,
    domain: str,
    split: str,
    preset: Preset = PRESETS["streets"],
    size: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one image and its label.

    Args:
      index: any number from 0; the counts of the preset are no limit.
      domain: "rendered" or "camera"; only the latter is shifted by the preset's knobs,
        and only the former is randomised.
      split: "train", "val" or "test".
      preset: what to draw.
      size: ``(H, W)``, by default that of the preset. The scene stays the same.

    Returns:
      image: uint8 RGB ``[H, W, 3]``.
      label: uint8 ``[H, W]``, trainIds, 255 = ignore.

    Raises:
      ValueError: no such index, domain or split.
    """
    if domain not in DOMAINS or split not in PARTS or index < 0:
        raise ValueError(f"no image {index} in domain {domain!r}, split {split!r}")
    # The seed spells the arguments out, so no two of them share a stream of numbers.
    rng = random.Random(f"streets {preset.seed} {domain} {split} {index}")
    if preset.wide and domain == "rendered":
        chosen = wide_look(rng)
        proportions = rng.choice(list(PROPORTIONS.values()))
    else:
        chosen = look(preset.knobs if domain == "camera" else Knobs())
        proportions = PROPORTIONS[preset.proportions]
    drawing = scene.Scene(rng, chosen, proportions, size or preset.size)
    layout.compose(drawing)
    return shading.shade(drawing)

"""The line from the rendered look to the camera look, and the points on it.

A knob of 0 takes the rendered value of a table row, 1 the camera value; values between
and above go along the same line: ``first + (second - first) * knob``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lsr_jax.data.labels import TRAIN_ID
from lsr_jax.data.streets import looks

Rgb = tuple[float, float, float]
Range = tuple[float, float]


@dataclass(frozen=True)
class Knobs:
    """How far the camera domain lies from the rendered one, factor by factor.

    Attributes:
      appearance: colours and texture of each class, pavement tiles, window contrast.
      photometry: light, exposure, tone, haze, blur, noise, vignetting.
      geometry: camera pose, street layout, how often which object occurs, bonnet.
    """

    appearance: float = 0.0
    photometry: float = 0.0
    geometry: float = 0.0


@dataclass(frozen=True, eq=False)
class Look:
    """One point on the line from rendered to camera.

    Attributes:
      palette: class name -> colour modes, RGB in 0..1 (beyond by extrapolation).
      texture: ``[256, 2]`` float32, amplitudes by trainId, zero for the ignore label.
      tone: ranges of `looks.APPEARANCE` and looks.PHOTOMETRY.
      geometry: ranges of `looks.GEOMETRY`.
      probability: of `looks.PROBABILITY`, within 0..1.
    """

    palette: Mapping[str, tuple[Rgb, ...]]
    texture: np.ndarray
    tone: Mapping[str, Range]
    geometry: Mapping[str, Range]
    probability: Mapping[str, float]


@functools.cache
def look(knobs: Knobs) -> Look:
    """The look at `knobs`; ``Knobs()`` is the rendered domain."""
    texture = np.zeros((256, 2), np.float32)
    for name, pair in looks.TEXTURE.items():
        texture[TRAIN_ID[name]] = np.maximum(_mix(*pair, knobs.appearance), 0)
    return Look(
        palette={
            name: tuple(
                tuple(value / 255 for value in _mix(first, second, knobs.appearance))
                for first, second in zip(*modes, strict=True)
            )
            for name, modes in looks.PALETTE.items()
        },
        texture=texture,
        tone=_ranges(looks.PHOTOMETRY, knobs.photometry)
        | _ranges(looks.APPEARANCE, knobs.appearance),
        geometry=_ranges(looks.GEOMETRY, knobs.geometry),
        probability={
            name: min(1.0, max(0.0, first + (second - first) * knobs.geometry))
            for name, (first, second) in looks.PROBABILITY.items()
        },
    )


def _mix(first, second, knob: float) -> tuple[float, ...]:
    return tuple(a + (b - a) * knob for a, b in zip(first, second, strict=True))


def _ranges(table, knob: float) -> dict[str, Range]:
    return {name: _mix(*pair, knob) for name, pair in table.items()}

"""The two looks of the world, side by side, as data.

Every row holds the value of the rendered domain first, that of the camera domain
second. Pairs ``(low, high)`` are ranges from which each image draws.

The line from the rendered look to the camera look, and the points on it.

A knob of 0 takes the rendered value of a table row, 1 the camera value; values between
and above go along the same line: ``first + (second - first) * knob``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lsr_jax.data.label_spaces import TRAIN_ID

# 8-bit RGB modes; a class has as many in both looks, so that they can be interpolated.
PALETTE = {
    "road": (
        ((92, 92, 98), (78, 80, 88), (110, 106, 104)),
        ((118, 116, 112), (104, 102, 100), (132, 128, 120)),
    ),
    "sidewalk": (
        ((176, 172, 164), (190, 182, 168), (150, 148, 146)),
        ((140, 134, 126), (150, 138, 126), (124, 120, 114)),
    ),
    "building": (
        (
            (196, 160, 120),
            (172, 106, 82),
            (210, 200, 186),
            (120, 130, 148),
            (160, 140, 116),
            (226, 206, 160),
        ),
        (
            (166, 154, 136),
            (140, 112, 98),
            (182, 176, 164),
            (112, 112, 110),
            (190, 176, 140),
            (148, 136, 124),
        ),
    ),
    "wall": (
        ((168, 156, 140), (140, 136, 134), (186, 150, 120)),
        ((132, 126, 116), (112, 108, 102), (140, 116, 100)),
    ),
    "fence": (
        ((120, 124, 130), (96, 84, 70), (170, 170, 170)),
        ((84, 90, 84), (110, 96, 80), (124, 124, 120)),
    ),
    "pole": (
        ((86, 90, 94), (120, 122, 122), (60, 62, 60)),
        ((112, 114, 112), (84, 88, 84), (138, 138, 134)),
    ),
    "light": (
        ((44, 46, 40), (150, 120, 30)),
        ((58, 62, 54), (44, 52, 44)),
    ),
    "sign": (
        ((30, 120, 70), (215, 215, 215), (200, 160, 30)),
        ((40, 80, 160), (205, 205, 200), (190, 60, 50)),
    ),
    "vegetation": (
        ((96, 124, 48), (120, 132, 60), (74, 104, 44)),
        ((62, 84, 52), (82, 98, 62), (48, 66, 46)),
    ),
    "terrain": (
        ((170, 150, 100), (132, 140, 70), (150, 128, 90)),
        ((104, 116, 72), (92, 104, 66), (120, 112, 86)),
    ),
    "sky": (
        ((110, 165, 230), (140, 185, 235), (190, 190, 200)),
        ((214, 222, 226), (232, 234, 232), (188, 204, 220)),
    ),
    "person": (
        ((180, 60, 50), (60, 80, 150), (210, 200, 180), (70, 66, 60), (110, 130, 80)),
        ((70, 70, 80), (52, 54, 66), (110, 104, 100), (140, 60, 56), (84, 96, 120)),
    ),
    "rider": (
        ((40, 40, 44), (150, 40, 40), (60, 80, 130), (190, 180, 160)),
        ((60, 62, 72), (90, 90, 96), (120, 70, 60), (74, 86, 110)),
    ),
    "car": (
        (
            (170, 30, 30),
            (40, 60, 120),
            (225, 225, 225),
            (40, 40, 44),
            (160, 160, 165),
            (210, 170, 50),
        ),
        (
            (120, 40, 40),
            (48, 54, 76),
            (196, 198, 198),
            (46, 48, 50),
            (136, 138, 140),
            (90, 96, 104),
        ),
    ),
    "truck": (
        ((220, 216, 208), (180, 60, 40), (60, 90, 120), (200, 170, 90)),
        ((188, 188, 184), (120, 70, 60), (80, 96, 110), (160, 150, 110)),
    ),
    "bus": (
        ((210, 200, 190), (60, 100, 170), (230, 180, 60)),
        ((190, 186, 178), (150, 60, 54), (196, 176, 90)),
    ),
    "train": (
        ((150, 150, 160), (170, 50, 44), (90, 100, 120)),
        ((176, 170, 150), (176, 60, 52), (84, 110, 104)),
    ),
    "motorcycle": (
        ((40, 40, 46), (160, 40, 36), (60, 70, 110)),
        ((50, 52, 56), (96, 50, 48), (70, 76, 90)),
    ),
    "bicycle": (
        ((60, 60, 66), (140, 60, 50), (60, 90, 130)),
        ((70, 72, 74), (96, 70, 64), (74, 84, 96)),
    ),
}

# Amplitude of (fine, coarse) texture, relative to the colour.
TEXTURE = {
    "road": ((0.05, 0.06), (0.11, 0.12)),
    "sidewalk": ((0.05, 0.05), (0.13, 0.10)),
    "building": ((0.04, 0.06), (0.12, 0.14)),
    "wall": ((0.05, 0.06), (0.14, 0.14)),
    "fence": ((0.04, 0.04), (0.10, 0.08)),
    "pole": ((0.03, 0.03), (0.08, 0.06)),
    "light": ((0.03, 0.03), (0.08, 0.06)),
    "sign": ((0.03, 0.03), (0.06, 0.06)),
    "vegetation": ((0.30, 0.22), (0.45, 0.40)),
    "terrain": ((0.16, 0.16), (0.30, 0.26)),
    "sky": ((0.00, 0.05), (0.00, 0.03)),
    "person": ((0.05, 0.05), (0.14, 0.14)),
    "rider": ((0.05, 0.05), (0.14, 0.14)),
    "car": ((0.03, 0.05), (0.07, 0.12)),
    "truck": ((0.03, 0.05), (0.07, 0.12)),
    "bus": ((0.03, 0.05), (0.07, 0.12)),
    "train": ((0.03, 0.05), (0.07, 0.12)),
    "motorcycle": ((0.08, 0.06), (0.14, 0.10)),
    "bicycle": ((0.08, 0.06), (0.14, 0.10)),
}

APPEARANCE = {
    "colour_jitter": ((0.10, 0.10), (0.12, 0.12)),
    "tile": ((1.2, 1.8), (0.35, 0.6)),  # side of a pavement slab, metres
    "glass": ((0.10, 0.30), (0.22, 0.45)),  # brightness of window panes
}

PHOTOMETRY = {
    "sun": ((0.25, 0.65), (0.0, 0.25)),  # contrast of lit and unlit faces
    "shadow": ((0.40, 0.65), (0.68, 0.92)),  # factor on shaded ground
    "exposure": ((0.80, 1.15), (0.72, 1.02)),
    "contrast": ((1.0, 1.25), (0.80, 1.0)),
    "gamma": ((0.95, 1.15), (0.85, 1.05)),
    "saturation": ((1.0, 1.35), (0.55, 0.85)),
    "red": ((0.98, 1.10), (0.90, 1.0)),  # channel gains
    "green": ((0.95, 1.03), (0.97, 1.05)),
    "blue": ((0.88, 1.02), (0.92, 1.04)),
    "haze": ((0.0005, 0.004), (0.002, 0.008)),  # extinction, 1/metre
    "blur": ((0.01, 0.45), (0.55, 1.0)),  # Gaussian sigma, pixels of a 256-wide image
    "noise": ((0.0, 0.008), (0.010, 0.022)),
    "vignette": ((0.0, 0.05), (0.10, 0.30)),
    "lift": ((0.0, 0.02), (0.02, 0.05)),  # added to every pixel: black is not black
}

# Metres, unless the comment says otherwise.
GEOMETRY = {
    "camera_height": ((1.3, 2.2), (1.2, 1.4)),
    "horizon": ((0.38, 0.52), (0.40, 0.47)),  # fraction of the image height
    "focal": ((0.80, 1.05), (0.98, 1.10)),  # fraction of the image width
    "vanishing": ((0.38, 0.62), (0.42, 0.58)),  # fraction of the image width
    "roll": ((-0.02, 0.02), (-0.01, 0.01)),  # slope of the horizon
    "road_left": ((4.5, 11.0), (3.2, 7.0)),
    "road_right": ((2.6, 6.0), (2.2, 4.2)),
    "pavement": ((1.8, 4.5), (1.6, 4.0)),
    "building_height": ((5.0, 26.0), (7.0, 18.0)),
    "window_pitch": ((2.2, 4.5), (1.8, 3.2)),
    "cars": ((1.0, 6.0), (2.0, 7.0)),  # counts, the fraction is cut off
    "persons": ((0.0, 4.0), (1.0, 6.0)),
    "poles": ((2.0, 5.0), (3.0, 7.0)),
}

PROBABILITY = {
    "bonnet": (0.0, 1.0),
    "truck": (0.28, 0.16),
    "bus": (0.18, 0.14),
    "train": (0.14, 0.12),
    "cyclist": (0.22, 0.40),
    "motorcyclist": (0.26, 0.16),
    "parked_bicycle": (0.15, 0.35),
    "parked_motorcycle": (0.15, 0.12),
    "building": (0.46, 0.52),  # what stands in one stretch of the roadside:
    "hedge": (0.14, 0.24),  # these four, nothing for the rest
    "wall": (0.12, 0.07),
    "fence": (0.12, 0.09),
    "trees": (0.35, 0.60),
    "crossroad": (0.25, 0.20),
    "lane_marks": (0.90, 0.60),
}


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
    for name, pair in TEXTURE.items():
        texture[TRAIN_ID[name]] = np.maximum(_mix(*pair, knobs.appearance), 0)
    return Look(
        palette={
            name: tuple(
                tuple(value / 255 for value in _mix(first, second, knobs.appearance))
                for first, second in zip(*modes, strict=True)
            )
            for name, modes in PALETTE.items()
        },
        texture=texture,
        tone=_ranges(PHOTOMETRY, knobs.photometry)
        | _ranges(APPEARANCE, knobs.appearance),
        geometry=_ranges(GEOMETRY, knobs.geometry),
        probability={
            name: min(1.0, max(0.0, first + (second - first) * knobs.geometry))
            for name, (first, second) in PROBABILITY.items()
        },
    )


def _mix(first, second, knob: float) -> tuple[float, ...]:
    return tuple(a + (b - a) * knob for a, b in zip(first, second, strict=True))


def _ranges(table, knob: float) -> dict[str, Range]:
    return {name: _mix(*pair, knob) for name, pair in table.items()}

"""The look of both domains as tables, and the interpolation between them.

A row holds the value of the rendered domain, then that of the camera domain. Pairs
``(low, high)`` are ranges from which each image draws. A knob of 0 takes the rendered
value of a row, 1 the camera value, others ``first + (second - first) * knob``.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lsr_jax.data.label_spaces import TRAIN_ID

# RGB modes in hexadecimal; a class has as many in both looks, so that they can be
# interpolated.
PALETTE = {
    "road": ("5c5c62 4e5058 6e6a68", "767470 686664 848078"),
    "sidewalk": ("b0aca4 beb6a8 969492", "8c867e 968a7e 7c7872"),
    "building": (
        "c4a078 ac6a52 d2c8ba 788294 a08c74 e2cea0",
        "a69a88 8c7062 b6b0a4 70706e beb08c 94887c",
    ),
    "wall": ("a89c8c 8c8886 ba9678", "847e74 706c66 8c7464"),
    "fence": ("787c82 605446 aaaaaa", "545a54 6e6050 7c7c78"),
    "pole": ("565a5e 787a7a 3c3e3c", "707270 545854 8a8a86"),
    "light": ("2c2e28 96781e", "3a3e36 2c342c"),
    "sign": ("1e7846 d7d7d7 c8a01e", "2850a0 cdcdc8 be3c32"),
    "vegetation": ("607c30 78843c 4a682c", "3e5434 52623e 30422e"),
    "terrain": ("aa9664 848c46 96805a", "687448 5c6842 787056"),
    "sky": ("6ea5e6 8cb9eb bebec8", "d6dee2 e8eae8 bcccdc"),
    "person": (
        "b43c32 3c5096 d2c8b4 46423c 6e8250",
        "464650 343642 6e6864 8c3c38 546078",
    ),
    "rider": ("28282c 962828 3c5082 beb4a0", "3c3e48 5a5a60 78463c 4a566e"),
    "car": (
        "aa1e1e 283c78 e1e1e1 28282c a0a0a5 d2aa32",
        "782828 30364c c4c6c6 2e3032 888a8c 5a6068",
    ),
    "truck": ("dcd8d0 b43c28 3c5a78 c8aa5a", "bcbcb8 78463c 50606e a0966e"),
    "bus": ("d2c8be 3c64aa e6b43c", "bebab2 963c36 c4b05a"),
    "train": ("9696a0 aa322c 5a6478", "b0aa96 b03c34 546e68"),
    "motorcycle": ("28282e a02824 3c466e", "323438 603230 464c5a"),
    "bicycle": ("3c3c42 8c3c32 3c5a82", "46484a 604640 4a5460"),
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
    **dict.fromkeys(("person", "rider"), ((0.05, 0.05), (0.14, 0.14))),
    **dict.fromkeys(("car", "truck", "bus", "train"), ((0.03, 0.05), (0.07, 0.12))),
    **dict.fromkeys(("motorcycle", "bicycle"), ((0.08, 0.06), (0.14, 0.10))),
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
    "building": (0.46, 0.52),  # one stretch of the roadside has one of
    "hedge": (0.14, 0.24),  # these four, nothing for the rest
    "wall": (0.12, 0.07),
    "fence": (0.12, 0.09),
    "trees": (0.35, 0.60),
    "crossroad": (0.25, 0.20),
    "lane_marks": (0.90, 0.60),
}

# Domain randomisation: each image draws its knobs from the first line, and from the others
# in place of the ranges above. Set once, by comparing drawings with street photographs.
WIDE_KNOBS = (0.0, 1.5)
WIDE_TONE = {
    "colour_jitter": (0.05, 0.40),
    "exposure": (0.40, 1.35),
    "contrast": (0.80, 1.50),
    "gamma": (0.80, 1.25),
    "saturation": (0.30, 1.30),
    "red": (0.88, 1.12),
    "green": (0.92, 1.08),
    "blue": (0.88, 1.12),
    "haze": (0.0005, 0.010),
    "blur": (0.01, 1.0),
    "noise": (0.0, 0.025),
    "vignette": (0.0, 0.30),
}
WIDE_GEOMETRY = {
    "camera_height": (1.0, 2.4),
    "horizon": (0.32, 0.58),
    "focal": (0.65, 1.25),
    "vanishing": (0.30, 0.70),
    "roll": (-0.03, 0.03),
    "road_left": (2.5, 12.0),
    "road_right": (2.0, 8.0),
    "pavement": (0.8, 5.0),
    "building_height": (4.0, 28.0),
    "cars": (0.0, 10.0),
    "persons": (0.0, 6.0),
    "poles": (1.0, 8.0),
}


Rgb = tuple[float, float, float]
Range = tuple[float, float]


@dataclass(frozen=True)
class Knobs:
    """Distance of the camera domain from the rendered one, factor by factor.

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
    """The tables at given knobs.

    Attributes:
      palette: class name -> colour modes, RGB in 0..1 (beyond by extrapolation).
      texture: ``[256, 2]`` float32, amplitudes by trainId, zero for the ignore label.
      tone: ranges of `APPEARANCE` and `PHOTOMETRY`.
      geometry: ranges of `GEOMETRY`.
      probability: of `PROBABILITY`, within 0..1.
    """

    palette: Mapping[str, tuple[Rgb, ...]]
    texture: np.ndarray
    tone: Mapping[str, Range]
    geometry: Mapping[str, Range]
    probability: Mapping[str, float]


def wide_look(rng: random.Random) -> Look:
    """Draws the look of one image of a randomised domain."""
    drawn = _look(Knobs(*(rng.uniform(*WIDE_KNOBS) for _ in range(3))))
    return replace(
        drawn, tone=drawn.tone | WIDE_TONE, geometry=drawn.geometry | WIDE_GEOMETRY
    )


@functools.cache
def look(knobs: Knobs) -> Look:
    """Returns the look at `knobs`; ``Knobs()`` is the rendered domain."""
    return _look(knobs)


def _look(knobs: Knobs) -> Look:
    texture = np.zeros((256, 2), np.float32)
    for name, pair in TEXTURE.items():
        texture[TRAIN_ID[name]] = np.maximum(_mix(*pair, knobs.appearance), 0)
    palette = {}
    for name, modes in PALETTE.items():
        first, second = ([bytes.fromhex(c) for c in text.split()] for text in modes)
        palette[name] = tuple(
            tuple(value / 255 for value in _mix(a, b, knobs.appearance))
            for a, b in zip(first, second, strict=True)
        )
    tone = _ranges(PHOTOMETRY, knobs.photometry) | _ranges(APPEARANCE, knobs.appearance)
    probability = {
        name: min(1.0, max(0.0, first + (second - first) * knobs.geometry))
        for name, (first, second) in PROBABILITY.items()
    }
    return Look(palette, texture, tone, _ranges(GEOMETRY, knobs.geometry), probability)


def _mix(first, second, knob: float) -> tuple[float, ...]:
    return tuple(a + (b - a) * knob for a, b in zip(first, second, strict=True))


def _ranges(table, knob: float) -> dict[str, Range]:
    return {name: _mix(*pair, knob) for name, pair in table.items()}

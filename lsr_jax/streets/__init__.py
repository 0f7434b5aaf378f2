"""A benchmark of two domains, drawn instead of downloaded.

Street scenes with the 19 Cityscapes classes, seen by a pin-hole camera: `rendered` is
the labelled source domain, `camera` the target domain. An image depends only on its
domain, part, index and the preset.
"""

from __future__ import annotations

import random

import numpy as np

from lsr_jax.streets import layout, scene, shading
from lsr_jax.streets.looks import Knobs, look
from lsr_jax.streets.presets import PRESETS, SPLITS, Counts, Preset
from lsr_jax.streets.scene import PROPORTIONS

__all__ = ["DOMAINS", "PARTS", "PRESETS", "SPLITS", "Counts", "Knobs", "Preset", "draw"]

DOMAINS = ("rendered", "camera")
PARTS = ("train", "val", "test")


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
      domain: "rendered" or "camera"; only the latter is shifted by the preset's knobs.
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
    knobs = preset.knobs if domain == "camera" else Knobs()
    proportions = PROPORTIONS[preset.proportions]
    drawing = scene.Scene(rng, look(knobs), proportions, size or preset.size)
    layout.compose(drawing)
    return shading.shade(drawing)

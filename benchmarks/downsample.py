"""Histogram-aware label downsampling: ours against a numpy loop over windows.

    python -m benchmarks.downsample            a 1280x720 label to 161x91 cells
    python -m benchmarks.downsample --quick    the same with fewer repeats

The numpy loop computes one histogram per window, as a data loader would. The two alternate in
one process, and their labels have to be equal. On a CPU both use the same cores.
"""

from __future__ import annotations

import functools

import jax
import numpy as np

from benchmarks import steps, timing
from lsr_jax import models
from lsr_jax.ops import pseudo_labels
from lsr_jax.training import sharding
from lsr_jax.types import IGNORE

HEADER = ("implementation", "ms [quartiles]", "ratio [quartiles]", "")
TARGETS = {"cpu": 6.0, "gpu": 100.0}


def main(arguments: list[str] | None = None) -> dict:
    """Measure and print."""
    parser = timing.parser(__doc__, repeats=30)
    parser.prog = "python -m benchmarks.downsample"
    parser.add_argument("--size", type=timing.size, default=(720, 1280))
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats = min(options.repeats, 7)
    sharding.share_cpu(options.cpu_devices)
    size = models.BACKBONES["resnet101"].feature_size(options.size)
    label = steps.images(np.random.default_rng(0), 1, options.size, True).label
    ours = jax.jit(
        functools.partial(pseudo_labels.histogram_downsample, size=size, num_classes=19)
    )
    on_device = jax.device_put(label)
    found, expected = np.asarray(ours(on_device))[0], by_window(label[0], size)
    if (found != expected).any():
        raise SystemExit("downsample: the two implementations give different labels")

    samples = timing.alternate(
        {"ours": lambda: ours(on_device), "numpy": lambda: by_window(label[0], size)},
        repeats=options.repeats,
        warmup=options.warmup,
    )
    ratio = timing.ratios(samples["numpy"], samples["ours"])
    target = TARGETS.get(jax.devices()[0].platform)
    met = "met" if target and ratio.median >= target else "NOT MET"
    seconds = {name: timing.spread(times) for name, times in samples.items()}
    return timing.finish(
        {"size": options.size, "cells": size, "seconds": seconds, "ratio": ratio},
        [
            HEADER,
            ("numpy, one window at a time", timing.ms(seconds["numpy"]), "1", ""),
            (
                "histogram_downsample, jitted",
                timing.ms(seconds["ours"]),
                str(ratio),
                f">= {target:g}: {met}" if target else "",
            ),
        ],
        file=options.json,
    )


def by_window(
    label: np.ndarray, size: tuple[int, int], *, threshold: float = 0.5
) -> np.ndarray:
    """Downsample with a loop over cells: ``[H, W]`` uint8 to ``[h, w]``."""
    result = np.full(size, IGNORE, np.int32)
    steps_ = [side / cells for side, cells in zip(label.shape, size, strict=True)]
    reach = [int(np.ceil(step / 2)) for step in steps_]
    for i in range(size[0]):
        row = int(np.floor(steps_[0] * i))
        rows = slice(max(row - reach[0], 0), row + reach[0] + 1)
        for j in range(size[1]):
            column = int(np.floor(steps_[1] * j))
            columns = slice(max(column - reach[1], 0), column + reach[1] + 1)
            counts = np.bincount(label[rows, columns].ravel(), minlength=256)[:19]
            top = counts.argmax()
            largest, counts[top] = counts[top], 0
            if largest and counts.max() < threshold * largest:
                result[i, j] = top
    return result


if __name__ == "__main__":
    main()

"""Drawing the records of a preset, in this process or in several.

Nothing here imports JAX or TFDS, so that worker processes start quickly.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from lsr_jax.data import processes, streets
from lsr_jax.data.encoded import Record, digest, png
from lsr_jax.data.streets.presets import Preset, domain_and_part

CHUNK = 16  # images a worker draws at a time
# Files of this package whose changes leave every pixel as it was.
_NOT_DRAWING = {"__main__.py", "builder.py", "presets.py", "records.py"}


def render(preset: Preset, split: str, index: int) -> Record:
    """Draws and encodes image `index` of a split such as ``"camera_train"``."""
    domain, part = domain_and_part(split)
    image, label = streets.draw(index, domain=domain, split=part, preset=preset)
    return Record(
        id=f"{domain}-{part}-{index:06d}",
        image=png(image),
        label=png(label),
        sha256=digest(image, label),
        pixels=np.bincount(label.ravel(), minlength=256),
    )


def render_split(
    preset: Preset, split: str, pool: processes.Pool | None
) -> Iterator[Record]:
    """All records of a split in order; drawn ahead by the pool where there is one."""
    count = getattr(preset.counts, split)
    chunks = [
        (preset, split, start, min(start + CHUNK, count))
        for start in range(0, count, CHUNK)
    ]
    for drawn in processes.ordered(pool, _render_range, chunks):
        yield from drawn


def config_name(preset: Preset) -> str:
    """Folder name of a preset's data, such as ``streets-96x192-0a1b2c3d``.

    The hexadecimal digits depend on all that decides what is drawn: size, knobs,
    proportions, counts, seed, and the source text of the drawing code.
    """
    height, width = preset.size
    identity = json.dumps(asdict(preset), sort_keys=True) + generator_version()
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return f"{preset.name}-{height}x{width}-{fingerprint}"


def generator_version() -> str:
    """Hash of the drawing code, so that its output is never mistaken for older data."""
    text = hashlib.sha256()
    for path in sorted(pathlib.Path(__file__).parent.glob("*.py")):
        if path.name not in _NOT_DRAWING:
            text.update(path.read_bytes())
    return text.hexdigest()[:8]


def _render_range(chunk: tuple[Preset, str, int, int]) -> list[Record]:
    preset, split, start, stop = chunk
    return [render(preset, split, index) for index in range(start, stop)]

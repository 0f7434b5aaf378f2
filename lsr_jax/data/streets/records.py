"""Drawing the records of a preset, in this process or in several.

Nothing here imports JAX or TFDS, so that worker processes start quickly.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import pathlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from typing import NamedTuple

import cv2
import numpy as np

from lsr_jax.data import streets
from lsr_jax.data.streets.presets import Preset, domain_and_part

CHUNK = 16  # images a worker draws at a time
# Files of this package whose changes leave every pixel as it was.
_NOT_DRAWING = {"__main__.py", "builder.py", "presets.py", "records.py"}


class Record(NamedTuple):
    """One encoded pair.

    Attributes:
      id: such as ``camera-train-000012``.
      image: PNG, RGB.
      label: PNG, 8-bit grey, trainIds.
      sha256: hex digest of the decoded image and label.
      pixels: ``[256]`` number of pixels of each label value.
    """

    id: str
    image: bytes
    label: bytes
    sha256: str
    pixels: np.ndarray


def digest(image: np.ndarray, label: np.ndarray) -> str:
    """Hex sha256 over the bytes of image ``[H, W, 3]``, then label ``[H, W]``."""
    return hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()


def render(preset: Preset, split: str, index: int) -> Record:
    """Draws and encodes image `index` of a split such as ``"camera_train"``."""
    domain, part = domain_and_part(split)
    image, label = streets.draw(index, domain=domain, split=part, preset=preset)
    return Record(
        id=f"{domain}-{part}-{index:06d}",
        image=_png(image[..., ::-1]),
        label=_png(label),
        sha256=digest(image, label),
        pixels=np.bincount(label.ravel(), minlength=256),
    )


def render_split(
    preset: Preset, split: str, pool: concurrent.futures.Executor | None
) -> Iterator[Record]:
    """All records of a split in order; drawn ahead by the pool where there is one."""
    count = getattr(preset.counts, split)
    if pool is None:
        for index in range(count):
            yield render(preset, split, index)
        return
    # A bounded queue: the writer may be slower than the pool, memory must not grow.
    ahead: deque[concurrent.futures.Future] = deque()
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        ahead.append(pool.submit(_render_range, preset, split, start, stop))
        if len(ahead) > 32:
            yield from ahead.popleft().result()
    while ahead:
        yield from ahead.popleft().result()


def make_pool(workers: int) -> concurrent.futures.Executor:
    """Processes that only draw; spawned, since JAX does not survive a fork."""
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=_start_worker
    )


def _start_worker() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers; they would wait for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


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


def _render_range(preset: Preset, split: str, start: int, stop: int) -> list[Record]:
    return [render(preset, split, index) for index in range(start, stop)]


def _png(pixels: np.ndarray) -> bytes:
    # On grainy images run lengths are both faster and smaller than full matching.
    run_lengths = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, *run_lengths]
    _, encoded = cv2.imencode(".png", pixels, options)
    return encoded.tobytes()

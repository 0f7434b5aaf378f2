"""Drawing the records of a preset, in this process or in several.

Nothing here imports JAX or TFDS, so that worker processes start quickly.

Draws a preset once, into ArrayRecord files that TFDS reads without TensorFlow.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial

import cv2
import numpy as np
import tqdm

from lsr_jax import errors, files, streets
from lsr_jax.data import label_spaces, processes
from lsr_jax.data import prepared as data_prepared
from lsr_jax.data.image_io import Record, Tally, combined_sha256, digest, png
from lsr_jax.data.prepared import MANIFEST
from lsr_jax.streets.presets import SPLITS, Preset, domain_and_part

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


def render_records(
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


COMMAND = "python -m lsr_jax.streets --prepare"
FORMAT_VERSION = "1.0.0"  # of the record layout; the drawing has its own in the name


def prepare(
    preset: Preset,
    *,
    data_dir: str | os.PathLike | None = None,
    workers: int = 1,
    progress: bool = True,
) -> pathlib.Path:
    """Draws all splits of a preset, unless that has been done before.

    The folder appears under its final name only when it is complete. What a killed run
    left behind is removed; a second process waits for the first. With several workers
    the calling script needs the ``if __name__ == "__main__"`` guard.

    Args:
      preset: what to draw.
      data_dir: cache folder, by default `default_data_dir()`.
      workers: processes that draw; 1 draws in this process.
      progress: shows one bar for all splits.

    Returns:
      The folder with the records and `manifest.json`, to be given to `open_split`.

    Raises:
      InputError: where the cache folder cannot be written.
      TrainingError: one of the processes died.
    """
    named = data_dir or default_data_dir()
    root = files.expanded(named, key="--data_dir or $LSR_JAX_DATA").absolute()
    config = config_name(preset)
    target = root / "streets" / config / FORMAT_VERSION
    if (target / MANIFEST).is_file():
        return target
    try:
        _build(preset, target, workers=workers, progress=progress)
    except OSError as error:
        raise errors.InputError(
            f"{root}: expected a folder with room that can be written, found:"
            f" {error.strerror or error}; choose another with --data_dir or"
            " $LSR_JAX_DATA"
        ) from error
    return target


def default_data_dir() -> pathlib.Path:
    """``$LSR_JAX_DATA``, or ``~/.cache/lsr_jax``."""
    return pathlib.Path(os.environ.get("LSR_JAX_DATA") or "~/.cache/lsr_jax")


def open_split(prepared: str | os.PathLike, split: str) -> Sequence[dict]:
    """Opens one split for random access.

    Args:
      prepared: what `prepare` returned.
      split: one of `SPLITS`, such as ``"camera_val"``.

    Returns:
      A picklable sequence. Item `i` is ``{"image": PNG bytes, "label": PNG bytes, "id":
      bytes}`` as stored, image `i` of the split.

    Raises:
      InputError: where the folder is not prepared, is damaged or has no such split.
    """
    splits = read_manifest(prepared)["splits"]
    counts = {name: facts["count"] for name, facts in splits.items()}
    return data_prepared.open_split(prepared, split, command=COMMAND, counts=counts)


def read_manifest(prepared: str | os.PathLike) -> dict:
    """What was drawn: preset, generator, versions, and per split and in all a sha256.

    A split's sha256 is over the lines ``"<id> <records.digest(image, label)>"`` in the
    order of the ids, that of the whole over the lines ``"<split> <sha256>"`` in the
    order of the names.

    Raises:
      InputError: where there is no readable manifest.
    """
    return data_prepared.read_manifest(prepared, command=COMMAND)


def _build(
    preset: Preset, target: pathlib.Path, *, workers: int, progress: bool
) -> None:
    tallies = {split: Tally() for split in SPLITS}
    with contextlib.ExitStack() as stack:
        total, name = sum(preset.counts), f"drawing {preset.name}"
        bar = stack.enter_context(
            tqdm.tqdm(total=total, desc=name, unit="image", disable=not progress)
        )
        pool = stack.enter_context(processes.make_pool(workers))

        def render_split(split):
            for record in tallies[split].watch(render_records(preset, split, pool)):
                yield record
                bar.update()

        data_prepared.write_once(
            target,
            name="streets",
            splits={split: partial(render_split, split) for split in SPLITS},
            size=preset.size,
            manifest=lambda: _manifest(preset, tallies),
        )


def _manifest(preset: Preset, tallies: dict[str, Tally]) -> dict:
    splits = {
        split: {
            "count": tally.count,
            "sha256": tally.sha256,
            "pixels": _by_class(tally.pixels),
        }
        for split, tally in tallies.items()
    }
    return {
        "dataset": "streets",
        "config": config_name(preset),
        "generator": generator_version(),
        "preset": asdict(preset) | {"counts": preset.counts._asdict()},
        "versions": {"numpy": np.__version__, "opencv": cv2.__version__},
        "sha256": combined_sha256(splits),
        "splits": splits,
    }


def _by_class(pixels: np.ndarray) -> dict[str, int]:
    counts = {name: int(pixels[i]) for name, i in label_spaces.TRAIN_ID.items()}
    return counts | {"ignore": int(pixels[label_spaces.IGNORE])}

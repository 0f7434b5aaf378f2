"""Draws a preset once, into ArrayRecord files that TFDS reads without TensorFlow."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import cv2
import numpy as np
import tqdm

from lsr_jax import errors, paths
from lsr_jax.data import labels, processes, storage
from lsr_jax.data.encoded import Tally, combined_sha256
from lsr_jax.data.storage import MANIFEST
from lsr_jax.data.streets import records
from lsr_jax.data.streets.presets import SPLITS, Preset

COMMAND = "python -m lsr_jax.data.streets --prepare"
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
    root = paths.expanded(named, key="--data-dir or $LSR_JAX_DATA").absolute()
    config = records.config_name(preset)
    target = root / "streets" / config / FORMAT_VERSION
    if (target / MANIFEST).is_file():
        return target
    try:
        _build(preset, target, workers=workers, progress=progress)
    except OSError as error:
        raise errors.InputError(
            f"{root}: expected a folder with room that can be written, found:"
            f" {error.strerror or error}; choose another with --data-dir or"
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
    return storage.open_split(prepared, split, command=COMMAND, counts=counts)


def read_manifest(prepared: str | os.PathLike) -> dict:
    """What was drawn: preset, generator, versions, and per split and in all a sha256.

    A split's sha256 is over the lines ``"<id> <records.digest(image, label)>"`` in the
    order of the ids, that of the whole over the lines ``"<split> <sha256>"`` in the
    order of the names.

    Raises:
      InputError: where there is no readable manifest.
    """
    return storage.read_manifest(prepared, command=COMMAND)


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
            for record in tallies[split].watch(
                records.render_split(preset, split, pool)
            ):
                yield record
                bar.update()

        storage.write_once(
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
        "config": records.config_name(preset),
        "generator": records.generator_version(),
        "preset": asdict(preset) | {"counts": preset.counts._asdict()},
        "versions": {"numpy": np.__version__, "opencv": cv2.__version__},
        "sha256": combined_sha256(splits),
        "splits": splits,
    }


def _by_class(pixels: np.ndarray) -> dict[str, int]:
    counts = {name: int(pixels[i]) for name, i in labels.TRAIN_ID.items()}
    return counts | {"ignore": int(pixels[labels.IGNORE])}

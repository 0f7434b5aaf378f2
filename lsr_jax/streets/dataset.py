"""Draw a preset once and store it, see `lsr_jax.data.prepared`."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from dataclasses import asdict
from functools import partial

import cv2
import numpy as np

from lsr_jax import cli, files, streets
from lsr_jax.data import image_io, label_spaces, prepared, processes
from lsr_jax.data.prepared import MANIFEST, Record
from lsr_jax.errors import InputError
from lsr_jax.streets import SPLITS, Preset

COMMAND = "python -m lsr_jax.streets --prepare"
FORMAT_VERSION = "1.0.0"  # of the stored records
# Of the drawing code. Raise it with every change that alters a pixel: tests/streets pins
# the hashes of a few drawn images.
GENERATOR_VERSION = 1
CHUNK = 16  # images a worker draws at a time


def config_name(preset: Preset) -> str:
    """Returns the folder name of a preset's data, such as ``streets-96x192-0a1b2c3d``.

    The hexadecimal digits are a hash of the preset and `GENERATOR_VERSION`.
    """
    height, width = preset.size
    # Presets from before `wide` keep their folders.
    drawn = {key: value for key, value in asdict(preset).items() if value is not False}
    identity = json.dumps(drawn, sort_keys=True) + str(GENERATOR_VERSION)
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return f"{preset.name}-{height}x{width}-{fingerprint}"


def default_data_dir() -> pathlib.Path:
    """Returns ``$LSR_JAX_DATA``, or ``~/.cache/lsr_jax``."""
    return pathlib.Path(os.environ.get("LSR_JAX_DATA") or "~/.cache/lsr_jax")


def prepare(
    preset: Preset,
    *,
    data_dir: str | os.PathLike | None = None,
    workers: int = 1,
    progress: bool = True,
) -> pathlib.Path:
    """Draws all splits of a preset, unless that has been done before.

    The cache folder is `data_dir`, by default `default_data_dir()`. With several workers
    the calling script needs the ``if __name__ == "__main__"`` guard; 1 draws in this
    process.

    Returns:
      The folder with the records and `manifest.json`, see `open_split`.

    Raises:
      InputError: the cache folder cannot be written.
      TrainingError: a worker process died.
    """
    key = "--data_dir or $LSR_JAX_DATA"
    root = files.expanded(data_dir or default_data_dir(), key=key).absolute()
    target = root / "streets" / config_name(preset) / FORMAT_VERSION
    if (target / MANIFEST).is_file():
        return target
    title, total = f"drawing {preset.name}", sum(preset.counts)
    try:
        with (
            cli.progress_bar(total, title, "image", disable=not progress) as bar,
            processes.make_pool(workers) as pool,
        ):

            def records(split):
                count = getattr(preset.counts, split)
                starts = range(0, count, CHUNK)
                chunks = [range(i, min(i + CHUNK, count)) for i in starts]
                work = partial(_render_range, preset, split)
                for drawn in processes.ordered(pool, work, chunks):
                    for record in drawn:
                        yield record
                        bar.update()

            prepared.write_once(
                target,
                name="streets",
                splits={split: partial(records, split) for split in SPLITS},
                size=preset.size,
                manifest={
                    "dataset": "streets",
                    "config": config_name(preset),
                    "generator": GENERATOR_VERSION,
                    "preset": asdict(preset) | {"counts": preset.counts._asdict()},
                    "versions": {"numpy": np.__version__, "opencv": cv2.__version__},
                },
                facts=_pixels,
            )
    except OSError as error:
        raise InputError(
            f"{root}: cannot be written ({error.strerror or error}); choose another "
            "folder with --data_dir or $LSR_JAX_DATA"
        ) from error
    return target


def open_split(folder: str | os.PathLike, split: str) -> prepared.StoredSplit:
    """Opens one of `SPLITS`, such as ``"camera_val"``; item `i` is image `i`.

    Raises:
      InputError: the folder is not prepared, is damaged or has no such split.
    """
    splits = read_manifest(folder)["splits"]
    counts = {name: facts["count"] for name, facts in splits.items()}
    return prepared.open_split(folder, split, command=COMMAND, counts=counts)


def read_manifest(folder: str | os.PathLike) -> dict:
    """Returns preset, versions, and the hashes of all splits.

    Raises:
      InputError: there is no readable manifest.
    """
    return prepared.read_manifest(folder, command=COMMAND)


def render(preset: Preset, split: str, index: int) -> Record:
    """Draws and encodes image `index` of a split such as ``"camera_train"``."""
    domain, part = split.split("_")
    image, label = streets.draw(index, domain=domain, split=part, preset=preset)
    return Record(
        id=f"{domain}-{part}-{index:06d}",
        image=image_io.png(image),
        label=image_io.png(label),
        sha256=prepared.digest(image, label),
        pixels=np.bincount(label.ravel(), minlength=256),
    )


def _render_range(preset: Preset, split: str, indices: range) -> list[Record]:
    return [render(preset, split, index) for index in indices]


def _pixels(split: str, pixels: np.ndarray) -> dict:
    values = {**label_spaces.TRAIN_ID, "ignore": label_spaces.IGNORE}
    return {"pixels": {name: int(pixels[i]) for name, i in values.items()}}

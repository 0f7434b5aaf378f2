"""Draws a preset once, into ArrayRecord files that TFDS reads without TensorFlow."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import cv2
import numpy as np
import tensorflow_datasets as tfds
import tqdm

from lsr_jax import errors
from lsr_jax.data import labels
from lsr_jax.data.streets import records
from lsr_jax.data.streets.presets import SPLITS, Preset

MANIFEST = "manifest.json"
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
    """
    root = pathlib.Path(data_dir or default_data_dir()).expanduser().absolute()
    config = records.config_name(preset)
    target = root / "streets" / config / FORMAT_VERSION
    if (target / MANIFEST).is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target.parent / ".lock"):
            if not (target / MANIFEST).is_file():
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
      InputError: where the folder is not prepared or has no such split.
    """
    known = read_manifest(prepared)["splits"]
    if split not in known:
        raise errors.InputError(
            f"{prepared}: expected a split of {', '.join(known)}, found {split!r};"
            " correct the split's name"
        )
    skip = tfds.decode.SkipDecoding()
    return tfds.builder_from_directory(os.fspath(prepared)).as_data_source(
        split, decoders={"image": skip, "label": skip}
    )


def read_manifest(prepared: str | os.PathLike) -> dict:
    """What was drawn: preset, generator, versions, and per split and in all a sha256.

    A split's sha256 is over the lines ``"<id> <records.digest(image, label)>"`` in the
    order of the ids, that of the whole over the lines ``"<split> <sha256>"`` in the
    order of the names.

    Raises:
      InputError: where there is no readable manifest.
    """
    path = pathlib.Path(prepared) / MANIFEST
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise errors.InputError(
            f"{path}: expected the manifest of a prepared data set, found: {error};"
            " run python -m lsr_jax.data.streets --prepare"
        ) from error


class _Streets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes records as they come; what to draw is decided outside."""

    name = "streets"
    VERSION = tfds.core.Version(FORMAT_VERSION)
    # TFDS would look beside the code for checksums of downloads (there are none), by
    # way of a package that it does not declare.
    code_path = None

    def __init__(
        self,
        preset: Preset,
        render_split: Callable[[str], Iterator[records.Record]],
        *,
        data_dir: pathlib.Path,
    ):
        self._size = preset.size
        self._render_split = render_split
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        def image(channels):
            shape = (*self._size, channels)
            return tfds.features.Image(shape=shape, encoding_format="png")

        features = tfds.features.FeaturesDict(
            {"image": image(3), "label": image(1), "id": tfds.features.Text()}
        )
        return tfds.core.DatasetInfo(
            builder=self, features=features, disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        for index, record in enumerate(self._render_split(split)):
            image, label = record.image, record.label
            yield index, {"image": image, "label": label, "id": record.id}


def _build(
    preset: Preset, target: pathlib.Path, *, workers: int, progress: bool
) -> None:
    scratch = target.parent / ".partial"
    for leftover in (scratch, target):
        shutil.rmtree(leftover, ignore_errors=True)
    splits: dict[str, dict] = {}
    # TFDS would show a bar for every split and shard, and print the scratch folder.
    tfds.disable_progress_bar()
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(
            tqdm.tqdm(
                total=sum(preset.counts),
                desc=f"drawing {preset.name}",
                unit="image",
                disable=not progress,
            )
        )
        pool = stack.enter_context(records.make_pool(workers)) if workers > 1 else None

        def render_split(split):
            lines, pixels = hashlib.sha256(), np.zeros(256, np.int64)
            for record in records.render_split(preset, split, pool):
                yield record
                lines.update(f"{record.id} {record.sha256}\n".encode())
                pixels += record.pixels
                bar.update()
            splits[split] = {
                "count": getattr(preset.counts, split),
                "sha256": lines.hexdigest(),
                "pixels": _by_class(pixels),
            }

        builder = _Streets(preset, render_split, data_dir=scratch)
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        builder.download_and_prepare()
    built = pathlib.Path(builder.data_path)
    manifest = _manifest(preset, splits)
    (built / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    os.replace(built, target)
    shutil.rmtree(scratch)


def _manifest(preset: Preset, splits: dict[str, dict]) -> dict:
    lines = "".join(f"{name} {splits[name]['sha256']}\n" for name in sorted(splits))
    return {
        "dataset": "streets",
        "config": records.config_name(preset),
        "generator": records.generator_version(),
        "preset": asdict(preset) | {"counts": preset.counts._asdict()},
        "versions": {"numpy": np.__version__, "opencv": cv2.__version__},
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "splits": splits,
    }


def _by_class(pixels: np.ndarray) -> dict[str, int]:
    counts = {name: int(pixels[i]) for name, i in labels.TRAIN_ID.items()}
    return counts | {"ignore": int(pixels[labels.IGNORE])}


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[None]:
    """Waits until no other process holds the lock; the system frees it on any death."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""Prepared data sets: folders of ArrayRecord files and a manifest, without TensorFlow.

A folder appears under its final name only when it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import tensorflow_datasets as tfds

from lsr_jax import errors
from lsr_jax.data.encoded import Record

MANIFEST = "manifest.json"


def write_once(
    target: pathlib.Path,
    *,
    name: str,
    splits: Mapping[str, Callable[[], Iterable[Record]]],
    size: tuple[int | None, int | None],
    manifest: Callable[[], dict],
    texts: Callable[[], Mapping[str, str]] = dict,
    shards: int | None = None,
) -> None:
    """Writes a prepared folder, unless it is there already.

    What a killed run left behind is removed; a second process waits for the first.

    Args:
      target: the folder; its name is a version such as ``1.0.0``.
      name: of the data set in the files' names.
      splits: split name -> its records in order.
      size: ``(H, W)`` of the images, None where they differ.
      manifest: its content, asked for after the last record.
      texts: further files, name -> content, asked for after the last record.
      shards: files a split; by default as TFDS thinks fit.

    Raises:
      OSError: the folder cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.parent / ".lock"):
        if (target / MANIFEST).is_file():
            return
        scratch = target.parent / ".partial"
        for leftover in (scratch, target):
            shutil.rmtree(leftover, ignore_errors=True)
        # TFDS would show a bar for every split and shard, and print the scratch folder.
        tfds.disable_progress_bar()
        builder = _builder(name, target.name, splits, size, scratch)
        options = tfds.download.DownloadConfig(num_shards=shards)
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=options)
        built = pathlib.Path(builder.data_path)
        for file, text in texts().items():
            (built / file).write_text(text)
        (built / MANIFEST).write_text(json.dumps(manifest(), indent=2) + "\n")
        os.replace(built, target)
        shutil.rmtree(scratch)


def read_manifest(prepared: str | os.PathLike, *, command: str) -> dict:
    """What a prepared folder holds.

    Args:
      prepared: the folder.
      command: what makes such a folder, for the message.

    Raises:
      InputError: where there is no readable manifest.
    """
    path = pathlib.Path(prepared) / MANIFEST
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise errors.InputError(
            f"{path}: expected the manifest of a prepared data set, found: {error};"
            f" run {command}"
        ) from error


def open_split(
    prepared: str | os.PathLike, split: str, *, known: Iterable[str]
) -> Sequence[dict]:
    """Opens one split for random access.

    Args:
      prepared: the folder.
      split: a name in its manifest.
      known: the names in its manifest.

    Returns:
      A picklable sequence of ``{"image": bytes, "label": bytes, "id": bytes}`` as stored,
      in the order in which they were written.

    Raises:
      InputError: where there is no such split.
    """
    if split not in known:
        raise errors.InputError(
            f"{prepared}: expected a split of {', '.join(known)}, found {split!r};"
            " correct the split's name"
        )
    skip = tfds.decode.SkipDecoding()
    return tfds.builder_from_directory(os.fspath(prepared)).as_data_source(
        split, decoders={"image": skip, "label": skip}
    )


def _builder(dataset, version, splits, size, data_dir):
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Writes records as they come; what they are is decided outside."""

        name = dataset
        VERSION = tfds.core.Version(version)
        # TFDS would look beside the code for checksums of downloads (there are none), by
        # way of a package that it does not declare.
        code_path = None

        def _info(self) -> tfds.core.DatasetInfo:
            def image(shape):
                return tfds.features.Image(shape=shape, encoding_format="png")

            features = tfds.features.FeaturesDict(
                {
                    "image": image((*size, 3)),
                    # Evaluation keeps labels larger than the images.
                    "label": image((None, None, 1)),
                    "id": tfds.features.Text(),
                }
            )
            return tfds.core.DatasetInfo(
                builder=self, features=features, disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            for index, record in enumerate(splits[split]()):
                image, label = record.image, record.label
                yield index, {"image": image, "label": label, "id": record.id}

    return Builder(data_dir=data_dir, file_format="array_record")


@contextlib.contextmanager
def _lock(path: pathlib.Path) -> Iterator[None]:
    """Waits until no other process holds the lock; the system frees it on any death."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

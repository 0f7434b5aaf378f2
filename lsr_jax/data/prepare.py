"""Store a data set at training size, once, so that no step waits for a large image.

python -m lsr_jax.data.prepare gta5 --root data/gta5 --size 1280x720 --out data/prepared
python -m lsr_jax.data.prepare cityscapes --root data/cityscapes --size full --out DIR
python -m lsr_jax.data.prepare gta5 --root data/gta5 --size 1280x720 --quality 95 --out DIR

A run that was killed is started again by the same command. Exit codes: 0 done, 2 cannot.
"""

from __future__ import annotations

import hashlib
import math
import pathlib
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
import PIL
from tqdm import tqdm

from lsr_jax import cli, files
from lsr_jax.data import custom, image_io, listing, prepared, processes
from lsr_jax.data.image_io import BadExample, Pair, Reader, Size
from lsr_jax.data.layouts import Layout
from lsr_jax.data.prepared import Record
from lsr_jax.data.sources import ON_BAD_EXAMPLE
from lsr_jax.errors import InputError

MOST_SKIPPED = 16  # at least one pair in so many must be usable
SAMPLE = 4  # pairs of a split that are converted to estimate the size on the disk
VERSIONS = {
    "numpy": np.__version__,
    "opencv": cv2.__version__,
    "pillow": PIL.__version__,
}
_NO_LABEL = np.full((1, 1), 255, np.uint8)  # stored for images without label


def prepare(
    layout: Layout,
    root: str | pathlib.Path,
    *,
    size: Size,
    out: str | pathlib.Path,
    quality: int | None = None,
    splits: Sequence[str] | None = None,
    workers: int = 1,
    on_bad_example: str = "stop",
    progress: bool = True,
) -> pathlib.Path:
    """Converts a data set, unless that has been done before.

    Args:
      layout: which data set.
      root: the folder as downloaded.
      size: ``(H, W)`` of images and labels; None keeps theirs, and without ``quality``
        the bytes of the images.
      out: gets ``NAME/WIDTHxHEIGHT/VERSION``.
      quality: of JPEG, 1 to 100, in which images are stored; None stores them without
        loss. Labels never lose anything.
      splits: parts to convert; by default all that are there.
      workers: processes that convert; 1 converts in this process.
      on_bad_example: "stop" at the first pair that cannot be used, or "skip" it.
      progress: shows a progress bar.

    Returns:
      The folder with the records and `manifest.json`.

    Raises:
      InputError: unusable files, or too little disk space.
      TrainingError: a worker process died.
    """
    target = files.expanded(out).absolute() / layout.name
    target = target / prepared.folder_name(size) / prepared.VERSION
    reader = Reader(listing.open_files(layout, root), layout)
    listings = listing.list_parts(reader.files, layout)
    present = [name for name, found in listings.items() if found.pairs]
    chosen = listing.choose_splits(present, splits, layout.name)
    for name in chosen:
        for line in listing.warnings(reader.files, layout, name, listings[name]):
            print(f"warning: {line}", file=sys.stderr)
    skip = on_bad_example == "skip"
    identity = {
        **layout.meaning(),
        "root": str(files.expanded(root).absolute()),
        "quality": quality,
    }
    if (target / prepared.MANIFEST).is_file():
        pairs = {name: listings[name].pairs for name in chosen}
        _check_finished(layout, target, identity, reader.files, pairs, skip)
        return target
    work = {
        name: Split(name, layout, listings[name], reader, size, quality, skip)
        for name in chosen
    }
    pairs = [len(split.found.pairs) for split in work.values()]
    title = f"{layout.name} {prepared.folder_name(size)}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_space(work.values(), target.parent, tell=progress)
        with (
            cli.progress_bar(sum(pairs), title, "image", disable=not progress) as bar,
            processes.make_pool(workers) as pool,
        ):
            prepared.write_once(
                target,
                name=layout.name,
                splits={n: partial(s.records, pool, bar) for n, s in work.items()},
                size=size or (None, None),
                manifest={**identity, "size": size, "versions": VERSIONS},
                facts=lambda name, pixels: work[name].facts(pixels),
                texts={prepared.NAMES.format(n): s.names for n, s in work.items()},
                # TFDS needs a record in each shard, and some pairs may be skipped.
                shards=max(1, min(64, min(pairs) // MOST_SKIPPED)),
            )
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror or error}); choose another "
            "folder with --out"
        ) from error
    return target


def convert(
    pair: Pair, *, reader: Reader, size: Size, label_size: Size, quality: int | None
) -> tuple[Record, tuple[int, int]] | BadExample:
    """Reads, checks, resizes and encodes one pair.

    Returns:
      The record and the ``(H, W)`` of the image as downloaded, or the problem.
    """
    try:
        image, label = reader.pair(pair)
    except BadExample as error:
        return error
    original = image.shape[:2]
    image = image_io.resize_image(image, size)
    if quality is not None:
        data = image_io.jpeg(image, quality)
        image = image_io.decode_image(data, pair.image)
    elif size is not None:
        data = image_io.png(image)
    else:
        data = reader.data(pair.image)
    if label is None:
        label, pixels = _NO_LABEL, np.zeros(256, np.int64)
    else:
        pixels = np.bincount(label.ravel(), minlength=256)
        label = image_io.resize_label(label, label_size)
    encoded, digest = image_io.png(label), prepared.digest(image, label)
    return Record(pair.image, data, encoded, digest, pixels), original


@dataclass
class Split:
    """The conversion of one split, and its statistics."""

    name: str
    layout: Layout
    found: listing.Listing
    reader: Reader
    size: Size
    quality: int | None
    skip: bool
    skipped: dict[str, str] = field(default_factory=dict)
    sizes: Counter = field(default_factory=Counter)

    def __post_init__(self):
        self.part = self.layout.parts[self.name]
        self.labelled = listing.is_labelled(self.layout, self.name, self.found)
        self.convert = partial(
            convert,
            reader=self.reader,
            size=self.size,
            label_size=None if self.part.native_labels else self.size,
            quality=self.quality,
        )
        # All images in order, skipped or not, a line each.
        self.names = "".join(f"{pair.image}\n" for pair in self.found.pairs)
        self.files = listing.fingerprint(self.reader.files, self.found.pairs)

    def records(self, pool: Executor | None, bar: tqdm) -> Iterator[Record]:
        """Yields all good records in order.

        Raises:
          InputError: a pair cannot be used and is not to be skipped, or hardly any can.
        """
        problems = self.found.problems
        for problem in problems.values():
            self._stop(problem)
        good = [pair for pair in self.found.pairs if pair.image not in problems]
        self.skipped |= {
            p.image: str(problems[p.image])
            for p in self.found.pairs
            if p.image in problems
        }
        results = processes.ordered(pool, self.convert, good)
        for pair, result in zip(good, results, strict=True):
            bar.update()
            if isinstance(result, BadExample):
                self._stop(result)
                self.skipped[pair.image] = str(result)
                continue
            record, (height, width) = result
            self.sizes[f"{width}x{height}"] += 1
            yield record
        count = self.sizes.total()
        if count * MOST_SKIPPED < len(self.found.pairs):
            raise InputError(
                f"{self.layout.name} {self.name}: only {count} of "
                f"{len(self.found.pairs)} pairs can be used; run python -m "
                f"lsr_jax.data.check {self.layout.argument}"
            )

    def _stop(self, error):
        if not self.skip:
            raise InputError(f"{error}; or prepare with --on_bad_example=skip")

    def facts(self, pixels: np.ndarray) -> dict:
        """Returns its entry in the manifest, see `prepared.write_once`."""
        classes, ignored = self.layout.pixels(pixels)
        return {
            "official_count": self.part.count,
            "files": self.files,
            "names_sha256": hashlib.sha256(self.names.encode()).hexdigest(),
            "labelled": self.labelled,
            "native_labels": self.part.native_labels,
            "sizes": dict(self.sizes),
            "pixels": {**classes, "ignored": ignored},
            "skipped": self.skipped,
        }


def _check_finished(layout, target, identity, files, pairs, skip):
    command = f"python -m lsr_jax.data.prepare {layout.argument}"
    # Folders of before there was a quality have none.
    manifest = {"quality": None, **prepared.read_manifest(target, command=command)}
    other = "remove it to prepare it again, or choose another --out"
    with prepared.reading(target, command):
        prepared.check_identity(target, manifest, identity)
        for split in pairs:
            facts = manifest["splits"].get(split)
            if facts is None:
                raise InputError(
                    f"{target}: expected the split {split}, found a finished folder of "
                    f"{', '.join(manifest['splits'])}; {other}"
                )
            if facts["files"] != (now := listing.fingerprint(files, pairs[split])):
                raise InputError(
                    f"{target}: expected the files of {split} ({now}), found those of an "
                    f"earlier time ({facts['files']}), which have changed since; {other}"
                )
            if facts["skipped"] and not skip:
                first = next(iter(facts["skipped"].values()))
                raise InputError(
                    f"{target}: found a finished folder without {len(facts['skipped'])} "
                    f"pairs, first: {first}; {other}, or add --on_bad_example=skip"
                )


def _check_space(work: Collection[Split], folder: pathlib.Path, *, tell: bool) -> None:
    """Estimates the bytes from a few pairs; raises InputError if the disk has fewer."""
    need = 0.0
    for split in work:
        pairs = split.found.pairs
        results = map(split.convert, pairs[:: -(-len(pairs) // SAMPLE)])
        good = [result[0] for result in results if not isinstance(result, BadExample)]
        stored = [len(record.image) + len(record.label) for record in good]
        need += len(pairs) * (np.mean(stored) if stored else 0)
    # TFDS writes all records to temporary files first.
    need, free = 2 * need / 1e9, shutil.disk_usage(folder).free / 1e9
    space = f"{need:.3g} GB while writing, half of that afterwards"
    if tell:
        print(f"{folder}: needs about {space}; {free:.3g} GB free", file=sys.stderr)
    if need > free:
        raise InputError(
            f"{folder}: too little disk space (found {free:.3g} GB, expected {space}); "
            "choose another folder with --out or a smaller --size"
        )


def define(flags: cli.Flags) -> None:
    """Define the flags."""
    flags.path("root", "The folder as downloaded.", required=True)
    flags.size("size", "WIDTHxHEIGHT, or full: as they are.", full=True, required=True)
    flags.path("out", "Folder that gets NAME/WIDTHxHEIGHT/VERSION.", required=True)
    flags.integer(
        "quality",
        None,
        "Store images as JPEG of this quality; default: PNG, without loss.",
        lower_bound=1,
        upper_bound=100,
    )
    flags.list("splits", [], "Only these; default: all that are there.")
    flags.integer("workers", processes.cores(), "Reading processes.", lower_bound=1)
    flags.enum("on_bad_example", "stop", ON_BAD_EXAMPLE, "At a pair that is unusable.")


def command(options, name: str) -> None:
    """Prepare a data set and print its folder."""
    if math.prod(options.size) > image_io.LARGEST_IMAGE:
        raise InputError(f"--size: expected at most {image_io.LARGEST_IMAGE} pixels")
    folder = prepare(
        custom.find_layout(name),
        options.root,
        size=options.size or None,
        out=options.out,
        quality=options.quality,
        splits=options.splits,
        workers=options.workers,
        on_bad_example=options.on_bad_example,
    )
    print(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, command, argv, arguments=["NAME"])


if __name__ == "__main__":
    sys.exit(main())

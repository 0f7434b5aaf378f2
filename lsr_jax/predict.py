"""Predict the classes of images: color maps, ids, overlays.

python -m lsr_jax.predict --workdir runs/gta2cs --images 'photos/*.jpg' --out predictions
python -m lsr_jax.predict --workdir runs/gta2cs:lsr --images 'test/*/*.png' --out server \
    --kinds cityscapes_ids --mode slide --overlap 0.5 --flip

Every kind gets its folder below --out, in which files are named as the images are.
BatchNorm uses the running statistics of training. With --config, classes, colors and input
size are those of its target, not of the run's; a weight file needs it.

Exit codes: 0 done, 2 bad input.
"""

from __future__ import annotations

import contextlib
import glob
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lsr_jax import cli, files, streets
from lsr_jax.data import custom, image_io, label_spaces, sources
from lsr_jax.data.label_spaces import LabelSpace
from lsr_jax.errors import InputError
from lsr_jax.evaluation import predictor
from lsr_jax.evaluation.predictor import Size, TestTimeAugmentation
from lsr_jax.training import compile, sharding, weights
from lsr_jax.training.weights import Source

KINDS = ("color", "train_ids", "cityscapes_ids", "overlay")
MODES = ("resize", "slide")
OVERLAP = 0.5


def define(flags: cli.Flags) -> None:
    """Define the flags."""
    flags.string(
        "workdir",
        None,
        "Workdir, WORKDIR:STAGE, folder of checkpoints or one of them, or a weight file "
        "(with --config).",
        required=True,
    )
    flags.config()
    flags.string("images", None, "Pattern, quoted: 'a/**/*.png'.", required=True)
    flags.path("out", "Folder to write.", required=True)
    flags.integer("step", None, "A saved step; default: the newest.")
    flags.list("kinds", [], f"Some of {','.join(KINDS)}; default: all.")
    flags.enum("mode", "resize", MODES, "Resize images, or slide a window over them.")
    flags.size("size", "Network input or window; default: as trained.")
    flags.float("overlap", None, "slide: share of a window that the next covers; 0.5.")
    flags.augmentation()
    flags.integer("batch_size", 4, "Images or windows at a time.", lower_bound=1)


def predict(options) -> list[Path]:
    """Predict every image and write its files; returns them.

    Raises:
      InputError: a wrong flag, no image, an image that cannot be read, or a folder that
        cannot be written.
    """
    # A window gives probabilities of pixels, which can be averaged with its neighbors'.
    average = "pixel_probabilities" if options.mode == "slide" else None
    augmentation = predictor.parse_augmentation(
        options.flip, options.scales, average, options.window
    )
    if options.overlap is not None and options.mode != "slide":
        raise InputError("--overlap: is for --mode slide, found resize; leave it out")
    overlap = OVERLAP if options.overlap is None else options.overlap
    if not 0 <= overlap < 1:
        raise InputError(f"--overlap: expected 0 to below 1, found {overlap:g}")
    place = weights.resolve(options.workdir, step=options.step)
    config = options.config or place.config
    if config is None:
        raise InputError(
            f"{place.path}: is outside of a run; name its network and classes by --config"
        )
    space = label_space(config)
    weights.check_classes(place, space.classes)
    kinds = select_kinds(options.kinds, space)
    size = network_size(config, options.size)
    found = find_images(options.images)
    outputs = name_outputs(found)
    for path in found:
        with opened(path) as file:
            image_io.check_header(file.read(image_io.HEAD), str(path), "image", file)
    out = Path(options.out)
    files.check_writable(out)

    compile.configure(config["cpu_devices"])
    network = load(place, config, augmentation.configured(config))
    if network.predictor.num_classes != space.num_classes:
        raise InputError(
            f"{place.path}: has {network.predictor.num_classes} classes, the config "
            f"{space.num_classes}; use the config of its data"
        )
    batch_size = options.batch_size
    written = []
    with cli.progress_bar(len(outputs), "predict", "image") as bar:
        for first in range(0, len(found), batch_size):
            paths = found[first : first + batch_size]
            images = [read_image(path) for path in paths]
            if options.mode == "resize":
                labels = predictor.resize(
                    network, images, size=size, batch_size=batch_size
                )
            else:
                keywords = {"overlap": overlap, "batch_size": batch_size}
                labels = (
                    predictor.slide(network, image, window=size, **keywords)
                    for image in images
                )
            for path, image, label in zip(paths, images, labels, strict=True):
                for kind in kinds:
                    file = out / kind / outputs[path]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    picture = render(kind, label, image, space)
                    image_io.write_png(file, picture, remedy="choose another --out")
                    written.append(file)
                bar.update()
    return written


def load(
    place: Source, config: Mapping, augmentation: TestTimeAugmentation
) -> predictor.Network:
    """The network, on all devices."""
    mesh = sharding.make_mesh(config["num_devices"])
    trained = weights.load(place, mesh=mesh, config=config)
    own = predictor.Predictor.of(
        trained.model, trained.normalise, mesh=mesh, augmentation=augmentation
    )
    return predictor.Network(own, trained.params, trained.model_state)


def label_space(config: Mapping) -> LabelSpace:
    """The classes of a config's target domain; its data need not exist."""
    spec = config["data"]["target"]
    if spec["space"] in label_spaces.SPACES:
        return label_spaces.SPACES[spec["space"]]
    return sources.label_space(spec, custom.find_layout(spec["name"]))


def network_size(config: Mapping, given: Size | None) -> Size:
    """``(H, W)`` of the network's input: --size, or that of the target images.

    Raises:
      InputError: the size is too large, or neither configured nor given.
    """
    spec = config["data"]["target"]
    if given:
        if math.prod(given) > image_io.LARGEST_IMAGE:
            raise InputError(
                f"--size: expected at most {image_io.LARGEST_IMAGE} pixels"
            )
        return given
    if any(spec["size"]):
        return tuple(spec["size"])
    if spec["preset"] in streets.PRESETS:
        return streets.PRESETS[spec["preset"]].size
    raise InputError("--size: expected WIDTHxHEIGHT; the config has no size")


def select_kinds(kinds: Sequence[str], space: LabelSpace) -> tuple[str, ...]:
    """The kinds to write, by default all that exist for the classes."""
    other = set(space.classes) - set(label_spaces.NAMES)
    if not kinds:
        return tuple(k for k in KINDS if not (other and k == "cityscapes_ids"))
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(
                f"--kinds: expected some of {', '.join(KINDS)}, found {kind!r}"
            )
    if other and "cityscapes_ids" in kinds:
        raise InputError(
            f"--kinds: cityscapes_ids expects classes of Cityscapes, found "
            f"{min(other)!r}; choose other kinds"
        )
    return tuple(kinds)


def render(
    kind: str, label: np.ndarray, image: np.ndarray, space: LabelSpace
) -> np.ndarray:
    """The picture of one kind, uint8 ``[H, W]`` or RGB ``[H, W, 3]``.

    "color" paints the classes of ``label`` ``[H, W]``; "overlay" averages them with the
    image; "train_ids" and "cityscapes_ids" map to ids of the 19 classes, the latter as the
    benchmark server expects them.
    """
    if kind in ("train_ids", "cityscapes_ids"):
        return class_ids(kind, space)[label]
    color = label_spaces.colorize(label, space)
    if kind == "color":
        return color
    return ((image.astype(np.uint16) + color) // 2).astype(np.uint8)


def class_ids(kind: str, space: LabelSpace) -> np.ndarray:
    """The id of every class of a space, uint8 ``[C]``.

    Spaces with classes that are not among the 19 use their index as trainId.
    """
    rows = {row.name: row for row in label_spaces.CLASSES}
    if not set(space.classes) <= set(rows):
        return np.arange(space.num_classes, dtype=np.uint8)
    key = {"train_ids": "train_id", "cityscapes_ids": "cityscapes_id"}[kind]
    return np.array([getattr(rows[name], key) for name in space.classes], np.uint8)


def find_images(pattern: str) -> list[Path]:
    """The files that a pattern matches, sorted; raises InputError if there are none."""
    matched = glob.glob(os.path.expanduser(pattern), recursive=True)
    found = sorted(path for path in map(Path, matched) if path.is_file())
    if not found:
        inside = "; name the files in it, as DIR/*.png" if matched else ""
        raise InputError(
            f"--images {pattern}: expected a pattern of image files, found none{inside}"
        )
    return found


def name_outputs(paths: Sequence[Path]) -> dict[Path, Path]:
    """Image -> path of its PNG below the common folder of all; InputError for equal ones."""
    base = os.path.commonpath([path.absolute().parent for path in paths])
    names = {}
    for path in paths:
        name = path.absolute().relative_to(base).with_suffix(".png")
        if name in names:
            raise InputError(
                f"--images: expected names that differ without their extensions, found "
                f"{names[name]} and {path}"
            )
        names[name] = path
    return {path: name for name, path in names.items()}


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, for reading; raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def read_image(path: Path) -> np.ndarray:
    """RGB uint8 ``[H, W, 3]``; raises InputError if the file cannot be read."""
    with opened(path) as file:
        return image_io.decode_image(file.read(), str(path))


def command(options) -> None:
    """Predict what the flags say."""
    if options.config:
        options.config = cli.read_config(options.config, options.overrides)
    written = predict(options)
    print(f"{len(written)} files in {options.out}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, command, argv)


if __name__ == "__main__":
    sys.exit(main())

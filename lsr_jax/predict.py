"""Predict the classes of images: colour maps, ids, overlays.

python -m lsr_jax.predict --workdir runs/gta2cs --images 'photos/*.jpg' --out predictions
python -m lsr_jax.predict --workdir runs/gta2cs:lsr --images 'test/*/*.png' --out server \
    --kinds cityscapes_ids --mode slide --overlap 0.5 --flip

Every kind gets its folder below --out, in which files are named as the images are.
Statistics of BatchNorm are those of training.

Exit codes: 0 done, 2 bad input.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from lsr_jax import cli, streets
from lsr_jax.data import custom, image_io, label_spaces, sources
from lsr_jax.data.label_spaces import LabelSpace
from lsr_jax.errors import InputError
from lsr_jax.evaluation import predict, predictor
from lsr_jax.evaluation.evaluate import Evaluator
from lsr_jax.evaluation.predict import KINDS
from lsr_jax.evaluation.predictor import Averaging, Size
from lsr_jax.training import sharding, weights
from lsr_jax.training.weights import Source

MODES = ("resize", "slide")


class Request(NamedTuple):
    """The flags, as they were given; `define` says what they mean."""

    workdir: str
    images: str
    out: str
    config: Mapping | None = None
    step: int | None = None
    kinds: Sequence[str] = ()
    mode: str = "resize"
    size: tuple[int, int] | None = None
    overlap: float = 0.5
    flip: bool = False
    scales: Sequence[str] = ("1",)
    batch_size: int = 4


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
    flags.integer("step", None, "A kept step; default: the newest.")
    flags.list("kinds", [], f"Some of {','.join(KINDS)}; default: all.")
    flags.enum("mode", "resize", MODES, "Resize images, or slide a window over them.")
    flags.size("size", "Network input or window; default: as trained.")
    flags.float("overlap", 0.5, "Share of a window that the next covers.")
    flags.boolean("flip", False, "Average with the mirrored image.")
    flags.list("scales", ["1"], "Average over sizes of the input: 0.75,1,1.25.")
    flags.integer("batch_size", 4, "Images or windows at a time.", lower_bound=1)


def carry_out(request: Request) -> list[Path]:
    """Predict and write; the files.

    Raises:
      InputError: wrong flags, no images, one that cannot be read, a folder that cannot
        be written.
    """
    views = averaging(request)
    if not 0 <= request.overlap < 1:
        raise InputError(f"--overlap: expected 0 to below 1, found {request.overlap:g}")
    place = weights.resolve(request.workdir, step=request.step)
    config = place.config or request.config
    if config is None:
        raise InputError(
            f"{place.path}: expected --config with network and classes, found no run "
            "around it"
        )
    space = label_space(config)
    kinds = check_kinds(request.kinds, space)
    size = network_size(config, request.size)
    outputs = predict.name_outputs(predict.find_images(request.images))
    predict.prepare_folder(Path(request.out), kinds)

    sharding.share_cpu(config["cpu_devices"])
    network = load(place, config, views)
    written = []
    for path, image, label in predictions(network, outputs, size, request):
        for kind in kinds:
            file = Path(request.out) / kind / outputs[path]
            predict.write(file, predict.render(kind, label, image, space))
            written.append(file)
    return written


def predictions(
    network: predict.Network,
    outputs: Mapping[Path, Path],
    size: Size,
    request: Request,
) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """``(path, image, class map)`` of every image, behind a progress bar."""
    waiting = []

    def images():
        for path in tqdm(outputs, unit="image", desc="predict"):
            image = predict.read(path)
            waiting.append((path, image))
            yield image

    if request.mode == "resize":
        found = predict.resized(
            network, images(), size=size, batch_size=request.batch_size
        )
    else:
        found = (
            predict.slide(
                network,
                image,
                window=size,
                overlap=request.overlap,
                batch_size=request.batch_size,
            )
            for image in images()
        )
    for label in found:
        yield (*waiting.pop(0), label)


def load(place: Source, config: Mapping, averaging: Averaging) -> predict.Network:
    """The network, on all devices."""
    mesh = sharding.make_mesh(config["num_devices"])
    trained = weights.load(place, mesh=mesh, config=config)
    evaluator = Evaluator(
        trained.model.forward,
        num_classes=trained.model.num_classes,
        preprocess=trained.normalise,
        prediction=trained.model.prediction,
        averaging=averaging,
        mesh=mesh,
    )
    return predict.Network(evaluator, trained.params, trained.model_state)


def averaging(request: Request) -> Averaging:
    """Views, and what of them: windows always give probabilities of pixels.

    Raises:
      InputError: see `predictor.parse`.
    """
    average = "pixel_probabilities" if request.mode == "slide" else None
    return predictor.parse(request.flip, request.scales, average)


def label_space(config: Mapping) -> LabelSpace:
    """The classes of a config's target domain; its data need not be there."""
    spec = config["data"]["target"]
    if spec["space"] in label_spaces.SPACES:
        return label_spaces.SPACES[spec["space"]]
    return sources.label_space(spec, custom.find_layout(spec["name"]))


def network_size(config: Mapping, given: tuple[int, int] | None) -> Size:
    """``(H, W)`` of the network's input: --size, or that of the target images.

    Raises:
      InputError: a size that is none, or neither known nor given.
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
    raise InputError("--size: expected WIDTHxHEIGHT; the config names no size")


def check_kinds(kinds: Sequence[str], space: LabelSpace) -> tuple[str, ...]:
    """The kinds to write, by default all that the classes have.

    Raises:
      InputError: an unknown one, or Cityscapes ids of other classes.
    """
    strange = set(space.classes) - set(label_spaces.NAMES)
    chosen = tuple(kinds) or tuple(k for k in KINDS if k[:4] != "city" or not strange)
    for kind in chosen:
        if kind not in KINDS:
            raise InputError(
                f"--kinds: expected some of {', '.join(KINDS)}, found {kind!r}"
            )
        if kind.endswith("ids"):
            predict.ids(kind, space)
    return chosen


def command(options) -> None:
    """Predict what the flags say."""
    given = {name: getattr(options, name) for name in Request._fields}
    if options.config:
        given["config"] = cli.read_config(options.config, options.overrides)
    written = carry_out(Request(**given))
    print(f"{len(written)} files in {options.out}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return cli.run(define, command, argv)


if __name__ == "__main__":
    sys.exit(main())

"""Where the stages of a run start: fresh, from each other, another run, or a file."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

from lsr_jax import convert
from lsr_jax import files as files_lib
from lsr_jax.errors import InputError
from lsr_jax.training import checkpoint, workdir


def check_order(config: Mapping) -> None:
    """Raise InputError for no stage, a stage without section, twice, or fed by a later one."""
    stages = config["stages"]
    if not stages:
        raise InputError("stages: expected at least one stage, found none")
    for position, stage in enumerate(stages):
        if stage not in config or "method" not in (config[stage] or {}):
            raise InputError(f"stages: {stage!r} has no section in the config")
        if stage in stages[:position]:
            raise InputError(
                f"stages: expected every stage once, found {stage!r} twice"
            )
        for key in ("init_from", "pseudo_labeler"):
            if config[stage][key] in stages[position:]:
                raise InputError(
                    f"{stage}.{key}: {config[stage][key]!r} is not trained before "
                    f"{stage!r}"
                )


def check_paths(config: Mapping) -> None:
    """Raise InputError where ``init_from`` or ``pseudo_labeler`` is a path to nothing."""
    for stage in config["stages"]:
        for key, path in outside(config, stage).items():
            if key.endswith("pseudo_labeler") or not holds_weights(path):
                find_checkpoints(path, key=key)


def outside(config: Mapping, stage: str) -> dict[str, Path]:
    """The paths in ``init_from`` and ``pseudo_labeler`` of a stage, by the config's key."""
    found = {}
    for word, name, none in (
        ("init_from", origin(config, stage), "scratch"),
        ("pseudo_labeler", config[stage]["pseudo_labeler"], "start"),
    ):
        if name not in (none, *config["stages"]):
            key = f"{stage}.{word}"
            found[key] = files_lib.expanded(name, key=key)
    return found


def origin(config: Mapping, stage: str) -> str:
    """``scratch``, the name of an earlier stage, or a path."""
    position = config["stages"].index(stage)
    found = config[stage]["init_from"]
    if found == "previous":
        return config["stages"][position - 1] if position else "scratch"
    return found


def generation(config: Mapping, stage: str) -> int:
    """How many stages lie behind: stages with one origin see the same data order.

    Methods and controls that start from one checkpoint thus differ in nothing but the
    method, whether their run trained it or names it. A weight file is no stage.
    """
    found = origin(config, stage)
    if found == "scratch" or weight_file(config, stage):
        return 0
    return 1 + (generation(config, found) if found in config["stages"] else 0)


def stream_seed(config: Mapping, stage: str) -> int:
    """A seed for the data order of a stage: stages of one generation share it."""
    name = f"data {config['seed']} {generation(config, stage)}"
    return zlib.crc32(name.encode()) >> 2


def weight_file(config: Mapping, stage: str) -> Path | None:
    """The weight file, or folder of ``lsr_jax.convert``, in a stage's ``init_from``."""
    path = outside(config, stage).get(f"{stage}.init_from")
    return path if path and holds_weights(path) else None


def holds_weights(path: Path) -> bool:
    """Whether ``init_from`` names a weight file or a folder of ``lsr_jax.convert``."""
    return path.is_file() or (path / convert.INFO).is_file()


def fingerprints(config: Mapping, stage: str, *, begun: bool) -> dict[str, str]:
    """sha256 of what a stage begins with from outside of its run, by the config's key.

    Of a weight file always. Of a checkpoint of another run and of a file of anchors until
    the stage has begun: all that it took is in its own checkpoints then, and the other
    run may go on.

    Raises:
      InputError: nothing there, or a checkpoint whose facts are damaged.
    """
    found = {}
    for key, path in outside(config, stage).items():
        if key.endswith("init_from") and holds_weights(path):
            found[key] = convert.fingerprint(path)
        elif not begun:
            folder, step = find_checkpoints(path, key=key)
            with checkpoint.Checkpointer(folder, read_only=True) as checkpoints:
                found[key] = checkpoints.facts(step)["sha256"]
    anchors = config[stage]["method"].get("anchors")
    if anchors and not begun:
        path = files_lib.expanded(anchors, key=f"{stage}.method.anchors")
        found[f"{stage}.method.anchors"] = convert.fingerprint(path)
    return found


def find_checkpoints(path: Path, *, key: str = "init_from") -> tuple[Path, int]:
    """The folder and step of the checkpoint that ``init_from`` or ``pseudo_labeler`` means.

    A workdir means its last stage and ``workdir/stage`` names one, the newest checkpoint
    of it; ``workdir/stage/checkpoints/STEP`` names one checkpoint.

    Raises:
      InputError: nothing there.
    """
    if (path / "config.json").is_file():
        path = path / workdir.read_config(path)["stages"][-1]
    if checkpoint.is_step(path) and (path / "state").is_dir():
        return path.parent, int(path.name)
    for folder in (path / "checkpoints", path):
        if steps := checkpoint.checkpoint_steps(folder):
            return folder, steps[-1]
    files = "" if key.endswith("pseudo_labeler") else "a weight file, "
    raise InputError(
        f"{key} {path}: expected {files}a workdir, a stage's folder or a checkpoint "
        f"folder; found no such file and no finished checkpoint; set the stage's {key}"
        + ("" if key.endswith("pseudo_labeler") else ", 'scratch' for a fresh network")
    )

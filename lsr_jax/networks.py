"""Trained networks by name: a stage of a run, one of its checkpoints, or a weight file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from lsr_jax import convert, files, models
from lsr_jax.augment import preprocess
from lsr_jax.errors import InputError
from lsr_jax.training import checkpoint, origins, selection, sharding, workdir
from lsr_jax.types import PyTree

CHECKPOINTS = "checkpoints"
ANY_SIZE = (64, 128)  # of images; the shapes of the parameters do not depend on it


class Place(NamedTuple):
    """Where weights lie.

    Attributes:
      path: the folder of checkpoints, or the weight file.
      config: of the run; None for a weight file, and for checkpoints outside of a run.
      stage: name of the stage, or of the file.
      step: a kept step; None means the newest.
    """

    path: Path
    config: Mapping | None
    stage: str
    step: int | None = None


class Trained(NamedTuple):
    """A trained network and what has to stand beside its numbers.

    Attributes:
      params: replicated on the mesh.
      model_state: BatchNorm running statistics.
      step: of its stage, None for a weight file.
      stage: name of the stage, or of the file.
      method: name of its method, "-" where nobody knows.
      seed: of its run, None where nobody knows.
      selection: the rule by which the checkpoint was chosen: "last", "named" for a step
        that the user asked for, "file".
      weights: sha256 of all arrays, see `fingerprint`.
      model: its functions.
      preprocessing: how images become its input, see `preprocess.normalise`.
      newest: the last step of the stage so far, where a rule chose the checkpoint.
    """

    params: PyTree
    model_state: PyTree
    step: int | None
    stage: str
    method: str
    seed: int | None
    selection: str
    weights: str
    model: models.Model
    preprocessing: str
    newest: int | None = None

    @property
    def normalise(self) -> Callable[[jax.Array], jax.Array]:
        """uint8 images -> network input."""
        return normalise(self.preprocessing)


def normalise(preprocessing: str) -> Callable[[jax.Array], jax.Array]:
    """uint8 images -> network input, see `preprocess.normalise`."""
    return partial(preprocess.normalise, preprocessing=preprocessing)


def fingerprint(params: PyTree, model_state: PyTree) -> str:
    """sha256 over names, types, shapes and bytes of all arrays of a network."""
    tree = {"params": params, "model_state": model_state}
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    named = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    for name, array in sorted(named.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def find(name: str, *, step: int | None = None) -> Place:
    """Where the weights lie that ``name`` means.

    Args:
      name: a workdir (its last stage), ``WORKDIR:STAGE``, the folder of a stage, of
        checkpoints or of one checkpoint, a weight file or a folder of
        ``lsr_jax.convert``.
      step: a kept step instead of the newest.

    Raises:
      InputError: nothing of the kind lies there, or a stage or step that is not kept.
    """
    head, colon, stage = name.rpartition(":")
    named = bool(colon) and not files.expanded(name).exists()
    path = files.expanded(head if named else name)
    if origins.holds_weights(path):
        if named or step is not None:
            raise InputError(f"{name}: expected no stage and no step for a weight file")
        return Place(path, None, path.stem)
    if (path / "config.json").is_file():
        stages = workdir.read_config(path)["stages"]
        stage = stage if named else stages[-1]
        if stage not in stages:
            raise InputError(
                f"{name}: expected one of the stages {', '.join(stages)}, found {stage!r}"
            )
        return _kept(path / stage / CHECKPOINTS, step, name)
    if named:
        raise InputError(f"{name}: expected a workdir before ':', found no config.json")
    if (
        checkpoint.is_step(path)
        and path.is_dir()
        and not checkpoint.checkpoint_steps(path)
    ):
        if step not in (None, int(path.name)):
            raise InputError(f"{name}: is one checkpoint, found step {step} beside it")
        return _kept(path.parent, int(path.name), name)
    for folder in (path / CHECKPOINTS, path):
        if checkpoint.checkpoint_steps(folder):
            return _kept(folder, step, name)
    raise InputError(
        f"{name}: expected a workdir, a stage, a checkpoint or a weight file, found "
        f"{'none of them' if path.exists() else 'nothing'}; train first or check the path"
    )


def load(
    place: Place,
    *,
    mesh: Mesh,
    config: Mapping | None = None,
    split: str | None = None,
) -> Trained:
    """The network of a place, replicated on the mesh.

    Args:
      place: of `find`.
      mesh: the devices.
      config: describes the network where the place does not.
      split: of the target, on which the network will be measured; default: that of its
        run, else of ``config``.

    Raises:
      InputError: no description of the network, another network, a damaged file, or a
        weight file for images prepared otherwise.
    """
    known = place.config or config
    if known is None:
        raise InputError(
            f"{place.path}: expected --config with the network, found neither it nor the "
            "config.json of a run"
        )
    model = models.build(**known["model"])
    fresh = sharding.put_replicated(model.init(jax.random.key(0), ANY_SIZE), mesh)
    preprocessing = known["data"]["preprocessing"]
    method, seed, newest = "-", None, None
    if origins.holds_weights(place.path):
        network = _imported(place.path, fresh, preprocessing)
        network = sharding.put_replicated(network, mesh)
        step, chosen = None, "file"
    else:
        network, facts, step = _restored(place, fresh)
        chosen = "named"
        if place.step is None:
            chosen = selection.label(facts, split or known["data"]["target"]["val"])
            newest = facts["step"] if facts["best"] else None
        if place.config:
            seed = place.config["seed"]
            method = place.config[place.stage]["method"]["name"]
    facts = (step, place.stage, method, seed, chosen, fingerprint(*network))
    return Trained(*network, *facts, model, preprocessing, newest)


def _restored(place: Place, fresh: tuple[PyTree, PyTree]):
    """``(params, model_state), facts, step`` of a place; ``fresh`` has the shapes."""
    wanted = dict(zip(("params", "model_state"), fresh, strict=True))
    with checkpoint.Checkpointer(place.path, read_only=True) as checkpoints:
        if place.step is None:
            found, facts, step = checkpoints.reported_model(wanted)
        else:
            found, facts = checkpoints.restore_model(place.step, wanted)
            step = place.step
    return (found["params"], found["model_state"]), facts, step


def _imported(path: Path, fresh: tuple[PyTree, PyTree], preprocessing: str):
    """``(params, model_state)`` of a weight file, which has to own all of them."""
    imported = convert.load(path)
    convert.check_preprocessing(imported.info, preprocessing)
    if imported.info["fresh"] or "head" not in imported.params:
        raise InputError(
            f"{path}: expected a whole network, found one without head; evaluate a "
            "trained one"
        )
    return convert.overlay(*fresh, imported)


def finished(config: Mapping) -> dict:
    """A config whose stages start from nothing: what they started from may be gone.

    Trained networks are looked at no less for it.
    """
    stages = {
        stage: {**config[stage], "init_from": "scratch", "pseudo_labeler": "start"}
        for stage in config["stages"]
    }
    return {**config, **stages}


def _kept(folder: Path, step: int | None, name: str) -> Place:
    """The place of a kept step in a folder of checkpoints, with the run it belongs to."""
    steps = checkpoint.checkpoint_steps(folder)
    if not steps:
        raise InputError(
            f"{name}: expected finished checkpoints in {folder}, found none"
        )
    if step is not None and step not in steps:
        raise InputError(
            f"{name}: expected one of the kept steps {', '.join(map(str, steps))}, found "
            f"{step}"
        )
    stage = folder.absolute().parent
    if not (stage.parent / "config.json").is_file():
        return Place(folder, None, stage.name, step)
    config = workdir.read_config(stage.parent)
    if stage.name not in config["stages"]:
        return Place(folder, None, stage.name, step)
    return Place(folder, config, stage.name, step)

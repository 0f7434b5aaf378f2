"""Trained networks by name: a run, a stage, one checkpoint, or a weight file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from lsr_jax import convert, files, models
from lsr_jax.augment import preprocess
from lsr_jax.errors import InputError
from lsr_jax.evaluation import unsupervised
from lsr_jax.training import checkpoint, sharding, workdir
from lsr_jax.training.checkpoint import Checkpointer, Network
from lsr_jax.types import PyTree

CHECKPOINTS = "checkpoints"
ANY_SIZE = (64, 128)  # of images; the shapes of the parameters do not depend on it
ASSETS = Path(__file__).parents[1] / "assets"  # networks that this package contains


class Source(NamedTuple):
    """Stored weights.

    Attributes:
      path: a folder of checkpoints, a weight file, or a folder of ``lsr_jax.convert``.
      stage: name of the stage, or of the file.
      config: of the run; None for a weight file, and for checkpoints outside of a run.
      step: a saved step; None means the newest, or the best where a rule chose one.
    """

    path: Path
    stage: str
    config: Mapping | None = None
    step: int | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is a weight file or a folder of ``lsr_jax.convert``."""
        return is_weight_file(self.path)

    def last_step(self) -> int:
        """The step that ``init_from`` means: ``step``, or the newest.

        Raises:
          InputError: there is no checkpoint.
        """
        if self.step is not None:
            return self.step
        steps = checkpoint.checkpoint_steps(self.path)
        if not steps:
            raise InputError(
                f"{self.path}: no finished checkpoint; train the stage first"
            )
        return steps[-1]


class Trained(NamedTuple):
    """A trained network and the metadata of its rows in a report.

    Attributes:
      params: replicated on the mesh.
      model_state: BatchNorm running statistics.
      step: of its stage, None for a weight file.
      stage: name of the stage, or of the file.
      method: name of its method, "-" if unknown.
      seed: of its run, None if unknown.
      selection: the rule that chose the checkpoint, see `selection_label`; "named" for a
        step that the user asked for, "file" for a weight file.
      weights: sha256 of all arrays, see `checkpoint.fingerprint`.
      model: the network's functions.
      preprocessing: how images become its input, see `preprocess.normalise`.
      newest: the newest step of the stage, if a rule chose another one.
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
        return partial(preprocess.normalise, preprocessing=self.preprocessing)


def is_weight_file(path: Path) -> bool:
    """Whether a path is a file, or a folder of ``lsr_jax.convert``."""
    return path.is_file() or (path / convert.INFO).is_file()


def place(name: str, *, key: str = "") -> Path:
    """The path that a name means: of one of `ASSETS`, or of a file or folder."""
    asset = ASSETS / f"{name}.safetensors"
    path = files.expanded(name, key=key)
    known = asset.parent == ASSETS and asset.is_file()
    return asset if known and not path.exists() else path


def resolve(name: str, *, step: int | None = None, key: str = "") -> Source:
    """Find the weights that ``name`` means.

    Args:
      name: a network of `ASSETS`, such as "streets_mini"; a workdir (its last stage),
        ``WORKDIR:STAGE``, the folder of a stage, of checkpoints or of one checkpoint, a
        weight file or a folder of ``lsr_jax.convert``.
      step: a saved step instead of the newest.
      key: the flag or config key with the name, for messages.

    Raises:
      InputError: nothing of the kind is there, or no such stage or step.
    """
    what = f"{key} {name}".strip()
    head, colon, stage = name.rpartition(":")
    has_stage = bool(colon) and not files.expanded(name, key=key).exists()
    path = place(head if has_stage else name, key=key)
    if is_weight_file(path):
        if has_stage or step is not None:
            raise InputError(f"{what}: a weight file has neither stages nor steps")
        return Source(path, path.stem)
    if (path / "config.json").is_file():
        stages = workdir.read_config(path)["stages"]
        stage = stage if has_stage else stages[-1]
        if stage not in stages:
            raise InputError(
                f"{what}: no such stage (found {stage!r}, expected one of "
                f"{', '.join(stages)})"
            )
        return _of_folder(path / stage / CHECKPOINTS, step, what)
    if has_stage:
        raise InputError(f"{what}: no config.json in {path}; name a workdir before ':'")
    if checkpoint.is_step(path) and (path / "state").is_dir():
        if step not in (None, int(path.name)):
            raise InputError(
                f"{what}: is one checkpoint, but step {step} was asked for"
            )
        return _of_folder(path.parent, int(path.name), what)
    for folder in (path / CHECKPOINTS, path):
        if checkpoint.checkpoint_steps(folder):
            return _of_folder(folder, step, what)
    raise InputError(
        f"{what}: no weights (found {'none in it' if path.exists() else 'nothing'}, "
        "expected a workdir, a stage, a checkpoint or a weight file); check the path, or "
        "train first"
    )


def _of_folder(folder: Path, step: int | None, what: str) -> Source:
    """A folder of checkpoints with the run that it belongs to."""
    steps = checkpoint.checkpoint_steps(folder)
    if not steps:
        raise InputError(f"{what}: no finished checkpoint in {folder}; train it first")
    if step is not None and step not in steps:
        raise InputError(
            f"{what}: no such step (found {step}, expected one of the saved steps "
            f"{', '.join(map(str, steps))})"
        )
    stage, config = folder.absolute().parent, None
    if (stage.parent / "config.json").is_file():
        config = workdir.read_config(stage.parent)
        config = config if stage.name in config["stages"] else None
    return Source(folder, stage.name, config, step)


def check_classes(source: Source, classes: Sequence[str]) -> None:
    """Raise InputError if weights are known to be for other classes or another order."""
    path, found = source.path.absolute().parents[1] / "manifest.json", None
    if source.is_file and convert.is_own(source.path):
        found = convert.read_info(source.path).get("classes")
    elif source.config is not None and path.is_file():
        found = workdir.manifest(path.parent)["data"].get("target.classes")
    if found not in (None, ", ".join(classes)):
        raise InputError(
            f"{source.path}: trained on the classes {found}; found {', '.join(classes)} "
            "in the data; restore the order of its classes, or choose other weights"
        )


def load(
    source: Source,
    *,
    mesh: Mesh,
    config: Mapping | None = None,
    split: str | None = None,
) -> Trained:
    """The network to evaluate, replicated on the mesh.

    Args:
      source: of `resolve`.
      mesh: the devices.
      config: describes the network where the source has no config.
      split: of the target, to be evaluated on; default: the one in the config.

    Raises:
      InputError: no description of the network, another network, a damaged checkpoint
        or file, or weights that were trained on other preprocessing.
    """
    known = source.config or config
    if known is None:
        raise InputError(
            f"{source.path}: no config.json of a run beside it; describe the network with "
            "--config"
        )
    model = models.build(**known["model"])
    preprocessing = known["data"]["preprocessing"]
    step, newest, selection = source.step, None, "named"
    if source.is_file:
        network = import_file(
            source.path,
            model.init(jax.random.key(0), ANY_SIZE),
            model=known["model"],
            preprocessing=preprocessing,
            whole=True,
        )
        network, selection = sharding.replicate(network, mesh), "file"
    else:
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ANY_SIZE))
        shapes = sharding.replicated_shapes(shapes, mesh)
        with Checkpointer(source.path, read_only=True) as checkpoints:
            if step is None:
                network, facts, step = checkpoints.reported_network(shapes)
                split = split or known["data"]["target"]["val"]
                selection = selection_label(facts, split)
                newest = facts["step"] if facts["best"] else None
            else:
                network, _ = checkpoints.restore_network(step, shapes)
    own, tree = source.config, {"params": network[0], "model_state": network[1]}
    return Trained(
        **tree,
        step=step,
        stage=source.stage,
        method=own[source.stage]["method"]["name"] if own else "-",
        seed=own["seed"] if own else None,
        selection=selection,
        weights=checkpoint.fingerprint(tree),
        model=model,
        preprocessing=preprocessing,
        newest=newest,
    )


def load_last(source: Source, shapes: Network) -> Network:
    """The network of exactly the step that ``init_from`` means, placed as ``shapes``.

    Raises:
      InputError: a damaged checkpoint, or one of another network.
    """
    with Checkpointer(source.path, read_only=True) as checkpoints:
        return checkpoints.restore_network(source.last_step(), shapes)[0]


def import_file(
    path: Path,
    network: Network,
    *,
    model: Mapping,
    preprocessing: str,
    skip_head: bool = False,
    entry: str | None = None,
    allow_other_preprocessing: bool = False,
    whole: bool = False,
) -> Network:
    """Put the weights of a file, or of a folder of ``lsr_jax.convert``, into a network.

    Args:
      path: of the file or folder.
      network: freshly initialised.
      model: section of the config that describes the network.
      preprocessing: of the config.
      skip_head: keep the fresh heads.
      entry: the network to take of several, as "ema_model" for the teacher.
      allow_other_preprocessing: accept weights that were trained on other input; LSR
        feeds BGR images to ImageNet weights for RGB.
      whole: require all weights of a network.

    Raises:
      InputError: a damaged file, or weights that do not fit.
    """
    imported = convert.load(
        path, architecture=model["architecture"], skip_head=skip_head, entry=entry
    )
    trained_on = imported.info["preprocessing"]
    if trained_on != preprocessing and not allow_other_preprocessing:
        raise InputError(
            f"{path}: trained on {trained_on!r} input, the config prepares "
            f"{preprocessing!r}; change the preprocessing or allow the mismatch"
        )
    has_head = "head" in imported.params
    if whole and (imported.info["fresh"] or not has_head):
        raise InputError(
            f"{path}: weights without a head cannot be evaluated; train the network first"
        )
    if has_head:
        found = imported.info["arguments"]
        dilations = tuple(model["aspp_dilations"])
        expected = {"head": model["head"], "aspp_dilations": dilations}
        if model["architecture"] == "daformer":
            expected = {"fusion": model["fusion"]}
        differing = [
            f"{key} {found.get(key)} instead of {value}"
            for key, value in expected.items()
            if found.get(key) != value
        ]
        if differing:
            raise InputError(
                f"{path}: has {' and '.join(differing)}; set them below config.model, or "
                f"leave parts of the file out with {convert.CONVERTER}"
            )
    return convert.overlay(*network, imported)


def fingerprint(source: Source) -> str:
    """sha256 of a weight file, or of the checkpoint that ``init_from`` means.

    Raises:
      InputError: the facts of the checkpoint are damaged.
    """
    if source.is_file:
        return convert.fingerprint(source.path)
    with Checkpointer(source.path, read_only=True) as checkpoints:
        return checkpoints.facts(source.last_step())["sha256"]


def selection_label(facts: Mapping, split: str) -> str:
    """The rule to print beside the numbers of a checkpoint on a target split.

    A checkpoint that was chosen on the evaluated split is an oracle's choice, whatever
    rule the config names.
    """
    best = facts["best"]
    if best is None:
        return "last"
    # Checkpoints from before there were rules without labels have the domain.
    rule = best.get("rule") or f"{best['domain']}_val"
    if rule == "source_val" or rule in unsupervised.RULES:
        return rule
    return "oracle" if best["split"] == split else "target_heldout"

"""A run and its stages: every object that training needs, built once from the config.

`open_run` opens data, network and devices; `build_stages` builds the stages, and reports
what is wrong with them before anything is trained.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lsr_jax import files, models
from lsr_jax.augment import preprocess
from lsr_jax.data import pipeline, pseudo_label_store, records, sampling, sources
from lsr_jax.errors import InputError
from lsr_jax.methods import METHODS, cag, feature_norm, masked
from lsr_jax.training import checkpoint, microbatch, schema, sharding, weights
from lsr_jax.training import optimizer as optimizers
from lsr_jax.training import state as states
from lsr_jax.training import step as steps
from lsr_jax.training.checkpoint import Checkpointer
from lsr_jax.training.state import TrainState
from lsr_jax.training.weights import CHECKPOINTS, Network, Source, Trained
from lsr_jax.types import Batch, BatchSpec, Images, Method


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What all stages share.

    Attributes:
      config: resolved, as nested dicts.
      domains: ``{"source": Domain, "target": Domain}``; evaluation may open one alone.
      sizes: ``{"source": (H, W), "target": (H, W)}`` of the training images.
    """

    config: Mapping
    workdir: Path
    mesh: Mesh
    model: models.Model
    domains: Mapping[str, sources.Domain]
    sizes: Mapping[str, tuple[int, int]]

    def open(self, domain: str, part: str) -> records.Source:
        """The split that the config names for ``train`` or ``val`` of a domain."""
        return self.domains[domain].open(self.config["data"][domain][part])

    def statistics_images(self) -> records.First:
        """Target training images for BatchNorm statistics and criteria without labels."""
        count = self.config["evaluation"]["batchnorm_images"]
        return records.First(self.open("target", "train"), count)

    def statistics_batches(self) -> pipeline.Batches:
        """Batches of `statistics_images`, whose labels are not decoded."""
        return pipeline.ordered_batches(
            self.statistics_images(),
            batch_size=self.evaluation_batch_size(),
            labelled=False,
        )

    def evaluation_batch_size(self) -> int:
        """The config's, rounded up to a multiple of the number of devices."""
        size = self.config["evaluation"]["batch_size"]
        return size + -size % self.mesh.devices.size

    def normalise(self, image: jax.Array) -> jax.Array:
        """uint8 images -> network input."""
        preprocessing = self.config["data"]["preprocessing"]
        return preprocess.normalise(image, preprocessing=preprocessing)

    def folder(self, stage: str) -> Path:
        """Where a stage writes."""
        return self.workdir / stage

    def trained(self, stage: str) -> Trained:
        """The network that a stage reports: the best by the selection rule, or the newest.

        Raises:
          InputError: the stage has no checkpoint, or the selected one is damaged.
        """
        return weights.load(self.source(stage), mesh=self.mesh)

    def source(self, stage: str) -> Source:
        """The checkpoints of a stage, of which `trained` loads one."""
        return Source(self.folder(stage) / CHECKPOINTS, stage, self.config)


def open_run(
    config: Mapping,
    workdir: Path,
    domains: Sequence[str] = ("source", "target"),
    *,
    training: bool = True,
) -> Run:
    """Open the data and build the network; nothing is written into ``workdir``.

    Training needs both domains and their training images; ``workdir`` need not exist.

    Raises:
      InputError: unusable stages, devices, network or data.
    """
    check_order(config)
    schema.check(config)
    mesh = sharding.make_mesh(config["num_devices"])
    model = models.build(**config["model"])
    opened = sources.open_domains(
        config["data"],
        num_classes=config["model"]["num_classes"],
        names=domains,
        training=training,
    )
    sizes = {}
    for name, domain in opened.items():
        first = domain.open(config["data"][name]["val"])
        if domain.has_training_images:
            first = domain.open(config["data"][name]["train"])
        sizes[name] = records.image_size(first)
    return Run(config, workdir, mesh, model, opened, sizes)


class Snapshot(NamedTuple):
    """Where a stage begins or continues.

    Attributes:
      state: its ``step`` counts the steps done.
      best: the best evaluation so far, see `Selector.better`.
      log: the position of the metrics log, see `MetricsLog.position`.
    """

    state: TrainState
    best: dict | None = None
    log: dict | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One stage of a run.

    Attributes:
      name: its key in the config.
      config: its section.
      optimizer: over all parameters, the method's own included.
      origin: the weights it starts from; None for a fresh network.
      labeler: the network of its anchors and pseudo-labels; None for the one it starts
        from.
      keys: PRNG keys of the network's initialisation, of the method's, and of the steps.
      data_seed: of the order of its images.
      shapes: of the state, with shardings.
      step: jitted, see `step.make_step`.
    """

    run: Run
    name: str
    config: Mapping
    method: Method
    optimizer: optax.GradientTransformation
    origin: Source | None
    labeler: Source | None
    keys: tuple[jax.Array, jax.Array, jax.Array]
    data_seed: int
    shapes: TrainState
    step: jax.stages.Wrapped

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return self.run.folder(self.name)

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / CHECKPOINTS

    @property
    def has_begun(self) -> bool:
        """Whether it has checkpoints, which contain all that it started from."""
        return bool(checkpoint.checkpoint_steps(self.checkpoints))

    @functools.cached_property
    def traced(self) -> jax.stages.Traced:
        """The whole step: augmentation, network, losses, gradients, optimizer."""
        return self.step.trace(self.shapes, batch_shapes(self))

    @functools.cached_property
    def rare_classes(self) -> sampling.RareClasses | None:
        """What source images are drawn from; None where they are shuffled.

        Raises:
          InputError: there is no image for a class, or a label cannot be used.
        """
        if not is_rare(self.method, self.config):
            return None
        pixels = sampling.class_pixels(
            self.run.open("source", "train"),
            self.run.model.num_classes,
            progress=jax.process_index() == 0,
        )
        names = self.run.domains["source"].space.classes
        return sampling.rare_classes(pixels, names, **self.config["rare_classes"])

    def restore(self, checkpoints: Checkpointer) -> Snapshot | None:
        """The newest undamaged checkpoint; None if there is none."""
        found = checkpoints.restore_newest(self.shapes)
        if found is None:
            return None
        state, facts = found
        return Snapshot(state, facts["best"], facts["log"])

    def start(self) -> TrainState:
        """The state before step 0, replicated, before the method's preparation.

        Raises:
          InputError: the weights in ``init_from`` cannot be used.
        """
        run = self.run
        if self.origin is None or self.origin.is_file:
            network = run.model.init(self.keys[0], weights.ANY_SIZE)
            if self.origin:
                network = self._imported(network)
        else:
            network = weights.load_last(self.origin, self._network_shapes)
        return sharding.replicate(
            _state(run, self.method, self.optimizer, self.keys, network), run.mesh
        )

    def labeler_network(self, state: TrainState) -> Network:
        """The network that makes anchors and pseudo-labels before step 0."""
        if self.labeler is None:
            return state.params["model"], state.model_state
        return weights.load_last(self.labeler, self._network_shapes)

    def weight_fingerprints(self) -> dict[str, str]:
        """sha256 of the weights and anchors from outside of the run, by config key.

        Those of a weight file always. Others until the stage has begun: its checkpoints
        contain them, and another run may go on.
        """
        sources = {"init_from": self.origin, "pseudo_labeler": self.labeler}
        found = {
            f"{self.name}.{key}": weights.fingerprint(source)
            for key, source in sources.items()
            if source
            and not self._is_of_this_run(source)
            and (source.is_file or not self.has_begun)
        }
        anchors = self.config["method"].get("anchors")
        if anchors and not self.has_begun:
            key = f"{self.name}.method.anchors"
            path = files.expanded(anchors, key=key)
            found[key] = weights.fingerprint(Source(path, path.stem))
        return found

    def batches(self, start: int) -> pipeline.Batches:
        """Training batches from step ``start`` on: ``(Batch, ids)``."""
        method = self.method
        opened = {
            name: self.run.open(name, "train") if name in method.domains else None
            for name in self.run.domains
        }
        if method.pseudo_labelled:
            opened["target"] = pseudo_label_store.Relabelled(
                opened["target"], self.folder / pseudo_label_store.FOLDER
            )
        return pipeline.train_batches(
            opened["source"],
            opened["target"],
            batch_size=self.config["batch_size"],
            seed=self.data_seed,
            start_step=start,
            source_labels=method.gets_labels("source"),
            target_labels=method.gets_labels("target"),
            rare=self.rare_classes,
            workers=self.run.config["data"]["workers"],
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def check_inputs(self) -> None:
        """Read weights, anchors and class statistics, once before training.

        Raises:
          InputError: they cannot be used.
        """
        for source in (self.origin, self.labeler):
            if source and not self._is_of_this_run(source):
                classes = self.run.domains["target"].space.classes
                weights.check_classes(source, classes)
        self.rare_classes  # noqa: B018
        if self.origin and self.origin.is_file:
            self._imported(self._network_shapes)
        elif self.origin and not self._is_of_this_run(self.origin):
            weights.load_last(self.origin, self._network_shapes)
        anchors = self.config["method"].get("anchors")
        if anchors:
            model = self.run.model
            cag.read_anchors(anchors, (model.num_classes, model.feature_dim))

    def _is_of_this_run(self, source: Source) -> bool:
        return source.config is self.run.config

    @property
    def _network_shapes(self) -> Network:
        return self.shapes.params["model"], self.shapes.model_state

    def _imported(self, network: Network) -> Network:
        return weights.import_file(
            self.origin.path,
            network,
            model=self.run.config["model"],
            preprocessing=self.run.config["data"]["preprocessing"],
            **self.config["weights"],
        )


def build_stages(run: Run) -> list[Stage]:
    """Build all stages; the steps of those that are not finished are traced.

    Raises:
      InputError: a stage that cannot be trained as the config says.
    """
    stages = []
    for name in run.config["stages"]:
        try:
            stage = build_stage(run, name)
            if not stage.has_begun:
                stage.check_inputs()
            if not (stage.checkpoints / str(stage.config["steps"])).is_dir():
                stage.traced  # noqa: B018
        except InputError as error:
            raise InputError(f"stage {name}: {error}") from error
        stages.append(stage)
    return stages


def build_stage(run: Run, name: str) -> Stage:
    """Build one stage; see `build_stages`."""
    config, c = run.config, run.config[name]
    method = build_method(config, name)
    check_labels(run, method)
    check_batch(run, c)
    generation = _generation(config, name)
    key = jax.random.fold_in(jax.random.key(config["seed"]), generation)
    keys = tuple(jax.random.split(key, 3))

    # Traced once: it takes seconds for a large network.
    network = jax.eval_shape(lambda: run.model.init(keys[0], weights.ANY_SIZE))
    params, _ = jax.eval_shape(partial(_parameters, run, method, keys), network)
    optimizer = build_optimizer(params, run.model, c)
    shapes = jax.eval_shape(partial(_state, run, method, optimizer, keys), network)
    parts = c["micro_batches"]
    forward = microbatch.in_parts(
        run.model.forward, parts, group=microbatch.group_size(config["model"], parts)
    )
    if c["remat_passes"]:
        forward = jax.checkpoint(forward, static_argnums=(3,))
    step = steps.make_step(
        method,
        optimizer,
        forward,
        build_preprocess(config, name),
        preprocess.pixels(config["data"]["preprocessing"]),
        skip_nonfinite=c["on_nonfinite"] == "skip",
    )
    origin = _source(run, "init_from", _origin_name(config, name))
    check_weights(origin, c["weights"])
    return Stage(
        run=run,
        name=name,
        config=c,
        method=method,
        optimizer=optimizer,
        origin=origin,
        labeler=_source(run, "pseudo_labeler", c["pseudo_labeler"]),
        keys=keys,
        data_seed=zlib.crc32(f"data {config['seed']} {generation}".encode()) >> 2,
        shapes=sharding.replicated_shapes(shapes, run.mesh),
        step=sharding.jit_step(step, run.mesh),
    )


def build_method(config: Mapping, stage: str) -> Method:
    """The method of a stage, with norm loss and masked consistency if they have weights.

    Raises:
      InputError: it cannot use the heads of the network.
    """
    keywords = dict(config[stage]["method"])
    name = keywords.pop("name")
    method = METHODS[name].make(**keywords)
    head = config["model"]["head"]
    if head not in method.heads:
        raise InputError(
            f"model.head: {name} needs {' or '.join(method.heads)}, found {head}"
        )
    terms = dict(config[stage]["feature_norm"])
    terms["decay_steps"] = terms["decay_steps"] or config[stage]["steps"]
    method = feature_norm.norm(method, **terms)
    return masked.masked(method, **config[stage]["masked"])


def build_optimizer(
    params: states.PyTree, model: models.Model, section: Mapping
) -> optax.GradientTransformation:
    """The optimizer of a stage over all of its parameters, or their shapes."""
    keywords = dict(section["optimizer"])
    groups = optimizers.model_groups(
        head_multiplier=keywords.pop("head_multiplier"),
        duplicate_updates=keywords.pop("duplicate_updates"),
        decay_norms=keywords.pop("decay_norms"),
        frozen=model.frozen_paths,
        repeated=model.repeated_paths,
    )
    keywords["decay_steps"] = keywords["decay_steps"] or section["steps"]
    return optimizers.make(params, groups, **keywords)


def build_preprocess(config: Mapping, stage: str) -> steps.Preprocess:
    """Augmentation and normalisation of a stage."""
    return partial(
        preprocess.preprocess,
        **config[stage]["augment"],
        preprocessing=config["data"]["preprocessing"],
    )


def batch_shapes(stage: Stage) -> Batch:
    """Shapes and sharding of a batch, over all processes."""
    method, run = stage.method, stage.run
    placement = sharding.split(run.mesh)

    def array(*shape: int, dtype=jnp.uint8) -> jax.ShapeDtypeStruct:
        shape = stage.config["batch_size"], *shape
        return jax.ShapeDtypeStruct(shape, dtype, sharding=placement)

    def images(domain: str) -> Images | None:
        if domain not in method.domains:
            return None
        size = run.sizes[domain]
        label = array(*size) if method.gets_labels(domain) else None
        rare = domain == "source" and is_rare(method, stage.config)
        drawn = array(dtype=jnp.int32) if rare else None
        return Images(array(*size, 3), label, drawn=drawn)

    return Batch(images("source"), images("target"))


def is_rare(method: Method, section: Mapping) -> bool:
    """Whether a stage draws source images by rare class sampling."""
    return "source" in method.domains and section["rare_classes"]["temperature"] > 0


def check_order(config: Mapping) -> None:
    """Raise InputError for stages that are missing, double or before their origin."""
    names = config["stages"]
    if not names:
        raise InputError("stages: expected at least one stage, found none")
    for position, name in enumerate(names):
        if name not in config or "method" not in (config[name] or {}):
            raise InputError(f"stages: {name!r} has no section in the config")
        if name in names[:position]:
            raise InputError(f"stages: {name!r} is named twice")
        for key in ("init_from", "pseudo_labeler"):
            if config[name][key] in names[position:]:
                raise InputError(
                    f"{name}.{key}: {config[name][key]!r} is not trained before {name!r}"
                )


def check_labels(run: Run, method: Method) -> None:
    """Raise InputError for a domain whose labels the method reads and that has none."""
    for domain in method.labelled:
        if not records.is_labelled(run.open(domain, "train")):
            raise InputError(
                f"data.{domain}.train: the method needs labels, and the split "
                f"{run.config['data'][domain]['train']} has none; name another split"
            )


def check_batch(run: Run, section: Mapping) -> None:
    """Raise InputError for a batch that cannot be split over devices or groups."""
    size, group = section["batch_size"], run.config["model"]["bn_group_size"]
    if group is not None and size % group:
        raise InputError(
            f"model.bn_group_size: expected a divisor of batch_size {size}, found {group}"
        )
    sharding.check_batch_size(size, run.mesh)


def check_weights(origin: Source | None, options: Mapping) -> None:
    """Raise InputError for options of weight files where the origin is a checkpoint."""
    given = [key for key in ("skip_head", "entry") if options[key]]
    if given and origin and not origin.is_file:
        raise InputError(
            f"weights.{given[0]}: is for weight files, found the checkpoints "
            f"{origin.path} in init_from, which are read whole; leave it out, or write "
            "the network to a file first, with python -m lsr_jax.export"
        )


def _source(run: Run, key: str, name: str) -> Source | None:
    if name in ("scratch", "start"):
        return None
    if name in run.config["stages"]:
        return run.source(name)
    source = weights.resolve(name, key=key)
    if source.is_file and key == "pseudo_labeler":
        raise InputError(
            f"pseudo_labeler {name}: expected a workdir, a stage or a checkpoint, found "
            "a weight file"
        )
    return source


def _origin_name(config: Mapping, name: str) -> str:
    found = config[name]["init_from"]
    if found == "previous":
        position = config["stages"].index(name)
        return config["stages"][position - 1] if position else "scratch"
    return found


def _generation(config: Mapping, name: str) -> int:
    """How many trained stages precede a stage: those of one origin see one data order.

    Methods and controls that start from one checkpoint thus differ in nothing but the
    method, whether their run trained it or names it. A weight file is no stage.
    """
    found = _origin_name(config, name)
    if found in config["stages"]:
        return 1 + _generation(config, found)
    return int(found != "scratch" and not weights.is_weight_file(weights.place(found)))


def _parameters(run: Run, method: Method, keys: tuple, network: Network):
    spec = BatchSpec(
        num_classes=run.model.num_classes,
        feature_dim=run.model.feature_dim,
        source_size=run.sizes["source"],
        target_size=run.sizes["target"],
    )
    return states.with_method(*network, method, spec, keys[1])


def _state(run: Run, method: Method, optimizer, keys: tuple, network: Network):
    params, method_state = _parameters(run, method, keys, network)
    return states.create(params, network[1], method_state, optimizer, keys[2])

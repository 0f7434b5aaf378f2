"""From a resolved config to the objects of a run: data, network, stages.

From sections of a resolved config to method, optimiser and preprocessing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import optax

from lsr_jax import convert, files, models
from lsr_jax.augment import preprocess
from lsr_jax.augment import preprocess as augment_preprocess
from lsr_jax.data import pipeline, pseudo_label_store, records, sources
from lsr_jax.errors import InputError, TrainingError
from lsr_jax.methods import METHODS, feature_norm
from lsr_jax.training import checkpoint, origins, sharding, state
from lsr_jax.training import optimizer as optimizers
from lsr_jax.training.step import Preprocess
from lsr_jax.types import BatchSpec, Method, PyTree


class Network(NamedTuple):
    """A trained network, the step of its stage at which it was saved, and its facts."""

    params: PyTree
    model_state: PyTree
    step: int
    facts: Mapping


class Experiment:
    """What all stages of a run share.

    Attributes:
      config: the resolved config, as nested dicts.
      workdir: the folder of the run.
      model: the network's functions.
      mesh: the devices.
      domains: ``{"source": Domain, "target": Domain}``.
      sizes: ``{"source": (H, W), "target": (H, W)}`` of the training images.
    """

    def __init__(self, config: Mapping, folder: Path):
        origins.check_order(config)
        self.config = config
        self.workdir = folder
        self.mesh = sharding.make_mesh(config["num_devices"])
        self.model = models.build(**config["model"])
        data = config["data"]
        self.domains = sources.open_domains(
            data, num_classes=config["model"]["num_classes"]
        )
        origins.check_paths(config)
        self._templates: dict[str, tuple[state.TrainState, object]] = {}
        self.sizes = {
            name: records.image_size(self.open(name, "train")) for name in self.domains
        }

    def open(self, domain: str, part: str):
        """The split that the config names for ``train`` or ``val`` of a domain."""
        return self.domains[domain].open(self.config["data"][domain][part])

    def evaluation_batch_size(self) -> int:
        """That of the config, rounded up until the devices divide it."""
        size = self.config["evaluation"]["batch_size"]
        return size + -size % self.mesh.devices.size

    def facts(self) -> dict:
        """The data and weights behind the run, for its manifest."""
        prints = {name: domain.fingerprint for name, domain in self.domains.items()}
        weights = {}
        for stage in self.config["stages"]:
            weights |= self.weights(stage)
        return {"data": prints, "weights": weights, "seed": self.config["seed"]}

    def weights(self, stage: str) -> dict[str, str]:
        """What a stage begins with from outside, see `origins.fingerprints`."""
        return origins.fingerprints(self.config, stage, begun=self.begun(stage))

    def begun(self, stage: str) -> bool:
        """Whether a stage has checkpoints, which hold all that it began with."""
        return bool(checkpoint.checkpoint_steps(self.checkpoints(stage)))

    def folder(self, stage: str) -> Path:
        """Where a stage keeps its checkpoints and metrics."""
        return self.workdir / stage

    def checkpoints(self, stage: str) -> Path:
        """Where its checkpoints are."""
        return self.folder(stage) / "checkpoints"

    def normalise(self, image: jax.Array) -> jax.Array:
        """uint8 images as the network's input."""
        return preprocess.normalise(
            image, preprocessing=self.config["data"]["preprocessing"]
        )

    def method(self, stage: str) -> Method:
        """The method of a stage, built from its keywords in the config.

        Raises:
          InputError: see `stage.build_method`.
        """
        return build_method(self.config, stage)

    def preprocess(self, stage: str) -> Preprocess:
        """``(key, uint8 batch) -> network input``: what the step calls first."""
        return build_preprocess(self.config, stage)

    def initial(self, stage: str) -> state.TrainState:
        """The state before step 0, replicated on the mesh."""
        keys = self.keys(stage)
        whole, _ = self.assemble(stage, keys, *self.start(stage, keys[0]))
        return sharding.put_replicated(whole, self.mesh)

    def template(self, stage: str) -> tuple[state.TrainState, object]:
        """Shapes and placement of the state, and its optimiser; nothing is computed."""
        if stage not in self._templates:  # seconds for a large network
            self._templates[stage] = self._template(stage)
        return self._templates[stage]

    def _template(self, stage):
        made = []

        def fresh():
            keys = self.keys(stage)
            network = self.model.init(keys[0], self.sizes["source"])
            whole, transformation = self.assemble(stage, keys, *network)
            made.append(transformation)
            return whole

        placement = sharding.replicated(self.mesh)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement),
            jax.eval_shape(fresh),
        )
        return shapes, made[0]

    def keys(self, stage: str) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Of the network's initialisation, of the method's, and of the steps."""
        root = jax.random.key(self.config["seed"])
        own = jax.random.fold_in(root, origins.generation(self.config, stage))
        model_key, method_key, rng = jax.random.split(own, 3)
        return model_key, method_key, rng

    def assemble(
        self, stage: str, keys: tuple, params: PyTree, model_state: PyTree
    ) -> tuple[state.TrainState, object]:
        """The whole state around a network, and the optimiser of the stage."""
        _, method_key, rng = keys
        method = self.method(stage)
        spec = BatchSpec(
            num_classes=self.model.num_classes,
            feature_dim=self.model.feature_dim,
            source_size=self.sizes["source"],
            target_size=self.sizes["target"],
        )
        params, method_state = state.with_method(
            params, model_state, method, spec, method_key
        )
        transformation = build_optimizer(params, self.model, self.config[stage])
        whole = state.create(params, model_state, method_state, transformation, rng)
        return whole, transformation

    def start(self, stage: str, key: jax.Array) -> tuple[PyTree, PyTree]:
        """The network from which a stage starts: fresh, or of ``init_from``."""
        params, model_state = self.model.init(key, self.sizes["source"])
        origin = origins.origin(self.config, stage)
        if origin == "scratch":
            return params, model_state
        if origins.weight_file(self.config, stage):
            return self.import_weights(stage, params, model_state)
        return self.load(origin, params, model_state)[:2]

    def import_weights(
        self, stage: str, params: PyTree, model_state: PyTree
    ) -> tuple[PyTree, PyTree]:
        """PyTorch weights, or a folder of ``lsr_jax.convert``, over a fresh network.

        Raises:
          InputError: weights of another network, or for images prepared otherwise.
        """
        c = self.config[stage]["weights"]
        imported = convert.load(
            origins.weight_file(self.config, stage),
            architecture=self.config["model"]["architecture"],
            skip_head=c["skip_head"],
        )
        convert.check_preprocessing(
            imported.info,
            self.config["data"]["preprocessing"],
            allow=c["allow_other_preprocessing"],
        )
        return convert.overlay(params, model_state, imported, skip_head=c["skip_head"])

    def load(self, origin: str, params: PyTree, model_state: PyTree) -> Network:
        """The last network of a stage here, or of another run; the trees give shapes.

        Raises:
          InputError: there is no checkpoint, a damaged one, or one of another network.
        """
        if origin in self.config["stages"]:
            folder, step = self.checkpoints(origin), None
        else:
            folder, step = origins.find_checkpoints(files.expanded(origin))
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; train stage {origin!r} first")
        with checkpoint.Checkpointer(folder, read_only=True) as checkpoints:
            steps = checkpoints.steps()
            if not steps:
                raise InputError(f"{folder}: holds no finished checkpoint")
            step = steps[-1] if step is None else step
            wanted = {"params": params, "model_state": model_state}
            found, facts = checkpoints.restore_model(step, wanted)
            return Network(**found, step=step, facts=facts)

    def trained(self, stage: str) -> Network:
        """The network that a stage reports, replicated on the mesh.

        The best one where a rule chose one, else the newest that is whole.

        Raises:
          InputError: the stage has no checkpoint, or the chosen one is damaged.
        """
        folder = self.checkpoints(stage)
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; train stage {stage!r} first")
        fresh = self.model.init(jax.random.key(0), self.sizes["target"])
        fresh = sharding.put_replicated(fresh, self.mesh)
        wanted = dict(zip(("params", "model_state"), fresh, strict=True))
        with checkpoint.Checkpointer(folder, read_only=True) as checkpoints:
            found, facts, step = checkpoints.reported_model(wanted)
            return Network(**found, step=step, facts=facts)

    def batches(self, stage: str, start: int):
        """Training batches of a stage from step ``start`` on: ``(Batch, ids)``."""
        c = self.config[stage]
        method = self.method(stage)
        sharding.check_batch_size(c["batch_size"], self.mesh)
        opened = {
            name: self.open(name, "train") if name in method.domains else None
            for name in self.domains
        }
        if method.pseudo_labelled:
            labels = self.folder(stage) / pseudo_label_store.FOLDER
            opened["target"] = pseudo_label_store.Relabelled(opened["target"], labels)
        return pipeline.train_batches(
            opened["source"],
            opened["target"],
            batch_size=c["batch_size"],
            seed=origins.stream_seed(self.config, stage),
            start_step=start,
            source_labels=method.gets_labels("source"),
            target_labels=method.gets_labels("target"),
            workers=self.config["data"]["workers"],
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


# No fault of the keys: a device without memory, a disk, training itself.
NOT_OF_KEYS = (jax.errors.JaxRuntimeError, MemoryError, OSError, TrainingError)


@contextlib.contextmanager
def from_keys(stage: str) -> Iterator[None]:
    """Whatever is built inside, an error of it is one line that names the stage.

    Raises:
      InputError: what is inside raised one, or cannot be built from the keys.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"stage {stage}: {error}") from error
    except NOT_OF_KEYS:
        raise
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), "")
        raise InputError(
            f"{stage}: cannot be built from its keys: {type(error).__name__}: {line}; "
            "--debug shows where"
        ) from error


def build_method(config: Mapping, stage: str) -> Method:
    """The method of a stage, with the norm loss on top if that has a weight.

    Raises:
      InputError: an unknown one, or one that cannot use the heads of the network.
    """
    keywords = dict(config[stage]["method"])
    name = keywords.pop("name")
    if name not in METHODS:
        raise InputError(
            f"method.name: expected one of {', '.join(METHODS)}; found {name!r} in stage "
            f"{stage!r}"
        )
    build_method = METHODS[name].make(**keywords)
    head = config["model"]["head"]
    if head not in build_method.heads:
        raise InputError(
            f"model.head: {name} in stage {stage!r} needs {' or '.join(build_method.heads)}; "
            f"found {head}"
        )
    terms = dict(config[stage]["feature_norm"])
    terms["decay_steps"] = terms["decay_steps"] or config[stage]["steps"]
    return feature_norm.norm(build_method, **terms)


def build_optimizer(
    params: PyTree, model: models.Model, stage: Mapping
) -> optax.GradientTransformation:
    """The optimiser of a stage over all of its parameters."""
    keywords = dict(stage["optimizer"])
    groups = optimizers.model_groups(
        head_multiplier=keywords.pop("head_multiplier"),
        duplicate_updates=keywords.pop("duplicate_updates"),
        frozen=model.frozen_paths,
    )
    keywords["decay_steps"] = keywords["decay_steps"] or stage["steps"]
    return optimizers.make(params, groups, **keywords)


def build_preprocess(config: Mapping, stage: str) -> Preprocess:
    """Augmentation and normalisation as the config wants them."""
    return partial(
        augment_preprocess.preprocess,
        **config[stage]["augment"],
        preprocessing=config["data"]["preprocessing"],
    )

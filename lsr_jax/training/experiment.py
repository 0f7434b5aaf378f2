"""From a resolved config to the objects of a run: data, network, stages."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from lsr_jax import convert, models
from lsr_jax.data import augment, pipeline, records, relabelled, sources
from lsr_jax.errors import InputError
from lsr_jax.training import build, checkpoint, origins, sharding, state
from lsr_jax.training.step import Preprocess
from lsr_jax.types import BatchSpec, Method, PyTree


class Network(NamedTuple):
    """A trained network and the step of its stage at which it was saved."""

    params: PyTree
    model_state: PyTree
    step: int


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
        self.sizes = {
            name: records.image_size(self.open(name, "train")) for name in self.domains
        }

    def open(self, domain: str, part: str):
        """The split that the config names for ``train`` or ``val`` of a domain."""
        return self.domains[domain].open(self.config["data"][domain][part])

    def facts(self) -> dict:
        """The data and weight files behind the run, for its manifest."""
        prints = {name: domain.fingerprint for name, domain in self.domains.items()}
        files = {
            stage: origins.weight_file(self.config, stage)
            for stage in self.config["stages"]
        }
        weights = {
            stage: convert.fingerprint(path) for stage, path in files.items() if path
        }
        return {"data": prints, "weights": weights, "seed": self.config["seed"]}

    def folder(self, stage: str) -> Path:
        """Where a stage keeps its checkpoints and metrics."""
        return self.workdir / stage

    def normalise(self, image: jax.Array) -> jax.Array:
        """uint8 images as the network's input."""
        return augment.normalise(
            image, preprocessing=self.config["data"]["preprocessing"]
        )

    def method(self, stage: str) -> Method:
        """The method of a stage, built from its keywords in the config.

        Raises:
          InputError: see `build.method`.
        """
        return build.method(self.config, stage)

    def preprocess(self, stage: str) -> Preprocess:
        """``(key, uint8 batch) -> network input``: what the step calls first."""
        return build.preprocess(self.config, stage)

    def initial(self, stage: str) -> tuple[state.TrainState, object]:
        """The state before step 0, replicated on the mesh, and its optimiser."""
        c = self.config[stage]
        method = self.method(stage)
        root = jax.random.key(self.config["seed"])
        model_key, method_key, rng = jax.random.split(
            jax.random.fold_in(root, origins.generation(self.config, stage)), 3
        )
        params, model_state = self.start(stage, model_key)
        spec = BatchSpec(
            num_classes=self.model.num_classes,
            feature_dim=self.model.feature_dim,
            source_size=self.sizes["source"],
            target_size=self.sizes["target"],
        )
        params, method_state = state.with_method(
            params, model_state, method, spec, method_key
        )
        transformation = build.optimizer(params, self.model, c)
        whole = state.create(params, model_state, method_state, transformation, rng)
        return sharding.put_replicated(whole, self.mesh), transformation

    def start(self, stage: str, key: jax.Array) -> tuple[PyTree, PyTree]:
        """The network from which a stage starts: fresh, or of ``init_from``."""
        params, model_state = self.model.init(key, self.sizes["source"])
        origin = origins.origin(self.config, stage)
        if origin == "scratch":
            return params, model_state
        if origins.weight_file(self.config, stage):
            return self.import_weights(stage, params, model_state)
        network = self.load(origin, params, model_state)
        return network.params, network.model_state

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
        """The network of a stage here, or of another run; the trees give the shapes.

        Raises:
          InputError: there is no checkpoint, or one of another network.
        """
        if origin in self.config["stages"]:
            folder = self.folder(origin) / "checkpoints"
        else:
            folder = origins.find_checkpoints(Path(origin).expanduser())
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; train stage {origin!r} first")
        with checkpoint.Checkpointer(folder) as checkpoints:
            step = checkpoints.latest()
            if not step:
                raise InputError(f"{folder}: holds no finished checkpoint")
            wanted = {"params": params, "model_state": model_state}
            return Network(**checkpoints.restore_model(step, wanted), step=step)

    def trained(self, stage: str) -> Network:
        """The network in the newest checkpoint of a stage, replicated on the mesh."""
        fresh = self.model.init(jax.random.key(0), self.sizes["target"])
        fresh = sharding.put_replicated(fresh, self.mesh)
        return self.load(stage, *fresh)

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
            labels = self.folder(stage) / relabelled.FOLDER
            opened["target"] = relabelled.Relabelled(opened["target"], labels)
        return pipeline.train_batches(
            opened["source"],
            opened["target"],
            batch_size=c["batch_size"],
            seed=stream_seed(
                self.config["seed"], origins.generation(self.config, stage)
            ),
            start_step=start,
            source_labels=method.gets_labels("source"),
            target_labels=method.gets_labels("target"),
            workers=self.config["data"]["workers"],
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


def stream_seed(seed: int, generation: int) -> int:
    """A seed for the data order of a generation of stages."""
    return zlib.crc32(f"data {seed} {generation}".encode()) >> 2

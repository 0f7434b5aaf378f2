"""From a resolved config to the objects of a run: data, network, stages."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from lsr_jax import convert, models
from lsr_jax.data import augment, pipeline, records, sources
from lsr_jax.errors import InputError
from lsr_jax.training import build, checkpoint, sharding, state, workdir
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
        check_stages(config)
        self.config = config
        self.workdir = folder
        self.mesh = sharding.make_mesh(config["num_devices"])
        self.model = models.build(**config["model"])
        data = config["data"]
        self.domains = sources.open_domains(
            data, num_classes=config["model"]["num_classes"]
        )
        for stage in config["stages"]:
            self.check_origin(stage)
        self.sizes = {
            name: records.image_size(self.open(name, "train")) for name in self.domains
        }

    def open(self, domain: str, part: str):
        """The split that the config names for ``train`` or ``val`` of a domain."""
        return self.domains[domain].open(self.config["data"][domain][part])

    def facts(self) -> dict:
        """The data and weight files behind the run, for its manifest."""
        prints = {name: domain.fingerprint for name, domain in self.domains.items()}
        files = {stage: self.weight_file(stage) for stage in self.config["stages"]}
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
        """The method of a stage, built from its keywords in the config."""
        return build.method(self.config[stage]["method"])

    def preprocess(self, stage: str) -> Preprocess:
        """``(key, uint8 batch) -> network input``: what the step calls first."""
        return build.preprocess(self.config, stage)

    def initial(self, stage: str) -> tuple[state.TrainState, object]:
        """The state before step 0, replicated on the mesh, and its optimiser."""
        c = self.config[stage]
        method = self.method(stage)
        root = jax.random.key(self.config["seed"])
        model_key, method_key, rng = jax.random.split(
            jax.random.fold_in(root, self.generation(stage)), 3
        )
        params, model_state = self.start(stage, model_key)
        spec = BatchSpec(
            num_classes=self.model.num_classes,
            feature_dim=self.model.feature_dim,
            source_size=self.sizes["source"],
            target_size=self.sizes["target"],
        )
        params, method_state = state.with_method(params, method, spec, method_key)
        transformation = build.optimizer(params, self.model, c)
        whole = state.create(params, model_state, method_state, transformation, rng)
        return sharding.put_replicated(whole, self.mesh), transformation

    def start(self, stage: str, key: jax.Array) -> tuple[PyTree, PyTree]:
        """The network from which a stage starts: fresh, or of ``init_from``."""
        params, model_state = self.model.init(key, self.sizes["source"])
        origin = self.origin(stage)
        if origin == "scratch":
            return params, model_state
        if self.weight_file(stage):
            return self.import_weights(stage, params, model_state)
        network = self.load(origin, params, model_state)
        return network.params, network.model_state

    def check_origin(self, stage: str) -> None:
        """Raise InputError where ``init_from`` is a path with nothing to start from."""
        origin = self.origin(stage)
        named = origin == "scratch" or origin in self.config["stages"]
        if not named and not self.weight_file(stage):
            find_checkpoints(Path(origin).expanduser())

    def weight_file(self, stage: str) -> Path | None:
        """The weight file, or folder of ``lsr_jax.convert``, in a stage's ``init_from``."""
        origin = self.origin(stage)
        path = Path(origin).expanduser()
        named = origin == "scratch" or origin in self.config["stages"]
        return path if not named and holds_weights(path) else None

    def import_weights(
        self, stage: str, params: PyTree, model_state: PyTree
    ) -> tuple[PyTree, PyTree]:
        """PyTorch weights, or a folder of ``lsr_jax.convert``, over a fresh network.

        Raises:
          InputError: weights of another network, or for images prepared otherwise.
        """
        c = self.config[stage]["weights"]
        imported = convert.load(self.weight_file(stage), skip_head=c["skip_head"])
        convert.check_preprocessing(
            imported.info,
            self.config["data"]["preprocessing"],
            allow=c["allow_other_preprocessing"],
        )
        return convert.overlay(params, model_state, imported, skip_head=c["skip_head"])

    def origin(self, stage: str) -> str:
        """``scratch``, the name of an earlier stage, or a path."""
        stages = self.config["stages"]
        origin = self.config[stage]["init_from"]
        position = stages.index(stage)
        if origin == "previous":
            return stages[position - 1] if position else "scratch"
        return origin

    def generation(self, stage: str) -> int:
        """How many stages lie behind: stages with one origin see the same data order.

        Methods and controls that start from one checkpoint thus differ in nothing but
        the method.
        """
        origin = self.origin(stage)
        if origin == "scratch":
            return 0
        return 1 + (self.generation(origin) if origin in self.config["stages"] else 0)

    def load(self, origin: str, params: PyTree, model_state: PyTree) -> Network:
        """The network of a stage here, or of another run; the trees give the shapes.

        Raises:
          InputError: there is no checkpoint, or one of another network.
        """
        if origin in self.config["stages"]:
            folder = self.folder(origin) / "checkpoints"
        else:
            folder = find_checkpoints(Path(origin).expanduser())
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
        return pipeline.train_batches(
            opened["source"],
            opened["target"],
            batch_size=c["batch_size"],
            seed=stream_seed(self.config["seed"], self.generation(stage)),
            start_step=start,
            source_labels="source" in method.labelled,
            target_labels="target" in method.labelled,
            workers=self.config["data"]["workers"],
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


def stream_seed(seed: int, generation: int) -> int:
    """A seed for the data order of a generation of stages."""
    return zlib.crc32(f"data {seed} {generation}".encode()) >> 2


def check_stages(config: Mapping) -> None:
    """Raise InputError for a stage without section, or one with nothing to start from."""
    stages = config["stages"]
    for position, stage in enumerate(stages):
        if stage not in config or "method" not in (config[stage] or {}):
            raise InputError(f"stages: {stage!r} has no section in the config")
        origin = config[stage]["init_from"]
        if origin in stages[position:]:
            raise InputError(
                f"{stage}.init_from: {origin!r} is not trained before {stage!r}"
            )


def holds_weights(path: Path) -> bool:
    """Whether ``init_from`` names a weight file or a folder of ``lsr_jax.convert``."""
    return path.is_file() or (path / convert.INFO).is_file()


def find_checkpoints(path: Path) -> Path:
    """The checkpoint folder that a path in ``init_from`` means.

    A workdir means its last stage; ``workdir/stage`` names one.

    Raises:
      InputError: nothing there.
    """
    if (path / "config.json").is_file():
        path = path / workdir.read_config(path)["stages"][-1]
    for folder in (path / "checkpoints", path):
        if folder.is_dir() and any(entry.name.isdigit() for entry in folder.iterdir()):
            return folder
    raise InputError(
        f"init_from {path}: expected a weight file, a workdir, a stage's folder or a "
        "checkpoint folder; found no such file and no finished checkpoint; set the "
        "stage's init_from, 'scratch' for a fresh network"
    )

"""What a method does on the host before step 0: anchors, pseudo-labels."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from lsr_jax.data import pipeline
from lsr_jax.errors import InputError
from lsr_jax.training import sharding
from lsr_jax.training.experiment import Experiment
from lsr_jax.training.state import TrainState
from lsr_jax.types import Images, Preparation, PyTree


def prepare(experiment: Experiment, stage: str, state: TrainState) -> TrainState:
    """The state before step 0 after the stage's method prepared itself.

    A method without ``prepare`` leaves it as it is. Everything that a preparation reads
    is fixed before the stage starts, so an interrupted one is simply done again.

    Raises:
      InputError: a method that prepares itself, in one of several processes.
    """
    method = experiment.method(stage)
    if method.prepare is None:
        return state
    if jax.process_count() > 1:
        name = experiment.config[stage]["method"]["name"]
        raise InputError(
            f"{stage}: {name} prepares anchors or labels in one process; expected one, "
            f"found {jax.process_count()}; train this stage without --distributed"
        )
    params, model_state = labeller(experiment, stage, state)

    def batches(domain: str, labelled: bool):
        if labelled and domain not in method.labelled:
            raise ValueError(f"the method of {stage} has no right to {domain} labels")
        return read(experiment, stage, domain, labelled)

    method_state = method.prepare(
        state.method_state,
        Preparation(
            forward=experiment.model.forward,
            params=params,
            model_state=model_state,
            num_classes=experiment.model.num_classes,
            batches=batches,
            folder=experiment.folder(stage),
        ),
    )
    # The labeller may be the network itself, whose buffers are donated.
    method_state = jax.tree.map(jnp.copy, method_state)
    method_state = sharding.put_replicated(method_state, experiment.mesh)
    return state.replace(method_state=method_state)


def read(
    experiment: Experiment, stage: str, domain: str, labelled: bool
) -> Iterator[tuple[Images, np.ndarray, tuple[str, ...]]]:
    """A domain's training images, once and in order; see `types.Preparation`.

    A bar shows how far it is: a pass over a real data set takes minutes.
    """
    normalise = jax.jit(experiment.normalise)
    size = experiment.config["evaluation"]["batch_size"]
    size += -size % experiment.mesh.devices.size
    source = experiment.open(domain, "train")
    with (
        pipeline.ordered_batches(source, batch_size=size, labelled=labelled) as loaded,
        tqdm(
            total=len(source),
            desc=f"{stage} prepares from {domain}",
            unit="image",
            disable=jax.process_index() != 0,
            mininterval=1.0,
        ) as bar,
    ):
        for images, valid, ids in loaded:
            images = jax.device_put(images, sharding.split(experiment.mesh))
            yield images._replace(image=normalise(images.image)), valid, ids
            bar.update(int(valid.sum()))


def labeller(
    experiment: Experiment, stage: str, state: TrainState
) -> tuple[PyTree, PyTree]:
    """Parameters and BatchNorm statistics of the network that labels for a stage."""
    origin = experiment.config[stage]["labeller"]
    if origin == "start":
        return state.params["model"], state.model_state
    network = experiment.load(origin, state.params["model"], state.model_state)
    return network.params, network.model_state

"""What a method does on the host before step 0: anchors, pseudo-labels."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from lsr_jax.data import pipeline, pseudo_label_store
from lsr_jax.errors import InputError
from lsr_jax.training import distributed, sharding
from lsr_jax.training.stage import Experiment
from lsr_jax.training.state import TrainState
from lsr_jax.types import Images, Preparation, PyTree


def prepare(experiment: Experiment, stage: str, state: TrainState) -> TrainState:
    """The state before step 0 after the stage's method prepared itself.

    A method without ``prepare`` leaves it as it is. Everything that a preparation reads
    is fixed before the stage starts, so an interrupted one is simply done again.

    Of several processes each reads every image and computes its share of every batch;
    all come to the same state, and the first writes the files.

    Raises:
      InputError: a process that does not find the files that the first one wrote.
    """
    method = experiment.method(stage)
    if method.prepare is None:
        return state
    params, model_state = pseudo_labeler(experiment, stage, state)

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
            compile=functools.partial(
                jax.jit, out_shardings=sharding.replicated(experiment.mesh)
            ),
            folder=experiment.folder(stage),
            writes=distributed.is_main(),
        ),
    )
    distributed.wait(f"{stage} is prepared")
    if method.pseudo_labelled:
        check_shared(experiment.folder(stage) / pseudo_label_store.FOLDER)
    # The pseudo-labeler may be the network itself, whose buffers are donated.
    method_state = jax.tree.map(jnp.copy, method_state)
    method_state = sharding.put_replicated(method_state, experiment.mesh)
    return state.replace(method_state=method_state)


def read(
    experiment: Experiment, stage: str, domain: str, labelled: bool
) -> Iterator[tuple[Images, np.ndarray, tuple[str, ...]]]:
    """A domain's training images, once and in order; see `types.Preparation`.

    A bar shows how far it is: a pass over a real data set takes minutes.
    """
    placement = sharding.split(experiment.mesh)
    normalise = jax.jit(experiment.normalise, out_shardings=placement)
    size = experiment.evaluation_batch_size()
    source = experiment.open(domain, "train")
    with (
        pipeline.ordered_batches(source, batch_size=size, labelled=labelled) as loaded,
        tqdm(
            total=len(source),
            desc=f"{stage} prepares from {domain}",
            unit="image",
            disable=not distributed.is_main(),
            mininterval=1.0,
        ) as bar,
    ):
        for images, valid, ids in loaded:
            images = sharding.put_split(images, experiment.mesh)
            yield images._replace(image=normalise(images.image)), valid, ids
            bar.update(int(valid.sum()))


def check_shared(labels: Path) -> None:
    """Raise InputError where this process does not see the labels of the first one."""
    if not labels.is_dir():
        raise InputError(
            f"{labels}: expected the labels that process 0 wrote, found no folder; give "
            "all processes one --workdir, on a file system that they share"
        )


def pseudo_labeler(
    experiment: Experiment, stage: str, state: TrainState
) -> tuple[PyTree, PyTree]:
    """Parameters and BatchNorm statistics of the network that labels for a stage."""
    origin = experiment.config[stage]["pseudo_labeler"]
    if origin == "start":
        return state.params["model"], state.model_state
    network = experiment.load(origin, state.params["model"], state.model_state)
    return network.params, network.model_state

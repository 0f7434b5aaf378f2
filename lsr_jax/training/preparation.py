"""What a method computes on the host before step 0: anchors, pseudo-labels."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from lsr_jax import cli
from lsr_jax.data import pipeline, pseudo_label_store
from lsr_jax.errors import InputError
from lsr_jax.training import distributed, sharding
from lsr_jax.training.stage import Stage
from lsr_jax.training.state import TrainState
from lsr_jax.types import Images, Preparation


def prepare(stage: Stage, state: TrainState) -> TrainState:
    """The state before step 0 after the preparation of the stage's method.

    Everything that a preparation reads is fixed before the stage starts, so an
    interrupted one is done again. Of several processes each reads every image and
    computes its share of every batch; all obtain the same state, and the first writes
    the files.

    Raises:
      InputError: a process does not find the files that the first one wrote.
    """
    method, run = stage.method, stage.run
    if method.prepare is None:
        return state
    params, model_state = stage.labeler_network(state)

    def batches(domain: str, labelled: bool):
        if labelled and domain not in method.labelled:
            raise ValueError(f"the method of {stage.name} may not read {domain} labels")
        return training_images(stage, domain, labelled)

    method_state = method.prepare(
        state.method_state,
        Preparation(
            forward=run.model.forward,
            params=params,
            model_state=model_state,
            num_classes=run.model.num_classes,
            batches=batches,
            compile=functools.partial(
                jax.jit, out_shardings=sharding.replicated(run.mesh)
            ),
            folder=stage.folder,
            writes=distributed.is_main(),
        ),
    )
    distributed.wait(f"{stage.name} is prepared")
    labels = stage.folder / pseudo_label_store.FOLDER
    if method.pseudo_labelled and not labels.is_dir():
        raise InputError(
            f"{labels}: the pseudo-labels of process 0 are not visible here; give all "
            "processes one --workdir on a shared file system"
        )
    # The method may return the network itself, whose buffers are donated.
    method_state = jax.tree.map(jnp.copy, method_state)
    return state.replace(method_state=sharding.replicate(method_state, run.mesh))


def training_images(
    stage: Stage, domain: str, labelled: bool
) -> Iterator[tuple[Images, np.ndarray, tuple[str, ...]]]:
    """A domain's training images, once and in order; see `types.Preparation`."""
    run = stage.run
    normalise = jax.jit(run.normalise, out_shardings=sharding.split(run.mesh))
    size = run.evaluation_batch_size()
    source = run.open(domain, "train")
    with (
        pipeline.ordered_batches(source, batch_size=size, labelled=labelled) as loaded,
        cli.progress_bar(
            len(source),
            f"{stage.name} prepares from {domain}",
            "image",
            disable=not distributed.is_main(),
        ) as bar,
    ):
        for images, valid, ids in loaded:
            images = sharding.shard_whole_batch(images, run.mesh)
            yield images._replace(image=normalise(images.image)), valid, ids
            bar.update(int(valid.sum()))

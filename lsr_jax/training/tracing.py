"""The step of a stage as a program, traced before anything is drawn, read or compiled."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lsr_jax.data import augment
from lsr_jax.training import accumulate, build, compiled, sharding, step
from lsr_jax.training.experiment import Experiment
from lsr_jax.types import Batch, Images


def trace_all(experiment: Experiment) -> dict[str, compiled.Program]:
    """``{stage: program}`` of the stages that are not through.

    Raises:
      InputError: see `trace`.
    """
    config = experiment.config
    return {
        stage: trace(experiment, stage)
        for stage in config["stages"]
        if not (experiment.checkpoints(stage) / str(config[stage]["steps"])).is_dir()
    }


def trace(experiment: Experiment, stage: str) -> compiled.Program:
    """The whole step of a stage: augmentation, network, losses, gradients, optimiser.

    Raises:
      InputError: keys of the config with which there is no such step.
    """
    with build.from_keys(stage):
        return _trace(experiment, stage)


def _trace(experiment: Experiment, stage: str) -> compiled.Program:
    config = experiment.config
    c, parts = config[stage], config[stage]["micro_batches"]
    state, optimizer = experiment.template(stage)

    def jitted(forward: Callable) -> Callable:
        whole = step.make_step(
            experiment.method(stage),
            optimizer,
            forward,
            experiment.preprocess(stage),
            augment.pixels(config["data"]["preprocessing"]),
            skip_nonfinite=c["on_nonfinite"] == "skip",
        )
        return sharding.compile_step(whole, experiment.mesh)

    forward = experiment.model.forward
    group = accumulate.group_size(config["model"], parts)
    return compiled.trace(
        jitted(accumulate.in_parts(forward, parts, group=group)),
        state,
        batch(experiment, stage),
        counted=jitted(forward) if parts > 1 else None,
    )


def batch(experiment: Experiment, stage: str) -> Batch:
    """Shapes and placement of a batch, over all processes."""
    method = experiment.method(stage)
    placement = sharding.split(experiment.mesh)
    count = experiment.config[stage]["batch_size"]

    def pixels(domain: str, *channels: int) -> jax.ShapeDtypeStruct:
        shape = (count, *experiment.sizes[domain], *channels)
        return jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=placement)

    def images(domain: str) -> Images | None:
        if domain not in method.domains:
            return None
        label = pixels(domain) if method.gets_labels(domain) else None
        return Images(pixels(domain, 3), label)

    return Batch(images("source"), images("target"))

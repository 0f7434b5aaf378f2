"""Runs as they lie on the disk, without having been trained."""

import json
from pathlib import Path

import jax
import optax

from lsr_jax import models
from lsr_jax.training import checkpoint, state, workdir
from lsr_jax.training.checkpoint import Checkpointer


def run(
    folder: Path,
    config: dict,
    steps: dict[str, tuple[int, ...]],
    best: dict | None = None,
) -> Path:
    """A workdir whose stages keep fresh networks at the given steps.

    Every checkpoint is another draw; its key is the step. ``best`` is what a rule of
    `training.selection` chose.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = {**config, workdir.FORMAT_KEY: checkpoint.FORMAT}
    (folder / "config.json").write_text(json.dumps(stored))
    (folder / "manifest.json").write_text(
        json.dumps(
            {
                **workdir.environment(),
                "data": {"source": "-", "target": "-"},
                "weights": {},
                "seed": 0,
            }
        )
    )
    for stage, kept in steps.items():
        with Checkpointer(folder / stage / "checkpoints", keep_every=1) as checkpoints:
            for step in kept:
                params, model_state = network(config, step)
                whole = state.create(
                    {"model": params},
                    model_state,
                    (),
                    optax.sgd(1.0),
                    jax.random.key(0),
                )
                checkpoints.save(
                    step, whole, {"stage": stage, "step": step, "best": best}
                )
    return folder


def network(config: dict, key: int):
    """The parameters and statistics that `run` keeps at step ``key``."""
    return models.build(**config["model"]).init(jax.random.key(key), (64, 128))


def weight_info(arguments):
    """What the converter writes beside weights of this network."""
    return {
        "file": "mini.safetensors",
        "layout": "lsr",
        "preprocessing": "imagenet",
        "arguments": arguments,
        "loaded": {},
        "ignored": {},
        "fresh": [],
    }

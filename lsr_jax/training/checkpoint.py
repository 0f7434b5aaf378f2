"""Orbax checkpoints of whole train states; the only room that imports Orbax."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from lsr_jax.errors import InputError
from lsr_jax.training.state import TrainState
from lsr_jax.types import PyTree

# What Orbax and tensorstore raise for missing, truncated and foreign files.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError)


class Checkpointer:
    """The checkpoints of one stage: ``folder/<step>/`` holds state and facts.

    Saves are asynchronous and atomic: a killed save leaves nothing that counts as a
    checkpoint. The newest ``keep`` are kept.
    """

    def __init__(self, folder: Path, *, keep: int = 2):
        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.LatestN(keep),
            save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=options,
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "facts": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    def latest(self) -> int:
        """The newest step, 0 where there is none."""
        return self._manager.latest_step() or 0

    def save(self, step: int, state: TrainState, facts: Mapping) -> None:
        """Start saving; ``facts`` is a JSON-able dict that travels with the state."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state),
                facts=ocp.args.JsonSave(dict(facts)),
            ),
        )

    def restore(self, step: int, state: TrainState) -> TrainState:
        """The saved state with the structure and placement of ``state``.

        Raises:
          InputError: the checkpoint is damaged or was written by another network,
            method or optimiser.
        """
        return self._restore(step, state)

    def restore_model(self, step: int, model: PyTree) -> PyTree:
        """``{"params": ..., "model_state": ...}`` of the network alone.

        Args:
          step: a kept step.
          model: arrays or shapes of the wanted tree.

        Raises:
          InputError: the checkpoint is damaged or holds another network.
        """
        template = {
            "params": {"model": model["params"]},
            "model_state": model["model_state"],
        }
        found = self._restore(step, template, partial_restore=True)
        return {
            "params": found["params"]["model"],
            "model_state": found["model_state"],
        }

    def _restore(self, step: int, template: PyTree, **options) -> PyTree:
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        args = ocp.args.PyTreeRestore(
            template,
            restore_args=ocp.checkpoint_utils.construct_restore_args(template),
            **options,
        )
        try:
            stored = self._manager.item_metadata(step)["state"].tree
            check_network(as_dict(template), stored)
            args = ocp.args.Composite(state=args)
            return self._manager.restore(step, args=args).state
        except UNREADABLE as error:
            raise unreadable(self.folder / str(step), error) from error


def check_network(wanted: PyTree, stored: PyTree) -> None:
    """Raise ValueError where the stored network has other leaves or other shapes.

    Args:
      wanted: a tree with ``params/model`` and ``model_state``.
      stored: the same of a checkpoint, with shapes.
    """
    wanted, stored = shapes(wanted), shapes(stored)
    for what, names in (
        ("has no", sorted(wanted.keys() - stored.keys())),
        ("also has", sorted(stored.keys() - wanted.keys())),
    ):
        if names:
            raise ValueError(f"it {what} {', '.join(names[:3])} ({len(names)} such)")
    for name, shape in wanted.items():
        if shape != stored[name]:
            raise ValueError(f"{name} is {stored[name]} there and {shape} here")


def as_dict(tree: TrainState | dict) -> dict:
    """The fields of a state by name."""
    return tree if isinstance(tree, dict) else vars(tree)


def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Path -> shape of the leaves of the network in a state."""
    network = {"params": tree["params"]["model"], "model_state": tree["model_state"]}
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(network)
    }


def unreadable(path: Path, error: Exception) -> InputError:
    """The one line for a checkpoint that cannot be used."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(
        f"checkpoint {path}: cannot be restored into this network and method: "
        f"{reason[0][:300]}; remove the folder to train the stage again"
    )

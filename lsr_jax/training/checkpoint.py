"""Orbax checkpoints of whole train states; the only room that imports Orbax.

What a checkpoint holds, as hashes: a flipped bit is found when it is read.

Which checkpoints of a stage are kept, and which a folder holds.

What is said of a checkpoint that cannot be written or read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from lsr_jax.errors import DISK_FULL, InputError, TrainingError
from lsr_jax.training import distributed
from lsr_jax.training.state import TrainState
from lsr_jax.types import PyTree

DAMAGED = "damaged"  # folder beside ``checkpoints`` for those that were passed over


class Checkpointer:
    """The checkpoints of one stage: ``folder/<step>/`` holds state and facts.

    Saves are asynchronous and atomic: a killed save leaves nothing that counts as a
    checkpoint. Every array is hashed when it is saved and again when it is read.
    """

    def __init__(self, folder: Path, *, keep_every: int = 0, read_only: bool = False):
        """Opens the folder.

        Args:
          folder: made if missing, unless it is only read.
          keep_every: checkpoints at multiples of it are never deleted; 0: none.
          read_only: leaves everything as it is: another process may be saving.
        """
        self.folder = folder.absolute()
        self._kept = Kept(keep_every)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._kept,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
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
        with writing(self.folder):
            self._manager.close()

    def steps(self) -> list[int]:
        """The steps that have a folder, in order, whatever it holds."""
        return checkpoint_steps(self.folder)

    def save(self, step: int, state: TrainState, facts: Mapping) -> None:
        """Start saving.

        Args:
          step: larger than those saved before.
          state: everything that decides the future.
          facts: a JSON-able dict that travels with it; ``best`` is None or a dict whose
            ``step`` is that of the checkpoint to keep beside the newest.

        Raises:
          TrainingError: this save or the one before could not be written, or the
            folder holds a step that is not smaller.
        """
        for known in (*self.steps(), step):
            if known not in self._kept.best:
                there = facts if known == step else self._readable_facts(known)
                best = there.get("best")
                self._kept.best[known] = best and best["step"]
        with writing(self.folder):
            begun = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state),
                    facts=ocp.args.JsonSave(seal(facts, state)),
                ),
            )
        if not begun:  # Orbax says no more than that
            raise not_taken(self.folder, step, self._manager.latest_step())

    def wait(self) -> None:
        """Until what was saved is on the disk.

        Raises:
          TrainingError: it could not be written.
        """
        with writing(self.folder):
            self._manager.wait_until_finished()

    def facts(self, step: int) -> dict:
        """What was saved beside the state; its ``sha256`` is of all of the checkpoint.

        Raises:
          InputError: the facts are damaged, or of another step.
        """
        try:
            facts = self._manager.restore(
                step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())
            ).facts
            check_seal(facts)
            check_step(facts, step)
        except Exception as error:  # for a damaged file a reader may raise anything
            raise unreadable(self.folder / str(step), error) from error
        return facts

    def resume(self, template: TrainState) -> tuple[TrainState, dict] | None:
        """State and facts of the newest checkpoint that is whole; None without any.

        Newer ones that are damaged, half-written or foreign are named on stderr and
        moved to the folder ``damaged`` beside this one.

        Raises:
          InputError: there are checkpoints, but none can be used.
        """
        found = self._newest(lambda step: self.restore(step, template))
        if found is None:
            return None
        result, passed_over = found
        if passed_over:
            for step in passed_over:
                self._kept.best.pop(step, None)  # its number comes again
            if distributed.is_main():
                self._set_aside(passed_over)
            distributed.wait("damaged checkpoints are set aside")
            self._manager.reload()
        return result

    def restore(
        self, step: int, template: TrainState | PyTree
    ) -> tuple[TrainState, dict]:
        """The saved state with the structure and placement of ``template``; its facts.

        Raises:
          InputError: the checkpoint is damaged or was written by another network,
            method or optimiser.
        """
        return self._restore(step, template, whole=True)

    def restore_model(self, step: int, model: PyTree) -> tuple[dict, dict]:
        """``{"params": ..., "model_state": ...}`` of the network alone, and the facts.

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
        found, facts = self._restore(step, template, whole=False, partial_restore=True)
        network = {
            "params": found["params"]["model"],
            "model_state": found["model_state"],
        }
        return network, facts

    def newest_model(self, model: PyTree) -> tuple[dict, dict]:
        """What `restore_model` finds in the newest checkpoint that is whole.

        Raises:
          InputError: none can be used.
        """
        found = self._newest(lambda step: self.restore_model(step, model))
        if found is None:
            raise InputError(f"{self.folder}: holds no finished checkpoint")
        return found[0]

    def reported_model(self, model: PyTree) -> tuple[dict, dict, int]:
        """The network that a stage reports, the newest facts, and its step.

        The best one where a rule chose one, else the newest that is whole.

        Raises:
          InputError: there is no checkpoint, or the chosen one is damaged.
        """
        found, facts = self.newest_model(model)
        best = facts["best"]
        if best and best["step"] != facts["step"]:
            found, _ = self.restore_model(best["step"], model)
        return found, facts, best["step"] if best else facts["step"]

    def _set_aside(self, steps: Sequence[int]) -> None:
        """Moves checkpoints to where nobody looks for one."""
        folder = self.folder.parent / DAMAGED
        with writing(folder):
            folder.mkdir(exist_ok=True)
            for step in steps:
                target = folder / str(step)
                shutil.rmtree(target, ignore_errors=True)
                (self.folder / str(step)).rename(target)

    def _readable_facts(self, step: int) -> dict:
        """The facts of a checkpoint; none of a damaged one."""
        try:
            return self.facts(step)
        except InputError:
            return {}

    def _newest(self, read):
        """What ``read`` makes of the newest usable step, and the steps passed over."""
        errors = {}
        for step in reversed(self.steps()):
            try:
                found = read(step)
            except InputError as error:
                errors[step] = error
                continue
            for error in errors.values():
                print(f"warning: {error}; passed over for {step}", file=sys.stderr)
            return found, list(errors)
        if errors:
            raise none_readable(self.folder, errors)
        return None

    def _restore(self, step, template, *, whole, **options):
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        placed = ocp.checkpoint_utils.construct_restore_args(shapes)
        args = ocp.args.PyTreeRestore(shapes, restore_args=placed, **options)
        facts = self.facts(step)
        try:
            stored = self._manager.item_metadata(step)["state"].tree
            check_network(template, stored)
            args = ocp.args.Composite(state=args)
            found = self._manager.restore(step, args=args).state
            check_types(template, found)
            check_arrays(facts, found, whole=whole)
        except jax.errors.JaxRuntimeError:
            raise  # memory of the device, not the file
        except Exception as error:  # for a damaged file a reader may raise anything
            raise unreadable(self.folder / str(step), error) from error
        return found, facts


def paths(tree: PyTree) -> dict[str, PyTree]:
    """Leaves by name, as ``params/model/head/conv2d_list_0/kernel``."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def digests(tree: PyTree) -> dict[str, str]:
    """sha256 of every array of a tree by its name: of dtype, shape and bytes."""
    return {
        name: digest(np.asarray(leaf))
        for name, leaf in jax.device_get(jax.tree.map(plain, paths(tree))).items()
    }


def plain(leaf: jax.Array) -> jax.Array:
    """The array itself, or the numbers of a key."""
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def digest(array: np.ndarray) -> str:
    """sha256 of one array."""
    head = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    # As bytes: hashlib does not take every dtype of JAX (bfloat16).
    head.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return head.hexdigest()


def seal(facts: Mapping, tree: PyTree) -> dict:
    """``facts`` with ``arrays``, the digests of a tree, and ``sha256`` over it all."""
    whole = {**facts, "arrays": digests(tree)}
    return {**whole, "sha256": seal_of(whole)}


def seal_of(facts: Mapping) -> str:
    """sha256 of facts without their own seal."""
    rest = {name: value for name, value in facts.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_seal(facts: Mapping) -> None:
    """Raise ValueError unless ``facts`` are as `seal` made them."""
    if not isinstance(facts, dict) or "arrays" not in facts:
        raise ValueError("it has no content hash, so another program wrote it")
    if facts.get("sha256") != seal_of(facts):
        raise ValueError("its facts are not what was saved")


def check_step(facts: Mapping, step: int) -> None:
    """Raise ValueError unless ``facts`` are of the step that their folder is named for."""
    saved = facts.get("step")
    if saved != step:
        raise ValueError(f"it was saved as that of step {saved}")


def check_types(wanted: PyTree, found: PyTree) -> None:
    """Raise ValueError where a leaf has another dtype or shape than is wanted.

    A key that lost its type comes back as numbers, whose hash is that of the key.
    """
    found = paths(found)
    for name, leaf in paths(wanted).items():
        expected, got = (f"{x.dtype}{list(x.shape)}" for x in (leaf, found[name]))
        if expected != got:
            raise ValueError(f"{name} is {got} there and {expected} here")


def check_arrays(facts: Mapping, tree: PyTree, *, whole: bool) -> None:
    """Raise ValueError unless the arrays are those that were saved.

    Args:
      facts: sealed.
      tree: as read.
      whole: whether it holds everything that was saved.
    """
    found = digests(tree)
    if whole and found.keys() != facts["arrays"].keys():
        odd = sorted(found.keys() ^ facts["arrays"].keys())
        raise ValueError(f"it holds another state: {', '.join(odd[:3])}")
    changed = [name for name in found if found[name] != facts["arrays"].get(name)]
    if changed:
        raise ValueError(
            f"the content of {', '.join(changed[:3])} is not what was saved "
            f"({len(changed)} of {len(found)} arrays)"
        )


def check_network(wanted: PyTree, stored: PyTree) -> None:
    """Raise ValueError where the stored network has other leaves or other shapes.

    Args:
      wanted: a state, or a dict with ``params/model`` and ``model_state``.
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


def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Path -> shape of the leaves of the network in a state."""
    return {
        name: tuple(leaf.shape)
        for name, leaf in paths(tree).items()
        if name.startswith(("params/model/", "model_state/"))
    }


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps that have a folder, in order, whatever it holds."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if is_step(path))


def is_step(path: Path) -> bool:
    """Whether a path has a name that a checkpoint is given."""
    return path.name.isdecimal() and path.name == str(int(path.name))


class Kept:
    """Which checkpoints stay: the newest two, their best ones, every Nth if asked.

    Both best ones: where the newest turns out to be damaged, the one before it counts.

    Attributes:
      every: 0 for none.
      best: checkpoint -> the best one when it was saved, or None.
    """

    def __init__(self, every: int):
        self.every = every
        self.best: dict[int, int | None] = {}

    def should_preserve(self, checkpoints: Sequence, *, context) -> list[bool]:
        """Orbax's question, before it deletes."""
        del context
        newest = [info.step for info in checkpoints[-2:]]
        wanted = {*newest, *(self.best.get(step) for step in newest)}
        return [
            info.step in wanted or bool(self.every and info.step % self.every == 0)
            for info in checkpoints
        ]


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what Orbax raises for files that cannot be written into a TrainingError."""
    try:
        yield
    except (OSError, ValueError) as error:
        full = any(os.strerror(number) in str(error) for number in DISK_FULL)
        raise TrainingError(
            f"checkpoint in {folder}: cannot be written: {reason(error)}; the last one is "
            f"kept; {'make room' if full else 'correct that'}, then the same command "
            "continues"
        ) from error


def not_taken(folder: Path, step: int, newest: int | None) -> TrainingError:
    """The one line for a save that Orbax drops beside a step that is not smaller."""
    return TrainingError(
        f"checkpoint {folder / str(step)}: cannot be written: expected smaller steps "
        f"beside it, found {newest}; move away what this run did not save, then the "
        "same command continues"
    )


def unreadable(path: Path, error: Exception) -> InputError:
    """The one line for a checkpoint that cannot be used."""
    return InputError(
        f"{cannot_be_restored(path, error)}; remove the folder to train the stage again"
    )


def none_readable(folder: Path, errors: Mapping[int, InputError]) -> InputError:
    """The one line for a stage of which no checkpoint can be used.

    Args:
      folder: of its checkpoints.
      errors: of `unreadable`, by step; the newest comes first.
    """
    newest, error = next(iter(errors.items()))
    if len(errors) == 1:
        return error
    return InputError(
        f"{cannot_be_restored(folder / str(newest), error.__cause__)}; none of "
        f"the {len(errors)} there can; remove {folder.parent} to train the stage again"
    )


def cannot_be_restored(path: Path, error: Exception) -> str:
    """Which checkpoint, and why."""
    return (
        f"checkpoint {path}: cannot be restored into this network and method: "
        f"{reason(error)}"
    )


def reason(error: Exception) -> str:
    """The first line of what an error says, or its name."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]

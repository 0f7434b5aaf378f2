"""Orbax checkpoints of the training state, with a hash of every array.

``FOLDER/<step>/state`` holds the arrays, ``FOLDER/<step>/facts`` a JSON object with the
step, the best checkpoint so far, the position of the metrics log, the sha256 of every
array and the format version. Saves are asynchronous and atomic. What a method marks as
`types.Frozen` is in ``FOLDER/frozen``, once for all steps; their facts have its hashes too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from lsr_jax import convert
from lsr_jax.convert.names import leaves_by_path
from lsr_jax.errors import DISK_FULL, InputError, TrainingError
from lsr_jax.training import distributed
from lsr_jax.training.state import TrainState
from lsr_jax.types import Frozen, PyTree

FORMAT = 2
RELEASES = {1: "0.1", 2: "0.2"}  # format: the lsr_jax that writes it
NETWORK = ("params/model/", "model_state/")  # paths in a state
QUARANTINE = "damaged"  # beside the folder of checkpoints
# In the folder of checkpoints. One level down, since Orbax's manager removes unfinished
# saves next to the steps, in the background, while this one may be going on.
FROZEN = "frozen/arrays"
TRAIN_AGAIN = "copy it back, or remove all checkpoints to train the stage again"
KEEP_NEWEST = 2

# What decoders raise for wrong bytes. Everything else (no memory, a failing disk, a bug)
# says nothing about the checkpoint. Orbax wraps errors of TensorStore in plain Exception.
MALFORMED = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
# TensorStore reports a failing disk as ValueError with the text of errno.
MACHINE_ERRORS = [
    os.strerror(number)
    for number in (errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ESTALE)
]


Network = tuple[PyTree, PyTree]  # params, model_state


class DamagedCheckpointError(InputError):
    """A checkpoint whose files are not those that were written, or of another network."""


class Checkpointer(contextlib.AbstractContextManager):
    """The checkpoints of one stage."""

    def __init__(self, folder: Path, *, keep_every: int = 0, read_only: bool = False):
        """Opens the folder, and creates it unless ``read_only``.

        Kept are the newest two checkpoints, those that they name as the best, and the
        multiples of ``keep_every`` unless that is 0. With ``read_only`` nothing is
        changed: another process may be saving.
        """
        self.folder = folder.absolute()
        self._has_frozen = bool(checkpoint_steps(self.folder))
        self._best = BestOfNewest()
        kept = [policies.LatestN(KEEP_NEWEST), self._best]
        kept += [policies.EveryNSteps(keep_every)] if keep_every else []
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                create=not read_only,
                cleanup_tmp_directories=not read_only,
            ),
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "facts": FactsHandler(),
            },
        )

    def __exit__(self, *_) -> None:
        with writing(self.folder):
            self._manager.close()

    def save(self, step: int, state: TrainState, facts: Mapping) -> None:
        """Start saving; the state may be donated afterwards.

        ``facts`` are JSON-able; ``best`` is None or a dict whose ``step`` is kept.

        Raises:
          TrainingError: this save or the previous one failed, or a later step exists.
        """
        for saved in checkpoint_steps(self.folder):
            if saved not in self._best.named:
                self._best.named[saved] = None
                with contextlib.suppress(DamagedCheckpointError):
                    self._best.add(saved, self.facts(saved))
        self._best.add(step, facts)
        moving, frozen = without_frozen(state)
        if frozen and not self._has_frozen:
            with writing(self.folder), frozen_checkpointer() as writer:
                writer.save(
                    self.folder / FROZEN, args=ocp.args.PyTreeSave(frozen), force=True
                )
            self._has_frozen = True
        with writing(self.folder):
            started = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(moving),
                    facts=Facts((dict(facts), host_copy(state))),
                ),
            )
        if not started:
            raise TrainingError(
                f"checkpoint {self.folder / str(step)}: not saved: a later step exists "
                f"(found {self._manager.latest_step()}); move away the checkpoints that "
                "this run did not write, then repeat the command"
            )

    def wait(self) -> None:
        """Wait until the last save is on disk; raises TrainingError if it failed."""
        with writing(self.folder):
            self._manager.wait_until_finished()

    def facts(self, step: int) -> dict:
        """The facts saved with a step, with ``sha256`` over all of the checkpoint.

        Raises:
          DamagedCheckpointError: the facts are not those that were saved.
          InputError: another version of lsr_jax wrote them.
        """
        path = self.folder / str(step)
        with reading(path):
            args = ocp.args.Composite(facts=Facts())
            facts = self._manager.restore(step, args=args).facts
            check_seal(facts)
            if facts["step"] != step:
                raise ValueError(f"it was saved as step {facts['step']}")
        check_format(facts.get("format", 1), f"checkpoint {path}")
        return facts

    def restore(
        self, step: int, template: PyTree, *, whole: bool = True
    ) -> tuple[PyTree, dict]:
        """The saved state, with the structure and placement of ``template``; its facts.

        Without ``whole``, ``template`` may be a part of the state.

        Raises:
          DamagedCheckpointError: damaged, or of another network, method or optimizer.
          TrainingError: the machine failed to read it.
        """
        facts = self.facts(step)
        moving, frozen = without_frozen(template)
        saved, path = facts["arrays"], self.folder / str(step)
        unmoved = leaves_by_path(template).keys() - leaves_by_path(moving).keys()
        with reading(path):
            stored = self._manager.item_metadata(step)["state"].tree
            check_leaves(network_leaves(template), network_leaves(stored))
            args = ocp.args.Composite(state=restore_args(moving, whole=whole))
            found = self._manager.restore(step, args=args).state
            check_leaves(typed_leaves(moving), typed_leaves(found))
            arrays = host_copy(found)
            own = {name: saved[name] for name in saved.keys() - unmoved}
            check_arrays(own, digests(arrays), whole=whole)
        network = {name: x for name, x in arrays.items() if name.startswith(NETWORK)}
        convert.check_values(f"checkpoint {path}", network)
        if not frozen:
            return found, facts
        path = self.folder / FROZEN
        with reading(path.parent, TRAIN_AGAIN), frozen_checkpointer() as reader:
            values = reader.restore(path, args=restore_args(frozen, whole=True))
            found = with_frozen(found, values)
            leaves = leaves_by_path(found)
            arrays = host_copy({name: leaves[name] for name in unmoved})
            check_arrays(saved, digests(arrays), whole=False)
        return found, facts

    def restore_newest(self, template: TrainState) -> tuple[TrainState, dict] | None:
        """State and facts of the newest undamaged checkpoint; None if there is none.

        Of several processes the first decides which step that is. Newer checkpoints that
        are damaged are reported on stderr and moved to the folder ``damaged``.

        Raises:
          InputError: all checkpoints are damaged, or only some processes can read one.
        """
        found, damaged = self._newest(lambda step: self.restore(step, template))
        if damaged:
            if distributed.is_main():
                self._quarantine(damaged)
            distributed.wait("damaged checkpoints are moved")
            self._manager.reload()
        return found

    def restore_network(self, step: int, network: Network) -> tuple[Network, dict]:
        """``(params, model_state)`` of the network, as arrays or shapes; and the facts.

        Raises:
          DamagedCheckpointError: damaged, or of another network.
        """
        params, model_state = network
        template = {"params": {"model": params}, "model_state": model_state}
        found, facts = self.restore(step, template, whole=False)
        return (found["params"]["model"], found["model_state"]), facts

    def reported_network(self, network: Network) -> tuple[Network, dict, int]:
        """The network that a stage reports, the newest facts, and the reported step.

        That is the best checkpoint if a selection rule chose one, else the newest
        undamaged one.

        Raises:
          InputError: there is no checkpoint, or the best one is damaged.
        """
        newest, _ = self._newest(lambda step: self.restore_network(step, network))
        if newest is None:
            raise InputError(
                f"{self.folder}: no finished checkpoint; train the stage first"
            )
        found, facts = newest
        step = facts["best"]["step"] if facts["best"] else facts["step"]
        if step != facts["step"]:
            found, _ = self.restore_network(step, network)
        return found, facts, step

    def _newest(self, read: Callable[[int], tuple]) -> tuple[tuple | None, list[int]]:
        """What ``read`` returns for the newest undamaged step, and the damaged steps."""
        errors: dict[int, DamagedCheckpointError] = {}
        for step in reversed(distributed.from_main(checkpoint_steps(self.folder))):
            found = error = None
            try:
                found = read(step)
            except DamagedCheckpointError as damage:
                error = damage
            (damaged,) = distributed.from_main([error is not None])
            if distributed.any_process((error is not None) != damaged):
                raise error or InputError(
                    f"checkpoint {self.folder / str(step)}: some processes can read it "
                    "and others cannot; give all of them one --workdir on a shared file "
                    "system"
                )
            if not damaged:
                for other in errors.values():
                    print(f"warning: {other}; using step {step}", file=sys.stderr)
                return found, list(errors)
            errors[step] = error
        for newest in errors.values():
            count = f"; none of the {len(errors)} checkpoints is usable"
            raise InputError(f"{newest}{count if len(errors) > 1 else ''}") from newest
        return None, []

    def _quarantine(self, steps: Sequence[int]) -> None:
        folder = self.folder.parent / QUARANTINE
        with writing(folder):
            folder.mkdir(exist_ok=True)
            for step in steps:
                shutil.rmtree(folder / str(step), ignore_errors=True)
                (self.folder / str(step)).rename(folder / str(step))


def _is_frozen(node: object) -> bool:
    return isinstance(node, Frozen)


def without_frozen(tree: PyTree) -> tuple[PyTree, list]:
    """The tree with empty `Frozen` nodes, and what was in them."""
    leaves = jax.tree.leaves(tree, is_leaf=_is_frozen)
    values = [leaf.value for leaf in leaves if _is_frozen(leaf)]
    return with_frozen(tree, [()] * len(values)), values


def with_frozen(tree: PyTree, values: Sequence[PyTree]) -> PyTree:
    """The tree with ``values`` in its `Frozen` nodes."""
    rest = iter(values)
    return jax.tree.map(
        lambda x: Frozen(next(rest)) if _is_frozen(x) else x, tree, is_leaf=_is_frozen
    )


def frozen_checkpointer() -> ocp.Checkpointer:
    """Orbax's object that writes and reads the folder of the frozen parts."""
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def restore_args(template: PyTree, *, whole: bool) -> ocp.args.PyTreeRestore:
    """Orbax's arguments for reading arrays with the placement of ``template``."""
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
    return ocp.args.PyTreeRestore(
        shapes,
        restore_args=ocp.checkpoint_utils.construct_restore_args(shapes),
        partial_restore=not whole,
    )


class FactsHandler(ocp.JsonCheckpointHandler):
    """Saves ``(facts, arrays)``: the arrays are hashed on Orbax's writer thread."""

    async def _save_fn(self, item, directory):
        if distributed.is_main():
            facts, arrays = item
            await super()._save_fn(seal(facts, arrays), directory)


@ocp.args.register_with_handler(FactsHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class Facts(ocp.args.JsonRestore):
    """Arguments of `FactsHandler`: what to save."""


class BestOfNewest(policies.PreservationPolicy):
    """Keeps the best checkpoints that the newest ones name.

    Not only that of the very newest: if it is damaged, the one before it counts.
    """

    def __init__(self):
        self.named: dict[int, int | None] = {}

    def add(self, step: int, facts: Mapping) -> None:
        """Remember which step ``facts`` names as the best."""
        self.named[step] = facts["best"] and facts["best"]["step"]

    def should_preserve(self, checkpoints: Sequence, *, context) -> list[bool]:
        """Implements Orbax's interface."""
        del context
        best = {self.named.get(info.step) for info in checkpoints[-KEEP_NEWEST:]}
        return [info.step in best for info in checkpoints]


def checkpoint_steps(folder: Path) -> list[int]:
    """The saved steps in ascending order; their content is not checked."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if is_step(path))


def is_step(path: Path) -> bool:
    """Whether a path is named like a checkpoint."""
    return path.name.isdecimal() and path.name == str(int(path.name))


def check_format(found: int, what: str) -> None:
    """Raise InputError unless this version of lsr_jax can read format ``found``."""
    if found != FORMAT:
        raise InputError(
            f"{what}: written by lsr_jax {RELEASES.get(found, 'of a later version')} "
            f"(found format {found}, expected {FORMAT}); use that version, or choose "
            "another --workdir"
        )


def host_copy(tree: PyTree) -> dict[str, np.ndarray]:
    """Arrays by path, which no donation of ``tree`` overwrites; keys as their data."""

    def data(leaf):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    arrays = jax.device_get(jax.tree.map(data, leaves_by_path(tree)))
    # On a CPU `jax.device_get` returns views.
    return {name: np.array(array) for name, array in arrays.items()}


def digests(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """sha256 of each array, over dtype, shape and bytes."""
    found = {}
    for name, array in arrays.items():
        hashed = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
        # As bytes: hashlib does not take every dtype of JAX (bfloat16).
        hashed.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        found[name] = hashed.hexdigest()
    return found


def fingerprint(tree: PyTree) -> str:
    """One sha256 over names, dtypes, shapes and bytes of all arrays of a tree."""
    return json_digest(digests(host_copy(tree)))


def json_digest(content: Mapping) -> str:
    """sha256 of an object as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def seal(facts: Mapping, arrays: Mapping[str, np.ndarray]) -> dict:
    """``facts`` with the format, the digests of ``arrays``, and ``sha256`` over it all."""
    whole = {**facts, "format": FORMAT, "arrays": digests(arrays)}
    return {**whole, "sha256": json_digest(whole)}


def check_seal(facts: Mapping) -> None:
    """Raise ValueError unless ``facts`` are as `seal` returned them."""
    if not isinstance(facts, dict) or "arrays" not in facts:
        raise ValueError("no hashes of its arrays: another program wrote it")
    rest = {name: value for name, value in facts.items() if name != "sha256"}
    if facts.get("sha256") != json_digest(rest):
        raise ValueError("its facts are not those that were saved")


def check_leaves(expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise ValueError where leaves by path have other names, dtypes or shapes."""
    for what, names in (
        ("has no", sorted(expected.keys() - found.keys())),
        ("also has", sorted(found.keys() - expected.keys())),
    ):
        if names:
            raise ValueError(f"it {what} {', '.join(names[:3])} ({len(names)} in all)")
    for name, leaf in expected.items():
        if leaf != found[name]:
            raise ValueError(f"{name} (found {found[name]}, expected {leaf})")


def network_leaves(tree: PyTree) -> dict[str, str]:
    """Shapes by path of the network in a state, or in the metadata of a checkpoint."""
    leaves = leaves_by_path(tree).items()
    return {name: f"{list(x.shape)}" for name, x in leaves if name.startswith(NETWORK)}


def typed_leaves(tree: PyTree) -> dict[str, str]:
    """Dtypes and shapes; a key that lost its type is numbers with the same digest."""
    leaves = leaves_by_path(tree).items()
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves}


def check_arrays(
    saved: Mapping[str, str], found: Mapping[str, str], *, whole: bool
) -> None:
    """Raise ValueError unless the digests of what was read are those that were saved.

    With ``whole`` everything that was saved has to be there.
    """
    if whole and found.keys() != saved.keys():
        others = sorted(found.keys() ^ saved.keys())
        raise ValueError(f"it holds another state: {', '.join(others[:3])}")
    changed = [name for name in found if found[name] != saved.get(name)]
    if changed:
        raise ValueError(
            f"{', '.join(changed[:3])} changed since they were saved "
            f"({len(changed)} of {len(found)} arrays)"
        )


@contextlib.contextmanager
def reading(
    path: Path, remedy: str = "remove the folder to train the stage again"
) -> Iterator[None]:
    """Turn decoding errors into DamagedCheckpointError, those of a disk into TrainingError."""
    try:
        yield
    except Exception as error:
        text = f"{error} {error.__cause__}"
        malformed = isinstance(error, MALFORMED) or type(error) is Exception
        on_machine = any(machine in text for machine in MACHINE_ERRORS)
        if isinstance(error, MISSING) or (malformed and not on_machine):
            raise DamagedCheckpointError(
                f"checkpoint {path}: cannot be restored into this network and method: "
                f"{reason(error)}; {remedy}"
            ) from error
        if isinstance(error, OSError) or malformed:
            raise TrainingError(
                f"checkpoint {path}: cannot be read now: {reason(error)}; it was left in "
                "place; repeat the command when the disk works"
            ) from error
        raise


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what Orbax raises for files that cannot be written into TrainingError."""
    try:
        yield
    except (OSError, ValueError) as error:
        full = any(os.strerror(number) in str(error) for number in DISK_FULL)
        raise TrainingError(
            f"checkpoint in {folder}: cannot be written: {reason(error)}; the previous "
            f"one is intact; {'free disk space' if full else 'correct that'}, then "
            "repeat the command"
        ) from error


def reason(error: Exception) -> str:
    """The first line of an error's message, or of its cause's, or its class."""
    error = error.__cause__ if type(error) is Exception and error.__cause__ else error
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]

"""Orbax checkpoints of whole train states; the only room that imports Orbax."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from lsr_jax.errors import InputError
from lsr_jax.training import content, distributed, kept, refusals
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
        self._kept = kept.Kept(keep_every)
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
        with refusals.writing(self.folder):
            self._manager.close()

    def steps(self) -> list[int]:
        """The steps that have a folder, in order, whatever it holds."""
        return kept.steps(self.folder)

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
        with refusals.writing(self.folder):
            begun = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state),
                    facts=ocp.args.JsonSave(content.seal(facts, state)),
                ),
            )
        if not begun:  # Orbax says no more than that
            raise refusals.not_taken(self.folder, step, self._manager.latest_step())

    def wait(self) -> None:
        """Until what was saved is on the disk.

        Raises:
          TrainingError: it could not be written.
        """
        with refusals.writing(self.folder):
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
            content.check_seal(facts)
            content.check_step(facts, step)
        except Exception as error:  # for a damaged file a reader may raise anything
            raise refusals.unreadable(self.folder / str(step), error) from error
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
        with refusals.writing(folder):
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
            raise refusals.none_readable(self.folder, errors)
        return None

    def _restore(self, step, template, *, whole, **options):
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        placed = ocp.checkpoint_utils.construct_restore_args(shapes)
        args = ocp.args.PyTreeRestore(shapes, restore_args=placed, **options)
        facts = self.facts(step)
        try:
            stored = self._manager.item_metadata(step)["state"].tree
            content.check_network(template, stored)
            args = ocp.args.Composite(state=args)
            found = self._manager.restore(step, args=args).state
            content.check_types(template, found)
            content.check_arrays(facts, found, whole=whole)
        except jax.errors.JaxRuntimeError:
            raise  # memory of the device, not the file
        except Exception as error:  # for a damaged file a reader may raise anything
            raise refusals.unreadable(self.folder / str(step), error) from error
        return found, facts

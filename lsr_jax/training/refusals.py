"""What is said of a checkpoint that cannot be written or read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from lsr_jax import commands
from lsr_jax.errors import InputError, TrainingError


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what Orbax raises for files that cannot be written into a TrainingError."""
    try:
        yield
    except (OSError, ValueError) as error:
        full = any(os.strerror(number) in str(error) for number in commands.FULL)
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

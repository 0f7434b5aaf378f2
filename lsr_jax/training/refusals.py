"""What is said of a checkpoint that cannot be written or read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lsr_jax.errors import InputError, TrainingError


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns what Orbax raises for a disk that takes no more into a TrainingError."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrainingError(
            f"checkpoint in {folder}: cannot be written: {reason[:300]}; the last one "
            "is kept; make room, then the same command continues"
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
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(
        f"checkpoint {path}: cannot be restored into this network and method: "
        f"{reason[0][:300]}; remove the folder to train the stage again"
    )

"""Which checkpoints of a stage are kept, and which a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def steps(folder: Path) -> list[int]:
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

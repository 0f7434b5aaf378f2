"""Goodput: the share of a run's wall time that is spent in steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Goodput:
    """A clock that starts with the stage and is told what is no training.

    >>> goodput = Goodput()
    >>> with goodput.lost("data"):
    ...     batch = next(batches)
    >>> goodput.metrics()  # {"goodput": 0.98, "lost_data_seconds": 1.5}
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._start = clock()
        self._lost = {}

    @contextlib.contextmanager
    def lost(self, name: str) -> Iterator[None]:
        """Count the time spent inside as lost to ``name``: compile, data, checkpoint."""
        start = self._clock()
        try:
            yield
        finally:
            passed = self._clock() - start
            self._lost[name] = self._lost.get(name, 0.0) + passed

    def metrics(self) -> dict[str, float]:
        """``goodput``, a fraction, and the seconds lost to each name so far."""
        wall = self._clock() - self._start
        lost = sum(self._lost.values())
        share = 1.0 - lost / wall if wall > 0 else 1.0
        return {
            "goodput": share,
            **{f"lost_{name}_seconds": value for name, value in self._lost.items()},
        }

    def summary(self) -> str:
        """The line that is printed when a stage has ended."""
        lost = ", ".join(f"{name} {time:.1f} s" for name, time in self._lost.items())
        share = self.metrics()["goodput"]
        return f"{share:.1%} of the time spent in steps" + (
            f" ({lost})" if lost else ""
        )

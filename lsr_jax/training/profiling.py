"""A trace of a few steps, for TensorBoard or Perfetto."""

from __future__ import annotations

from pathlib import Path

import jax


class Profiler:
    """Traces ``count`` steps into ``folder``, after ``skip`` steps that warm up.

    ``None`` for the folder traces nothing.
    """

    def __init__(self, folder: Path | None, *, skip: int = 5, count: int = 5):
        self._folder = folder
        self._begin, self._end = skip, skip + count
        self._seen = 0
        self._running = False

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def step(self) -> None:
        """Say that another step is about to be dispatched."""
        if self._folder is not None and self._seen == self._begin:
            jax.profiler.start_trace(self._folder)
            self._running = True
        if self._seen == self._end:
            self._stop()
        self._seen += 1

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

"""Stop a run before its end, so that the same command continues it exactly.

While a stage trains, the first SIGTERM or SIGINT lets the step finish and the state be
saved; elsewhere (drawing data, preparing, reporting) it ends the work at once, because
that work is repeated from its beginning. A second signal always ends the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from lsr_jax.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """When to stop; entered as a context manager it also handles signals."""

    def __init__(
        self, *, max_steps: int | None = None, max_minutes: float | None = None
    ):
        """``max_steps`` of this process over all stages, ``max_minutes`` from now on."""
        self._reason: str | None = None
        self._deferring = False
        self._steps_left = max_steps
        self._max_minutes = max_minutes
        self._begin = time.monotonic()

    def after_step(self) -> str | None:
        """Count a step; returns the reason to stop now, or None."""
        if self._steps_left is not None:
            self._steps_left -= 1
            if self._steps_left <= 0:
                self._reason = self._reason or "--max_steps"
        minutes = (time.monotonic() - self._begin) / 60
        if self._max_minutes is not None and minutes >= self._max_minutes:
            self._reason = self._reason or "--max_minutes"
        return self._reason

    def check(self, agreed: Callable[[bool], bool] = bool) -> None:
        """Raise Stopped if it is time, where nothing has to be saved.

        ``agreed`` turns the wish of this process into that of all of them.
        """
        if agreed(self._reason is not None):
            reason = self._reason or "another process"
            raise Stopped(f"stopped by {reason}, with nothing left to save")

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A block in which a first signal only sets the reason of `after_step`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def __enter__(self) -> Stop:
        read, write = os.pipe()
        os.set_blocking(write, False)
        self._handlers = {
            number: signal.signal(number, self._first) for number in SIGNALS
        }
        self._wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._pipe = (read, write)
        self._thread = threading.Thread(target=_listen, args=(read,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        read, write = self._pipe
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(write)
        self._thread.join()
        os.close(read)

    def _first(self, number: int, frame: object) -> None:
        self._reason = self._reason or signal.Signals(number).name
        if not self._deferring:
            raise Stopped(f"stopped by {self._reason}")


def _listen(read: int) -> None:
    # Python runs handlers between two instructions of the main thread only, not while it
    # is inside a compiler; the byte in the pipe arrives at once.
    count = 0
    while received := os.read(read, 1):
        number = received[0]
        if number not in SIGNALS:
            continue
        count += 1
        if count > 1:
            os._exit(128 + number)
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):  # a closed pipe
            os.write(2, f"\n{name}: stopping; a second signal ends at once\n".encode())

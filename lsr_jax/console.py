"""What a terminal does to a command at any moment: its keys, and its readers that leave."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from collections.abc import Iterator
from typing import TextIO

from lsr_jax.errors import Stopped

SOON = 0.01  # seconds


def outlive_readers() -> None:
    """From now on, what is printed for a reader who left (``| head``) is dropped.

    Python would raise BrokenPipeError, in the middle of the work or at its exit. Only
    the process's own stdout and stderr are replaced.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            setattr(sys, name, _replacement(stream))


def _replacement(stream: TextIO) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(_Outliving(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )


class _Outliving(io.FileIO):
    """A file or pipe that takes everything."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


@contextlib.contextmanager
def attached() -> Iterator[None]:
    """Inside, no stop is lost.

    Python drops what a signal's handler raises inside a finaliser or a callback of the
    garbage collector. Such a `Stopped` or Ctrl-C is raised again `SOON`, until it gets
    through; by a timer, as another SIGINT or SIGTERM would count as the second.
    """
    dropped, handler = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    armed = False

    def insist(failure: sys.UnraisableHookArgs) -> None:
        nonlocal armed
        if not isinstance(failure.exc_value, (Stopped, KeyboardInterrupt)):
            dropped(failure)
            return
        error, armed = failure.exc_value.with_traceback(None), True

        def again(*_) -> None:
            raise error

        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, SOON)

    sys.unraisablehook = insist
    try:
        yield
    finally:
        sys.unraisablehook = dropped
        if armed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)

"""One line of JSON and one TensorBoard event per logged step."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from lsr_jax.errors import InputError

EMPTY = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}


class MetricsLog:
    """``folder/metrics.jsonl``, the record, and TensorBoard events beside it.

    A checkpoint holds the `position` of the log. A run that continues from it drops
    what an interrupted one had logged beyond, so that no step appears twice, and makes
    sure that everything before is as it was written.
    """

    def __init__(self, folder: Path, *, start: int, position: Mapping | None = None):
        """Opens the log.

        Args:
          folder: of the stage; made if missing.
          start: steps done.
          position: where the log ended then; None empties it.

        Raises:
          InputError: the lines up to there are not those that were written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        self._digest = hashlib.sha256(kept(path, position or EMPTY))
        self._file = path.open("ab")
        # Written by this thread: a full disk is then an error here, and not a queue
        # that nobody empties any more.
        self._events = event_file_writer.EventsWriter(
            str(folder / "events"), f".{os.getpid()}"
        )
        begin = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._event(start + 1, session_log=begin)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        self._events.close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step, counted from 1; what is not finite is null."""
        values = {name: finite(value) for name, value in metrics.items()}
        line = (json.dumps({"step": step, **values}) + "\n").encode()
        self._file.write(line)
        self._file.flush()
        self._digest.update(line)
        for name, value in metrics.items():
            self._event(step, summary=summary.scalar(name, value))
        self._events.flush()

    def position(self) -> dict:
        """Length and sha256 of the log so far."""
        return {"bytes": self._file.tell(), "sha256": self._digest.hexdigest()}

    def _event(self, step: int, **content) -> None:
        self._events.write_event(
            event_pb2.Event(wall_time=time.time(), step=step, **content)
        )


def kept(path: Path, position: Mapping) -> bytes:
    """The bytes of a log up to ``position``; what stands behind them is cut off.

    Raises:
      InputError: they are not those that were written.
    """
    with path.open("ab+") as file:
        file.seek(0)
        lines = file.read(position["bytes"])
        if hashlib.sha256(lines).hexdigest() != position["sha256"]:
            raise InputError(
                f"{path}: expected the {position['bytes']} bytes that the checkpoint "
                "names, found others; restore the file, or remove the stage's folder "
                "to train the stage again"
            )
        file.truncate(position["bytes"])
    return lines


def finite(value: float) -> float | None:
    """The value itself, None where JSON has no word for it."""
    return value if math.isfinite(value) else None

"""One line of JSON and one TensorBoard event per logged step."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from lsr_jax import writing
from lsr_jax.errors import InputError
from lsr_jax.training.events import Events

FILE = "metrics.jsonl"
EMPTY = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}


class MetricsLog:
    """``folder/metrics.jsonl``, the record, and TensorBoard events beside it.

    A checkpoint holds the `position` of the log. A run that continues from it drops
    what an interrupted one had logged beyond, so that no step appears twice, and makes
    sure that everything before is as it was written.

    Attributes:
      events: of the folder, for what is shown and not recorded.
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
        self._path = folder / FILE
        lines = kept(self._path, position or EMPTY)
        self._digest = hashlib.sha256(lines)
        os.truncate(self._path, len(lines))
        self._file = self._path.open("ab")
        self.events = Events(folder, first=start + 1)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        self.events.close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step, counted from 1; what is not finite is null."""
        values = {name: finite(value) for name, value in metrics.items()}
        line = (json.dumps({"step": step, **values}) + "\n").encode()
        with writing.naming(self._path):
            self._file.write(line)
            self._file.flush()
        self._digest.update(line)
        self.events.scalars(step, metrics)

    def position(self) -> dict:
        """Length and sha256 of the log so far, which is on the disk from here on."""
        os.fsync(self._file.fileno())
        return {"bytes": self._file.tell(), "sha256": self._digest.hexdigest()}


def kept(path: Path, position: Mapping) -> bytes:
    """The bytes of a log up to ``position``; an empty log is made if there is none.

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
    return lines


def finite(value: float) -> float | None:
    """The value itself, None where JSON has no word for it."""
    return value if math.isfinite(value) else None

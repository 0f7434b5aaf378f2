"""One line of JSON and one TensorBoard event per logged step.

Goodput: the share of a run's wall time that is spent in steps.

What a stage shows while it trains: a bar, lines, JSON or nothing.

Bar and lines have the terms of the loss, total and gradient norm; JSON has the
diagnostics of the method too, as the files of the stage.

Every step's metrics: waited for, checked, logged, shown.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import jax
from tqdm import tqdm

from lsr_jax import files
from lsr_jax.errors import InputError, TrainingError
from lsr_jax.ops import diagnostics
from lsr_jax.training.tensorboard import Events

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
        with files.naming(self._path):
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


KINDS = ("auto", "bar", "lines", "json", "none")


class Progress(Protocol):
    """Shows steps as they are done and metrics as they are logged."""

    def __enter__(self) -> Progress: ...

    def __exit__(self, *_) -> None: ...

    def update(self) -> None:
        """Another step is done."""

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """These are the metrics of ``step``, counted from 1."""


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_) -> None:
        pass

    def update(self) -> None:
        """Nothing."""

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""


class Bar(Silent):
    """A bar on stderr with rate, time left and the terms of the loss."""

    def __init__(self, stage: str, steps: int, start: int):
        self._bar = tqdm(
            total=steps, initial=start, desc=stage, unit="step", mininterval=1.0
        )

    def __exit__(self, *_) -> None:
        self._bar.close()

    def update(self) -> None:
        """Move the bar."""
        self._bar.update()

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Write the terms behind the bar."""
        terms = diagnostics.without(values)
        self._bar.set_postfix({name: f"{x:.3f}" for name, x in terms.items()})


class Lines(Silent):
    """A line on stderr for every logged step: for files and terminals without a cursor."""

    def __init__(self, stage: str, steps: int):
        self._stage = stage
        self._steps = steps

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Print the line of a step."""
        named = diagnostics.without(values).items()
        terms = ", ".join(f"{name} {x:.3f}" for name, x in named)
        print(f"{self._stage} {step}/{self._steps}: {terms}", file=sys.stderr)


class Json(Silent):
    """A JSON object on stdout for every logged step: for programs."""

    def __init__(self, stage: str, steps: int):
        self._fixed = {"stage": stage, "steps": steps}

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Print the object of a step."""
        print(json.dumps({**self._fixed, "step": step, **values}), flush=True)


def begin(kind: str, stage: str, *, steps: int, start: int) -> Progress:
    """The progress of a stage.

    Args:
      kind: one of `KINDS`; "auto" is a bar on a terminal and lines elsewhere.
      stage: its name.
      steps: its number of steps.
      start: how many are done.
    """
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() else "lines"
    if kind == "bar":
        return Bar(stage, steps, start)
    if kind == "none":
        return Silent()
    return (Lines if kind == "lines" else Json)(stage, steps)


NAMED = 8  # ids of a batch and domain in a message


class Watch:
    """Looks at the metrics of a step while the device works on the next.

    Every step is checked; those that are multiples of ``log_every``, and the last, are
    logged.
    """

    def __init__(self, stage: str, c: Mapping, log: MetricsLog | None, shown: Progress):
        """Describes the stage.

        Args:
          stage: its name.
          c: its config.
          log: gets the metrics; None on all processes but the first.
          shown: shows them.
        """
        self._stage = stage
        self._c = c
        self._log = log
        self._shown = shown
        self._unread: tuple[int, Mapping, Mapping] | None = None

    def take(self, number: int, metrics: Mapping, ids: Mapping) -> None:
        """Settle the step before, and keep this one, which the device has begun.

        Raises:
          TrainingError: see `settle`.
        """
        self.settle()
        self._unread = (number, metrics, ids)

    def settle(self) -> None:
        """Wait for the step that was taken, check it, log and show it.

        Raises:
          TrainingError: a term or the gradient is not finite and the stage does not
            skip such steps.
        """
        if self._unread is None:
            return
        number, metrics, ids = self._unread
        self._unread = None
        values = {name: float(x) for name, x in jax.device_get(metrics).items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            self._complain(number, broken, ids, values)
        self._shown.update()
        if number == self._c["steps"] or number % self._c["log_every"] == 0:
            if self._log:
                self._log.write(number, values)
            self._shown.show(number, values)

    def _complain(self, number, broken, ids, values) -> None:
        found = (
            f"stage {self._stage}, step {number}: not finite: {', '.join(broken)}; "
            f"examples: {named(ids)}"
        )
        if self._c["on_nonfinite"] == "skip":
            count = int(values["skipped"])
            print(f"\nskipped ({count} in this stage): {found}", file=sys.stderr)
            return
        raise TrainingError(
            f"{found}; the last checkpoint is kept; lower optimizer.learning_rate or a "
            "weight of the method, or set on_nonfinite to skip"
        )


def named(ids: Mapping[str, tuple[str, ...]]) -> str:
    """The ids of a batch on one line, the first of each domain."""
    parts = []
    for domain, names in ids.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        parts.append(f"{domain} {', '.join(names[:NAMED])}{more}")
    return "; ".join(parts)

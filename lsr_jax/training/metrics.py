"""The metrics of a stage: checked every step, logged, displayed; and its goodput.

``metrics.jsonl`` is the record: one line of JSON per logged step, the same bytes after an
interruption. TensorBoard events, the terminal and goodput are for people watching.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax

from lsr_jax import cli, files
from lsr_jax.errors import InputError, TrainingError
from lsr_jax.ops import diagnostics
from lsr_jax.training.tensorboard import Events

FILE = "metrics.jsonl"
EMPTY = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}
SHOWN_IDS = 8  # of each domain in a message


class MetricsLog(contextlib.AbstractContextManager):
    """``folder/metrics.jsonl``, and TensorBoard events beside it.

    A checkpoint stores the `position` of the log. A run that continues from it drops
    what an interrupted one logged beyond, so that no step appears twice, and verifies
    everything before.

    Attributes:
      events: of the folder, for what is displayed and not recorded.
    """

    def __init__(self, folder: Path, *, start: int, position: Mapping | None = None):
        """Opens the log of a stage that has done ``start`` steps; see `check_log`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        lines = check_log(folder, position)
        self._digest = hashlib.sha256(lines)
        os.truncate(self._path, len(lines))
        self._file = self._path.open("ab")
        self.events = Events(folder, first=start + 1)

    def __exit__(self, *_) -> None:
        self._file.close()
        self.events.close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step, counted from 1; what is not finite is null."""
        values = {
            name: value if math.isfinite(value) else None
            for name, value in metrics.items()
        }
        line = (json.dumps({"step": step, **values}) + "\n").encode()
        with files.naming(self._path):
            self._file.write(line)
            self._file.flush()
        self._digest.update(line)
        self.events.scalars(step, metrics)

    def position(self) -> dict:
        """Length and sha256 of the log so far, after writing it to the disk."""
        os.fsync(self._file.fileno())
        return {"bytes": self._file.tell(), "sha256": self._digest.hexdigest()}


def check_log(folder: Path, position: Mapping | None) -> bytes:
    """The bytes of a stage's log up to ``position``; creates an empty log if there is none.

    Raises:
      InputError: they are not those that were written.
    """
    position = position or EMPTY
    path = folder / FILE
    with path.open("ab+") as file:
        file.seek(0)
        lines = file.read(position["bytes"])
    if hashlib.sha256(lines).hexdigest() != position["sha256"]:
        raise InputError(
            f"{path}: its first {position['bytes']} bytes changed since the checkpoint "
            "was saved; restore the file, or remove the stage's folder to train it again"
        )
    return lines


class Goodput:
    """The share of a stage's wall time that is spent in steps.

    >>> goodput = Goodput()
    >>> with goodput.lost("data"):
    ...     batch = next(batches)
    >>> goodput.metrics()  # {"goodput": 0.98, "lost_data_seconds": 1.5}
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._start = clock()
        self._lost = collections.Counter()

    @contextlib.contextmanager
    def lost(self, name: str) -> Iterator[None]:
        """Count the time spent inside as lost to ``name``: compile, data, checkpoint."""
        start = self._clock()
        try:
            yield
        finally:
            self._lost[name] += self._clock() - start

    def metrics(self) -> dict[str, float]:
        """``goodput``, a fraction, and the seconds lost to each name so far."""
        wall = self._clock() - self._start
        share = 1.0 - sum(self._lost.values()) / wall if wall > 0 else 1.0
        lost = {f"lost_{name}_seconds": value for name, value in self._lost.items()}
        return {"goodput": share, **lost}

    def summary(self) -> str:
        """The line that is printed at the end of a stage."""
        lost = ", ".join(f"{name} {time:.1f} s" for name, time in self._lost.items())
        share = f"{self.metrics()['goodput']:.1%} of the time spent in steps"
        return f"{share} ({lost})" if lost else share


class Progress(contextlib.AbstractContextManager):
    """Displays steps as they are done and metrics as they are logged.

    "bar" is a bar on stderr with the terms of the loss, "lines" a line on stderr per
    logged step, "json" an object with all metrics on stdout, "none" nothing, and "auto" a
    bar on a terminal and lines elsewhere.
    """

    def __init__(self, kind: str, stage: str, *, steps: int, start: int):
        if kind == "auto":
            kind = "bar" if sys.stderr.isatty() else "lines"
        self._kind, self._stage, self._steps = kind, stage, steps
        self._bar = cli.progress_bar(
            steps, stage, "step", initial=start, disable=kind != "bar"
        )

    def __exit__(self, *_) -> None:
        self._bar.close()

    def update(self) -> None:
        """Another step is done."""
        self._bar.update()

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of ``step``, counted from 1, are logged."""
        terms = {k: f"{x:.3f}" for k, x in diagnostics.without(values).items()}
        if self._kind == "bar":
            self._bar.set_postfix(terms, refresh=False)
        elif self._kind == "lines":
            text = ", ".join(f"{name} {x}" for name, x in terms.items())
            print(f"{self._stage} {step}/{self._steps}: {text}", file=sys.stderr)
        elif self._kind == "json":
            whole = {"stage": self._stage, "steps": self._steps, "step": step}
            print(json.dumps({**whole, **values}), flush=True)


class Monitor:
    """Reads the metrics of a step while the device computes the next one.

    Every step is checked; multiples of ``log_every`` and the last step are logged.
    """

    def __init__(
        self, stage: str, config: Mapping, log: MetricsLog | None, shown: Progress
    ):
        """``config`` is the section of the stage; only process 0 has a ``log``."""
        self._stage = stage
        self._config = config
        self._log = log
        self._shown = shown
        self._pending: tuple[int, Mapping, Mapping] | None = None

    def add(self, number: int, metrics: Mapping, ids: Mapping) -> None:
        """`flush` the previous step; remember this one, which the device has started."""
        self.flush()
        self._pending = (number, metrics, ids)

    def flush(self) -> None:
        """Wait for the pending step, check it, log and display it.

        Raises:
          TrainingError: it is not finite, and the stage does not skip such steps.
        """
        if self._pending is None:
            return
        number, metrics, ids = self._pending
        self._pending = None
        values = {name: float(x) for name, x in jax.device_get(metrics).items()}
        if not all(map(math.isfinite, values.values())):
            self._report_nonfinite(number, values, ids)
        self._shown.update()
        if number == self._config["steps"] or number % self._config["log_every"] == 0:
            if self._log:
                self._log.write(number, values)
            self._shown.show(number, values)

    def _report_nonfinite(self, number, values, ids) -> None:
        names = [name for name, value in values.items() if not math.isfinite(value)]
        found = (
            f"stage {self._stage}, step {number}: not finite: {', '.join(names)}; "
            f"examples: {format_ids(ids)}"
        )
        if self._config["on_nonfinite"] == "skip":
            count = int(values["skipped"])
            print(f"\nskipped ({count} in this stage): {found}", file=sys.stderr)
            return
        raise TrainingError(
            f"{found}; the last checkpoint is intact; lower optimizer.learning_rate or a "
            "weight of the method, or set on_nonfinite to skip"
        )


def format_ids(ids: Mapping[str, tuple[str, ...]]) -> str:
    """The ids of a batch on one line, the first of each domain."""
    parts = []
    for domain, names in ids.items():
        more = len(names) - SHOWN_IDS
        text = ", ".join(names[:SHOWN_IDS])
        parts.append(f"{domain} {text}" + (f" and {more} more" if more > 0 else ""))
    return "; ".join(parts)

"""What a stage shows while it trains: a bar, lines, JSON or nothing.

Bar and lines have the terms of the loss, total and gradient norm; JSON has the
diagnostics of the method too, as the files of the stage.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Protocol

from tqdm import tqdm

from lsr_jax import diagnostics

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

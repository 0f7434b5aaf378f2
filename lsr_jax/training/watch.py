"""Every step's metrics: waited for, checked, logged, shown."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

import jax

from lsr_jax.errors import TrainingError
from lsr_jax.training.metrics_log import MetricsLog
from lsr_jax.training.progress import Progress

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

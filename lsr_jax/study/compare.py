"""Numbers of a study: spread of every line, differences to controls, paired by seed.

Rows are those of `analysis.rows` with ``line``, the label of their line; one row a line,
seed and kind of evaluation. Measures by class are named ``iou/CLASS``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from scipy import special

from lsr_jax.report.results import Row, is_measure

KIND = ("domain", "split", "bn", "protocol", "averaging")
BY_CLASS = ("iou", "asr")
CONTROLS = ("source_only", "source_continued", "batchnorm_only")
CONFIDENCE = 0.95


class Spread(NamedTuple):
    """What seeds say together.

    Attributes:
      mean: NaN of nothing.
      sd: standard deviation (n - 1), NaN of fewer than two.
      n: how many values are defined.
      half: of the confidence interval, ``t(0.975, n - 1) sd / sqrt(n)``, NaN likewise.
    """

    mean: float
    sd: float
    n: int
    half: float

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out 0; not without an interval."""
        return abs(self.mean) > self.half


def spread(values: Iterable[float]) -> Spread:
    """Mean, deviation and interval by Student's t; NaN values are left out."""
    values = [value for value in values if not math.isnan(value)]
    n = len(values)
    mean = statistics.fmean(values) if n else math.nan
    if n < 2:
        return Spread(mean, math.nan, n, math.nan)
    sd = statistics.stdev(values)
    t = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return Spread(mean, sd, n, t * sd / math.sqrt(n))


def labels(rows: Iterable[Row]) -> list[str]:
    """The lines that have rows, in their order."""
    return list(dict.fromkeys(row["line"] for row in rows))


def controls(lines: Sequence[str], ablated: str | None = None) -> list[str]:
    """Those lines to which differences are taken, the method of an ablation last."""
    wanted = [*CONTROLS, *([ablated] if ablated else [])]
    return [name for name in dict.fromkeys(wanted) if name in lines]


def kinds(rows: Iterable[Row]) -> list[dict]:
    """The kinds of evaluation that stand in the rows."""
    found = dict.fromkeys(tuple(row.get(key) for key in KIND) for row in rows)
    return [dict(zip(KIND, values, strict=True)) for values in found]


def measures(rows: Iterable[Row]) -> list[str]:
    """Names of all measures, those by class last."""
    rows = list(rows)
    whole = (key for row in rows for key in row if is_measure(key))
    by_class = (
        f"{key}/{name}" for row in rows for key in BY_CLASS for name in row.get(key, ())
    )
    return list(dict.fromkeys([*whole, *by_class]))


def seeds(
    rows: Iterable[Row], measure: str, *, line: str, **kind: str | None
) -> dict[int, float]:
    """Seed -> value of a measure, of the rows of a line and a kind of evaluation."""
    wanted = {"line": line, **kind}
    return {
        row["seed"]: value(row, measure)
        for row in rows
        if all(row.get(key) == want for key, want in wanted.items())
    }


def value(row: Row, measure: str) -> float:
    """A fraction, NaN where the row does not have it."""
    key, _, name = measure.partition("/")
    found = row.get(key, math.nan)
    return found.get(name, math.nan) if name else found


def difference(
    rows: Iterable[Row],
    measure: str,
    *,
    line: str,
    control: str,
    **kind: str | None,
) -> Spread:
    """Of the line above the control within each seed that both have."""
    rows = list(rows)
    own = seeds(rows, measure, line=line, **kind)
    other = seeds(rows, measure, line=control, **kind)
    return spread(own[seed] - other[seed] for seed in own if seed in other)


def summary(rows: Sequence[Row]) -> list[dict]:
    """The spread of every kind, line and measure."""
    return [
        {**kind, "line": line, "measure": measure, **found._asdict()}
        for kind, part in _parts(rows)
        for line in labels(rows)
        for measure in measures(part)
        for found in [spread(seeds(part, measure, line=line).values())]
    ]


def differences(rows: Sequence[Row], controls: Sequence[str]) -> list[dict]:
    """The paired difference of every kind, line, control and measure."""
    return [
        {
            **kind,
            "line": line,
            "control": control,
            "measure": measure,
            **difference(part, measure, line=line, control=control)._asdict(),
        }
        for kind, part in _parts(rows)
        for line in labels(rows)
        for control in controls
        if line != control
        for measure in measures(part)
    ]


def _parts(rows: Sequence[Row]) -> list[tuple[Mapping, list[Row]]]:
    return [
        (kind, [row for row in rows if all(row.get(k) == v for k, v in kind.items())])
        for kind in kinds(rows)
    ]

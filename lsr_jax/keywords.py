"""Types of keywords that a config sets, and the check of values against them.

A keyword states its range or its choices once, in its annotation::

    def make(*, clustering: Weight = 0.1, kind: Literal["l1", "l2"] = "l2") -> Method:

`check` reads the annotations of such a function.
"""

from __future__ import annotations

import dataclasses
import inspect
import numbers
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from lsr_jax.errors import InputError

LARGEST_INT, LARGEST_FLOAT = 2**31 - 1, 3.4028235e38  # of int32 and float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Accepted numbers; for a tuple, those of each entry. Never NaN or infinity.

    Attributes:
      least: smallest number.
      most: largest number; None: the largest int32 or float32.
      excluded: an end of the interval that is not accepted.
      increasing: whether the entries of a tuple must not decrease.
      also: values accepted outside the interval.
      unit: what the number measures, for the error message.
    """

    least: float = 0
    most: float | None = None
    excluded: float | None = None
    increasing: bool = False
    also: tuple = ()
    unit: str = ""


Weight = Annotated[float, Range(unit="weight of a term that is minimised")]
MaximisedWeight = Annotated[float, Range(unit="weight of a term that is maximised")]
Probability = Annotated[float, Range(most=1, unit="a probability")]
Fraction = Annotated[float, Range(most=1, unit="a fraction")]
Momentum = Annotated[float, Range(most=1, excluded=1, unit="weight of the old value")]
Exponent = Annotated[float, Range(unit="exponent")]
UnitExponent = Annotated[float, Range(most=1, unit="exponent")]
HalfRange = Annotated[float, Range(most=1, unit="half the range of a factor around 1")]
NonNegative = Annotated[float, Range()]
Positive = Annotated[float, Range(excluded=0)]
Count = Annotated[int, Range(least=1)]
CountOrZero = Annotated[int, Range()]
Size = Annotated[tuple[int, int], Range(least=1, unit="height and width")]
Seed = Annotated[int, Range(most=2**32 - 1)]  # JAX repeats the draws of larger ones
CpuDevices = Annotated[int, Range(least=1, most=1024)]


def check(
    values: Mapping[str, Any], prefix: str, *declared: Callable | Mapping
) -> None:
    """Check the values of a config section against the annotations of its keywords.

    Args:
      values: by keyword.
      prefix: the section, such as ``adapt.method``; "" for the top level.
      *declared: functions with keyword-only arguments, which together name every key;
        or annotations of some of the keys.

    Raises:
      InputError: the first value out of range, or a keyword that no function has.
    """
    known = {name: kind for one in declared for name, kind in annotations(one).items()}
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else name
        if name in known:
            check_value(key, value, known[name])
        elif callable(declared[0]):
            raise InputError(f"{key}: unknown keyword; expected {', '.join(known)}")


def annotations(keywords: Callable | Mapping) -> Mapping[str, Any]:
    """Annotations of the keyword-only arguments of a function; a mapping as it is."""
    if not callable(keywords):
        return keywords
    hints = get_type_hints(keywords, include_extras=True)
    parameters = inspect.signature(keywords).parameters.values()
    return {p.name: hints.get(p.name) for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_value(key: str, value: Any, annotation: Any) -> None:
    """Raise InputError, in one line that begins with ``key``, for a value out of range.

    Understands ``int``, ``float``, ``bool``, ``str``, ``tuple`` of numbers, ``Literal``,
    ``X | None`` and ``Annotated`` with a `Range`; accepts everything for other types.
    """
    if isinstance(value, list):  # a tuple that was stored as JSON
        value = tuple(value)
    is_union = get_origin(annotation) in (Union, types.UnionType)
    kinds = get_args(annotation) if is_union else (annotation,)
    if not any(_accepts(kind, value) for kind in kinds):
        expected = " or ".join(_describe(kind, value) for kind in kinds)
        raise InputError(f"{key}: expected {expected}, found {value!r}")


def _accepts(kind, value) -> bool:
    if kind is types.NoneType:
        return value is None
    if get_origin(kind) is Literal:
        return any(value == x and type(value) is type(x) for x in get_args(kind))
    if kind in (bool, str):
        return isinstance(value, kind)
    element, count, limits, most = _parts(kind)
    if (count is None and element not in (int, float)) or value in limits.also:
        return True
    found = (value,) if count is None else value
    if not isinstance(found, tuple) or len(found) != (count or max(len(found), 1)):
        return False
    accepted = numbers.Integral if element is int else numbers.Real
    for x in found:
        if not isinstance(x, accepted) or isinstance(x, bool):
            return False
        if not limits.least <= x <= most or x == limits.excluded:
            return False
    return not limits.increasing or list(found) == sorted(found)


def _parts(kind) -> tuple[Any, int | None, Range, float]:
    """Type and number of entries (None: no tuple, 0: one or more), range and largest."""
    limits = Range(least=-LARGEST_FLOAT)
    if get_origin(kind) is Annotated:
        kind, limits = get_args(kind)[:2]
    count = None
    if get_origin(kind) is tuple:
        kind, *rest = get_args(kind)
        count = 0 if Ellipsis in rest else 1 + len(rest)
    largest = LARGEST_INT if kind is int else LARGEST_FLOAT
    return kind, count, limits, largest if limits.most is None else limits.most


def _describe(kind, value) -> str:
    if kind is types.NoneType:
        return "None"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if kind in (bool, str):
        return "True or False" if kind is bool else "a string"
    element, count, limits, most = _parts(kind)
    found = value if isinstance(value, tuple) else (value,)
    if limits.least == -LARGEST_FLOAT:
        interval = "a finite number"
    elif limits.most is not None:
        below = "below " if limits.excluded == limits.most else ""
        interval = f"{limits.least} to {below}{limits.most}"
    elif any(isinstance(x, numbers.Real) and x > most for x in found):
        interval = f"at most {most}"
    else:
        bound = "more than" if limits.excluded == limits.least else "at least"
        interval = f"{bound} {limits.least}"
    if limits.unit:
        interval += f" ({limits.unit})"
    if count is not None:
        entries = "whole numbers" if element is int else "numbers"
        order = " in increasing order" if limits.increasing else ""
        interval = f"{count or 'one or more'} {entries}{order}, each {interval}"
    elif element is int and not isinstance(value, numbers.Integral):
        interval = f"a whole number, {interval}"
    return " or ".join([interval, *map(str, limits.also)])

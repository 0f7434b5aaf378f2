"""Annotations of keywords: what they accept, and the message for what they do not."""

from typing import Annotated, Literal

import pytest

from lsr_jax import keywords
from lsr_jax.errors import InputError
from lsr_jax.keywords import Count, Probability, Range, Size

Dilations = Annotated[tuple[int, ...], Range(least=1, unit="feature cells")]
Scale = Annotated[tuple[float, float], Range(excluded=0, increasing=True)]


def make(
    value,
    *,
    share: Probability = 0.5,
    steps: Count | None = None,
    distance: Literal["l1", "l2"] = "l1",
    order: Literal[1, 2] = 1,
    plain: float = 0.0,
    flag: bool = False,
    name: str = "",
    dilations: Dilations = (1,),
    size: Annotated[tuple[int, int], Range(least=1, also=((0, 0),))] = (0, 0),
    scale: Scale | None = None,
    other: dict | None = None,
):
    """A function as in `METHODS`."""


ACCEPTED = [
    {"share": 0, "steps": None, "distance": "l2", "order": 2, "plain": -1e30},
    {"flag": True, "name": "x", "dilations": [1, 2, 3], "size": [0, 0], "other": 3},
    {"size": (8, 8), "scale": (0.5, 0.5), "steps": 1},
]


@pytest.mark.parametrize("values", ACCEPTED)
def test_values_in_range(values):
    keywords.check(values, "a", make)


WRONG = [
    ("share", 2.0, "expected 0 to 1 (a probability), found 2.0"),
    ("share", True, "expected 0 to 1 (a probability), found True"),
    ("steps", 2.5, "expected a whole number, at least 1 or None, found 2.5"),
    ("steps", 2**31, "expected at most 2147483647 or None, found 2147483648"),
    ("distance", "l3", "expected one of l1, l2, found 'l3'"),
    ("order", True, "expected one of 1, 2, found True"),
    ("plain", float("nan"), "expected a finite number, found nan"),
    ("flag", 1, "expected True or False, found 1"),
    ("name", None, "expected a string, found None"),
    (
        "dilations",
        (),
        "expected one or more whole numbers, each at least 1 (feature cells), found ()",
    ),
    (
        "size",
        (True, 8),
        "expected 2 whole numbers, each at least 1 or (0, 0), found (True, 8)",
    ),
    ("size", 8, "expected 2 whole numbers, each at least 1 or (0, 0), found 8"),
    (
        "scale",
        (1.5, 0.5),
        "expected 2 numbers in increasing order, each more than 0 or None, "
        "found (1.5, 0.5)",
    ),
    ("misspelt", 1, "unknown keyword; expected share, steps, "),
    ("value", 1, "unknown keyword; expected share, steps, "),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_the_message_names_key_range_and_value(name, value, message):
    with pytest.raises(InputError) as caught:
        keywords.check({name: value}, "adapt.method", make)
    assert str(caught.value).startswith(f"adapt.method.{name}: {message}")
    assert "\n" not in str(caught.value)


def test_a_mapping_lists_some_of_the_keys():
    section = {"size": Size}
    keywords.check({"size": (1, 2), "nested": {}}, "", section)
    with pytest.raises(InputError, match=r"^size: expected 2 whole numbers, each"):
        keywords.check({"size": (0, 2)}, "", section)

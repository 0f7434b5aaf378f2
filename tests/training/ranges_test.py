"""Numbers of a config: all of them have a range, all configs are within, others are named."""

import inspect
import numbers
from pathlib import Path

import pytest

from lsr_jax.configs import default
from lsr_jax.errors import InputError
from lsr_jax.methods import METHODS
from lsr_jax.training import ranges

ROOT = Path(__file__).parents[2]
FILES = [
    path.stem
    for path in sorted((ROOT / "configs").glob("*.py"))
    if "def get_config(argument" in path.read_text()
]


def is_number(value):
    """Whether a default is a number, a tuple of some, or stands for one that is left out."""
    if isinstance(value, tuple):
        return bool(value) and all(map(is_number, value))
    return value is None or (
        isinstance(value, numbers.Real) and not isinstance(value, bool)
    )


def numbers_of(section, prefix=""):
    """Keys ``a.b`` of the numbers in nested dicts."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from numbers_of(value, f"{prefix}{key}.")
        elif is_number(value):
            yield prefix + key


def keywords(method):
    """The numeric keywords of a method's ``make``."""
    parameters = inspect.signature(METHODS[method].make).parameters
    return [name for name, one in parameters.items() if is_number(one.default)]


@pytest.mark.parametrize("method", METHODS)
def test_every_number_of_a_method_has_a_range(method):
    without = [key for key in keywords(method) if not ranges.of_method(method, key)]
    assert without == [], "add them to METHOD in lsr_jax/training/ranges.py"


def test_every_number_of_a_config_has_a_range():
    assert set(numbers_of(default.get_config().to_dict())) == set(ranges.CONFIG)
    stage = default.stage().to_dict()
    del stage["method"]
    assert set(numbers_of(stage)) == set(ranges.STAGE)


def test_the_table_has_no_range_without_a_number():
    known = {name for method in METHODS for name in keywords(method)}
    known |= {f"{method}.{name}" for method in METHODS for name in keywords(method)}
    assert ranges.METHOD.keys() <= known


@pytest.mark.parametrize("name", FILES)
def test_every_config_is_within(name, load_config):
    preset = [
        f"{method},{variant}"
        for method in METHODS
        for variant in getattr(METHODS[method], "PRESETS", ())
    ]
    tiny = [f"{method},tiny" for method in METHODS]
    for argument in (None, "lsr,vgg16", "oce,vgg16", *METHODS, *preset, *tiny):
        ranges.check(load_config(name, argument))


WRONG = {
    # key, with stage: (value, message after the key)
    "seed": (2**64, "expected 0 to 4294967295, found 18446744073709551616"),
    "num_devices": (0, "expected at least 1 or None, found 0"),
    "data.source.size": (
        (64,),
        "expected 2 whole numbers, each at least 1 (height and width) or (0, 0), "
        "found (64,)",
    ),
    "data.target.size": ((-64, 128), "or (0, 0), found (-64, 128)"),
    "model.aspp_dilations": (
        (-6, 12),
        "expected one or more whole numbers, each at least 1 (feature cells), "
        "found (-6, 12)",
    ),
    "model.bn_group_size": (
        2.5,
        "expected a whole number, at least 1 or None, found 2.5",
    ),
    "evaluation.every": (-1, "expected at least 0, found -1"),
    "adapt.steps": (0, "expected at least 1, found 0"),
    "adapt.checkpoint_every": (2**31, "expected at most 2147483647, found 2147483648"),
    "adapt.feature_norm.rate": (-1.0, "(0 does not fade), found -1.0"),
    "adapt.feature_norm.decay_steps": (-1, "expected at least 1 or None, found -1"),
    "adapt.optimizer.learning_rate": (float("inf"), "at most 3.4028235e+38, found inf"),
    "adapt.optimizer.head_multiplier": (-1.0, "expected at least 0, found -1.0"),
    "adapt.optimizer.momentum": (
        1.0,
        "expected 0 to below 1 (weight of the old value), found 1.0",
    ),
    "adapt.optimizer.decay_steps": (0, "expected at least 1 or None, found 0"),
    "adapt.augment.source.crop": ((8,), "(height and width) or None, found (8,)"),
    "adapt.augment.target.crop": ((8.5, 8), "2 whole numbers, each at least 1"),
    "source.augment.target.crop": ((8, 2**31), "numbers, each at most 2147483647"),
    "source.augment.target.scale": ((), "expected 2 numbers in rising order"),
    "adapt.augment.source.scale": (
        (1.5, 0.5),
        "expected 2 numbers in rising order, each more than 0 (a factor) or None, "
        "found (1.5, 0.5)",
    ),
    "adapt.augment.source.flip": (2.0, "expected 0 to 1 (a probability), found 2.0"),
    "adapt.method.clustering": (
        -1.0,
        "expected at least 0 (weight of a term that is minimised), found -1.0",
    ),
    "adapt.method.entropy": (float("nan"), "minimised), found nan"),
    "adapt.method.norm": ("much", "minimised), found 'much'"),
    "adapt.method.confidence": (-3.0, "expected 0 to 1 (a probability), found -3.0"),
    "adapt.method.prototype_momentum": (2.0, "of the old value), found 2.0"),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_number_outside_is_named(key, load_config):
    value, message = WRONG[key]
    config = load_config("streets", "lsr,tiny")
    *path, last = key.split(".")
    section = config
    for part in path:
        section = section[part]
    assert last in section
    section[last] = value
    with pytest.raises(InputError) as caught:
        ranges.check(config)
    assert str(caught.value).startswith(f"{key}: expected ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_with_another_meaning_in_one_method(load_config):
    images = load_config("streets", "cag,tiny")
    assert images["stage_1"]["method"]["cap"] == 3000
    ranges.check(images)
    share = load_config("streets", "bdl,tiny")
    share["round_1"]["method"]["cap"] = 2.0
    with pytest.raises(InputError, match=r"^round_1\.method\.cap: expected 0 to 1 "):
        ranges.check(share)


def test_what_the_table_does_not_know_is_finite(load_config):
    config = load_config("streets", "lsr,tiny")
    config["adapt"]["method"]["brand_new"] = -5.0
    ranges.check(config)
    config["adapt"]["method"]["brand_new"] = float("nan")
    with pytest.raises(InputError, match=r"brand_new: expected a finite number, found"):
        ranges.check(config)


def test_truth_values_are_no_numbers():
    assert not ranges.NUMBER.holds(True)
    assert ranges.SIZE.holds((8, 8))
    assert not ranges.SIZE.holds((True, 8))
    assert not ranges.SIZE.holds(8)
    assert not ranges.CONFIG["model.aspp_dilations"].holds(())
    ranges.SIZE.check("size", [8, 8])  # as JSON has it

"""Config values: every key is checked, every config passes, wrong values are named."""

import inspect
import numbers
from pathlib import Path

import pytest

from lsr_jax import keywords, models
from lsr_jax.configs import default
from lsr_jax.errors import InputError
from lsr_jax.methods import METHODS
from lsr_jax.training import schema

ROOT = Path(__file__).parents[2]
FILES = [
    path.stem
    for path in sorted((ROOT / "configs").glob("*.py"))
    if "def get_config(argument" in path.read_text() and path.stem != "custom"
]


def is_number(value):
    """Whether a default is a number, a tuple of numbers, or None."""
    if isinstance(value, tuple):
        return bool(value) and all(map(is_number, value))
    return value is None or (
        isinstance(value, numbers.Real) and not isinstance(value, bool)
    )


def unlimited(function):
    """Numeric keywords of a function whose annotation has no range."""
    parameters = inspect.signature(function).parameters
    return [
        name
        for name, kind in keywords.annotations(function).items()
        if is_number(parameters[name].default)
        and "Range" not in str(kind)
        and "Literal" not in str(kind)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_every_number_of_a_method_has_a_range(method):
    assert unlimited(METHODS[method].make) == [], (
        "annotate them, see lsr_jax/keywords.py"
    )


def test_every_number_of_a_network_has_a_range():
    assert unlimited(models.build) == []


def test_every_number_of_a_config_has_a_range():
    config, stage = default.get_config().to_dict(), default.stage().to_dict()
    sections = [
        (schema.SECTIONS[""], config),
        (schema.SECTIONS["data"], config["data"]),
        (schema.DOMAIN, config["data"]["source"]),
        (schema.SECTIONS["evaluation"], config["evaluation"]),
        (schema.STAGE, stage),
    ]
    for declared, section in sections:
        numeric = {key for key, value in section.items() if is_number(value)}
        assert numeric <= declared.keys() <= section.keys()


@pytest.mark.parametrize("name", FILES)
def test_every_config_is_within(name, load_config):
    presets = [
        f"{method},{preset}" for method in METHODS for preset in METHODS[method].presets
    ]
    tiny = [f"{method},tiny" for method in METHODS]
    for argument in (None, "lsr,vgg16", "oce,vgg16", *METHODS, *presets, *tiny):
        schema.check(load_config(name, argument))


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
    "evaluation.every": (-1, "expected at least 0, found -1"),
    "adapt.on_nonfinite": ("ignore", "expected one of stop, skip, found 'ignore'"),
    "adapt.optimizer.name": ("adam", "expected one of sgd, adamw, found 'adam'"),
    "adapt.optimizer.duplicate_updates": ("foreach", "one of off, sequential, found"),
    "adapt.method.norm_target": ("next", "previous, current, class, found 'next'"),
    "adapt.method.norm_relative": (1, "expected True or False, found 1"),
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
    "source.augment.target.scale": ((), "expected 2 numbers in increasing order"),
    "adapt.augment.source.scale": (
        (1.5, 0.5),
        "expected 2 numbers in increasing order, each more than 0 (a factor) or None, "
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
        schema.check(config)
    assert str(caught.value).startswith(f"{key}: expected ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_with_another_meaning_in_one_method(load_config):
    images = load_config("streets", "cag,tiny")
    assert images["stage_1"]["method"]["cap"] == 3000
    schema.check(images)
    fraction = load_config("streets", "bdl,tiny")
    fraction["round_1"]["method"]["cap"] = 2.0
    with pytest.raises(InputError, match=r"^round_1\.method\.cap: expected 0 to 1 "):
        schema.check(fraction)


def test_unknown_methods_and_keywords_are_named(load_config):
    config = load_config("streets", "lsr,tiny")
    config["adapt"]["method"]["brand_new"] = -5.0
    with pytest.raises(
        InputError, match=r"^adapt\.method\.brand_new: unknown keyword; "
    ):
        schema.check(config)
    config["adapt"]["method"] = {"name": "lsd"}
    with pytest.raises(InputError, match=r"^adapt\.method\.name: .*, lsr, found 'lsd'"):
        schema.check(config)

"""Numbers that no stage can be trained with; the rest is asked of the scripts."""

import pytest

from lsr_jax.errors import InputError
from lsr_jax.training import preflight


def test_a_number_that_is_too_small_is_named():
    preflight.at_least("adapt.steps", 1, 1)
    with pytest.raises(
        InputError, match=r"^adapt\.steps: expected at least 1, found 0$"
    ):
        preflight.at_least("adapt.steps", 0, 1)


def test_every_bounded_key_is_one_of_a_stage(load_config):
    config = load_config("streets", "lsr,tiny")
    for stage in config["stages"]:
        assert preflight.AT_LEAST.keys() <= config[stage].keys()
        assert config[stage]["on_nonfinite"] in preflight.ON_NONFINITE

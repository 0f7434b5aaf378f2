"""From the sections of a config to what a stage runs."""

import numpy as np
import pytest
import toy

from lsr_jax.errors import InputError
from lsr_jax.training import stage


def test_the_norm_loss_goes_on_top_of_any_stage(load_config, key):
    config = load_config("streets", "max_square")
    plain = stage.build_method(config, "adapt")
    config["adapt"] |= {"steps": 40}
    config["adapt"]["feature_norm"] |= {"weight": 0.5, "delta": 0.1}
    assert config["adapt"]["feature_norm"] == {
        "weight": 0.5,
        "delta": 0.1,
        "rate": 1.5,
        "decay_steps": None,
    }
    params, state, batch, ctx = toy.problem(plain, key, step=8)
    base, _ = plain.loss(params, state, batch, ctx)
    for decay_steps, fade in ((None, 1 - 1.5 * 8 / 40), (16, 1 - 1.5 * 8 / 16)):
        config["adapt"]["feature_norm"]["decay_steps"] = decay_steps
        method = stage.build_method(config, "adapt")
        total, aux = method.loss(params, state, batch, ctx)
        assert {"feature_norm_source", "feature_norm_target"} < set(aux.metrics)
        np.testing.assert_allclose(total - base, 0.5 * fade * 2 * 0.01, atol=1e-6)


def test_no_stage_has_it_by_default(load_config, key):
    config = load_config("streets", "max_square")
    method = stage.build_method(config, "adapt")
    params, state, batch, ctx = toy.problem(method, key)
    _, aux = method.loss(params, state, batch, ctx)
    assert set(aux.metrics) == {"segmentation", "entropy"}


@pytest.mark.parametrize("kind", [AttributeError, IndexError, OverflowError, KeyError])
def test_what_cannot_be_built_is_one_line(kind):
    with pytest.raises(InputError) as caught, stage.from_keys("adapt"):
        raise kind("first line\nsecond line")
    found = str(caught.value)
    assert found.startswith(f"adapt: cannot be built from its keys: {kind.__name__}: ")
    assert "first line" in found
    assert "\n" not in found
    assert isinstance(caught.value.__cause__, kind)


def test_an_unknown_method_is_named(load_config):
    config = load_config("streets", "max_square")
    config["adapt"]["method"]["name"] = "lrs"
    with pytest.raises(InputError, match=r"^method\.name: .* found 'lrs' in stage 'a"):
        stage.build_method(config, "adapt")


def test_a_network_with_the_wrong_heads_is_named(load_config):
    config = load_config("streets", "max_square")
    config["model"]["head"] = "multi_level"
    config["adapt"]["method"] = {"name": "clan"}
    with pytest.raises(
        InputError, match=r"model\.head: clan in stage 'adapt' needs two_"
    ):
        stage.build_method(config, "adapt")

"""Weights of terms are found by asking the loss."""

import pytest

from lsr_jax import cli
from lsr_jax.study import terms

# How ml_collections reads config files.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")


def config(method, *overrides):
    return cli.read_config(f"configs/streets.py:{method},tiny", overrides)


def test_an_exponent_is_no_weight():
    found = config("max_square")
    assert found["adapt"]["method"]["image_weighting"] == 0.2
    assert terms.weights(found, "adapt") == ("entropy",)


def test_a_weight_of_zero_has_no_term_to_remove():
    found = config("max_square", "--config.adapt.method.entropy=0.0")
    assert terms.weights(found, "adapt") == ()


def test_every_stage_answers_for_itself():
    found = config("bdl")
    assert terms.weights(found, "adversarial") == ("adversarial",)
    assert terms.weights(found, "round_1") == ("adversarial", "self_training")


def test_what_cannot_be_zero_is_no_weight():
    found = config("oce")
    assert found["adapt"]["method"]["distance_order"] == 1  # 1 or 2, not 0
    assert terms.weights(found, "adapt") == (
        "clustering",
        "contraction_source",
        "contraction_target",
        "entropy",
        "orthogonality",
        "spacing",
        "sparsity",
    )

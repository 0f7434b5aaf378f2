"""Criteria without labels against sums by hand, on one and on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_bn import batched

from lsr_jax.errors import InputError
from lsr_jax.evaluation import unsupervised
from lsr_jax.training import sharding
from lsr_jax.types import Outputs

LOGITS = np.random.default_rng(0).normal(size=(256, 4))


def forward(params, model_state, images, train):
    """Logits of a table, by the red channel of every second pixel."""
    cells = images[:, ::2, ::2, 0].astype(jnp.int32)
    return Outputs(None, params[cells]), model_state


def estimate(image, *, table=LOGITS, size=8, devices=1):
    mesh = sharding.make_mesh(devices)
    estimator = unsupervised.Estimator(forward, lambda image: image, mesh=mesh)
    label = np.zeros(image.shape[:3], np.uint8)
    return estimator(jnp.asarray(table, jnp.float32), {}, batched(image, label, size))


def images(number, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, 4, 6, 3), np.uint8)


@pytest.mark.parametrize(("size", "devices"), [(8, 1), (3, 1), (16, 8)])
def test_criteria_by_hand(size, devices):
    image = images(13)
    cells = image[:, ::2, ::2, 0]
    scores = LOGITS[cells]
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mean = p.reshape(-1, 4).mean(0)
    entropies = -(p * np.log(p)).sum(-1)
    infomax = (-(mean * np.log(mean)).sum() - entropies.mean()) / np.log(4)
    view = np.floor(np.float32(0.7) * image[:, :, ::-1].astype(np.float32))
    other = LOGITS[view[:, ::2, ::2, 0].astype(int)][:, :, ::-1]
    agreement = (scores.argmax(-1) == other.argmax(-1)).mean()
    found = estimate(image, size=size, devices=devices)
    assert found == pytest.approx(
        {"infomax": infomax, "agreement": agreement}, rel=1e-5
    )


def test_a_trace_needs_shapes_alone_and_finds_what_the_network_refuses():
    def refusing(params, model_state, images, train):
        if images.shape[1] % 4:
            raise InputError(f"expected sides that 4 divides, found {images.shape}")
        return forward(params, model_state, images, train)

    mesh = sharding.make_mesh(1)
    estimator = unsupervised.Estimator(refusing, lambda image: image, mesh=mesh)
    table = jax.ShapeDtypeStruct(LOGITS.shape, jnp.float32)
    estimator.trace(table, {}, jax.ShapeDtypeStruct((2, 4, 6, 3), jnp.uint8))
    with pytest.raises(InputError, match=r"found \(2, 6, 6, 3\)"):
        estimator.trace(table, {}, jax.ShapeDtypeStruct((2, 6, 6, 3), jnp.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_an_error(value):
    table = LOGITS.copy()
    table[:, 1] = value
    with pytest.raises(InputError, match="scores of the network are not finite"):
        estimate(images(3), table=table)


def test_one_class_everywhere_is_certain_but_says_nothing():
    table = np.zeros((256, 4))
    table[:, 2] = 200
    assert estimate(images(4), table=table) == {"infomax": 0, "agreement": 1}


def test_certain_and_of_all_classes_is_best():
    table = 200 * np.eye(4)[np.arange(256) % 4]
    image = (
        np.zeros((4, 4, 6, 3), np.uint8)
        + np.arange(4, dtype=np.uint8)[:, None, None, None]
    )
    assert estimate(image, table=table)["infomax"] == pytest.approx(1)

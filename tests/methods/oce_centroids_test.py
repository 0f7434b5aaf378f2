"""Which features OCE's centroids are made of, and what pulls at them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lsr_jax import losses
from lsr_jax.methods import common, oce, oce_centroids
from lsr_jax.types import Context


@pytest.fixture
def step(key):
    """Outputs on both domains and their batch."""
    params, model_state = toy.init(key)
    batch = toy.batch(key, 2, oce.make())
    ctx = Context(toy.forward, model_state, jnp.int32(0), key, toy.PIXELS)
    *outputs, _ = common.both_domains({"model": params}, batch, ctx)
    return outputs, batch


def test_centroids_are_pulled_by_both_domains(step):
    """The spacing is a function of the centroids alone, yet moves all features."""
    outputs, batch = step
    labels = [
        oce_centroids.labels(
            *outputs, batch, rule="nearest", source_labels="prediction"
        )
    ]

    def spacing(features):
        (found,) = oce_centroids.refresh({}, features, labels, toy.NUM_CLASSES, 0.0)
        return losses.spacing(*found)

    for gradient in jax.grad(spacing)([o.features for o in outputs]):
        assert (np.abs(gradient).sum(-1) > 0).mean() > 0.9


def test_the_truth_is_the_sources_alone(step):
    outputs, batch = step
    predicted, real = (
        oce_centroids.labels(*outputs, batch, rule="bilinear", source_labels=kind)
        for kind in ("prediction", "ground_truth")
    )
    every = toy.SIZE[0] // toy.FEATURE_SIZE[0]
    expected = batch.source.label[:, ::every, ::every]
    np.testing.assert_array_equal(real[0], expected)
    assert (predicted[0] != real[0]).any()
    np.testing.assert_array_equal(predicted[1], real[1])


def test_without_momentum_no_centroid_outlives_its_refreshing(step):
    outputs, _ = step
    features = [o.features for o in outputs]
    zeros = [jnp.zeros(f.shape[:3], jnp.int32) for f in features]
    first, second = oce_centroids.refresh(
        {}, features, [zeros, [1 + x for x in zeros]], toy.NUM_CLASSES, 0.0
    )
    np.testing.assert_array_equal(np.flatnonzero(first.seen), [0])
    np.testing.assert_array_equal(np.flatnonzero(second.seen), [1])
    mean = np.concatenate([f.reshape(-1, toy.FEATURES) for f in features]).mean(0)
    np.testing.assert_allclose(second.mean[1], mean, rtol=1e-5)

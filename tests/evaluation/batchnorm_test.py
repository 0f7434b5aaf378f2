"""Target statistics of a toy network with BatchNorm, on one and on eight devices."""

import chex
import jax
import numpy as np
import pytest
import toy_bn
from toy_bn import BATCH, batched, draw, forward

from lsr_jax.errors import InputError
from lsr_jax.evaluation import batchnorm
from lsr_jax.training import sharding
from lsr_jax.types import Images, Outputs

params, model_state = toy_bn.params, toy_bn.model_state


def estimator(devices=1, forward=forward):
    mesh = sharding.make_mesh(devices)
    return batchnorm.estimator(forward, toy_bn.preprocess, mesh=mesh)


def test_eight_devices_give_what_one_gives(params, model_state):
    images = draw(2 * BATCH - 3)
    one, eight = (
        estimator(devices)(params, model_state, batched(*images)) for devices in (1, 8)
    )
    chex.assert_trees_all_close(one, eight, rtol=1e-5)


def test_target_statistics_are_the_mean_over_batches(params, model_state):
    image, label = draw(3 * BATCH)
    batches = list(batched(image, label))
    estimate = estimator()
    found = estimate(params, model_state, batches)

    seen = (image[:, ::2, ::2] / 255.0).reshape(3, -1, 3)
    np.testing.assert_allclose(found["mean"], seen.mean(1).mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["var"], seen.var(1, ddof=1).mean(0), rtol=1e-5)

    backwards = estimate(params, model_state, batches[::-1])
    other = jax.tree.map(lambda value: value + 7, model_state)
    forgetful = estimate(params, other, batches)
    chex.assert_trees_all_close(found, backwards, rtol=1e-5)
    chex.assert_trees_all_equal(found, forgetful)


def test_target_statistics_see_no_padding(params, model_state):
    image, label = draw(BATCH + BATCH // 2)
    found = estimator()(params, model_state, batched(image, label))
    # Four images twice in the last batch: the same mean, a variance of twice the count.
    seen = image[:, ::2, ::2].reshape(len(image), -1, 3) / 255.0
    first, last = seen[:BATCH].reshape(-1, 3), seen[BATCH:].reshape(-1, 3)
    np.testing.assert_allclose(found["mean"], seen.mean((0, 1)), rtol=1e-5)
    twice = np.concatenate([last, last])
    variance = (2 * first.var(0, ddof=1) + twice.var(0, ddof=1)) / 3
    np.testing.assert_allclose(found["var"], variance, rtol=1e-5)


def test_target_statistics_need_images(params, model_state):
    image, label = draw(BATCH)
    nothing = [(Images(image, label), np.zeros(BATCH, bool), None)]
    for batches in ([], nothing):
        with pytest.raises(InputError, match="no target image"):
            estimator()(params, model_state, batches)


def test_target_statistics_need_a_network_that_updates_them(params, model_state):
    def frozen(params, model_state, images, train):
        return forward(params, model_state, images, False)

    estimate = estimator(forward=frozen)
    with pytest.raises(InputError, match="does not update them"):
        estimate(params, model_state, batched(*draw(BATCH)))


def test_a_network_without_statistics_has_none_to_estimate(params):
    def plain(params, model_state, images, train):
        return Outputs(images, images @ params["kernel"]), model_state

    estimate = estimator(forward=plain)
    assert estimate(params, {}, batched(*draw(BATCH))) == {}

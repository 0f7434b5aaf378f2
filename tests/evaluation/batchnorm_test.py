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


def expected(image, group=batchnorm.GROUP):
    """Mean and variance of the input of the network's only BatchNorm."""
    seen = image[:, ::2, ::2].reshape(len(image), -1, 3) / 255.0
    groups = np.split(seen, range(group, len(seen), group))
    within = sum(len(g) * g.reshape(-1, 3).var(0, ddof=1) for g in groups) / len(seen)
    means = np.stack([g.mean((0, 1)) for g in groups for _ in g])
    return {"mean": seen.mean((0, 1)), "var": within + means.var(0)}


def shaded(number):
    """Images of very different brightness."""
    image, label = draw(number)
    return (image * np.linspace(0.1, 1, number)[:, None, None, None]).astype(
        np.uint8
    ), label


def test_target_statistics_are_those_of_all_images(params, model_state):
    image, label = shaded(2 * batchnorm.GROUP + BATCH)
    batches = list(batched(image, label))
    estimate = estimator()
    found = estimate(params, model_state, batches)
    chex.assert_trees_all_close(found, expected(image), rtol=1e-5)
    # Of the variance between images too, up to dividing by n - 1 in each group.
    whole = (image[:, ::2, ::2] / 255.0).reshape(-1, 3).var(0)
    np.testing.assert_allclose(found["var"], whole, rtol=3e-3)

    other = jax.tree.map(lambda value: value + 7, model_state)
    chex.assert_trees_all_equal(found, estimate(params, other, batches))


@pytest.mark.parametrize(("devices", "size"), [(1, 1), (1, 10), (8, 16), (8, 48)])
def test_neither_batch_size_nor_padding_nor_devices_matter(
    devices, size, params, model_state
):
    image, label = shaded(2 * batchnorm.GROUP + BATCH - 3)
    reference = estimator()(params, model_state, batched(image, label))
    found = estimator(devices)(params, model_state, batched(image, label, size))
    chex.assert_trees_all_close(found, reference, rtol=1e-5)


def test_a_layer_that_is_used_twice_has_the_average_of_both(params, model_state):
    """As `MultiResolution`, whose layers see the context, then the detail."""

    def twice(params, model_state, images, train):
        _, once = forward(params, model_state, images, train)
        return forward(params, once, 1 - images, train)

    image, label = draw(batchnorm.GROUP)
    found = estimator(forward=twice)(params, model_state, batched(image, label))
    first = expected(image)
    second = {"mean": 1 - first["mean"], "var": first["var"]}
    average = jax.tree.map(lambda a, b: (0.9 * a + b) / 1.9, first, second)
    chex.assert_trees_all_close(found, average, rtol=1e-5)


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

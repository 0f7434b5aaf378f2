"""Every leaf is drawn by the rule that its name asks for."""

import jax
import numpy as np
import pytest

from lsr_jax import models


def _leaves(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.fixture(scope="module")
def scratch():
    model = models.build(
        backbone="mini", head="multi_level", aspp_dilations=(2, 4, 6, 8)
    )
    return model, *model.init(jax.random.key(0), (32, 32))


def test_scratch(scratch):
    for path, leaf in _leaves(scratch[1]).items():
        if path.endswith("kernel"):
            head = "head/" in path
            deviation = 0.01 if head else np.sqrt(2 / np.prod(leaf.shape[:3]))
            np.testing.assert_allclose(leaf.std(), deviation, rtol=0.1)
        elif path.endswith("scale") and not path.endswith("bn3/scale"):
            np.testing.assert_array_equal(leaf, 1.0)
        else:
            np.testing.assert_array_equal(leaf, 0.0)


def test_mini_has_under_a_million_parameters():
    model = models.build(backbone="mini", aspp_dilations=(2, 4, 6, 8))
    params, _ = jax.eval_shape(lambda: model.init(jax.random.key(0), (96, 192)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 930_732
    assert model.feature_dim == 512


def test_running_statistics_start_at_mean_0_and_variance_1(scratch):
    leaves = _leaves(scratch[2])
    assert len(leaves) == 2 * (1 + 5 * 3 + 4)
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, 1.0 if path.endswith("var") else 0.0)


def test_same_key_same_weights_and_no_two_leaves_alike(scratch):
    model, params, _ = scratch
    again, _ = jax.jit(lambda key: model.init(key, (64, 64)))(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    head, aux = params["head"], params["aux_head"]
    branches = [head["conv2d_list_0"], head["conv2d_list_1"], aux["conv2d_list_0"]]
    firsts = {float(branch["kernel"].ravel()[0]) for branch in branches}
    assert len(firsts) == 3


def test_released_resnet():
    architecture = models.Architecture(8, 8, (1, 1, 1, 1))
    model = models.build(backbone=architecture, initialisation="released")
    params, _ = model.init(jax.random.key(0), (32, 32))
    for path, leaf in _leaves(params).items():
        if path.endswith("kernel"):
            np.testing.assert_allclose(leaf.std(), 0.01, rtol=3 * leaf.size**-0.5)
        elif path.endswith("scale"):
            np.testing.assert_array_equal(leaf, 1.0)
        elif path.startswith("head"):
            bound = (9 * 256) ** -0.5
            assert 0.5 * bound < np.abs(leaf).max() <= bound
        else:
            np.testing.assert_array_equal(leaf, 0.0)


def test_released_vgg_fc_layers_are_torchs_default():
    model = models.build(backbone="vgg13", initialisation="released")
    params, state = model.init(jax.random.key(0), (32, 32))
    assert state == {}
    body = params["backbone"]
    np.testing.assert_array_equal(body["features_0"]["bias"], 0.0)
    expected = np.sqrt(2 / (9 * 512))
    deviation = np.asarray(body["features_21"]["kernel"]).std()
    np.testing.assert_allclose(deviation, expected, rtol=0.02)
    bound = (9 * 1024) ** -0.5
    fc7 = jax.tree.map(np.asarray, body["features_25"])
    np.testing.assert_allclose(fc7["kernel"].std(), bound / 3**0.5, rtol=0.02)
    assert 0.9 * bound < np.abs(fc7["bias"]).max() <= bound

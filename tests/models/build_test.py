"""What `build` promises: heads, dtypes, frozen paths, remat, devices, errors."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from lsr_jax import errors, models

TINY = models.Architecture(4, 4, (1, 1, 1, 1))
SIZE = (33, 40)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(2, *SIZE, 3)).astype(np.float32)


@functools.cache
def _started(**options):
    model = models.build(
        backbone=TINY, num_classes=5, initialisation="released", **options
    )
    return _compiled(model), *model.init(jax.random.key(1), SIZE)


def _compiled(model):
    return model._replace(forward=jax.jit(model.forward, static_argnums=3))


def _step(model, params, model_state, images):
    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def step(params, model_state, images):
        outputs, state = model.forward(params, model_state, images, True)
        total = jnp.square(outputs.features).mean() + jnp.sin(outputs.logits).sum()
        return total, state

    return step(params, model_state, images)


@pytest.mark.parametrize("head", ["single", "multi_level", "two_heads"])
def test_heads(images, head):
    model, params, state = _started(head=head, aspp_dilations=(1, 2, 3))
    outputs, moved = model.forward(params, state, images, False)
    chex.assert_trees_all_equal(moved, state)
    chex.assert_shape(outputs.features, (2, 5, 6, 128))
    chex.assert_shape(outputs.logits, (2, 5, 6, 5))
    assert set(params["head"]) == {f"conv2d_list_{i}" for i in range(3)}
    if head == "single":
        assert set(params) == {"backbone", "head"}
        assert outputs.aux_logits is None
        return
    chex.assert_shape(outputs.aux_logits, (2, 5, 6, 5))
    aux_channels = params["aux_head"]["conv2d_list_0"]["kernel"].shape[2]
    assert aux_channels == (64 if head == "multi_level" else 128)


def test_aspp_is_the_sum_of_its_branches(images):
    model, params, state = _started(aspp_dilations=(1, 3))
    outputs, _ = model.forward(params, state, images, False)
    features = np.pad(outputs.features, ((0, 0), (3, 3), (3, 3), (0, 0)))
    expected = 0.0
    for index, dilation in enumerate((1, 3)):
        branch = jax.tree.map(np.asarray, params["head"][f"conv2d_list_{index}"])
        expected = expected + branch["bias"]
        for i in range(3):
            for j in range(3):
                top, left = 3 + (i - 1) * dilation, 3 + (j - 1) * dilation
                window = features[:, top : top + 5, left : left + 6]
                expected = expected + window @ branch["kernel"][i, j]
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-5)


def test_remat_changes_no_number(images):
    with jax.enable_x64(True):
        plain, params, state = _started(dtype="float64")
        again, *_ = _started(dtype="float64", remat=True)
        params, state, images = jax.tree.map(np.float64, (params, state, images))
        expected = _step(plain, params, state, images)
        found = _step(again, params, state, images)
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-12)


def test_bfloat16_computes_low_and_returns_float32(images):
    plain, params, state = _started()
    low, *_ = _started(dtype="bfloat16")
    expected, _ = plain.forward(params, state, images, True)
    found, moved = low.forward(params, state, images, True)
    assert {leaf.dtype for leaf in jax.tree.leaves((found, moved))} == {
        jnp.dtype("float32")
    }
    error = np.linalg.norm(found.features - expected.features)
    # Fourteen layers deep, each rounding to 2**-9.
    assert 1e-4 < error / np.linalg.norm(expected.features) < 0.1


def _products(jaxpr):
    """``(precision, dtype)`` of every convolution and matrix product, also of calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            precision = equation.params["precision"]
            yield set(precision or (None,)), equation.outvars[0].aval.dtype.name
        for inner in core.jaxprs_in_params(equation.params):
            yield from _products(inner)


@pytest.mark.parametrize(
    ("dtype", "precision", "array"),
    [
        ("float32", jax.lax.Precision.HIGHEST, "float32"),
        ("tf32", jax.lax.Precision.HIGH, "float32"),
        ("bfloat16", jax.lax.Precision.DEFAULT, "bfloat16"),
    ],
)
@pytest.mark.parametrize("backbone", [TINY, "vgg13"])
def test_precision_of_every_product(backbone, dtype, precision, array):
    """Forwards and backwards; the default of XLA would be TF32 on a GPU."""
    model = models.build(backbone=backbone, dtype=dtype, head="two_heads")
    params, state = jax.eval_shape(lambda key: model.init(key, SIZE), jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, *SIZE, 3), jnp.float32)

    def loss(params, state, images):
        outputs, _ = model.forward(params, state, images, True)
        return outputs.features.sum() + outputs.logits.sum() + outputs.aux_logits.sum()

    found = list(_products(jax.make_jaxpr(jax.grad(loss))(params, state, images).jaxpr))
    assert len(found) > 40
    assert all(product == ({precision}, array) for product in found), found


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"batch_norm": "frozen_affine"}, 2 * (1 + 4 * 3 + 4)),
        ({"freeze_stem_affine": True}, 2),
        ({}, 0),
    ],
)
def test_frozen_paths_are_the_parameters_without_gradient(images, options, count):
    model, params, state = _started(**options)
    _, gradients = _step(model, params, state, images)
    flat = {
        "model/" + jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
    }
    still = {path for path, leaf in flat.items() if not leaf.any()}
    frozen = {p for p in flat if any(re.search(r, p) for r in model.frozen_paths)}
    assert still == frozen
    assert len(frozen) == count


def test_images_of_a_group_do_not_see_each_other(images):
    model, params, state = _started(bn_group_size=1)
    both, _ = model.forward(params, state, images, True)
    alone, _ = model.forward(params, state, images[:1], True)
    together = _compiled(models.build(backbone=TINY, num_classes=5))
    mixed, _ = together.forward(params, state, images, True)
    np.testing.assert_allclose(both.features[:1], alone.features, atol=1e-5)
    assert np.abs(mixed.features[:1] - alone.features).max() > 1e-2


def test_groups_matter_in_training_only(images):
    """A network in groups of four starts, and evaluates any number of images."""
    model, params, state = _started(bn_group_size=4)
    plain, *_ = _started()
    found, _ = model.forward(params, state, images, False)
    expected, _ = plain.forward(params, state, images, False)
    chex.assert_trees_all_equal(found, expected)
    with pytest.raises(errors.InputError, match="bn_group_size: 4 does not divide"):
        model.forward(params, state, images, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet34"}, "backbone: expected one of resnet101"),
        ({"backbone": "mini", "head": "double"}, "head: expected one of single"),
        ({"backbone": "vgg16", "head": "multi_level"}, "needs layer3 of a ResNet"),
        ({"backbone": "mini", "initialisation": "zero"}, "model.initialisation"),
        (
            {"backbone": "mini", "batch_norm": "sync"},
            "batch_norm: expected one of train",
        ),
        ({"backbone": "mini", "dtype": "float16"}, "dtype: expected one of float32"),
        ({"backbone": "mini", "bn_group_size": 2.5}, "at least 1 or None, found 2.5"),
        ({"backbone": "mini", "aspp_dilations": ()}, "aspp_dilations"),
        ({"backbone": "mini", "aspp_dilations": (-6, 12)}, "aspp_dilations: .*-6, 12"),
    ],
)
def test_bad_arguments_are_one_line(options, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        models.build(**options)
    assert "\n" not in str(caught.value)


def test_arguments_rebuild_the_model():
    model = models.build(backbone="mini", num_classes=13, head="two_heads")
    assert models.build(**model.arguments).arguments == model.arguments
    assert model.arguments["head"] == "two_heads"


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

"""BatchNorm and the ceil-mode pool, by hand and against PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lsr_jax import errors
from lsr_jax.models import layers


@pytest.fixture
def images():
    draw = np.random.default_rng(3)
    return draw.normal(2.0, 3.0, (8, 3, 5, 4)).astype(np.float32)


@pytest.fixture
def variables():
    draw = np.random.default_rng(4)
    params = {"scale": draw.uniform(0.5, 1.5, 4), "bias": draw.normal(size=4)}
    stats = {"mean": draw.normal(size=4), "var": draw.uniform(0.5, 1.5, 4)}
    variables = {"params": params, "batch_stats": stats}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), variables)


def _apply(variables, images, *, train=True, **options):
    norm = layers.BatchNorm(layers.Options(**options))
    output, moved = norm.apply(variables, images, train, mutable=["batch_stats"])
    return output, moved["batch_stats"]


def _by_hand(variables, images, *, unbiased):
    """Output and moved statistics of one group, in float64 numpy."""
    variables = jax.tree.map(np.float64, variables)
    images = images.astype(np.float64)
    mean, var = images.mean((0, 1, 2)), images.var((0, 1, 2))
    output = (images - mean) / np.sqrt(var + 1e-5)
    params, stats = variables["params"], variables["batch_stats"]
    output = output * params["scale"] + params["bias"]
    var = images.var((0, 1, 2), ddof=int(unbiased))
    moved = {
        "mean": 0.9 * stats["mean"] + 0.1 * mean,
        "var": 0.9 * stats["var"] + 0.1 * var,
    }
    return output, moved


@pytest.mark.parametrize("unbiased", [True, False])
def test_training_by_hand(variables, images, unbiased):
    output, moved = _apply(variables, images, unbiased_variance=unbiased)
    expected, expected_moved = _by_hand(variables, images, unbiased=unbiased)
    np.testing.assert_allclose(output, expected, atol=2e-6)
    for name, value in expected_moved.items():
        np.testing.assert_allclose(moved[name], value, rtol=2e-6)
    other = _by_hand(variables, images, unbiased=not unbiased)[1]["var"]
    assert np.abs(moved["var"] - other).min() > 1e-3


def test_groups_are_separate_calls(variables, images):
    output, moved = _apply(variables, images, bn_group_size=2)
    calls = [_apply(variables, images[i : i + 2]) for i in range(0, 8, 2)]
    np.testing.assert_allclose(
        output, jnp.concatenate([c[0] for c in calls]), atol=2e-6
    )
    for name in ("mean", "var"):
        expected = np.mean([c[1][name] for c in calls], axis=0)
        np.testing.assert_allclose(moved[name], expected, rtol=2e-6)


def test_group_must_divide_the_batch(variables, images):
    with pytest.raises(errors.InputError, match="bn_group_size: 3 does not divide"):
        _apply(variables, images, bn_group_size=3)


def test_single_value_has_no_unbiased_variance(variables):
    with pytest.raises(errors.InputError, match="unbiased_variance"):
        _apply(variables, np.ones((1, 1, 1, 4), np.float32))


@pytest.mark.parametrize(("train", "mode"), [(False, "train"), (True, "eval")])
def test_running_statistics(variables, images, train, mode):
    output, moved = _apply(variables, images, train=train, batch_norm=mode)
    stats, params = variables["batch_stats"], variables["params"]
    normalised = (images - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    expected = normalised * params["scale"] + params["bias"]
    np.testing.assert_allclose(output, expected, atol=5e-6)
    np.testing.assert_array_equal(moved["mean"], stats["mean"])
    np.testing.assert_array_equal(moved["var"], stats["var"])


def test_frozen_affine_has_no_gradient_but_passes_one_on(variables, images):
    def total(variables, images, mode):
        return jnp.sum(_apply(variables, images, batch_norm=mode)[0] ** 3)

    gradient = jax.grad(total, argnums=(0, 1))
    frozen, frozen_images = gradient(variables, images, "frozen_affine")
    free, free_images = gradient(variables, images, "train")
    assert all(not leaf.any() for leaf in jax.tree.leaves(frozen["params"]))
    assert all(leaf.all() for leaf in jax.tree.leaves(free["params"]))
    np.testing.assert_array_equal(frozen_images, free_images)


def test_bfloat16_keeps_float32_statistics(variables, images):
    images = jnp.asarray(images + 300.0, jnp.bfloat16)
    output, moved = _apply(variables, images, dtype="bfloat16")
    assert output.dtype == jnp.bfloat16
    assert moved["var"].dtype == jnp.float32
    expected = _by_hand(variables, np.asarray(images, np.float32), unbiased=True)
    np.testing.assert_allclose(moved["mean"], expected[1]["mean"], rtol=1e-5)
    np.testing.assert_allclose(output, expected[0], atol=0.03)


def test_statistics_are_global_over_devices(variables, images):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    batch = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    output, moved = jax.jit(_apply)(variables, batch)
    expected, expected_moved = _apply(variables, images)
    assert len(output.sharding.device_set) == 8
    np.testing.assert_allclose(output, expected, atol=2e-6)
    for name in ("mean", "var"):
        np.testing.assert_allclose(moved[name], expected_moved[name], rtol=2e-6)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_parity_with_torch(variables, images, train):
    torch = pytest.importorskip("torch")
    norm = torch.nn.BatchNorm2d(4).train(train)
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean"}
    names["var"] = "running_var"
    flat = {**variables["params"], **variables["batch_stats"]}
    state = {names[k]: torch.from_numpy(np.array(v)) for k, v in flat.items()}
    norm.load_state_dict(state, strict=False)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).requires_grad_()
    expected = norm(batch)
    weights = np.random.default_rng(5).standard_normal(images.shape).astype(np.float32)
    (expected * torch.from_numpy(weights).permute(0, 3, 1, 2)).sum().backward()

    def total(images):
        output, moved = _apply(variables, images, train=train)
        return jnp.sum(output * weights), (output, moved)

    gradient, (output, moved) = jax.grad(total, has_aux=True)(jnp.asarray(images))
    expected = expected.detach().permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(output, expected, atol=5e-6)
    expected = batch.grad.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(gradient, expected, atol=2e-6)
    np.testing.assert_allclose(moved["mean"], norm.running_mean.numpy(), rtol=2e-6)
    np.testing.assert_allclose(moved["var"], norm.running_var.numpy(), rtol=2e-6)


@pytest.mark.parametrize("axes", [(1, 2, 3), (4,)], ids=["batch", "layer"])
def test_the_gradient_of_normalise_is_that_of_its_formula(axes):
    draw = np.random.default_rng(7)
    with jax.enable_x64(True):
        x = draw.normal(2.0, 3.0, (2, 3, 4, 5, 6))
        scale, bias = draw.normal(size=(2, 6))
        weights = draw.normal(size=x.shape)

        def formula(x, scale, bias):
            mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
            return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias, mean, var

        def total(normalise):
            return lambda *given: jnp.vdot(normalise(*given)[0], weights)

        ours = functools.partial(layers.normalise, axes=axes, epsilon=1e-5)
        for found, expected in zip(
            (*ours(x, scale, bias), *jax.grad(total(ours), (0, 1, 2))(x, scale, bias)),
            (
                *formula(x, scale, bias),
                *jax.grad(total(formula), (0, 1, 2))(x, scale, bias),
            ),
            strict=True,
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)


def test_the_gradient_of_normalise_keeps_the_input_as_it_is():
    x = jnp.ones((1, 2, 3, 5, 4), jnp.bfloat16)
    ones = jnp.ones(4)
    pull = jax.vjp(lambda x: layers.normalise(x, ones, ones, (1, 2, 3), 1e-5)[0], x)[1]
    kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.size >= x.size]
    assert [leaf.dtype for leaf in kept] == [jnp.bfloat16]


def test_pool_by_hand():
    ramp = jnp.arange(1.0, 5.0).reshape(1, 4, 1, 1) * jnp.ones((1, 4, 3, 1))
    pooled = layers.max_pool(ramp, ceil_mode=True)
    np.testing.assert_array_equal(pooled[0, :, 0, 0], [2.0, 4.0, 4.0])
    assert pooled.shape == (1, 3, 2, 1)
    np.testing.assert_array_equal(layers.max_pool(ramp, ceil_mode=False), pooled[:, :2])


@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize("size", [(8, 9), (7, 12), (33, 65)])
def test_pool_parity_with_torch(size, ceil_mode):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(6).random((2, *size, 3)).astype(np.float32)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).requires_grad_()
    pool = torch.nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=ceil_mode)
    expected = pool(batch)
    expected.square().sum().backward()
    pooled = functools.partial(layers.max_pool, ceil_mode=ceil_mode)
    found, pull = jax.vjp(pooled, jnp.asarray(images))
    np.testing.assert_array_equal(found, expected.detach().permute(0, 2, 3, 1).numpy())
    (gradient,) = pull(2.0 * found)
    expected = batch.grad.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)

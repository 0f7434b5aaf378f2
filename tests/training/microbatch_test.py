"""A batch in parts gives what the whole batch gives, in less memory."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lsr_jax import models
from lsr_jax.errors import InputError
from lsr_jax.methods import METHODS
from lsr_jax.ops import diagnostics
from lsr_jax.training import compile, microbatch, sharding
from lsr_jax.types import Batch, BatchSpec, Context, Images

NETWORK = models.Architecture(4, 4, (1, 1, 1, 1))
SIZE = (64, 96)
# float32 sums over the batch in another order; relative to the norm of each array.
TOLERANCE = 1e-4


def batch(count):
    draw = np.random.default_rng(0)

    def images():
        blocks = draw.integers(0, 5, (count, 2, 3), dtype=np.int32)
        label = blocks.repeat(SIZE[0] // 2, 1).repeat(SIZE[1] // 3, 2)
        noise = draw.standard_normal((count, *SIZE, 3), np.float32)
        return Images(noise + 2 * label[..., None].astype(np.float32), label)

    return Batch(images(), images())


def gradients(group, parts, devices=1):
    """Total, Aux and gradients of LSR on 8 images, and the cost of computing them."""
    model = models.build(backbone=NETWORK, num_classes=5, bn_group_size=group)
    params, model_state = model.init(jax.random.key(0), SIZE)
    # The first scales are zero in a fresh network, which would hide most of it.
    params = jax.tree.map(lambda x: x + 0.1, params)
    method = METHODS["lsr"].make()
    spec = BatchSpec(5, model.feature_dim, SIZE, SIZE)
    _, method_state = method.init(jax.random.key(1), params, model_state, spec)
    forward = microbatch.in_parts(model.forward, parts, group=group)

    def step(whole, batch):
        params, model_state, method_state = whole
        context = Context(
            forward, model_state, jnp.zeros((), jnp.int32), jax.random.key(2), None
        )

        def objective(params):
            return method.loss({"model": params}, method_state, batch, context)

        return whole, jax.value_and_grad(objective, has_aux=True)(params)

    mesh = sharding.make_mesh(devices)
    whole = sharding.replicate((params, model_state, method_state), mesh)
    split = sharding.shard_batch(batch(8), mesh)
    traced = sharding.jit_step(step, mesh).trace(whole, split)
    call, cost = compile.compile_traced(traced)
    (total, aux), gradient = jax.device_get(call(whole, split)[1])
    terms = aux._replace(metrics=diagnostics.without(aux.metrics))
    return ((total, terms), gradient), cost


@pytest.fixture(scope="module")
def whole():
    return gradients(2, 1)


def assert_close(found, expected):
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    for ours, reference in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        error = np.linalg.norm(np.subtract(ours, reference, dtype=np.float64))
        assert error <= TOLERANCE * np.linalg.norm(reference) + 1e-6


@pytest.mark.slow
def test_parts_change_no_number_and_need_less_memory(whole):
    found, cost = gradients(2, 4)
    assert_close(found, whole[0])
    assert cost.temporary_bytes < 0.6 * whole[1].temporary_bytes


@pytest.mark.long
def test_parts_on_several_devices(whole):
    found, _ = gradients(2, 2, devices=2)
    assert_close(found, whole[0])


@pytest.mark.parametrize("group", [1, 2])
def test_split_keeps_groups_and_join_undoes_it(group):
    images = jnp.arange(12)[:, None]
    parts = microbatch.split(images, 3, group)
    assert parts.shape == (3, 4, 1)
    neighbours = np.asarray(parts).reshape(-1, group)
    assert (np.diff(neighbours, axis=1) == 1).all()
    np.testing.assert_array_equal(microbatch.join(parts, group), images)


def test_evaluation_and_one_part_are_the_network_itself(key):
    assert microbatch.in_parts(toy.forward, 1) is toy.forward
    params, state = toy.init(key)
    images = toy.images(key, 3).image
    found = microbatch.in_parts(toy.forward, 2)(params, state, images, False)
    chex.assert_trees_all_equal(found, toy.forward(params, state, images, False))


def test_parts_that_cannot_be_are_named():
    with pytest.raises(InputError, match="3 does not split a batch of 8 into equal"):
        microbatch.check_divides(8, 3, 1)
    with pytest.raises(InputError, match="whole groups of 4 images"):
        microbatch.check_divides(8, 4, 4)


@pytest.mark.parametrize(
    ("backbone", "batch_norm", "group", "expected"),
    [("mini", "train", 2, 2), ("mini", "eval", None, 1), ("vgg16", "train", None, 1)],
)
def test_group_size_of_a_config(backbone, batch_norm, group, expected):
    model = {"backbone": backbone, "batch_norm": batch_norm, "bn_group_size": group}
    assert microbatch.group_size(model, 2) == expected


def test_batchnorm_over_the_whole_batch_has_no_parts():
    model = {"backbone": "mini", "batch_norm": "train", "bn_group_size": None}
    assert microbatch.group_size(model, 1) == 1
    with pytest.raises(InputError, match=r"needs model\.bn_group_size, a divisor"):
        microbatch.group_size(model, 2)

"""A real network on one and on more devices; what the mesh refuses."""

import jax
import numpy as np
import pytest
import quick
from jax.sharding import AxisType

from lsr_jax import models
from lsr_jax.augment import preprocess
from lsr_jax.errors import InputError
from lsr_jax.methods import METHODS
from lsr_jax.training import optimizer, sharding, state, step
from lsr_jax.types import Batch, BatchSpec, Images

SIZE = (64, 96)
# float32 sums in another order, relative to the norm of each array: losses, prototypes
# and BatchNorm statistics, and gradients through nine layers of BatchNorm.
TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3
# Of an angle, relative to 180 degrees: near 0 the arc cosine loses most digits.
ANGLE_TOLERANCE = 1e-5


def batch(count):
    draw = np.random.default_rng(0)

    def images():
        blocks = draw.integers(0, 19, (count, 2, 3), dtype=np.uint8)
        label = blocks.repeat(SIZE[0] // 2, 1).repeat(SIZE[1] // 3, 2)
        noise = draw.integers(0, 100, (count, *SIZE, 3), dtype=np.uint8)
        return Images(noise + 8 * label[..., None], label)

    return Batch(images(), images()._replace(label=None))


def after_one_step(devices, *, group=None, backbone="mini", images=8):
    """State and metrics; without decay the momentum buffers are the gradients."""
    model = models.build(backbone=backbone, num_classes=19, bn_group_size=group)
    method = METHODS["lsr"].make(confidence=0.05)  # fresh networks are sure of nothing
    params, model_state = model.init(jax.random.key(0), SIZE)
    # Scales of zero would hide the gradients of most layers.
    params = jax.tree.map(lambda x: x + 0.05, params)
    spec = BatchSpec(19, model.feature_dim, SIZE, SIZE)
    params, method_state = state.with_method(
        params, model_state, method, spec, jax.random.key(1)
    )
    transformation = optimizer.make(
        params,
        optimizer.model_groups(head_multiplier=10.0),
        name="sgd",
        learning_rate=1e-3,
        weight_decay=0.0,
        momentum=0.9,
        decay_steps=100,
        power=0.9,
        warmup_steps=0,
    )
    none = preprocess.AUGMENTATION["none"]
    train_step = step.make_step(
        method,
        transformation,
        model.forward,
        lambda key, batch: preprocess.preprocess(
            key, batch, source=none, target=none, preprocessing="imagenet"
        ),
        preprocess.pixels("imagenet"),
    )
    mesh = sharding.make_mesh(devices)
    whole = state.create(
        params, model_state, method_state, transformation, jax.random.key(2)
    )
    whole = sharding.replicate(whole, mesh)
    whole, metrics = sharding.jit_step(train_step, mesh)(
        whole, sharding.shard_batch(batch(images), mesh)
    )
    return jax.device_get((whole.replace(rng=None), metrics))


def worst(found, expected):
    """The largest error of all arrays, relative to the norm of each."""
    pairs = zip(*map(jax.tree.leaves, (found, expected)), strict=True)
    errors = [
        np.linalg.norm(np.subtract(ours, reference, dtype=np.float64))
        / (np.linalg.norm(reference) + 1e-6)
        for ours, reference in pairs
    ]
    return max(errors)


def check_same(found, expected):
    """Two states and metrics within the tolerances."""
    (state, metrics), (expected_state, expected_metrics) = found, expected
    assert metrics.keys() == expected_metrics.keys()
    for name, value in metrics.items():
        if "angle" in name:
            error = abs(value - expected_metrics[name]) / 180
            assert error < ANGLE_TOLERANCE, name
            continue
        limit = GRADIENT_TOLERANCE if name == "gradient_norm" else TOLERANCE
        assert worst(value, expected_metrics[name]) < limit, name
    assert worst(state.method_state, expected_state.method_state) < TOLERANCE
    assert worst(state.model_state, expected_state.model_state) < TOLERANCE
    assert worst(state.opt_state, expected_state.opt_state) < GRADIENT_TOLERANCE


@pytest.mark.slow
def test_eight_devices_give_what_one_gives():
    one, eight = (tiny(devices, images=16) for devices in (1, 8))
    assert one[1]["clustering_target"] > 0
    check_same(eight, one)


@pytest.mark.long
@pytest.mark.parametrize("group", [None, 1])
def test_eight_devices_give_what_one_gives_with_groups(group):
    one, eight = (after_one_step(devices, group=group) for devices in (1, 8))
    assert one[1]["clustering_target"] > 0
    check_same(eight, one)


def tiny(devices, images=12):
    with quick.backbones(nano=quick.ThreeLayers()):
        return after_one_step(devices, backbone="nano", images=images)


@pytest.fixture(scope="module")
def one_tiny():
    return tiny(1)


@pytest.mark.long
@pytest.mark.parametrize("devices", [2, 3, 4])
def test_fewer_devices_give_what_one_gives(devices, one_tiny):
    assert one_tiny[1]["clustering_target"] > 0
    check_same(tiny(devices), one_tiny)


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match=r"num_devices: expected 1 to 8 .* found 9"):
        sharding.make_mesh(9)


def test_a_process_without_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="8 devices leave none to process 1"):
        sharding.make_mesh(8)


def test_a_batch_that_the_devices_do_not_divide():
    with pytest.raises(InputError, match="a multiple of the 8 devices, found 12"):
        sharding.check_batch_size(12, sharding.make_mesh(8))


def test_batches_are_split_and_the_rest_is_everywhere():
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    rows = np.arange(16.0).reshape(16, 1)
    split = sharding.shard_whole_batch({"rows": rows}, mesh)["rows"]
    whole = sharding.replicate({"rows": rows}, mesh)["rows"]
    np.testing.assert_array_equal(split, rows)
    assert {shard.data.shape for shard in split.addressable_shards} == {(2, 1)}
    assert {shard.data.shape for shard in whole.addressable_shards} == {(16, 1)}
    assert split.sharding == sharding.split(mesh)
    assert whole.sharding == sharding.replicated(mesh)

"""The real network on one and on eight devices; what the mesh refuses."""

import jax
import numpy as np
import pytest

from lsr_jax import models
from lsr_jax.data import augment
from lsr_jax.errors import InputError
from lsr_jax.methods import METHODS
from lsr_jax.training import optimizer, sharding, state, step
from lsr_jax.types import Batch, BatchSpec, Images

SIZE = (64, 96)
# float32 sums in another order, relative to the norm of each array: losses, prototypes
# and BatchNorm statistics, and gradients through nine layers of BatchNorm.
TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3


def batch():
    draw = np.random.default_rng(0)

    def images():
        blocks = draw.integers(0, 19, (8, 2, 3), dtype=np.uint8)
        label = blocks.repeat(SIZE[0] // 2, 1).repeat(SIZE[1] // 3, 2)
        noise = draw.integers(0, 100, (8, *SIZE, 3), dtype=np.uint8)
        return Images(noise + 8 * label[..., None], label)

    return Batch(images(), images()._replace(label=None))


def after_one_step(group, devices):
    """State and metrics; without decay the momentum buffers are the gradients."""
    model = models.build(backbone="mini", num_classes=19, bn_group_size=group)
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
        horizon=100,
        power=0.9,
        warmup_steps=0,
    )
    none = augment.AUGMENTATION["none"]
    train_step = step.make_step(
        method,
        transformation,
        model.forward,
        lambda key, batch: augment.preprocess(
            key, batch, source=none, target=none, preprocessing="imagenet"
        ),
        augment.pixels("imagenet"),
    )
    mesh = sharding.make_mesh(devices)
    whole = state.create(
        params, model_state, method_state, transformation, jax.random.key(2)
    )
    whole = sharding.put_replicated(whole, mesh)
    whole, metrics = sharding.compile_step(train_step, mesh)(
        whole, sharding.put_batch(batch(), mesh)
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


@pytest.mark.slow
@pytest.mark.parametrize("group", [None, pytest.param(1, marks=pytest.mark.long)])
def test_eight_devices_give_what_one_gives(group):
    one, one_metrics = after_one_step(group, 1)
    eight, eight_metrics = after_one_step(group, 8)
    assert one_metrics["clustering_target"] > 0
    norm = one_metrics.pop("gradient_norm"), eight_metrics.pop("gradient_norm")
    assert worst(*norm) < GRADIENT_TOLERANCE
    assert worst(eight_metrics, one_metrics) < TOLERANCE
    assert worst(eight.method_state, one.method_state) < TOLERANCE
    assert worst(eight.model_state, one.model_state) < TOLERANCE
    assert worst(eight.opt_state, one.opt_state) < GRADIENT_TOLERANCE


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match=r"num_devices: expected 1 to 8 .* found 9"):
        sharding.make_mesh(9)


def test_a_batch_that_the_devices_do_not_divide():
    with pytest.raises(InputError, match="a multiple of the 8 devices, found 12"):
        sharding.check_batch_size(12, sharding.make_mesh(8))

"""Properties of every method in `METHODS`."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
import variants

from lsr_jax.methods import METHODS
from lsr_jax.training import checkpoint, sharding
from lsr_jax.types import IGNORE

# float32 sums over a batch in another order, after three steps.
DEVICE_TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}


# {(name, preset, devices): the step}; with batches of 8 each is traced once.
STEPS = {}


def run(name, preset, key, batches, num_devices, folder):
    whole, compiled = placed(name, preset, key, folder, num_devices)
    history = []
    for batch in batches:
        whole, metrics = compiled(whole, batch)
        history.append(jax.device_get(metrics))
    return jax.device_get(whole.replace(rng=jax.random.key_data(whole.rng))), history


def placed(name, preset, key, folder, num_devices=1):
    """The state on its devices, and the compiled step, to which it is donated."""
    mesh = sharding.make_mesh(num_devices)
    whole, train_step = variants.start(variants.build(name, preset), key, folder)
    if (name, preset, num_devices) not in STEPS:
        chex.clear_trace_counter()  # it counts by the name of the function
        once = chex.assert_max_traces(train_step, 1)
        STEPS[name, preset, num_devices] = sharding.jit_step(once, mesh)

    def call(whole, batch):
        batch = sharding.shard_batch(jax.device_get(batch), mesh)
        return STEPS[name, preset, num_devices](whole, batch)

    return sharding.replicate(whole, mesh), call


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), variants.LONG_PRESETS)
def test_traces_once_keeps_its_tree_and_agrees_on_eight_devices(
    name, preset, key, tmp_path
):
    method = variants.build(name, preset)
    batches = [toy.batch(jax.random.fold_in(key, i), 8, method) for i in range(3)]
    before, _ = variants.start(method, key, tmp_path)
    one, one_metrics = run(name, preset, key, batches, 1, tmp_path)
    eight, eight_metrics = run(name, preset, key, batches, 8, tmp_path)

    before = before.replace(rng=jax.random.key_data(before.rng))
    chex.assert_trees_all_equal_shapes_and_dtypes(before, one)
    assert one.step == 3
    chex.assert_trees_all_close(one_metrics, eight_metrics, **DEVICE_TOLERANCE)
    chex.assert_trees_all_close(one, eight, **DEVICE_TOLERANCE)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before.params, one.params)
    assert all(x > 0 for x in jax.tree.leaves(moved)), moved


@pytest.mark.parametrize("devices", [2, 4])
def test_fewer_devices_agree(devices, key, tmp_path):
    """Prototypes, norms and statistics of images on two devices are those on one."""
    method = variants.build("lsr", None)
    batches = [toy.batch(key, 8, method)]
    one = run("lsr", None, key, batches, 1, tmp_path)
    found = run("lsr", None, key, batches, devices, tmp_path)
    chex.assert_trees_all_close(found, one, **DEVICE_TOLERANCE)


@pytest.mark.parametrize(("name", "preset"), variants.VARIANTS)
def test_finite_with_absent_classes_and_without_labels(name, preset, key, tmp_path):
    method = variants.build(name, preset)
    whole, compiled = placed(name, preset, key, tmp_path)
    one_class = toy.batch(key, 8, method, classes=1)
    void = jax.tree.map(
        lambda x: jnp.full_like(x, IGNORE) if x.dtype == jnp.int32 else x * 0,
        one_class,
    )
    for batch in (one_class, void, one_class):
        whole, metrics = compiled(whole, batch)
        chex.assert_tree_all_finite((whole.params, whole.method_state, metrics))
    assert float(metrics["gradient_norm"]) > 0


@pytest.mark.long  # the losses, of which methods are made, are held to it one by one
@pytest.mark.parametrize(("name", "preset"), variants.CARRYING)
def test_jit_equals_eager(name, preset, key, tmp_path):
    method = variants.build(name, preset)
    whole, train_step = variants.start(method, key, tmp_path / "eager")
    batch = toy.batch(key, 8, method)
    eager, metrics = train_step(whole, batch)
    whole, compiled = placed(name, preset, key, tmp_path / "jitted")
    jitted, found = jax.device_get(compiled(whole, batch))
    chex.assert_trees_all_close(metrics, found, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(
        eager.method_state, jitted.method_state, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("name", "preset"), variants.CARRYING)
def test_a_restored_state_goes_on_bit_for_bit(name, preset, key, tmp_path):
    method = variants.build(name, preset)
    whole, compiled = placed(name, preset, key, tmp_path / "stage")
    batches = [toy.batch(jax.random.fold_in(key, i), 8, method) for i in range(3)]
    for batch in batches[:2]:
        whole, _ = compiled(whole, batch)
    with checkpoint.Checkpointer(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(2, whole, {"step": 2, "best": None})
    other, _ = placed(name, preset, jax.random.key(1), tmp_path / "other")
    with checkpoint.Checkpointer(tmp_path / "checkpoints") as checkpoints:
        restored, _ = checkpoints.restore(2, other)
    unbroken, resumed = compiled(whole, batches[2]), compiled(restored, batches[2])
    assert int(resumed[0].step) == 3
    chex.assert_trees_all_equal(comparable(unbroken), comparable(resumed))


def comparable(result):
    whole, metrics = result
    return whole.replace(rng=jax.random.key_data(whole.rng)), metrics


@pytest.mark.parametrize("name", METHODS)
def test_target_labels_are_the_oracles_alone(name):
    method = variants.build(name, None)
    assert ("target" in method.labelled) == (name == "target_only")


@pytest.mark.parametrize(("name", "preset"), variants.VARIANTS)
def test_each_term_has_a_weight_that_takes_it_away(name, preset, key):
    variants.check_weights(name, preset, key)

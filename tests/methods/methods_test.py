"""What holds for every method; the list is `METHODS` itself."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lsr_jax.methods import METHODS
from lsr_jax.training import checkpoint, optimizer, sharding, state, step
from lsr_jax.types import IGNORE, BatchSpec

# float32 sums over a batch in another order, after three steps.
DEVICE_TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}


def presets(module):
    """None for the defaults, and the presets that build another loss: not only numbers."""
    defaults = inspect.signature(module.make).parameters

    def built(key, value):
        return value != 0 if isinstance(value, float | int) else value

    return [None] + [
        preset
        for preset, values in getattr(module, "PRESETS", {}).items()
        if any(built(k, v) != built(k, defaults[k].default) for k, v in values.items())
    ]


VARIANTS = [
    pytest.param(name, preset, id=f"{name}-{preset or 'default'}")
    for name, module in METHODS.items()
    for preset in presets(module)
]


def build(name, preset):
    module = METHODS[name]
    keywords = dict(module.PRESETS[preset]) if preset else {}
    if keywords.get("class_frequency", "none") != "none":
        keywords["class_frequency"] = "none"  # frequencies are for 19, 16, 13 classes
    return module.make(**keywords)


def start(method, key, folder):
    """The state before step 0 and a step without preprocessing."""
    spec = BatchSpec(toy.NUM_CLASSES, toy.FEATURES, toy.SIZE, toy.SIZE)
    model_params, model_state = toy.init(key, method.heads[0])
    params, method_state = state.with_method(
        model_params, model_state, method, spec, key
    )
    if method.prepare:
        given = toy.preparation(key, method, folder)
        method_state = method.prepare(method_state, given)
    transformation = optimizer.make(
        params,
        optimizer.model_groups(head_multiplier=10.0),
        name="sgd",
        learning_rate=1e-3,
        weight_decay=5e-4,
        momentum=0.9,
        horizon=100,
        power=0.9,
        warmup_steps=0,
    )
    whole = state.create(params, model_state, method_state, transformation, key)
    train_step = step.make_step(
        method, transformation, toy.forward, lambda _, batch: batch, toy.PIXELS
    )
    return whole, train_step


def run(method, key, batches, num_devices, folder):
    chex.clear_trace_counter()
    whole, compiled = placed(method, key, folder, num_devices)
    history = []
    for batch in batches:
        whole, metrics = compiled(whole, batch)
        history.append(jax.device_get(metrics))
    return jax.device_get(whole.replace(rng=jax.random.key_data(whole.rng))), history


def placed(method, key, folder, num_devices=1):
    """The state on its devices and the compiled step, which traces once; it donates.

    With batches of 8 it is one program for all tests that use it.
    """
    mesh = sharding.make_mesh(num_devices)
    whole, train_step = start(method, key, folder)
    compiled = sharding.compile_step(chex.assert_max_traces(train_step, 1), mesh)

    def call(whole, batch):
        return compiled(whole, sharding.put_batch(jax.device_get(batch), mesh))

    return sharding.put_replicated(whole, mesh), call


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_traces_once_keeps_its_tree_and_agrees_on_eight_devices(
    name, preset, key, tmp_path
):
    method = build(name, preset)
    batches = [toy.batch(jax.random.fold_in(key, i), 8, method) for i in range(3)]
    before, _ = start(method, key, tmp_path)
    one, one_metrics = run(method, key, batches, 1, tmp_path)
    eight, eight_metrics = run(method, key, batches, 8, tmp_path)

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
    method = build("lsr", None)
    batches = [toy.batch(key, 8, method)]
    one = run(method, key, batches, 1, tmp_path)
    found = run(method, key, batches, devices, tmp_path)
    chex.assert_trees_all_close(found, one, **DEVICE_TOLERANCE)


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_finite_with_absent_classes_and_without_labels(name, preset, key, tmp_path):
    method = build(name, preset)
    whole, compiled = placed(method, key, tmp_path)
    one_class = toy.batch(key, 8, method, classes=1)
    void = jax.tree.map(
        lambda x: jnp.full_like(x, IGNORE) if x.dtype == jnp.int32 else x * 0,
        one_class,
    )
    for batch in (one_class, void, one_class):
        whole, metrics = compiled(whole, batch)
        chex.assert_tree_all_finite((whole.params, whole.method_state, metrics))
    assert float(metrics["gradient_norm"]) > 0


@pytest.mark.parametrize("name", METHODS)
def test_jit_equals_eager(name, key, tmp_path):
    method = build(name, None)
    whole, train_step = start(method, key, tmp_path)
    batch = toy.batch(key, 2, method)
    _, eager = train_step(whole, batch)
    _, jitted = jax.jit(train_step)(whole, batch)
    chex.assert_trees_all_close(eager, jitted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_restored_state_goes_on_bit_for_bit(name, key, tmp_path):
    method = build(name, None)
    whole, compiled = placed(method, key, tmp_path / "stage")
    batches = [toy.batch(jax.random.fold_in(key, i), 8, method) for i in range(3)]
    for batch in batches[:2]:
        whole, _ = compiled(whole, batch)
    with checkpoint.Checkpointer(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(2, whole, {"best": None})
    other, _ = placed(method, jax.random.key(1), tmp_path / "other")
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
    method = build(name, None)
    assert ("target" in method.labelled) == (name == "target_only")

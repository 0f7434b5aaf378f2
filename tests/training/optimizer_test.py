from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lsr_jax.errors import InputError
from lsr_jax.training import optimizer

GOLDENS = Path(__file__).parents[1] / "goldens"


def sgd_by_hand(theta, grads, *, rate, momentum, weight_decay, repeats):
    """torch's SGD on a parameter listed ``repeats`` times, one number at a time."""
    buffer = None
    for step, grad in enumerate(grads):
        for _ in range(repeats):
            decayed = grad + weight_decay * theta
            fresh = buffer is None or step == 0
            buffer = decayed if fresh else momentum * buffer + decayed
            theta = theta - rate(step) * buffer
    return theta


def run(transformation, params, grads):
    opt_state = transformation.init(params)
    update = jax.jit(transformation.update)
    for grad in grads:
        updates, opt_state = update(grad, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("repeats", [1, 3, 4])
def test_sgd_equals_the_loop(repeats):
    keywords = {"momentum": 0.9, "weight_decay": 0.1, "repeats": repeats}
    grads = [1.0, -0.5, 2.0, 0.25]
    transformation = optimizer.sgd(optimizer.poly(0.1, horizon=10), **keywords)
    found = run(
        transformation,
        {"w": jnp.asarray(0.7)},
        [{"w": jnp.asarray(grad)} for grad in grads],
    )
    wanted = sgd_by_hand(
        0.7, grads, rate=lambda t: 0.1 * (1 - t / 10) ** 0.9, **keywords
    )
    np.testing.assert_allclose(found["w"], wanted, rtol=1e-6)


def test_three_repeats_move_three_times_as_far_in_the_end():
    """methods.md 1.9: the displacement by one gradient is repeats * 10 * lr * g."""
    grads = [{"w": jnp.asarray(1.0)}] + [{"w": jnp.asarray(0.0)}] * 300
    moves = [
        -run(
            optimizer.sgd(
                lambda _: jnp.asarray(1e-3),
                momentum=0.9,
                weight_decay=0.0,
                repeats=repeats,
            ),
            {"w": jnp.asarray(0.0)},
            [{"w": jnp.asarray(0.0)}, *grads],
        )["w"]
        for repeats in (1, 3)
    ]
    np.testing.assert_allclose(moves[0], 10e-3, rtol=1e-4)
    np.testing.assert_allclose(moves[1], 30e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("key", "steps", "keywords"),
    [
        ("lsr_poly__1x", "iters", {"learning_rate": 2.5e-4, "horizon": 250_000}),
        ("lsr_poly__10x", "iters", {"learning_rate": 2.5e-3, "horizon": 250_000}),
        (
            "lsr_uda_poly__1x",
            "lsr_uda_iters",
            {"learning_rate": 2.5e-4, "horizon": 50_000},
        ),
        ("advent_poly__lr", "iters", {"learning_rate": 2.5e-4, "horizon": 250_000}),
        ("advent_poly__lr_D", "iters", {"learning_rate": 1e-4, "horizon": 250_000}),
        *(
            (f"clan__{name}", "clan__iters", {"learning_rate": rate, "horizon": 100_000, "warmup_steps": 5_000})
            for name, rate in (("lr_1x", 2.5e-4), ("lr_10x", 2.5e-3), ("lr_D", 1e-4))
        ),
        *(
            (f"f2a__{name}", "f2a__iters", {"learning_rate": rate, "horizon": 150_000, "warmup_steps": 7_500})
            for name, rate in (("lr_1x", 2.5e-4), ("lr_10x", 2.5e-3), ("lr_D", 1e-4))
        ),
    ],
)  # fmt: skip
def test_poly_is_the_recorded_schedule(key, steps, keywords):
    recorded = np.load(GOLDENS / "schedule.npz", allow_pickle=False)
    schedule = optimizer.poly(**keywords)
    found = [schedule(jnp.asarray(step)) for step in recorded[steps]]
    np.testing.assert_allclose(found, recorded[key], rtol=1e-5, atol=1e-12)
    with jax.enable_x64(True):
        found = [schedule(jnp.asarray(step)) for step in recorded[steps]]
        np.testing.assert_allclose(found, recorded[key], rtol=1e-12, atol=1e-18)


def test_poly_stays_at_zero_past_the_horizon():
    assert optimizer.poly(1.0, horizon=10)(jnp.asarray(12)) == 0


PARAMS = {
    "model": {
        "backbone": {
            "bn1": {"scale": jnp.ones(2)},
            "conv1": {"kernel": jnp.ones(2)},
            "layer1_0": {
                "conv1": {"kernel": jnp.ones(2)},
                "downsample_conv": {"kernel": jnp.ones(2)},
            },
        },
        "head": {"conv2d_list_0": {"kernel": jnp.ones(2)}},
    }
}
KEYWORDS = {
    "learning_rate": 0.01,
    "weight_decay": 0.5,
    "momentum": 0.9,
    "horizon": 10,
    "power": 0.9,
    "warmup_steps": 0,
}


def groups(duplicate_updates):
    return optimizer.model_groups(
        head_multiplier=10.0,
        frozen=(r"(^|/)backbone/bn1/(scale|bias)$",),
        duplicate_updates=duplicate_updates,
    )


@pytest.mark.parametrize(
    ("duplicate_updates", "ratios"), [("off", (1, 1, 1)), ("sequential", (1, 3, 4))]
)
def test_groups_scale_freeze_and_repeat(duplicate_updates, ratios):
    transformation = optimizer.make(
        PARAMS, groups(duplicate_updates), name="sgd", **{**KEYWORDS, "weight_decay": 0}
    )
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    found = run(transformation, PARAMS, [grads])["model"]
    backbone = found["backbone"]
    np.testing.assert_array_equal(backbone["bn1"]["scale"], 1.0)
    moves = [
        1 - tree["kernel"][0]
        for tree in (
            backbone["conv1"],
            backbone["layer1_0"]["conv1"],
            backbone["layer1_0"]["downsample_conv"],
            found["head"]["conv2d_list_0"],
        )
    ]
    # In the first step every repetition starts a fresh buffer: moves add up plainly.
    np.testing.assert_allclose(moves, [0.01 * r for r in (*ratios, 10)], rtol=1e-5)


def test_a_frozen_group_is_not_decayed():
    transformation = optimizer.make(PARAMS, groups("off"), name="sgd", **KEYWORDS)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    found = run(transformation, PARAMS, [zeros])["model"]["backbone"]
    np.testing.assert_array_equal(found["bn1"]["scale"], 1.0)
    np.testing.assert_allclose(found["conv1"]["kernel"], 1 - 0.01 * 0.5, rtol=1e-6)


def test_adamw_decays_decoupled():
    transformation = optimizer.make(PARAMS, groups("off"), name="adamw", **KEYWORDS)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    with jax.numpy_dtype_promotion("standard"):  # optax's bias correction needs it
        found = run(transformation, PARAMS, [zeros])["model"]["backbone"]
    np.testing.assert_allclose(found["conv1"]["kernel"], 1 - 0.01 * 0.5, rtol=1e-6)


def test_a_leaf_in_no_group_is_named():
    params = {**PARAMS, "disc": {"kernel": jnp.ones(2)}}
    with pytest.raises(InputError, match="'disc/kernel' belongs to no group"):
        optimizer.make(params, groups("off"), name="sgd", **KEYWORDS)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"optimizer\.name.*'adam'"):
        optimizer.make(PARAMS, groups("off"), name="adam", **KEYWORDS)
    with pytest.raises(InputError, match=r"duplicate_updates.*'foreach'"):
        groups("foreach")

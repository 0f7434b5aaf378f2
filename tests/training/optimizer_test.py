import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import seeded

from lsr_jax import models
from lsr_jax.errors import InputError
from lsr_jax.models import BACKBONES
from lsr_jax.training import optimizer


def stepped(transformation, params, grads):
    """The parameters after one step."""
    updates, _ = transformation.update(grads, transformation.init(params), params)
    return optax.apply_updates(params, updates)


STEM_AFFINE, ALL_AFFINE = (
    models.build(backbone="mini", **options).frozen_paths[0]
    for options in ({"freeze_stem_affine": True}, {"batch_norm": "frozen_affine"})
)
HEADS = {"layer5": "aux_head", "layer6": "head", "clas": "head", "classifier": "head"}


def hold_multiplicity(golden, prefix, frozen=(), backbone="resnet101"):
    """How often each original lists each parameter at 1x and at 10x."""
    choices = optimizer.model_groups(
        head_multiplier=10.0,
        frozen=frozen,
        repeated=BACKBONES[backbone].repeated,
        duplicate_updates="sequential",
    )
    chosen = seeded.groups(golden[f"{prefix}optim_names"], HEADS, choices)
    counts = [
        (0 if group.multiplier is None else group.repeats * (group.multiplier == base))
        for base in (1, 10)
        for group in chosen
    ]
    golden.equals(f"{prefix}optim_multiplicity", np.reshape(counts, (2, -1)))


@pytest.mark.golden("deeplab_lsr", "optim_.*")
def test_golden_duplicates_of_lsr(golden):
    hold_multiplicity(golden, "", [STEM_AFFINE])


@pytest.mark.golden("deeplab_vgg", ".*__optim_.*")
def test_golden_duplicates_of_vgg(golden):
    for name in ("vgg16", "vgg13"):
        hold_multiplicity(golden, f"{name}__", backbone=name)


@pytest.mark.golden("deeplab_others", ".*__optim_.*")
def test_golden_duplicates_of_the_others(golden):
    for name in ("maxsquare", "udaclustering"):
        hold_multiplicity(golden, f"{name}__", [STEM_AFFINE])
    for name in ("adaptsegnet", "advent", "clan", "f2a_multi"):
        hold_multiplicity(golden, f"{name}__", [ALL_AFFINE])


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
    "decay_steps": 10,
    "power": 0.9,
    "warmup_steps": 0,
}


def groups(duplicate_updates):
    return optimizer.model_groups(
        head_multiplier=10.0,
        frozen=(r"(^|/)backbone/bn1/(scale|bias)$",),
        repeated=BACKBONES["mini"].repeated,
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
    found = stepped(transformation, PARAMS, grads)["model"]
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
    found = stepped(transformation, PARAMS, zeros)["model"]["backbone"]
    np.testing.assert_array_equal(found["bn1"]["scale"], 1.0)
    np.testing.assert_allclose(found["conv1"]["kernel"], 1 - 0.01 * 0.5, rtol=1e-6)


def test_adamw_decays_decoupled():
    transformation = optimizer.make(PARAMS, groups("off"), name="adamw", **KEYWORDS)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    with jax.numpy_dtype_promotion("standard"):  # optax's bias correction needs it
        found = stepped(transformation, PARAMS, zeros)["model"]["backbone"]
    np.testing.assert_allclose(found["conv1"]["kernel"], 1 - 0.01 * 0.5, rtol=1e-6)


def test_a_leaf_in_no_group_is_named():
    params = {**PARAMS, "extra": {"kernel": jnp.ones(2)}}
    with pytest.raises(InputError, match="'extra/kernel' belongs to no group"):
        optimizer.make(params, groups("off"), name="sgd", **KEYWORDS)


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
    transformation = optimizer.sgd(optimizer.poly(0.1, decay_steps=10), **keywords)
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


def schedules():
    """``{key: (steps, keywords of poly)}`` of schedule.npz."""
    rates = {"lr_1x": 2.5e-4, "lr_10x": 2.5e-3, "lr_D": 1e-4}
    yield "lsr_poly__1x", "iters", (2.5e-4, 250_000, 0)
    yield "lsr_poly__10x", "iters", (2.5e-3, 250_000, 0)
    yield "lsr_uda_poly__1x", "lsr_uda_iters", (2.5e-4, 50_000, 0)
    yield "advent_poly__lr", "iters", (2.5e-4, 250_000, 0)
    yield "advent_poly__lr_D", "iters", (1e-4, 250_000, 0)
    for name, rate in rates.items():
        yield f"clan__{name}", "clan__iters", (rate, 100_000, 5_000)
        yield f"f2a__{name}", "f2a__iters", (rate, 150_000, 7_500)


@pytest.mark.golden(
    "schedule", "(lsr_uda_)?iters", "(clan|f2a)__(iters|lr_.*)", "(lsr|advent).*poly.*"
)
def test_golden_poly(golden):
    for key, steps, (rate, decay_steps, warmup) in schedules():
        schedule = optimizer.poly(rate, decay_steps=decay_steps, warmup_steps=warmup)
        found = jax.vmap(schedule)(jnp.asarray(golden[steps]))
        np.testing.assert_allclose(found, golden[key], rtol=1e-5, atol=1e-12)
        with jax.enable_x64(True):
            found = np.stack([schedule(jnp.asarray(step)) for step in golden[steps]])
            # Near the end the originals' 1 - t / T has lost digits that ours has.
            golden.holds(key, found, 1e-12, scale="largest")


@pytest.mark.golden("schedule", "cag_poly__lr")
def test_golden_poly_of_cag(golden):
    """Recorded from the construction on; its first step already uses the second rate."""
    steps = np.arange(21)
    with jax.enable_x64(True):
        found, ahead = (
            np.stack(
                [
                    optimizer.poly(
                        1e-4, decay_steps=20, schedule_offset=schedule_offset
                    )(t)
                    for t in steps
                ]
            )
            for schedule_offset in (0, 1)
        )
    golden.holds("cag_poly__lr", found, 1e-12)
    np.testing.assert_array_equal(ahead[:-1], found[1:])
    assert ahead[-1] == 0


@pytest.mark.parametrize("repeats", [1, 2, 3, 4])
def test_parity_of_repeated_sgd_with_torch(repeats):
    """Random gradients through `torch.optim.SGD` with a parameter listed several times."""
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(7)
    start, *grads = draw.standard_normal((7, 3, 4)).astype(np.float32)
    theta = torch.nn.Parameter(torch.from_numpy(start.copy()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "optimizer contains a parameter group")
        theirs = torch.optim.SGD(
            [{"params": [theta] * repeats}],
            lr=1.0,
            momentum=0.9,
            weight_decay=0.05,
            foreach=False,
        )
    schedule = optimizer.poly(0.1, decay_steps=10)
    for step, grad in enumerate(grads):
        theirs.param_groups[0]["lr"] = float(schedule(step))
        theta.grad = torch.from_numpy(grad)
        theirs.step()
    for make in (optimizer.repeated_sgd, optimizer.sgd):
        ours = make(schedule, momentum=0.9, weight_decay=0.05, repeats=repeats)
        found = run(ours, jnp.asarray(start), [jnp.asarray(grad) for grad in grads])
        np.testing.assert_allclose(found, theta.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_poly_stays_at_zero_past_the_horizon():
    assert optimizer.poly(1.0, decay_steps=10)(jnp.asarray(12)) == 0


def rates_of_daformer(base, decay_steps, warmup_steps, steps):
    schedule = optimizer.poly(
        base,
        decay_steps=decay_steps,
        power=1.0,
        warmup_steps=warmup_steps,
        warmup="multiplies",
    )
    return jax.vmap(schedule)(jnp.asarray(steps))


@pytest.mark.golden("daformer_schedule", "lr__.*")
def test_golden_rates_of_daformer(golden):
    with jax.enable_x64(True):
        for key, base, length, warmup, steps in (
            ("lr__rates", 6e-5, 40_000, 1500, golden["lr__steps"]),
            ("lr__short__rates", 6e-5, 12, 4, np.arange(12)),
            ("lr__nowarm__rates", 6e-5, 12, 0, np.arange(12)),
        ):
            pairs = [
                rates_of_daformer(factor * base, length, warmup, steps)
                for factor in (1, 10)
            ]
            # At the end of the run the original's 1 - t / T has lost four digits.
            base_rates = ("base rate", np.array([base, 10 * base]))
            golden.holds(key, np.stack(pairs, axis=-1), 1e-14, scale=base_rates)
        rates = rates_of_daformer(2.5e-3, 40_000, 1500, golden["lr__sgd__steps"])
        golden.holds("lr__sgd__rates", rates, 1e-14, scale=("base rate", 2.5e-3))


@pytest.mark.golden("daformer_schedule", "groups__.*")
def test_golden_groups_of_daformer(golden):
    """Heads ten times as fast, all decayed; the encoder's LayerNorms are not."""
    choices = optimizer.model_groups(head_multiplier=10.0, decay_norms=False)
    golden.equals("groups__betas", [0.9, 0.999])  # 0.9: the momentum in the configs
    golden.equals("groups__eps", 1e-8)
    rates, decays = [], []
    for name in golden["groups__names"]:
        place = str(name).split(".", 1)[1]  # model, ema_model, imnet_model
        place = place.replace("decode_head", "head").replace(".", "/")
        (number,) = jax.tree.leaves(optimizer.labels({f"model/{place}": 0}, choices))
        group = choices[int(number)]
        rates.append(6e-5 * group.multiplier)
        decays.append(0.01 if group.decays else 0.0)
    golden.holds("groups__lr", rates, 1e-12)
    golden.equals("groups__weight_decay", decays)


@pytest.mark.parametrize("mode", ["float32", "float64"])
@pytest.mark.golden("daformer_schedule", "adamw__.*")
def test_golden_adamw(golden, mode):
    """Eight steps; a parameter without gradient, which torch leaves alone, is frozen."""
    ending = "_f64" if mode == "float64" else "(?<!_f64)"
    golden.only(f"adamw__(init|grads|rates).*|adamw__steps.*{ending}")
    names = ("decay", "nodecay", "head", "nograd")
    with jax.enable_x64(mode == "float64"):
        params = {
            name: jnp.asarray(golden[f"adamw__init__{name}"], mode) for name in names
        }
        groups = [
            optimizer.Group("^decay"),
            optimizer.Group("^nodecay", decays=False),
            optimizer.Group("^head", 10.0),
            optimizer.Group("^nograd", None),
        ]
        update = optimizer.make(
            params,
            groups,
            name="adamw",
            learning_rate=0.03,
            weight_decay=0.01,
            momentum=0.9,
            decay_steps=11,
            power=1.0,
            warmup_steps=3,
            warmup="multiplies",
        )
        rates = [rates_of_daformer(base, 11, 3, np.arange(8)) for base in (0.03, 0.3)]
        rates = np.stack(rates, axis=-1)
        state = update.init(params)
        found = {name: [] for name in names}
        for step in range(8):
            grads = {
                name: jnp.asarray(golden[f"adamw__grads__{name}"][step], mode)
                for name in names[:3]
            }
            grads["nograd"] = jnp.ones_like(params["nograd"])
            updates, state = update.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            for name in names:
                found[name].append(np.asarray(params[name]))
    exact = mode == "float64"
    golden.holds("adamw__rates", rates, 1e-12 if exact else 1e-5)
    for name in names:
        key = f"adamw__steps__{name}" + "_f64" * exact
        rtol = 1e-12 if exact else 1e-5
        golden.holds(key, np.stack(found[name]), rtol, scale="largest")

"""DACS's rates and training loop against the recorded original."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded
import toy

from lsr_jax import class_mix as mixing
from lsr_jax import losses
from lsr_jax.methods import class_mix, mean_teacher
from lsr_jax.training import optimizer, sgd, state, step
from lsr_jax.types import Batch, Images, Method, Outputs


@pytest.mark.golden("dacs", "lr__.*")
def test_golden_rates(golden):
    with jax.enable_x64(True):
        for times in (1, 10):
            rate = sgd.poly(times * 2.5e-4, horizon=250_000)
            ours = jax.vmap(rate)(golden["lr__iters"])
            golden.holds(f"lr__{times}x", ours, 1e-12)


class Seen(NamedTuple):
    """The method's state, and terms and mixed labels of the last step, unrounded."""

    teacher: mean_teacher.Teacher
    terms: dict
    label: jax.Array


def tiny(params, model_state, images, train, rng=None):
    """The network of the recorded loop: convolution, BatchNorm, ReLU, 1x1 convolution."""
    x = jax.lax.conv_general_dilated(
        images,
        params["backbone"]["conv1"]["kernel"],
        window_strides=(4, 4),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    assert train
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    count = x.size // x.shape[-1]
    now = {"mean": mean, "var": var * count / (count - 1)}
    model_state = jax.tree.map(
        lambda old, new: 0.9 * old + 0.1 * new, model_state, {"bn1": now}
    )
    affine = params["backbone"]["bn1"]
    x = (x - mean) * jax.lax.rsqrt(var + 1e-5) * affine["scale"] + affine["bias"]
    features = jax.nn.relu(x)
    head = params["head"]["layer5"]
    return Outputs(
        features, features @ head["kernel"][0, 0] + head["bias"]
    ), model_state


def watched(method, labels, draws):
    """``method`` with recorded draws, that shows what the goldens want to know."""

    def loss(params, before, batch, ctx):
        ctx = ctx._replace(rng=jax.random.key(0))
        labels.append(jnp.asarray(draws)[ctx.step])
        total, aux = method.loss(params, before.teacher, batch, ctx)
        return total, aux._replace(
            method_state=Seen(aux.method_state, aux.metrics, labels.pop())
        )

    return Method(None, loss)


def recorded_run(golden, dtype, patch):
    """The states after every step of the original's loop, by our step."""
    draws = np.zeros((4, 2, 20), bool)
    for i, b in np.ndindex(4, 2):
        classes = golden[f"loop__classes__it{i}__im{b}"]
        draws[i, b, np.where(classes == 255, 19, classes)] = True
    labels = []
    original = losses.weighted_cross_entropy

    def weighted(logits, label, weights):
        labels.append(label)
        return original(logits, label, weights)

    patch.setattr(mixing, "draw_classes", lambda *_, **__: labels.pop())
    patch.setattr(losses, "weighted_cross_entropy", weighted)

    model, statistics = seeded.trees("dacs_tiny", heads={}, branches=0, dtype=dtype)
    layer5 = model["backbone"].pop("layer5")
    scale = np.float32(golden["loop__logit_scale"]).astype(dtype)
    model["head"] = {"layer5": {**layer5, "kernel": layer5["kernel"] * scale}}
    statistics = statistics["backbone"]
    fresh = {"bn1": {"mean": jnp.zeros(8, dtype), "var": jnp.ones(8, dtype)}}
    params = {"model": model}
    start = Seen(
        mean_teacher.Teacher(model, fresh),
        {
            "segmentation": jnp.zeros((), dtype),
            "mixed": jnp.zeros((), dtype),
            "confident": jnp.zeros((), jnp.float32),
        },
        jnp.zeros((2, 24, 32), jnp.int32),
    )
    transformation = optimizer.make(
        params,
        optimizer.model_groups(head_multiplier=10.0, frozen=("backbone/bn1",)),
        name="sgd",
        learning_rate=float(golden["loop__learning_rate"]),
        weight_decay=float(golden["loop__weight_decay"]),
        momentum=float(golden["loop__momentum"]),
        horizon=int(golden["loop__num_iterations"]),
        power=float(golden["loop__lr_power"]),
        warmup_steps=0,
    )
    method = class_mix.make(
        teacher_momentum=float(golden["loop__alpha"]), jitter=0.0, blur_probability=0.0
    )
    train_step = jax.jit(
        step.make_step(
            watched(method, labels, draws),
            transformation,
            tiny,
            lambda _, batch: batch,
            toy.PIXELS,
        )
    )
    whole = state.create(params, statistics, start, transformation, jax.random.key(0))
    history = []
    for i in range(4):
        batch = Batch(
            Images(
                jnp.asarray(golden[f"loop__source_images__it{i}"], dtype),
                golden[f"loop__source_labels__it{i}"],
            ),
            Images(jnp.asarray(golden[f"loop__target_images__it{i}"], dtype), None),
        )
        whole, _ = train_step(whole, batch)
        history.append(whole)
    return history


@pytest.mark.golden("dacs", "loop__.*")
def test_golden_loop(golden):
    """Four iterations of ``trainUDA.py``: losses, labels, both networks, statistics."""
    with pytest.MonkeyPatch.context() as patch:
        narrow = recorded_run(golden, np.float32, patch)
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        wide = recorded_run(golden, np.float64, patch)
        for i, whole in enumerate(wide):
            hold_iteration(golden, i, narrow[i].method_state, whole)
        for net, params, statistics in (
            ("student", whole.params["model"], whole.model_state),
            ("teacher", *whole.method_state.teacher),
        ):
            stem = f"loop__{net}__final__bn1."
            for name, value in (
                ("running_mean", statistics["bn1"]["mean"]),
                ("running_var", statistics["bn1"]["var"]),
                ("weight", params["backbone"]["bn1"]["scale"]),
                ("bias", params["backbone"]["bn1"]["bias"]),
            ):
                golden.holds(f"{stem}{name}_f64", value, 1e-8, scale="largest")


def hold_iteration(golden, i, narrow, whole):
    seen = whole.method_state
    golden.holds(f"loop__mixed_labels__it{i}", seen.label)
    golden.holds(f"loop__share__it{i}", seen.terms["confident"], 1e-7)
    for key, name in (("loss_l", "segmentation"), ("loss_u", "mixed")):
        golden.holds(f"loop__{key}__it{i}", narrow.terms[name], 1e-4)
        golden.holds(f"loop__{key}__it{i}_f64", seen.terms[name], 1e-8)
    student = whole.params["model"]
    # The original's teacher at the end of an iteration is ours at the start of the next.
    teacher = mean_teacher.follow(seen.teacher, student, whole.step, 0.99).params
    for net, params in (("student", student), ("teacher", teacher)):
        for name, value in (
            ("conv1.weight", params["backbone"]["conv1"]["kernel"]),
            ("layer5.weight", params["head"]["layer5"]["kernel"]),
            ("layer5.bias", params["head"]["layer5"]["bias"]),
        ):
            key = f"loop__{net}__it{i}__{name}_f64"
            golden.holds(key, value, 1e-8, scale="largest")

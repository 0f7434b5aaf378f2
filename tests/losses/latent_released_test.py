"""The latent terms against recorded runs of the released LSR code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import losses, prototypes

C = 19
RELEASED = {"initial": "first_seen", "clamp": True}


def wide(*arrays):
    """The float32 inputs of the originals' float64 runs."""
    return [
        jnp.asarray(a, jnp.float64 if a.dtype.kind == "f" else a.dtype) for a in arrays
    ]


def step_inputs(golden, domain, step):
    return golden[f"feats_{domain}__step{step}"], golden[f"labels_{domain}__step{step}"]


def state_before(golden, step):
    if step == 0:
        return prototypes.init(C, 32)
    return prototypes.Prototypes(
        golden[f"ema__step{step - 1}__prototypes"],
        golden[f"ema__step{step - 1}__present"],
    )


def smoothed(features, labels, mean, seen, momentum=0.8):
    """The prototypes of a released step: batch means, average, clamp."""
    means, counts = prototypes.class_means(features, labels, num_classes=C)
    state = prototypes.Prototypes(mean, seen)
    return prototypes.update(state, means, counts, momentum=momentum, **RELEASED)


SMOOTHED = jax.jit(smoothed)


@pytest.mark.golden(
    "lsr", r"(feats|labels)_(source|target)__step\d", "clust__.*", "ema__.*"
)
def test_golden_clustering(golden):
    released = {"euclidean": "l2_mean", "absolute": "l1_mean", "cosine": "cosine"}
    for name, distance in released.items():
        loss = functools.partial(losses.clustering, distance=distance, classes="all")
        value_of, value_and_grad = jax.jit(loss), jax.jit(jax.value_and_grad(loss))
        with jax.enable_x64(True):  # the float64 runs average in float64 too
            wide_state = prototypes.init(C, 32, dtype=jnp.float64)
        for step in range(3):
            state = (
                golden[f"ema__step{step}__prototypes"],
                golden[f"ema__step{step}__present"],
            )
            with jax.enable_x64(True):
                source = wide(*step_inputs(golden, "source", step))
                wide_state = SMOOTHED(*source, *wide_state)
            for domain in ("source", "target"):
                stem = f"clust__{name}__{domain}__step{step}__"
                inputs = step_inputs(golden, domain, step)
                value, gradient = value_and_grad(*inputs, *state)
                golden.holds(f"{stem}value", value)
                golden.holds_gradient(f"{stem}grad_feats", gradient)
                with jax.enable_x64(True):
                    value = value_of(*wide(*inputs), *wide_state)
                    golden.holds(f"{stem}value_f64", value)


@pytest.mark.golden(
    "lsr", r"(feats|labels)_source__step\d", "perp__.*", "ema__.*", "centroids_.*"
)
def test_golden_perpendicularity(golden):
    momentum = float(golden["centroids_smoothing"])

    def loss(features, labels, mean, seen, order=None):
        new = smoothed(features, labels, mean, seen, momentum)
        return losses.perpendicularity(new.mean, new.seen, order=order)

    step_of = jax.jit(jax.value_and_grad(loss))
    value, by_table = jax.jit(loss), jax.jit(jax.grad(losses.perpendicularity))
    for step in range(3):
        inputs = (*step_inputs(golden, "source", step), *state_before(golden, step))
        stem = f"perp__step{step}__"
        for p in (0, 1):
            order = golden[f"{stem}perm{p}__order"]
            np.random.seed(int(golden[f"perp__perm{p}__seed"]))  # noqa: NPY002
            if step == 0:
                np.testing.assert_array_equal(order, np.random.permutation(C))  # noqa: NPY002
            ours = step_of(*inputs, order)
            golden.holds(f"{stem}perm{p}__value", ours[0])
            golden.holds_gradient(f"{stem}perm{p}__grad_feats", ours[1])
        golden.holds_gradient(f"{stem}grad_feats_nodetach", step_of(*inputs)[1])

        table = golden[f"ema__step{step}__prototypes"]
        seen = golden[f"ema__step{step}__present"]
        order = golden[f"{stem}perm0__order"]
        ours = by_table(table, seen, order=order)
        golden.holds_gradient(f"{stem}perm0__grad_prototypes", ours)

    with jax.enable_x64(True):
        mean, seen = prototypes.init(C, 32, dtype=jnp.float64)
        for step in range(3):
            stem = f"perp__step{step}__"
            features, labels = wide(*step_inputs(golden, "source", step))
            for p in (0, 1):
                order = jnp.asarray(golden[f"{stem}perm{p}__order"])
                ours = value(features, labels, mean, seen, order)
                golden.holds(f"{stem}perm{p}__value_f64", ours)
            mean, seen = SMOOTHED(features, labels, mean, seen, momentum)
            pairs = seen.sum() * (seen.sum() - 1) // 2
            golden.holds(f"{stem}num_pairs", pairs)
            total = losses.perpendicularity(mean, seen) * pairs.astype(jnp.float64)
            golden.holds(f"{stem}sum_cos_pairs_f64", total)


NORM_TYPES = {
    "global__d0p1": {"delta": 0.1},
    "global__d0p002": {"delta": 0.002},
    "percent__d0p1": {"delta": 0.1, "relative": True},
    "percent__d0p02": {"delta": 0.02, "relative": True},
    "multiplicative__d1p1": {"delta": 1.1, "margin": "multiply"},
}


@pytest.mark.golden("lsr", "norm__(feats|target|global|percent|multiplicative).*")
def test_golden_norm_alignment(golden):
    features = {d: golden[f"norm__feats_{d}"] for d in ("source", "target")}
    target = losses.mean_norm(features["source"])
    golden.holds("norm__target_norm", target)
    with jax.enable_x64(True):
        wide_target = losses.mean_norm(*wide(features["source"]))
        golden.holds("norm__target_norm_f64", wide_target)
    for kind, options in NORM_TYPES.items():
        loss = functools.partial(losses.norm_alignment, active_only=True, **options)
        value_of, value_and_grad = jax.jit(loss), jax.jit(jax.value_and_grad(loss))
        for domain, values in features.items():
            ours = value_and_grad(values, target)
            stem = f"norm__{kind}__filter1__{domain}__"
            golden.holds(f"{stem}value", ours[0])
            golden.holds_gradient(f"{stem}grad_feats", ours[1])
            # The original's flag does nothing for these types.
            golden.holds(f"norm__{kind}__filter0__{domain}__value", ours[0])
            with jax.enable_x64(True):
                golden.holds(f"{stem}value_f64", value_of(*wide(values), wide_target))


@pytest.mark.golden(
    "lsr",
    "(feats|labels)_source__step.",
    "(feats|labels)_target__step0",
    "norm__class.*",
    "extract__step.__mean_norm",
)
def test_golden_norm_alignment_by_class(golden):
    def loss(features, norms, labels, delta):
        return losses.norm_alignment(features, norms, delta=delta, labels=labels)

    value_of, value_and_grad = jax.jit(loss), jax.jit(jax.value_and_grad(loss))
    norms_of = jax.jit(functools.partial(losses.class_mean_norms, num_classes=C))
    for step in range(3):
        norms = norms_of(*step_inputs(golden, "source", step))
        golden.holds(f"extract__step{step}__mean_norm", norms)
    norms = golden["extract__step0__mean_norm"]
    with jax.enable_x64(True):
        wide_norms = norms_of(*wide(*step_inputs(golden, "source", 0)))
    for name, delta in (("0p1", 0.1), ("0p02", 0.02)):
        for domain in ("source", "target"):
            features, labels = step_inputs(golden, domain, 0)
            stem = f"norm__class__d{name}__filter0__{domain}__"
            value, gradient = value_and_grad(features, norms, labels, delta)
            golden.holds(f"{stem}value", value)
            golden.holds_gradient(f"{stem}grad_feats", gradient)
            with jax.enable_x64(True):
                value = value_of(*wide(features), wide_norms, labels, delta)
                golden.holds(f"{stem}value_f64", value)

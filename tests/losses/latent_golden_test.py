"""The latent terms against the recorded values of the LSR paper and its released code."""

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


@pytest.mark.golden(
    "lsr", r"(feats|labels)_(source|target)__step\d", "clust__.*", "ema__.*"
)
def test_golden_clustering(golden):
    released = {"euclidean": "l2_mean", "absolute": "l1_mean", "cosine": "cosine"}
    for name, distance in released.items():
        loss = functools.partial(losses.clustering, distance=distance, classes="all")
        value_and_grad, value = jax.jit(jax.value_and_grad(loss)), jax.jit(loss)
        for step in range(3):
            table = golden[f"ema__step{step}__prototypes"]
            seen = golden[f"ema__step{step}__present"]
            for domain in ("source", "target"):
                stem = f"clust__{name}__{domain}__step{step}__"
                inputs = (*step_inputs(golden, domain, step), table, seen)
                ours = value_and_grad(*inputs)
                golden.holds(f"{stem}value", ours[0])
                golden.holds_gradient(f"{stem}grad_feats", ours[1])
    # The float64 runs average their prototypes in float64 too.
    with jax.enable_x64(True):
        state = prototypes.init(C, 32, dtype=jnp.float64)
        for step in range(3):
            source = wide(*step_inputs(golden, "source", step))
            state = smoothed(*source, *state)
            for name, distance in released.items():
                for domain in ("source", "target"):
                    ours = losses.clustering(
                        *wide(*step_inputs(golden, domain, step)),
                        *state,
                        distance=distance,
                        classes="all",
                    )
                    key = f"clust__{name}__{domain}__step{step}__value_f64"
                    golden.holds(key, ours)


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
            mean, seen = smoothed(features, labels, mean, seen, momentum)
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
        value_and_grad = jax.jit(jax.value_and_grad(loss))
        for domain, values in features.items():
            ours = value_and_grad(values, target)
            stem = f"norm__{kind}__filter1__{domain}__"
            golden.holds(f"{stem}value", ours[0])
            golden.holds_gradient(f"{stem}grad_feats", ours[1])
            # The original's flag does nothing for these types.
            golden.holds(f"norm__{kind}__filter0__{domain}__value", ours[0])
            with jax.enable_x64(True):
                golden.holds(f"{stem}value_f64", loss(*wide(values), wide_target))


@pytest.mark.golden(
    "lsr",
    "(feats|labels)_(source|target)__step.",
    "norm__class.*",
    "extract__step.__mean_norm",
)
def test_golden_norm_alignment_by_class(golden):
    for step in range(3):
        golden.holds(
            f"extract__step{step}__mean_norm",
            losses.class_mean_norms(
                *step_inputs(golden, "source", step), num_classes=C
            ),
        )
        assert step_inputs(golden, "target", step)[0].shape[-1] == 32
    norms = golden["extract__step0__mean_norm"]
    for name, delta in (("0p1", 0.1), ("0p02", 0.02)):
        for domain in ("source", "target"):
            features, labels = step_inputs(golden, domain, 0)
            stem = f"norm__class__d{name}__filter0__{domain}__"
            loss = functools.partial(losses.norm_alignment, delta=delta, labels=labels)
            ours = jax.jit(jax.value_and_grad(loss))(features, norms)
            golden.holds(f"{stem}value", ours[0])
            golden.holds_gradient(f"{stem}grad_feats", ours[1])
            with jax.enable_x64(True):
                source = wide(*step_inputs(golden, "source", 0))
                wide_norms = losses.class_mean_norms(*source, num_classes=C)
                golden.holds(f"{stem}value_f64", loss(*wide(features), wide_norms))


PAPER = "paper_(eta|proto_prev|{})"


@pytest.mark.golden(
    "lsr",
    "(feats|labels)_(source|target)__step1",
    PAPER.format("proto_new|clust.*|perp.*"),
)
@pytest.mark.parametrize("double", [False, True])
def test_golden_paper_clustering_and_perpendicularity(golden, double):
    eta, rtol = float(golden["paper_eta"]), 1e-12 if double else 1e-6

    def refreshed(features, labels, previous):
        means, counts = prototypes.class_means(features, labels, num_classes=C)
        state = prototypes.Prototypes(previous, (previous > 0).any(-1))
        return means, counts, prototypes.update(state, means, counts, momentum=eta)

    def full(features, labels, previous):
        new = refreshed(features, labels, previous)[2]
        return losses.clustering(features, labels, *new, prototype_gradient=True)

    def perpendicular(features, labels, previous):
        means, counts, _ = refreshed(features, labels, previous)
        return losses.perpendicularity(means, counts > 0)

    with jax.enable_x64(double):
        cast = wide if double else lambda *arrays: list(map(jnp.asarray, arrays))
        source = cast(*step_inputs(golden, "source", 1), golden["paper_proto_prev"])
        means, counts, new = refreshed(*source)
        golden.holds("paper_proto_new", new.mean, rtol)
        for domain in ("source", "target"):
            features, labels = cast(*step_inputs(golden, domain, 1))
            ours = jax.value_and_grad(losses.clustering)(features, labels, *new)
            stem = f"paper_clust_{domain}_"
            golden.holds(f"{stem}value", ours[0], rtol)
            golden.holds_gradient(f"{stem}grad", ours[1])
            present = golden[f"{stem}num_classes"]
            assert present == len(np.unique(labels[labels < C]))
            over_all = losses.clustering(features, labels, *new, classes="all")
            np.testing.assert_allclose(over_all * C, ours[0] * int(present), rtol=1e-6)
        golden.holds_gradient("paper_clust_source_grad_full", jax.grad(full)(*source))

        ours = jax.value_and_grad(perpendicular)(*source)
        golden.holds("paper_perp_value", ours[0], rtol)
        golden.holds_gradient("paper_perp_grad", ours[1])
        by_table = jax.grad(losses.perpendicularity)(means, counts > 0)
        golden.holds_gradient("paper_perp_grad_prototypes", by_table)


@pytest.mark.golden("lsr", "feats_source__step[01]", "paper_norm_.*")
@pytest.mark.parametrize("double", [False, True])
def test_golden_paper_norm(golden, double):
    rtol = 1e-12 if double else 1e-6
    with jax.enable_x64(double):
        cast = wide if double else lambda *arrays: list(map(jnp.asarray, arrays))
        (before,) = cast(golden["feats_source__step0"])
        norm = losses.mean_norm(before)
        golden.holds("paper_norm_fbar", norm, rtol)
        sides = {
            "source": (golden["feats_source__step1"], "both"),
            "target": (golden["paper_norm_feats_target"], "below"),
        }
        for domain, (features, side) in sides.items():
            for name, delta in (("0p002", 0.002), ("0p1", 0.1)):
                loss = functools.partial(losses.norm_alignment, delta=delta, side=side)
                ours = jax.value_and_grad(loss)(*cast(features), norm)
                stem = f"paper_norm_{domain}_d{name}_"
                golden.holds(f"{stem}value", ours[0], rtol)
                golden.holds_gradient(f"{stem}grad", ours[1])

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import losses
from lsr_jax.ops import prototypes

DISTANCES = {
    "squared_l2": lambda f, p: ((f - p) ** 2).sum(),
    "l2_mean": lambda f, p: ((f - p) ** 2).mean(),
    "l1_mean": lambda f, p: abs(f - p).mean(),
    "cosine": lambda f, p: 1 - abs(f @ p) / np.linalg.norm(f) / np.linalg.norm(p),
}


def slow_clustering(features, labels, table, seen, distance, classes):
    terms = []
    for c in range(len(table)):
        own = features[labels == c]
        if len(own) and seen[c]:
            terms.append(np.mean([DISTANCES[distance](f, table[c]) for f in own]))
    return sum(terms) / (len(table) if classes == "all" else len(terms))


def slow_norm(features, target, delta, side, relative, active_only, margin):
    terms = []
    for f in features.reshape(-1, features.shape[-1]):
        f = np.where(f >= f.mean(), f, 0) if active_only else f
        wanted = target + delta if margin == "add" else target * delta
        error = wanted - np.linalg.norm(f)
        error = max(error, 0) if side == "below" else abs(error)
        terms.append(error / target if relative else error)
    return np.mean(terms)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    features = rng.uniform(size=(2, 3, 4, 6)).astype(np.float32)
    labels = rng.choice([0, 1, 3, 255], (2, 3, 4)).astype(np.int32)
    table = rng.uniform(size=(5, 6)).astype(np.float32)
    return features, labels, table, np.array([True, True, True, False, True])


@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_clustering_against_loops(data, distance, classes):
    # Class 3 has features and no prototype, 2 and 4 a prototype and no features.
    loss = functools.partial(losses.clustering, distance=distance, classes=classes)
    expected = slow_clustering(*data, distance, classes)
    np.testing.assert_allclose(loss(*data), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(loss)(*data), expected, rtol=1e-5)


def test_clustering_by_hand():
    features = jnp.array([[[[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [9.0, 9.0]]]])
    labels = jnp.array([[[0, 0, 1, 255]]])
    table, seen = jnp.zeros((4, 2)), jnp.ones(4, bool)
    clustering = functools.partial(losses.clustering, features, labels, table, seen)
    np.testing.assert_allclose(clustering(), ((1 + 9) / 2 + 4) / 2)
    np.testing.assert_allclose(clustering(classes="all"), ((1 + 9) / 2 + 4) / 4)
    np.testing.assert_allclose(clustering(distance="l1_mean"), (1 + 1) / 2)
    np.testing.assert_allclose(clustering(distance="l2_mean"), (2.5 + 2) / 2)


def test_perpendicularity_by_hand():
    table = jnp.array([[2.0, 0.0], [0.0, 5.0], [3.0, 3.0], [0.0, 0.0]])
    loss = jax.jit(losses.perpendicularity)
    present = jnp.array([True, True, True, False])
    np.testing.assert_allclose(loss(table, present), 2 / np.sqrt(2) / 3, rtol=1e-6)
    order = jnp.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        loss(table, present, order=order), loss(table, present), rtol=1e-6
    )
    step = jax.jit(jax.value_and_grad(losses.perpendicularity))
    gradient = step(table, present, order=order)[1]
    assert not gradient[2].any()  # visited first: pivot of every pair
    assert gradient[0].any()
    reverse = step(table, present, order=order[::-1])[1]
    both = step(table, present)[1]
    np.testing.assert_allclose(gradient + reverse, both, rtol=0, atol=1e-6)
    for few in ([True, False, False, False], [False] * 4):
        value, gradient = step(table, jnp.array(few))
        assert value == 0
        assert not gradient.any()


@pytest.mark.parametrize("margin", ["add", "multiply"])
@pytest.mark.parametrize("active_only", [False, True])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("side", ["both", "below"])
def test_norm_alignment_against_loops(data, side, relative, active_only, margin):
    options = {"side": side, "relative": relative}
    options |= {"active_only": active_only, "margin": margin}
    delta = 0.1 if margin == "add" else 1.1
    expected = slow_norm(data[0], 1.3, delta, **options)
    loss = functools.partial(losses.norm_alignment, delta=delta, **options)
    ours = jax.jit(loss)(data[0], jnp.float32(1.3))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_norm_alignment_by_hand():
    features = jnp.array([[[[3.0, 4.0], [0.0, 1.0]]]])
    loss = functools.partial(losses.norm_alignment, features, jnp.float32(2.0))
    np.testing.assert_allclose(loss(delta=1.0), (2 + 2) / 2)
    np.testing.assert_allclose(loss(delta=1.0, side="below"), 1)
    np.testing.assert_allclose(loss(delta=1.0, relative=True), 1)
    np.testing.assert_allclose(loss(delta=1.5, margin="multiply"), 2)
    np.testing.assert_allclose(loss(delta=1.0, active_only=True), (1 + 2) / 2)
    labels, norms = jnp.array([[[0, 2]]]), jnp.array([4.0, 1.0, 0.0])
    by_class = losses.norm_alignment(features, norms, delta=0.5, labels=labels)
    np.testing.assert_allclose(by_class, 0.5)
    np.testing.assert_allclose(losses.mean_norm(features), 3)


def all_terms(features, labels, table, seen, order):
    means, counts = prototypes.class_means(features, labels, num_classes=len(table))
    norms = losses.class_mean_norms(features, labels, num_classes=len(table))
    align = functools.partial(losses.norm_alignment, features, delta=0.1)
    return (
        losses.perpendicularity(means, counts > 0)
        + losses.perpendicularity(table, seen, order=order)
        + align(losses.mean_norm(features), active_only=True, relative=True)
        + align(losses.mean_norm(features), side="below")
        + align(norms, labels=labels)
        + sum(
            losses.clustering(
                features, labels, table, seen, distance=d, prototype_gradient=True
            )
            for d in DISTANCES
        )
    )


STEP = jax.jit(jax.value_and_grad(all_terms, (0, 2)))


@pytest.mark.parametrize("case", ["data", "void", "unseen", "zero", "half"])
def test_gradients_stay_finite(data, case):
    features, labels, table, seen = map(jnp.asarray, data)
    if case == "void":
        labels = jnp.full_like(labels, 255)
    elif case == "unseen":
        seen = jnp.zeros_like(seen)
    elif case == "zero":
        features, table = jnp.zeros_like(features), jnp.zeros_like(table)
    elif case == "half":
        features = features.astype(jnp.bfloat16)
    operands = (features, labels, table, seen, jnp.arange(5))
    value, gradients = STEP(*operands)
    assert value.dtype == jnp.float32
    assert np.isfinite(value)
    for gradient, operand in zip(gradients, (features, table), strict=True):
        assert gradient.dtype == operand.dtype
        assert np.isfinite(gradient.astype(jnp.float32)).all()


def test_unknown_choices_are_refused(data):
    norm = functools.partial(losses.norm_alignment, data[0], jnp.float32(1), delta=0)
    for loss, wrong in (
        (functools.partial(losses.clustering, *data), {"distance": "l2"}),
        (functools.partial(losses.clustering, *data), {"classes": "some"}),
        (norm, {"side": "above"}),
        (norm, {"margin": "percent"}),
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            loss(**wrong)


C = 19


def cast(double, *arrays):
    """The recorded float32 inputs, in the precision of the run."""
    dtype = jnp.float64 if double else jnp.float32
    return [jnp.asarray(a, dtype if a.dtype.kind == "f" else a.dtype) for a in arrays]


def step_inputs(golden, domain):
    return golden[f"feats_{domain}__step1"], golden[f"labels_{domain}__step1"]


def paper_step(source, target, previous, eta):
    """Equations 2, 3, 5 and 6: ``{key: value}`` and ``{key: gradient}``."""
    labels, (target_features, target_labels) = source[1], target

    def refreshed(features):
        means, counts = prototypes.class_means(features, labels, num_classes=C)
        state = prototypes.Prototypes(previous, (previous > 0).any(-1))
        return means, counts, prototypes.update(state, means, counts, momentum=eta)

    def full(features):
        new = refreshed(features)[2]
        return losses.clustering(features, labels, *new, prototype_gradient=True)

    def perpendicular(features):
        means, counts, _ = refreshed(features)
        return losses.perpendicularity(means, counts > 0)

    means, counts, new = refreshed(source[0])
    clustering = jax.value_and_grad(losses.clustering)
    on_source = clustering(*source, *new)
    on_target = clustering(target_features, target_labels, *new)
    perp = jax.value_and_grad(perpendicular)(source[0])
    values = {
        "paper_proto_new": new.mean,
        "paper_clust_source_value": on_source[0],
        "paper_clust_target_value": on_target[0],
        "paper_perp_value": perp[0],
    }
    gradients = {
        "paper_clust_source_grad": on_source[1],
        "paper_clust_source_grad_full": jax.grad(full)(source[0]),
        "paper_clust_target_grad": on_target[1],
        "paper_perp_grad": perp[1],
        "paper_perp_grad_prototypes": jax.grad(losses.perpendicularity)(
            means, counts > 0
        ),
    }
    over_all = losses.clustering(*source, *new, classes="all")
    return values, gradients, over_all / on_source[0]


@pytest.mark.golden(
    "lsr",
    "(feats|labels)_(source|target)__step1",
    "paper_(eta|proto_prev|proto_new|clust.*|perp.*)",
)
@pytest.mark.parametrize("double", [False, True])
def test_golden_paper_clustering_and_perpendicularity(golden, double):
    with jax.enable_x64(double):
        source = cast(double, *step_inputs(golden, "source"))
        target = cast(double, *step_inputs(golden, "target"))
        (previous,) = cast(double, golden["paper_proto_prev"])
        eta = float(golden["paper_eta"])
        values, gradients, share = jax.jit(paper_step)(source, target, previous, eta)
    for key, value in values.items():
        golden.holds(key, value, rtol=1e-12 if double else 1e-6)
    for key, gradient in gradients.items():
        golden.holds_gradient(key, gradient)
    for domain, labels in (("source", source[1]), ("target", target[1])):
        present = golden[f"paper_clust_{domain}_num_classes"]
        assert present == len(np.unique(labels[labels < C]))
    present = golden["paper_clust_source_num_classes"]
    np.testing.assert_allclose(share, present / C, rtol=1e-6)


@pytest.mark.golden("lsr", "feats_source__step[01]", "paper_norm_.*")
@pytest.mark.parametrize("double", [False, True])
def test_golden_paper_norm(golden, double):
    rtol = 1e-12 if double else 1e-6
    with jax.enable_x64(double):
        (before,) = cast(double, golden["feats_source__step0"])
        norm = losses.mean_norm(before)
        golden.holds("paper_norm_fbar", norm, rtol)
        sides = {
            "source": (golden["feats_source__step1"], "both"),
            "target": (golden["paper_norm_feats_target"], "below"),
        }
        for domain, (features, side) in sides.items():
            for name, delta in (("0p002", 0.002), ("0p1", 0.1)):
                loss = functools.partial(losses.norm_alignment, delta=delta, side=side)
                ours = jax.jit(jax.value_and_grad(loss))(*cast(double, features), norm)
                stem = f"paper_norm_{domain}_d{name}_"
                golden.holds(f"{stem}value", ours[0], rtol)
                golden.holds_gradient(f"{stem}grad", ours[1])


C_RELEASED = 19
RELEASED = {"initial": "first_seen", "clamp": True}


def wide(*arrays):
    """The float32 inputs of the originals' float64 runs."""
    return [
        jnp.asarray(a, jnp.float64 if a.dtype.kind == "f" else a.dtype) for a in arrays
    ]


def released_step_inputs(golden, domain, step):
    return golden[f"feats_{domain}__step{step}"], golden[f"labels_{domain}__step{step}"]


def state_before(golden, step):
    if step == 0:
        return prototypes.init(C_RELEASED, 32)
    return prototypes.Prototypes(
        golden[f"ema__step{step - 1}__prototypes"],
        golden[f"ema__step{step - 1}__present"],
    )


def smoothed(features, labels, mean, seen, momentum=0.8):
    """The prototypes of a released step: batch means, average, clamp."""
    means, counts = prototypes.class_means(features, labels, num_classes=C_RELEASED)
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
            wide_state = prototypes.init(C_RELEASED, 32, dtype=jnp.float64)
        for step in range(3):
            state = (
                golden[f"ema__step{step}__prototypes"],
                golden[f"ema__step{step}__present"],
            )
            with jax.enable_x64(True):
                source = wide(*released_step_inputs(golden, "source", step))
                wide_state = SMOOTHED(*source, *wide_state)
            for domain in ("source", "target"):
                stem = f"clust__{name}__{domain}__step{step}__"
                inputs = released_step_inputs(golden, domain, step)
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
        inputs = (
            *released_step_inputs(golden, "source", step),
            *state_before(golden, step),
        )
        stem = f"perp__step{step}__"
        for p in (0, 1):
            order = golden[f"{stem}perm{p}__order"]
            np.random.seed(int(golden[f"perp__perm{p}__seed"]))  # noqa: NPY002
            if step == 0:
                np.testing.assert_array_equal(order, np.random.permutation(C_RELEASED))  # noqa: NPY002
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
        mean, seen = prototypes.init(C_RELEASED, 32, dtype=jnp.float64)
        for step in range(3):
            stem = f"perp__step{step}__"
            features, labels = wide(*released_step_inputs(golden, "source", step))
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
    norms_of = jax.jit(
        functools.partial(losses.class_mean_norms, num_classes=C_RELEASED)
    )
    for step in range(3):
        norms = norms_of(*released_step_inputs(golden, "source", step))
        golden.holds(f"extract__step{step}__mean_norm", norms)
    norms = golden["extract__step0__mean_norm"]
    with jax.enable_x64(True):
        wide_norms = norms_of(*wide(*released_step_inputs(golden, "source", 0)))
    for name, delta in (("0p1", 0.1), ("0p02", 0.02)):
        for domain in ("source", "target"):
            features, labels = released_step_inputs(golden, domain, 0)
            stem = f"norm__class__d{name}__filter0__{domain}__"
            value, gradient = value_and_grad(features, norms, labels, delta)
            golden.holds(f"{stem}value", value)
            golden.holds_gradient(f"{stem}grad_feats", gradient)
            with jax.enable_x64(True):
                value = value_of(*wide(features), wide_norms, labels, delta)
                golden.holds(f"{stem}value_f64", value)

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import losses, prototypes

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

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.ops import prototypes

C = 19


def slow_means(features, labels, num_classes):
    means = np.zeros((num_classes, features.shape[-1]))
    counts = np.zeros(num_classes)
    for place in np.ndindex(labels.shape):
        if labels[place] < num_classes:
            means[labels[place]] += features[place]
            counts[labels[place]] += 1
    return means / np.maximum(counts, 1)[:, None], counts


def test_class_means_against_loops():
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.uniform(size=(2, 3, 5, 4)), jnp.float32)
    labels = jnp.asarray(rng.choice([0, 2, 255], (2, 3, 5)), jnp.int32)
    eager = prototypes.class_means(features, labels, num_classes=4)
    expected = slow_means(np.asarray(features), np.asarray(labels), 4)
    chex.assert_trees_all_close(eager, expected, atol=1e-6)
    jitted = jax.jit(prototypes.class_means, static_argnames="num_classes")
    chex.assert_trees_all_close(
        jitted(features, labels, num_classes=4), eager, atol=1e-6
    )
    half = prototypes.class_means(features.astype(jnp.bfloat16), labels, num_classes=4)
    assert half[0].dtype == half[1].dtype == jnp.float32


def test_joint_class_means_are_those_of_all_features_together():
    rng = np.random.default_rng(0)
    domains = []
    for shape in ((2, 3, 5), (1, 2, 4)):
        features = rng.uniform(size=(*shape, 4)).astype(np.float32)
        domains.append((features, rng.choice([0, 2, 255], shape).astype(np.int32)))
    features = np.concatenate([f.reshape(-1, 4) for f, _ in domains])
    labels = np.concatenate([x.ravel() for _, x in domains])
    expected = slow_means(features, labels, 3)
    joint = jax.jit(prototypes.joint_class_means, static_argnames="num_classes")
    ours = joint(*domains, num_classes=3)
    chex.assert_trees_all_close(ours, expected, atol=1e-6)
    first = prototypes.joint_class_means(domains[0], num_classes=3)
    alone = prototypes.class_means(*domains[0], num_classes=3)
    chex.assert_trees_all_close(first, alone, atol=1e-6)


def test_running_mean_by_hand():
    vectors = jnp.array([[[2.0], [1.0], [0.0]], [[4.0], [1.0], [5.0]], [[9.0]] * 3])
    valid = jnp.array([[True, False, True], [True, False, True], [True, True, False]])
    running = jax.jit(prototypes.running_mean)
    start = jnp.zeros((3, 1)), jnp.zeros(3)
    means, counts = running(*start, vectors, valid)
    np.testing.assert_allclose(means[:, 0], [5, 9, 5])  # zeros do not count
    np.testing.assert_array_equal(counts, [3, 1, 1])
    means, counts = running(*start, vectors, valid, cap=1)
    np.testing.assert_allclose(means[:, 0], [6, 9, 5])  # (2 + 4) / 2, then with 9
    np.testing.assert_array_equal(counts, [1, 1, 1])


def test_nothing_but_void_has_finite_gradients():
    features = jnp.ones((1, 2, 2, 4))
    void = jnp.full((1, 2, 2), 255, jnp.int32)
    state = prototypes.init(3, 4)

    def total(features):
        means, counts = prototypes.class_means(features, void, num_classes=3)
        return prototypes.update(state, means, counts).mean.sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(features)
    assert value == 0
    assert not gradient.any()


def test_update_by_hand():
    state = prototypes.Prototypes(
        jnp.array([[1.0], [2.0], [0.0], [0.0]]), jnp.array([True, True, False, False])
    )
    means, counts = jnp.array([[3.0], [0.0], [4.0], [0.0]]), jnp.array([2.0, 0, 1, 0])
    paper = prototypes.update(state, means, counts, momentum=0.75)
    np.testing.assert_allclose(paper.mean[:, 0], [1.5, 2, 1, 0])
    assert paper.seen.tolist() == [True, True, True, False]
    released = prototypes.update(
        state, means, counts, momentum=0.75, initial="first_seen", clamp=True
    )
    np.testing.assert_allclose(released.mean[:, 0], [1.5, 2, 4, 0])
    itself = prototypes.update(state, means, counts, momentum=0.75, initial="itself")
    np.testing.assert_allclose(itself.mean, released.mean)
    negative = prototypes.update(state, -8 * means, counts, momentum=0.75, clamp=True)
    np.testing.assert_allclose(negative.mean[:, 0], [0, 2, 0, 0])
    with pytest.raises(ValueError, match="initial"):
        prototypes.update(state, means, counts, initial="batch")


def test_update_differentiates_the_new_part_only():
    state = prototypes.Prototypes(jnp.ones((2, 1)), jnp.array([True, False]))
    counts = jnp.array([1.0, 1.0])

    def total(old, means, initial):
        state_ = state._replace(mean=old)
        return prototypes.update(state_, means, counts, initial=initial).mean.sum()

    rows = (("zero", 0.2), ("first_seen", 1.0), ("itself", 0.2))
    for initial, second in rows:
        gradient = jax.jit(jax.grad(total, (0, 1)), static_argnums=2)
        old, new = gradient(state.mean, jnp.ones((2, 1)), initial)
        assert not old.any()
        np.testing.assert_allclose(new[:, 0], [0.2, second], rtol=1e-6)


@pytest.mark.golden(
    "lsr",
    r"(feats|labels)_source__step\d",
    r"extract__step\d__(count|centroids)",
    "ema__.*",
    "centroids_smoothing",
)
def test_golden_means_and_released_average(golden):
    state = prototypes.init(C, 32)
    update = jax.jit(prototypes.update, static_argnames=("initial", "clamp"))
    for step in range(3):
        means, counts = prototypes.class_means(
            jnp.asarray(golden[f"feats_source__step{step}"]),
            jnp.asarray(golden[f"labels_source__step{step}"]),
            num_classes=C,
        )
        golden.holds(f"extract__step{step}__count", counts.astype(jnp.int32))
        golden.holds(f"extract__step{step}__centroids", means)
        state = update(
            state,
            means,
            counts,
            momentum=float(golden["centroids_smoothing"]),
            initial="first_seen",
            clamp=True,
        )
        golden.holds(f"ema__step{step}__prototypes", state.mean)
        golden.holds(f"ema__step{step}__present", state.seen)


@pytest.mark.golden("lsr", "(feats|labels)_source__step1", "paper_(eta|proto_.*)")
@pytest.mark.parametrize("wide", [False, True])
def test_golden_paper_average(golden, wide):
    with jax.enable_x64(wide):
        dtype = jnp.float64 if wide else jnp.float32
        means, counts = prototypes.class_means(
            jnp.asarray(golden["feats_source__step1"], dtype),
            jnp.asarray(golden["labels_source__step1"]),
            num_classes=C,
        )
        previous = jnp.asarray(golden["paper_proto_prev"], dtype)
        state = prototypes.Prototypes(previous, (previous > 0).any(-1))
        eta = float(golden["paper_eta"])
        new = prototypes.update(state, means, counts, momentum=eta).mean
        rtol = 1e-12 if wide else 1e-6
        golden.holds("paper_proto_batch", means, rtol)
        golden.holds("paper_proto_new", new, rtol)

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import losses, prototypes


def distance(block, order):
    return np.linalg.norm(block.ravel(), order) / block.size


def slow_contraction(features, labels, centroids, seen, order):
    present = [c for c in range(len(seen)) if seen[c] and (labels == c).any()]
    return np.mean(
        [distance(centroids[c] - features[labels == c], order) for c in present]
    )


def slow_spacing(centroids, seen, order):
    found = centroids[seen]
    return np.mean(
        [
            distance(found[j] - np.delete(found, j, axis=0), order)
            for j in range(len(found))
        ]
    )


def slow_orthogonality(domains, centroids, seen, temperature):
    terms = []
    for f in np.concatenate([d.reshape(-1, d.shape[-1]) for d in domains]):
        q = np.exp(centroids[seen] @ f / temperature)
        q /= q.sum()
        terms.extend(-q * np.log(q))
    return np.mean(terms)


def slow_sparsity(centroids, seen, threshold, exponent):
    terms = [abs(c / c.max() - threshold) ** exponent for c in centroids[seen]]
    return -np.mean(terms)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    features = rng.uniform(size=(2, 3, 4, 6)).astype(np.float32)
    labels = rng.choice([0, 1, 3, 255], (2, 3, 4)).astype(np.int32)
    table = rng.uniform(size=(5, 6)).astype(np.float32)
    return features, labels, table, np.array([True, True, True, False, True])


@pytest.mark.parametrize("order", [1, 2])
def test_clustering_against_loops(data, order):
    # Class 3 has features and no centroid, 2 and 4 a centroid and no features.
    loss = functools.partial(losses.contraction, order=order)
    expected = slow_contraction(*data, order)
    np.testing.assert_allclose(loss(*data), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(loss)(*data), expected, rtol=1e-5)
    loss = functools.partial(losses.spacing, order=order)
    expected = slow_spacing(*data[2:], order)
    np.testing.assert_allclose(loss(*data[2:]), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(loss)(*data[2:]), expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_orthogonality_against_loops(data, temperature):
    features, _, table, seen = data
    domains = [features, features[:1, :2]]
    ours = jax.jit(losses.orthogonality)(domains, table, seen, temperature=temperature)
    expected = slow_orthogonality(domains, table, seen, temperature)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize(("threshold", "exponent"), [(0.5, 2), (0.3, 3)])
def test_sparsity_against_loops(data, threshold, exponent):
    options = {"threshold": threshold, "exponent": exponent}
    ours = losses.sparsity(*data[2:], **options)
    expected = slow_sparsity(*data[2:], **options)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_by_hand():
    features = jnp.array([[[[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [9.0, 9.0]]]])
    labels = jnp.array([[[0, 0, 1, 255]]])
    centroids = jnp.array([[2.0, 0.0], [0.0, 4.0], [7.0, 7.0]])
    seen = jnp.array([True, True, False])
    # Both similarities of the zero vector are 0: q = 1/2 twice.
    zero = jnp.zeros((1, 1, 1, 2))

    @jax.jit
    def all_terms():
        pull = functools.partial(losses.contraction, features, labels)
        return {
            "contraction": [pull(centroids, seen, order=p) for p in (1, 2)],
            "spacing": [losses.spacing(centroids, seen, order=p) for p in (1, 2)],
            "sparsity": losses.sparsity(centroids, seen),
            "orthogonality": losses.orthogonality([zero], centroids, seen),
        }

    ours = all_terms()
    np.testing.assert_allclose(
        ours["contraction"], [(2 / 4 + 2 / 2) / 2, (2**0.5 / 4 + 2 / 2) / 2], rtol=1e-6
    )
    np.testing.assert_allclose(ours["spacing"], [(2 + 4) / 2, 20**0.5 / 2], rtol=1e-6)
    np.testing.assert_allclose(ours["sparsity"], -0.25)
    np.testing.assert_allclose(ours["orthogonality"], np.log(2) / 2, rtol=1e-6)
    with pytest.raises(ValueError, match="order"):
        losses.spacing(centroids, seen, order=3)


def terms(features, labels, seen):
    means, counts = prototypes.class_means(features, labels, num_classes=len(seen))
    seen = seen & (counts > 0)
    values = [losses.orthogonality([features], means, seen)]
    values += [losses.sparsity(means, seen, exponent=e) for e in (2, 3)]
    for order in (1, 2):
        values.append(losses.contraction(features, labels, means, seen, order=order))
        values.append(losses.spacing(means, seen, order=order))
    return jnp.stack(values)


TERMS = jax.jit(terms)
GRADIENT = jax.jit(jax.grad(lambda *inputs: terms(*inputs).sum()))


@pytest.mark.parametrize("classes", [[255], [1, 255], [0, 1, 3]])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_absent_classes_and_extreme_features_stay_finite(data, classes, scale):
    features = np.float32(scale) * data[0]
    labels = np.resize(np.array(classes, np.int32), data[1].shape)
    for seen in (np.ones(5, bool), np.zeros(5, bool)):
        values = TERMS(features, labels, seen)
        gradient = GRADIENT(features, labels, seen)
        assert np.isfinite(values).all()
        assert np.isfinite(gradient).all()
        if classes == [255] or not seen.any():
            assert not values.any()
            assert not gradient.any()
    single = TERMS(features, np.ones_like(labels), np.ones(5, bool))
    assert single[4] == single[6] == 0  # one centroid keeps no distance

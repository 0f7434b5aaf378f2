import numpy as np

from lsr_jax.analysis import projection


def clusters(count=12):
    rng = np.random.default_rng(0)
    centres = 20 * np.eye(3, 8)
    labels = np.repeat(np.arange(3), count)
    return centres[labels] + rng.normal(size=(len(labels), 8)), labels


def test_principal_components_of_a_line():
    line = np.outer(np.arange(5.0), [-3, 4])
    found = projection.principal(line)
    # Centred, along the line; the sign makes the largest entry (4) positive.
    np.testing.assert_allclose(found[:, 0], 5 * (np.arange(5) - 2), atol=1e-9)
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-9)


def test_tsne_keeps_clusters_together_and_repeats_itself():
    vectors, labels = clusters()
    found = projection.tsne(vectors)
    assert found.shape == (36, 2)
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).all()
    np.testing.assert_array_equal(found, projection.tsne(vectors))


def test_tsne_of_very_few_vectors():
    assert np.isfinite(projection.tsne(np.eye(4, 3))).all()

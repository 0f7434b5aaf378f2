import numpy as np
import pytest

from lsr_jax.errors import InputError
from lsr_jax.report import features
from lsr_jax.report.features import Sample


@pytest.fixture
def sample():
    """Class 0 along x and along the diagonal, class 2 along y; class 1 is absent."""
    vectors = np.array([[2, 0], [2, 2], [0, 3]], np.float32)
    return Sample(vectors, np.array([0, 0, 2]))


def test_prototypes_and_angles_by_hand(sample):
    prototypes = features.class_means(sample, num_classes=3)
    np.testing.assert_allclose(prototypes, [[2, 1], [np.nan, np.nan], [0, 3]])
    slope = np.degrees(np.arctan(0.5))
    np.testing.assert_allclose(
        features.inner_angles(sample, prototypes), [slope, 45 - slope, 0], atol=1e-6
    )
    between = 90 - slope
    np.testing.assert_allclose(
        features.prototype_angles(prototypes), [between, np.nan, between]
    )


def test_mean_angle_is_over_the_others_that_exist():
    axes = np.array([[1, 0, 0], [0, 5, 0], [0, 1, 1], [np.nan] * 3])
    expected = [90, (90 + 45) / 2, (90 + 45) / 2, np.nan]
    np.testing.assert_allclose(features.prototype_angles(axes), expected)
    alone = np.full((2, 3), np.nan)
    alone[1] = 1
    assert np.isnan(features.prototype_angles(alone)).all()


def test_ring_holds_95_percent():
    lengths = np.arange(1, 1002, dtype=float)
    ring = features.norm_interval(lengths[:, None])
    assert tuple(ring) == pytest.approx((26, 501, 976))


def test_choice_is_balanced_and_of_labels_and_seed_alone():
    labels = np.array([0] * 50 + [1] * 3 + [255] * 40).reshape(3, 31)
    places = features.balanced_choice(labels, count=10, num_classes=3, seed=0)
    assert (np.diff(places) > 0).all()
    np.testing.assert_array_equal(np.bincount(labels.reshape(-1)[places]), [10, 3])
    again = features.balanced_choice(labels, count=10, num_classes=3, seed=0)
    np.testing.assert_array_equal(places, again)
    other = features.balanced_choice(labels, count=10, num_classes=3, seed=1)
    assert set(other) != set(places)


def test_class_shares_count_the_unlabelled_last():
    shares = features.class_shares(np.array([[0, 0, 2, 255]]), num_classes=3)
    np.testing.assert_array_equal(shares, [0.5, 0, 0.25, 0.25])


def test_row_shares_of_an_absent_class_are_undefined():
    found = features.row_shares(np.array([[3, 1], [0, 0]]))
    np.testing.assert_array_equal(found, [[0.75, 0.25], [np.nan, np.nan]])


def test_joined_samples_remember_their_origin(sample):
    whole, origin = features.joined([sample, Sample(sample.vectors[:1], np.array([1]))])
    np.testing.assert_array_equal(origin, [0, 0, 0, 1])
    np.testing.assert_array_equal(whole.labels, [0, 0, 2, 1])
    np.testing.assert_array_equal(whole.vectors[3], [2, 0])


def clusters(count=12):
    rng = np.random.default_rng(0)
    centres = 20 * np.eye(3, 8)
    labels = np.repeat(np.arange(3), count)
    return centres[labels] + rng.normal(size=(len(labels), 8)), labels


def test_principal_components_of_a_line():
    line = np.outer(np.arange(5.0), [-3, 4])
    found = features.principal(line)
    # Centred, along the line; the sign makes the largest entry (4) positive.
    np.testing.assert_allclose(found[:, 0], 5 * (np.arange(5) - 2), atol=1e-9)
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-9)


def test_tsne_keeps_clusters_together_and_repeats_itself():
    vectors, labels = clusters()
    found = features.tsne(vectors)
    assert found.shape == (36, 2)
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).all()
    np.testing.assert_array_equal(found, features.tsne(vectors))


def test_tsne_of_very_few_vectors():
    assert np.isfinite(features.tsne(np.eye(4, 3))).all()


def test_curves_are_read_from_the_log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 5, "total": 2.0}\n{"step": 10, "total": 1, "norm": 3}\n{"st'
    )
    found = features.read_curves(path)
    assert found["total"].to_dict() == {5: 2.0, 10: 1.0}
    assert found["norm"].dropna().to_dict() == {10: 3.0}
    assert features.read_curves(tmp_path / "none").empty
    path.write_text('{"total": 2.0}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl: damaged"):
        features.read_curves(path)

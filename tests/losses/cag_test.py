import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held import widen

from lsr_jax import losses
from lsr_jax.evaluation import confusion
from lsr_jax.ops import prototypes, pseudo_labels, resample

C = 19


def slow_means(features, labels, predictions, num_classes, minimum):
    means = np.zeros((len(features), num_classes, features.shape[-1]))
    valid = np.zeros((len(features), num_classes), bool)
    for b, c in np.ndindex(valid.shape):
        own = features[b][(labels[b] == c) & (predictions[b] == c)]
        valid[b, c] = len(own) >= minimum
        means[b, c] = own.mean(axis=0) if len(own) else 0
    return means, valid


def slow_distance(means, valid, anchors, limit):
    terms = []
    for b, c in np.argwhere(valid):
        gaps = abs(means[b, c] - anchors[c])
        term = np.where(gaps < 1, gaps**2 / 2, gaps - 0.5).mean()
        while term > limit:
            term /= 10
        terms.append(term)
    return 10 * np.mean(terms)


def loss(features, labels, predictions, anchors, even_gradient=True, minimum=2):
    means, valid = losses.image_class_means(
        features,
        labels,
        predictions,
        num_classes=len(anchors),
        minimum=minimum,
        even_gradient=even_gradient,
    )
    return losses.anchor_distance(means, valid, anchors)


STEP = jax.jit(jax.value_and_grad(loss), static_argnums=4)
MEANS = jax.jit(losses.image_class_means, static_argnames="num_classes")
DISTANCE = jax.jit(losses.anchor_distance)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    features = rng.uniform(size=(2, 3, 4, 6)).astype(np.float32)
    labels = rng.choice([0, 1, 3, 255], (2, 3, 4)).astype(np.int32)
    wrong = rng.uniform(size=labels.shape) < 0.2
    predictions = np.where(wrong | (labels == 255), 2, labels).astype(np.int32)
    anchors = rng.uniform(size=(5, 6)).astype(np.float32)
    return features, labels, predictions, anchors


@pytest.mark.parametrize("scale", [1.0, 40.0, 4000.0])
def test_against_loops(data, scale):
    features, labels, predictions, anchors = data
    features = np.float32(scale) * features
    expected = slow_means(features, labels, predictions, 5, 2)
    assert 0 < expected[1].sum() < expected[1].size
    means, valid = MEANS(features, labels, predictions, num_classes=5, minimum=2)
    np.testing.assert_array_equal(valid, expected[1])
    np.testing.assert_allclose(means, expected[0], rtol=1e-5)
    expected = slow_distance(*expected, anchors, 5)
    ours = STEP(features, labels, predictions, anchors)[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    eager = loss(features, labels, predictions, anchors)
    np.testing.assert_allclose(eager, expected, rtol=1e-5)


def test_every_cell_of_a_class_gets_the_same_gradient(data):
    features, labels, predictions, anchors = data
    even = STEP(features, labels, predictions, anchors, True)[1]
    plain = STEP(features, labels, predictions, anchors, False)[1]
    _, valid = slow_means(features, labels, predictions, 5, 2)
    agree = labels == predictions
    for b, c in np.argwhere(valid):
        own = agree[b] & (labels[b] == c)
        scale = 2 * own.sum() / own.size
        np.testing.assert_allclose(even[b][own], scale * plain[b][own], rtol=1e-5)
    assert not even[~agree].any()
    assert even.any()


def test_by_hand():
    features = jnp.array([[[[3.0, 0.0], [1.0, 2.0], [9.0, 9.0], [0.0, 0.5]]]])
    labels, predictions = jnp.array([[[0, 0, 0, 1]]]), jnp.array([[[0, 0, 1, 1]]])
    # Class means (2, 1) and (0, 1/2); distances (2, 1) and (0, 1/2) from zero.
    anchors = jnp.zeros((3, 2))
    step = functools.partial(STEP, features, labels, predictions, anchors, True)
    np.testing.assert_allclose(step(1)[0], 10 * (1 + 0.0625) / 2)
    np.testing.assert_allclose(step(2)[0], 10 * 1)
    far = np.full((1, 3, 2), 600.5, np.float32), np.ones((1, 3), bool), anchors
    # 600 -> 60 -> 6 -> 0.6
    np.testing.assert_allclose(DISTANCE(*far, limit=5.0), 6.0, rtol=1e-6)
    np.testing.assert_allclose(DISTANCE(*far, limit=jnp.inf), 6000)


def test_distance_of_cells_against_loops(data):
    features, labels, _, anchors = data
    seen = np.array([True, False, True, True, True])
    own = [
        np.linalg.norm(features[place] - anchors[labels[place]])
        for place in np.ndindex(labels.shape)
        if labels[place] != 255 and seen[labels[place]]
    ]
    assert 0 < len(own) < (labels != 255).sum()
    found = jax.jit(losses.cell_anchor_distance)(features, labels, anchors, seen)
    np.testing.assert_allclose(found, np.mean(own), rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e18])
def test_nothing_valid_and_extreme_features_stay_finite(data, scale):
    features, labels, predictions, anchors = data
    features = np.float32(scale) * features
    for void in (np.full_like(labels, 255), np.where(labels == 0, 1, 0)):
        value, gradient = STEP(features, void, predictions, anchors)
        value, gradient = STEP(features, np.full_like(labels, 255), void, anchors)
        assert value == 0
        assert not gradient.any()
    value, gradient = STEP(features, labels, predictions, anchors)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def feature_labels(golden, domain):
    return resample.nearest(golden[f"{domain}_labels"], (9, 11), rule="torch")


@pytest.mark.golden("cag", "anchors", "pred_(feat|output)", "target_labels", "ati__.*")
def test_golden_pseudo_labels(golden):
    features, anchors = golden["pred_feat"], golden["anchors"]
    seen = np.ones(C, bool)
    distances = jax.jit(pseudo_labels.prototype_distances)(features, anchors, seen)
    golden.holds("ati__distances", distances)
    nearest = jax.jit(pseudo_labels.nearest_anchor)
    gap = float(golden["ati__delta_d"])
    labels = nearest(features, anchors, seen, gap=gap)
    golden.holds("ati__cluster_labels", labels)
    golden.holds("ati__active_mask", labels != 255)

    logits = golden["pred_output"]
    confident = pseudo_labels.thresholded(
        jax.nn.softmax(logits), threshold=float(golden["ati__class_threshold"])
    )
    golden.holds("ati__threshold_labels", confident)

    truth = feature_labels(golden, "target")
    everywhere = {
        "clu": (nearest(features, anchors, seen, gap=0.0), labels),
        "thr": (jnp.argmax(logits, axis=-1), confident),
    }
    for name, (all_labels, kept) in everywhere.items():
        matrix = confusion.confusion_matrix(truth, all_labels, C)
        golden.holds(f"ati__confusion_{name}", matrix)
        right = np.diagonal(confusion.confusion_matrix(truth, kept, C))
        counts = [
            np.bincount(x[x < C], minlength=C) for x in map(np.asarray, (truth, kept))
        ]
        golden.holds(f"ati__recall_{name}", np.stack([right, *counts], axis=-1))


def released(features, logits, labels, anchors):
    predictions = logits.argmax(axis=-1).astype(labels.dtype)
    return loss(features, labels, predictions, anchors, minimum=10)


RELEASED = jax.jit(jax.value_and_grad(released))


@pytest.mark.golden(
    "cag",
    "anchors",
    "ati__(cluster|threshold)_labels",
    "(source|target)_(feat|output|labels)",
    "mean_vector__.*",
    "step.*",
)
def test_golden_step(golden):
    golden.used("target_labels")
    anchors, weight = golden["anchors"], 0.7
    labels = {
        "source": jnp.asarray(feature_labels(golden, "source")),
        "target": jnp.asarray(golden["ati__cluster_labels"]),
    }
    distance = {}
    for domain, given in labels.items():
        features, logits = golden[f"{domain}_feat"], golden[f"{domain}_output"]
        value, gradient = RELEASED(features, logits, given, anchors)
        golden.holds(f"step__loss_L2_{domain}", value)
        golden.holds_gradient(f"step__grad_{domain}_feat", weight * gradient)
        distance[domain] = value
        predictions = jnp.argmax(logits, axis=-1).astype(given.dtype)
        means, valid = MEANS(features, given, predictions, num_classes=C)
        ids = np.nonzero(np.asarray(valid))[1].astype(np.int32)
        golden.holds(f"step__{domain}_ids", ids)
        if domain == "source":
            golden.holds("mean_vector__source_ids", ids)
            golden.holds("mean_vector__source_vectors", means[np.asarray(valid)])
            far = RELEASED(40 * features, logits, given, anchors)
            golden.holds("step_scaled__loss_L2_source", far[0])
            length = weight * np.linalg.norm(far[1])
            golden.holds("step_scaled__grad_source_feat_l2", length, 1e-5)
        with jax.enable_x64(True):
            wide = RELEASED(*widen((jnp.asarray(features), logits, given, anchors)))
            golden.holds(f"step__loss_L2_{domain}_f64", wide[0])

    def supervised(source, target):
        full = resample.bilinear(source, golden["source_labels"].shape[1:])
        terms = [losses.cross_entropy(full, golden["source_labels"])]
        for name in ("cluster", "threshold"):
            kept = golden[f"ati__{name}_labels"]
            terms.append(losses.cross_entropy(target, kept))
        return terms[0] + (terms[1] + terms[2]) / 2, terms

    step = jax.jit(jax.value_and_grad(supervised, (0, 1), has_aux=True))
    (value, terms), gradients = step(golden["source_output"], golden["target_output"])
    for name, term in zip(
        ("loss_GTA", "ce_cluster", "ce_threshold"), terms, strict=True
    ):
        golden.holds(f"step__{name}", term)
    golden.holds("step__loss_CTS", (terms[1] + terms[2]) / 2)
    pull = weight * (distance["source"] + distance["target"])
    golden.holds("step__loss_L2_cls", pull)
    golden.holds("step__loss", value + pull)
    for domain, gradient in zip(labels, gradients, strict=True):
        golden.holds_gradient(f"step__grad_{domain}_output", gradient)


@pytest.mark.golden("cag", "anchor_update__(ids|vectors|mean_.*)")
def test_golden_running_mean(golden):
    ids, vectors = golden["anchor_update__ids"], golden["anchor_update__vectors"]
    valid = np.arange(C) == ids[:, None]
    with jax.enable_x64(True):
        rows = np.where(valid[..., None], vectors[:, None], 0).astype(np.float64)
        start = jnp.zeros((C, 256)), jnp.zeros(C)
        means, counts = prototypes.running_mean(*start, rows, valid)
        golden.holds("anchor_update__mean_anchors", means, 1e-12)
        golden.holds("anchor_update__mean_counts", counts)

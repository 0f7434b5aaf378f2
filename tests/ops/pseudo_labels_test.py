import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.ops import pseudo_labels

WINDOWS = {"out": "diagonal", "fullwin": "full"}


def cells(*counts):
    """A label map with one 1x1 cell whose full window holds these pixels."""
    pixels = [c for c, n in enumerate(counts) for _ in range(n)]
    # A single cell is centred on pixel 0; 2k+1 >= the length covers everything.
    return jnp.asarray(
        np.array(pixels + [255] * (12 - len(pixels)))[None, None], jnp.int32
    )


def down(labels, **kwargs):
    options = {"size": (1, 1), "num_classes": 3} | kwargs
    return int(pseudo_labels.histogram_downsample(labels, **options)[0, 0, 0])


def test_void_rule_by_hand():
    # Width 12 on one cell: k = 6, so pixels 0..6 are read.
    assert down(cells(5, 2)) == 0
    assert down(cells(4, 2)) == 255  # exactly half is void
    assert down(cells(2, 5)) == 1
    assert down(cells(3, 3)) == 255  # a tie
    assert down(cells(0, 0, 1)) == 2  # one valid pixel is enough
    assert down(cells()) == 255
    assert down(cells(4, 2), threshold=0.6) == 0
    assert down(cells(5, 1), class_frequency=(1.0, 0.1, 1.0)) == 255
    assert down(cells(4, 1), class_frequency=(1.0, 0.1, 1.0)) == 1


@pytest.mark.golden("lsr", "hist__.*", "mask_transform__(labels|.*hist)")
def test_golden_histogram_downsampling(golden):
    frequency, even = {}, {c: np.ones(c) for c in (13, 16, 19)}
    for classes, domain in ((19, "gta5"), (16, "synthia"), (13, "cityscapes13")):
        frequency[classes] = np.array(pseudo_labels.CLASS_FREQUENCY[domain])
        golden.holds(f"hist__c{classes}__class_weights", frequency[classes])

    downsample = jax.jit(
        pseudo_labels.histogram_downsample,
        static_argnames=("size", "num_classes", "window"),
    )
    cases = {"rgrid": (9, 17), "exact": (8, 16), "odd": (9, 17), "nondiv": (7, 10)}
    for key in [key for key in golden.arrays if key.endswith(tuple(WINDOWS))]:
        _, classes, case, weighted, threshold, variant = key.split("__")
        classes = int(classes[1:])
        ours = downsample(
            jnp.asarray(golden[f"hist__c{classes}__{case}__labels"]),
            size=cases[case],
            num_classes=classes,
            threshold=float(threshold[1:].replace("p", ".")),
            window=WINDOWS[variant],
            class_frequency=(frequency if weighted == "w1" else even)[classes],
        )
        golden.holds(key, ours)

    labels = jnp.asarray(golden["mask_transform__labels"])
    for backbone, size in (("resnet101", (9, 17)), ("vgg16", (8, 16))):
        ours = downsample(labels, size=size, num_classes=19, window="diagonal")
        golden.holds(f"mask_transform__{backbone}__hist", ours)


@pytest.mark.golden("lsr", "pred_logits", "predhist__.*")
def test_golden_confident_predictions(golden):
    logits = jnp.asarray(golden["pred_logits"])
    for grid, size in (("resnet", (6, 10)), ("exact", (5, 9))):
        golden.holds(
            f"predhist__{grid}__conf_map", pseudo_labels.confidence(logits, size=size)
        )
        for threshold in (0.5, 0.7):
            ours = jax.jit(
                lambda logits, size=size, threshold=threshold: pseudo_labels.confident(
                    logits, size=size, threshold=threshold, window="diagonal"
                )
            )(logits)
            golden.holds(f"predhist__{grid}__conf0p{threshold * 10:.0f}__out", ours)


def test_confident_takes_another_map():
    logits = np.full((1, 4, 4, 3), [9, 0, 0], np.float32)
    other = np.full((1, 4, 4), 2, np.int32)
    confident = jax.jit(functools.partial(pseudo_labels.confident, size=(1, 1)))
    ours = confident(logits, other)
    assert ours.tolist() == [[[2]]]
    unsure = confident(logits * 0, other)
    assert unsure.tolist() == [[[255]]]


@pytest.mark.golden("lsr", "pd__.*")
def test_golden_nearest_prototype(golden):
    features, prototypes = jnp.asarray(golden["pd__feats"]), golden["pd__prototypes"]
    absent = golden["pd__present_absent"]
    nearest = jax.jit(pseudo_labels.nearest_prototype, static_argnames="compact_index")
    for variant, seen in (("all", np.ones_like(absent)), ("absent", absent)):
        for name, threshold in (("none", None), ("0p3", 0.3), ("0p5", 0.5)):
            for mode in ("proto", "doubleproto"):
                key = f"pd__{variant}__conf_{name}__{mode}"
                ours = nearest(
                    features,
                    prototypes,
                    seen,
                    threshold=threshold,
                    compact_index=mode == "doubleproto",
                )
                # The original leaves every image but the first void.
                assert (golden[key][1:] == 255).all()
                golden.holds(key, np.where([[[True]], [[False]]], ours, 255))

    distance = pseudo_labels.prototype_distances(features[:1], prototypes, absent)
    golden.holds("pd__max_prob_absent", jax.nn.softmax(-distance).max(-1))


def test_nearest_prototype_against_loops():
    features = 20 + np.random.default_rng(0).uniform(size=(2, 3, 4, 8))
    features = features.astype(np.float32)
    prototypes = features.reshape(-1, 8)[[0, 7, 20]] + 0.01
    seen = np.array([True, False, True])
    nearest = jax.jit(pseudo_labels.nearest_prototype)
    ours = np.asarray(nearest(features, prototypes, seen, threshold=0.55))
    for place in np.ndindex(2, 3, 4):
        distance = np.linalg.norm(features[place] - prototypes, axis=-1)
        share = np.where(seen, np.exp(-distance.astype(np.float64)), 0)
        share /= share.sum()
        assert abs(share.max() - 0.55) > 1e-4
        expected = share.argmax() if share.max() >= 0.55 else 255
        assert ours[place] == expected, place
    assert {0, 2, 255} >= set(np.unique(ours).tolist())
    nothing = nearest(features, prototypes, np.zeros(3, bool), threshold=0.5)
    assert (nothing == 255).all()


def test_thresholded_by_hand():
    main = jnp.array([[[[0.9, 0.1], [0.6, 0.4], [0.5, 0.5], [0.1, 0.9]]]])
    auxiliary = jnp.array([[[[0.5, 0.5], [0.1, 0.9], [0.4, 0.6], [0.95, 0.05]]]])
    hard = pseudo_labels.thresholded(main, threshold=0.8)
    assert hard.tolist() == [[[0, 255, 255, 1]]]
    both = pseudo_labels.thresholded(main, auxiliary, threshold=0.8)
    assert both.tolist() == [[[0, 1, 255, 0]]]


def test_nearest_anchor_against_loops():
    features = 20 + np.random.default_rng(0).uniform(size=(2, 3, 4, 8))
    features = features.astype(np.float32)
    anchors = features.reshape(-1, 8)[[0, 7, 20]] + 0.01
    nearest = jax.jit(pseudo_labels.nearest_anchor)
    seen, gap = np.array([True, False, True]), 0.2
    ours = np.asarray(nearest(features, anchors, seen, gap=gap))
    for place in np.ndindex(2, 3, 4):
        distance = np.linalg.norm(features[place] - anchors.astype(np.float64), axis=-1)
        distance[1] = np.inf
        first, second, _ = np.sort(distance)
        assert abs(second - first - gap) > 1e-4
        expected = distance.argmin() if second - first >= gap else 255
        assert ours[place] == expected, place
    assert set(np.unique(ours).tolist()) == {0, 2, 255}
    nothing = nearest(features, anchors, np.zeros(3, bool), gap=gap)
    assert (nothing == 255).all()
    single = nearest(features, anchors, np.array([False, True, False]), gap=gap)
    assert (single == 1).all()


def test_shrunken_by_hand():
    # Columns 0, 2 and 4 of five: both rules read them alone.
    labels = np.array([[[0, 1, 2, 1, 0]]])
    p = jax.nn.one_hot(labels, 3)
    bilinear = pseudo_labels.shrunken(p, size=(1, 3), rule="bilinear")
    assert bilinear.tolist() == [[[0, 2, 0]]]
    nearest = pseudo_labels.shrunken(p, size=(1, 3), rule="nearest")
    assert nearest.tolist() == [[[0, 1, 1]]]  # floor(5 i / 3)
    with pytest.raises(ValueError, match="rule"):
        pseudo_labels.shrunken(p, size=(1, 3), rule="area")


def slow_thresholds(labels, confidence, num_classes, portion, cap):
    out = []
    for c in range(num_classes):
        own = np.sort(confidence[labels == c])
        rank = min(int(np.round(portion * len(own))), len(own) - 1)
        out.append(min(own[rank], cap) if len(own) else 0.0)
    return np.array(out)


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 1, 1, 3, 255], (3, 7, 9)).astype(np.int32)
    labels[0, 0, 0] = 4  # a class of a single pixel
    confidence = rng.uniform(0.2, 1, labels.shape).astype(np.float32)
    confidence[labels == 3] = 0.95
    return labels, confidence


@pytest.mark.parametrize(("portion", "cap"), [(0.5, 0.9), (0.8, 2.0), (1.0, 2.0)])
def test_thresholds_against_loops(pixels, portion, cap):
    labels, confidence = pixels
    expected = slow_thresholds(labels, confidence, 6, portion, cap)
    options = {"portion": portion, "cap": cap}
    exact = functools.partial(pseudo_labels.class_thresholds, num_classes=6, **options)
    np.testing.assert_array_equal(exact(labels, confidence), np.float32(expected))
    np.testing.assert_array_equal(
        jax.jit(exact)(labels, confidence), np.float32(expected)
    )
    # Image by image, as over a data set.
    count = jax.jit(
        functools.partial(pseudo_labels.confidence_histogram, num_classes=6)
    )
    histogram = sum(
        np.asarray(count(*image), np.int64)
        for image in zip(labels, confidence, strict=True)
    )
    assert histogram.sum() == (labels != 255).sum()
    counted = pseudo_labels.histogram_thresholds(histogram, **options)
    gap = expected - counted
    assert (gap >= 0).all()
    assert (gap < 1 / 4096).all()


def test_by_hand():
    labels = jnp.array([0, 0, 0, 1, 1, 255])
    confidence = jnp.array([0.5, 0.7, 0.6, 0.99, 0.98, 0.1])
    ours = pseudo_labels.class_thresholds(labels, confidence, num_classes=3)
    # Ranks round(1.5) = 2 and round(1) = 1.
    np.testing.assert_allclose(ours, [0.7, 0.9, 0])
    histogram = pseudo_labels.confidence_histogram(
        labels, confidence, num_classes=3, bins=10
    )
    assert histogram[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert histogram[1].tolist() == [0] * 9 + [2]
    assert not histogram[2].any()
    full = pseudo_labels.confidence_histogram(
        jnp.array([2]), jnp.array([1.0]), num_classes=3, bins=10
    )
    assert full[2, 9] == 1

    p = jnp.array([[[[0.7, 0.2, 0.1], [0.6, 0.4, 0], [0.1, 0.9, 0], [0.3, 0.3, 0.4]]]])
    labels = pseudo_labels.class_thresholded(p, ours)
    assert labels.tolist() == [[[0, 255, 1, 2]]]


def test_no_pixel_at_all():
    void = np.full((1, 2, 2), 255, np.int32)
    confidence = np.ones((1, 2, 2), np.float32)
    ours = pseudo_labels.class_thresholds(void, confidence, num_classes=3)
    assert not ours.any()
    histogram = pseudo_labels.confidence_histogram(void, confidence, num_classes=3)
    assert not pseudo_labels.histogram_thresholds(np.asarray(histogram)).any()

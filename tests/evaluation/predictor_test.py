"""Both protocols on hand-made labels, and what each of them loses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lsr_jax.evaluation import metrics, scoring
from lsr_jax.evaluation.predictor import Predictor
from lsr_jax.types import Images, Outputs


def says(logits):
    """A predictor whose network returns these logits for every image."""

    def forward(params, model_state, images, train):
        rows = jnp.broadcast_to(logits, (images.shape[0], *logits.shape[1:]))
        return Outputs(rows, rows), model_state

    scores = scoring.network(forward, lambda image: image)
    return Predictor(scores, num_classes=logits.shape[-1])


def one_batch(label, image_size):
    image = np.zeros((1, *image_size, 3), np.uint8)
    yield Images(image, label), np.array([True]), ("only",)


def logits_of(classes, num_classes=3):
    return jax.nn.one_hot(np.array([classes]), num_classes) * 4


# The network sees 2x4 and is right about its left half, wrong about the right.
CLASSES = [[0, 0, 1, 1], [0, 0, 1, 1]]
# At 4x8, a class of single columns: PIL's nearest keeps columns 1, 3, 5 and 7.
LABEL = np.array([[0, 0, 2, 0, 2, 1, 1, 1]] * 4, np.uint8)[None]


def test_shrinking_labels_loses_what_is_thin():
    predictor = says(logits_of(CLASSES))
    batches = one_batch(LABEL, (2, 4))
    found = predictor.confusions({}, {}, batches, protocols=("native", "resized"))
    assert set(found) == {("native",), ("resized",)}
    native, resized = found["native",], found["resized",]
    # By hand. Resized: the label becomes 0 0 1 1, all right; class 2 has gone.
    np.testing.assert_array_equal(resized, np.diag([4, 4, 0]))
    assert metrics.mean_iou(resized) == 1
    assert np.isnan(metrics.iou(resized)[2])
    # Native: the border of the enlarged prediction lies between columns 3 and 4, so of
    # 4 rows the columns 2 and 4 of class 2 are wrong, the others right.
    np.testing.assert_array_equal(native, [[12, 0, 0], [0, 12, 0], [4, 4, 0]])
    np.testing.assert_allclose(metrics.iou(native), [12 / 16, 12 / 16, 0])


def test_resized_labels_are_those_of_pil():
    shrunk = Image.fromarray(LABEL[0]).resize((4, 2), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(np.asarray(shrunk), [[0, 0, 1, 1]] * 2)


def test_enlarging_moves_borders_of_the_prediction():
    """Corners aligned: from 3 to 5 columns, the middle one is the network's middle one."""
    predictor = says(jnp.asarray([[[[4.0, 0.0], [1.0, 2.0], [0.0, 4.0]]]]))
    label = np.array([[[0, 0, 1, 1, 1]]], np.uint8)
    found = predictor.confusions({}, {}, one_batch(label, (1, 3)))
    # Between the columns: (2.5, 1), then (0.5, 3): the border lies where it belongs.
    np.testing.assert_array_equal(found["native",], [[2, 0], [0, 3]])
    # PIL keeps columns 0, 2 and 4 of the label; at the network's size all is right too.
    np.testing.assert_array_equal(found["resized",], [[1, 0], [0, 2]])


def test_ignored_pixels_of_a_shrunk_label_can_hide_an_error():
    predictor = says(logits_of([[0, 1]], 2))
    label = np.array([[[0, 0, 0, 255]]], np.uint8)
    found = predictor.confusions({}, {}, one_batch(label, (1, 2)))
    np.testing.assert_array_equal(found["native",], [[2, 1], [0, 0]])
    np.testing.assert_array_equal(found["resized",], [[1, 0], [0, 0]])


def test_labels_of_the_input_size_are_counted_once():
    predictor = says(logits_of(CLASSES))
    label = LABEL[:, ::2, 1::2]
    found = predictor.confusions({}, {}, one_batch(label, (2, 4)))
    assert list(found) == [("native", "resized")]
    np.testing.assert_array_equal(found["native", "resized"], np.diag([4, 4, 0]))
    batches = [*one_batch(label, (2, 4)), *one_batch(LABEL, (2, 4))]
    assert len(predictor.confusions({}, {}, batches)) == 2


def test_one_protocol_alone_is_that_of_both():
    predictor = says(logits_of(CLASSES))
    both = predictor.confusions({}, {}, one_batch(LABEL, (2, 4)))
    for (protocol,), matrix in both.items():
        alone = predictor.confusion({}, {}, one_batch(LABEL, (2, 4)), protocol=protocol)
        np.testing.assert_array_equal(alone, matrix)
    with pytest.raises(ValueError, match="protocols must be"):
        predictor.confusions({}, {}, [], protocols=())


def test_views_are_merged_at_any_size():
    predictor = says(logits_of(CLASSES))
    maps = predictor.views({}, {}, np.zeros((2, 2, 4, 3), np.uint8))
    for size in ((2, 4), (3, 9)):
        scores = predictor.scores(maps, size)
        assert scores.shape == (2, *size, 3)
        labels = predictor.labels(maps, size)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, scores.argmax(-1))

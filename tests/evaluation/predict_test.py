"""Class maps of any size against the slow way, and what is written of them."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.data import labels, reading
from lsr_jax.errors import InputError
from lsr_jax.evaluation import predict, scoring
from lsr_jax.evaluation.predictor import Predictor
from lsr_jax.evaluation.scoring import Averaging
from lsr_jax.types import Outputs

CLASSES = 4
PARAMS = np.random.default_rng(3).normal(size=(3, CLASSES)).astype(np.float32)
# The network looks at where a pixel lies in its window too, as real ones do.
ROWS, COLUMNS = 6, 8


def forward(params, model_state, images, train):
    place = jnp.linspace(0.0, 1.0, images.shape[1])[None, :, None, None]
    logits = images @ params + place * jnp.arange(float(CLASSES))
    return Outputs(logits, logits), model_state


@functools.cache
def network():
    scores = scoring.network(
        forward,
        lambda image: image.astype(jnp.float32) / 32 - 4,
        averaging=Averaging(of="pixel_probabilities"),
    )
    return predict.Network(Predictor(scores, num_classes=CLASSES), PARAMS, {})


def draw(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def whole(image, size):
    """Scores of one image of the network's size, at ``size``."""
    net = network()
    maps = net.predictor.views(net.params, {}, image[None])
    return net.predictor.scores(maps, size)[0]


@pytest.mark.parametrize(
    ("length", "window", "overlap", "expected"),
    [
        (10, 10, 0.5, [0]),
        (10, 4, 0.5, [0, 2, 4, 6]),
        (9, 4, 0.0, [0, 4, 5]),
        (8, 4, 0.0, [0, 4]),
        (6, 4, 0.99, [0, 1, 2]),
    ],
)
def test_windows_cover_everything(length, window, overlap, expected):
    found = predict.starts(length, window, overlap)
    assert found == expected
    covered = {i for start in found for i in range(start, start + window)}
    assert covered == set(range(length))


@pytest.mark.parametrize(("height", "width"), [(6, 8), (17, 23), (12, 8), (7, 30)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_sliding_averages_the_scores_of_all_windows(height, width, overlap):
    image = draw(height, width)
    total = np.zeros((height, width, CLASSES))
    count = np.zeros((height, width, 1))
    for top in predict.starts(height, ROWS, overlap):
        for left in predict.starts(width, COLUMNS, overlap):
            part = (slice(top, top + ROWS), slice(left, left + COLUMNS))
            total[part] += whole(image[part], (ROWS, COLUMNS))
            count[part] += 1
    found = predict.slide(
        network(), image, window=(ROWS, COLUMNS), overlap=overlap, batch_size=3
    )
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, (total / count).argmax(-1))
    assert len(np.unique(found)) > 2


def test_sliding_continues_a_small_image_by_its_border():
    image = draw(4, 5)
    padded = np.pad(image, ((0, 2), (0, 3), (0, 0)), mode="edge")
    found = predict.slide(
        network(), image, window=(ROWS, COLUMNS), overlap=0.5, batch_size=2
    )
    expected = whole(padded, (ROWS, COLUMNS)).argmax(-1)[:4, :5]
    np.testing.assert_array_equal(found, expected)


def test_resizing_gives_every_image_a_map_of_its_own_size():
    images = [draw(9, 14, 1), draw(6, 8, 2), draw(30, 7, 3)]
    found = list(
        predict.resized(network(), iter(images), size=(ROWS, COLUMNS), batch_size=2)
    )
    for image, label in zip(images, found, strict=True):
        small = reading.resize_image(image, (ROWS, COLUMNS))
        expected = whole(small, image.shape[:2]).argmax(-1)
        np.testing.assert_array_equal(label, expected)


def test_resizing_holds_no_more_than_a_batch():
    taken = []

    def images():
        for number in range(7):
            taken.append(number)
            yield draw(6, 8, number)

    found = predict.resized(network(), images(), size=(ROWS, COLUMNS), batch_size=2)
    next(found)
    assert len(taken) == 2
    assert len(list(found)) == 6


SIXTEEN = labels.SPACES["cityscapes16"]
OWN = labels.make_space(
    "own", {1: "road", 2: "river"}, ("road", "river"), ((0, 0, 9),) * 2
)


def test_ids_are_those_of_the_nineteen_classes():
    label = np.arange(16, dtype=np.uint8)[None]
    image = np.zeros((1, 16, 3), np.uint8)
    train = predict.render("train_ids", label, image, SIXTEEN)
    np.testing.assert_array_equal(
        train, [[0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18]]
    )
    server = predict.render("cityscapes_ids", label, image, SIXTEEN)
    np.testing.assert_array_equal(
        server, [[7, 8, 11, 12, 13, 17, 19, 20, 21, 23, 24, 25, 26, 28, 32, 33]]
    )
    # Read back as a label file, the ids are the classes.
    np.testing.assert_array_equal(SIXTEEN.encode(server), label)


def test_own_classes_keep_their_index_and_have_no_cityscapes_ids():
    np.testing.assert_array_equal(predict.ids("train_ids", OWN), [0, 1])
    with pytest.raises(InputError, match=r"cityscapes_ids .*'river'"):
        predict.ids("cityscapes_ids", OWN)


def test_colours_and_overlays():
    label = np.array([[0, 15]], np.uint8)
    image = np.array([[[10, 20, 31], [255, 255, 255]]], np.uint8)
    color = predict.render("color", label, image, SIXTEEN)
    np.testing.assert_array_equal(color, [[(128, 64, 128), (119, 11, 32)]])
    overlay = predict.render("overlay", label, image, SIXTEEN)
    np.testing.assert_array_equal(overlay, (image.astype(int) + color) // 2)

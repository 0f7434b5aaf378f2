"""Class maps of any size against the slow way."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.data import image_io
from lsr_jax.evaluation import predictor
from lsr_jax.evaluation.predictor import Predictor, TestTimeAugmentation
from lsr_jax.training import sharding
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
    scores = predictor.network(
        forward,
        lambda image: image.astype(jnp.float32) / 32 - 4,
        augmentation=TestTimeAugmentation(average="pixel_probabilities"),
    )
    own = Predictor(scores, num_classes=CLASSES, mesh=sharding.make_mesh(1))
    return predictor.Network(own, PARAMS, {})


def draw(height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def whole(image, size):
    """Scores of one image of the network's size, at ``size``."""
    net = network()
    maps = net.maps([image], 1)
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
    found = predictor.window_starts(length, window, overlap)
    assert found == expected
    covered = {i for start in found for i in range(start, start + window)}
    assert covered == set(range(length))


@pytest.mark.parametrize(("height", "width"), [(6, 8), (17, 23), (12, 8), (7, 30)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_sliding_averages_the_scores_of_all_windows(height, width, overlap):
    image = draw(height, width)
    total = np.zeros((height, width, CLASSES))
    count = np.zeros((height, width, 1))
    for top in predictor.window_starts(height, ROWS, overlap):
        for left in predictor.window_starts(width, COLUMNS, overlap):
            part = (slice(top, top + ROWS), slice(left, left + COLUMNS))
            total[part] += whole(image[part], (ROWS, COLUMNS))
            count[part] += 1
    found = predictor.slide(
        network(), image, window=(ROWS, COLUMNS), overlap=overlap, batch_size=3
    )
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, (total / count).argmax(-1))
    assert len(np.unique(found)) > 2


def test_sliding_continues_a_small_image_by_its_border():
    image = draw(4, 5)
    padded = np.pad(image, ((0, 2), (0, 3), (0, 0)), mode="edge")
    found = predictor.slide(
        network(), image, window=(ROWS, COLUMNS), overlap=0.5, batch_size=2
    )
    expected = whole(padded, (ROWS, COLUMNS)).argmax(-1)[:4, :5]
    np.testing.assert_array_equal(found, expected)


def test_resizing_gives_every_image_a_map_of_its_own_size():
    images = [draw(9, 14, 1), draw(6, 8, 2), draw(30, 7, 3)]
    found = predictor.resize(network(), images, size=(ROWS, COLUMNS), batch_size=4)
    for image, label in zip(images, found, strict=True):
        small = image_io.resize_image(image, (ROWS, COLUMNS))
        expected = whole(small, image.shape[:2]).argmax(-1)
        np.testing.assert_array_equal(label, expected)

"""Class maps of any size against the slow way, and what is written of them."""

import functools
import os
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.data import image_io, label_spaces
from lsr_jax.errors import InputError
from lsr_jax.evaluation import predict, predictor
from lsr_jax.evaluation.predictor import Averaging, Predictor
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
        small = image_io.resize_image(image, (ROWS, COLUMNS))
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


SIXTEEN = label_spaces.SPACES["cityscapes16"]
OWN = label_spaces.make_space(
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


@pytest.fixture
def folder(tmp_path):
    for name in ("b/two.png", "a/one.png", "a/deep/three.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
        cv2.imwrite(os.fspath(path), image)
    return tmp_path


def test_patterns_find_files_in_order(folder):
    found = predict.find_images(f"{folder}/**/*.*")
    assert [path.name for path in found] == ["three.jpg", "one.png", "two.png"]
    names = predict.name_outputs(found)
    assert [str(name) for name in names.values()] == [
        *("a/deep/three.png", "a/one.png", "b/two.png")
    ]
    (alone,) = predict.name_outputs([folder / "a/one.png"]).values()
    assert alone == Path("one.png")


def test_no_images_are_one_line(folder):
    for pattern, message in (
        (f"{folder}/*.gif", "found none"),
        (f"{folder}/a", r"name the files in it, as DIR/\*\.png"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            predict.find_images(pattern)
        assert pattern in str(caught.value)


def test_two_images_of_one_name_are_named(folder):
    paths = [folder / "a/one.jpg", folder / "a/one.png"]
    with pytest.raises(InputError, match=r"one\.jpg and .*one\.png"):
        predict.name_outputs(paths)


def test_reading_names_the_file(folder):
    image = predict.read(folder / "a/one.png")
    assert image.shape == (5, 7, 3)
    broken = folder / "broken.png"
    broken.write_bytes((folder / "a/one.png").read_bytes()[:40])
    (folder / "text.jpg").write_text("no image")
    for path in (broken, folder / "text.jpg", folder / "missing.png"):
        with pytest.raises(InputError, match=path.name):
            predict.read(path)


def test_an_enormous_image_is_refused_before_it_is_decoded(folder):
    data = bytearray((folder / "a/one.png").read_bytes())
    data[16:24] = (2**20).to_bytes(4, "big") * 2  # width and height in the header
    (folder / "huge.png").write_bytes(data)
    with pytest.raises(InputError, match="at most 67108864 pixels"):
        predict.read(folder / "huge.png")


def test_written_pictures_read_back(folder):
    color = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    predict.write(folder / "out" / "x" / "c.png", color)
    np.testing.assert_array_equal(predict.read(folder / "out" / "x" / "c.png"), color)
    predict.write(folder / "ids.png", color[..., 0])
    ids = cv2.imread(os.fspath(folder / "ids.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(ids, color[..., 0])


def test_a_folder_that_cannot_be_written_is_named(folder):
    predict.prepare_folder(folder / "new", ("color", "overlay"))
    assert {path.name for path in (folder / "new").iterdir()} == {"color", "overlay"}
    with pytest.raises(InputError, match=r"--out .*one\.png: cannot be written"):
        predict.prepare_folder(folder / "a" / "one.png", ("color",))

"""A toy network with BatchNorm, its numpy twin, and the evaluator on 1 and 8 devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from PIL import Image

from lsr_jax.errors import InputError
from lsr_jax.evaluation import evaluate, metrics
from lsr_jax.ops import resample
from lsr_jax.types import Images, Outputs

CLASSES, BATCH, HEIGHT, WIDTH = 5, 8, 9, 17


def preprocess(image):
    return image.astype(jnp.float32) / 255


def forward(params, model_state, images, train):
    """Every second pixel -> batch norm -> 1x1 convolution."""
    x = images[:, ::2, ::2]
    if train:
        count = x.size // x.shape[-1]
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        batch = {"mean": mean, "var": variance * (count / (count - 1))}
        new_state = jax.tree.map(lambda r, b: 0.9 * r + 0.1 * b, model_state, batch)
    else:
        mean, variance = model_state["mean"], model_state["var"]
        new_state = model_state
    features = (x - mean) / jnp.sqrt(variance + 1e-5)
    return Outputs(features, features @ params["kernel"]), new_state


@pytest.fixture
def params():
    kernel = np.random.default_rng(1).normal(size=(3, CLASSES)).astype(np.float32)
    return {"kernel": jnp.asarray(kernel)}


@pytest.fixture
def model_state():
    return {"mean": jnp.full(3, 0.5), "var": jnp.full(3, 0.08)}


def make_evaluator(devices=None, forward=forward):
    mesh = devices and jax.make_mesh((devices,), ("data",), (AxisType.Auto,))
    return evaluate.Evaluator(
        forward, num_classes=CLASSES, preprocess=preprocess, mesh=mesh
    )


def draw(number, label_size=(HEIGHT, WIDTH), seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (number, HEIGHT, WIDTH, 3)).astype(np.uint8)
    image[1::2] //= 3
    labels = rng.choice([0, 1, 2, 3, 4, 255], (number, *label_size)).astype(np.uint8)
    return image, labels


def batched(image, label):
    """Batches of BATCH; the last one is filled with a bright image and wrong labels."""
    for start in range(0, len(image), BATCH):
        valid = np.arange(start, start + BATCH) < len(image)
        fill = ((0, BATCH - valid.sum()),)
        part = np.pad(
            image[start : start + BATCH], fill + ((0, 0),) * 3, constant_values=255
        )
        truth = np.pad(label[start : start + BATCH], fill + ((0, 0),) * 2)
        yield Images(part, truth), valid, np.arange(start, start + BATCH)


def test_confusion_is_that_of_the_predictions_without_the_padding(params, model_state):
    image, label = draw(BATCH + 3)
    scorer = make_evaluator()
    matrix = scorer.confusion(params, model_state, batched(image, label))

    assert matrix.dtype == np.int64
    assert matrix.sum() == (label != 255).sum()
    predictions = scorer.predict(params, model_state, image)
    expected = metrics.confusion_matrix(label, predictions, CLASSES)
    np.testing.assert_array_equal(matrix, expected)
    assert scorer.confusion(params, model_state, []).sum() == 0


def test_predictions_are_the_class_of_the_enlarged_logits(params, model_state):
    image, _ = draw(3)
    outputs, _ = forward(params, model_state, preprocess(jnp.asarray(image)), False)
    scorer = make_evaluator()
    for size, chosen in ((None, (HEIGHT, WIDTH)), ((20, 40), (20, 40))):
        labels = scorer.predict(params, model_state, image, size=size)
        assert labels.dtype == np.uint8
        enlarged = resample.bilinear(outputs.logits, chosen)
        np.testing.assert_array_equal(labels, enlarged.argmax(-1))
    assert len(np.unique(labels)) == CLASSES


def test_protocols_compare_at_the_size_of_the_label_or_of_the_input(
    params, model_state
):
    image, label = draw(BATCH, label_size=(23, 41))
    scorer = make_evaluator()

    def score(protocol):
        batches = batched(image, label)
        return scorer.confusion(params, model_state, batches, protocol=protocol)

    enlarged = scorer.predict(params, model_state, image, size=(23, 41))
    shrunk = np.stack(
        [
            np.asarray(Image.fromarray(one).resize((WIDTH, HEIGHT), Image.NEAREST))
            for one in label
        ]
    )
    predictions = scorer.predict(params, model_state, image)
    np.testing.assert_array_equal(
        score("native"), metrics.confusion_matrix(label, enlarged, CLASSES)
    )
    np.testing.assert_array_equal(
        score("resized"), metrics.confusion_matrix(shrunk, predictions, CLASSES)
    )
    with pytest.raises(ValueError, match="'original'"):
        score("original")


def test_eight_devices_give_what_one_gives(params, model_state):
    image, label = draw(2 * BATCH - 3)
    one, eight = (
        (
            scorer.confusion(params, model_state, batched(image, label)),
            scorer.predict(params, model_state, image),
            scorer.target_statistics(params, model_state, batched(image, label)),
        )
        for scorer in (make_evaluator(1), make_evaluator(8))
    )
    chex.assert_trees_all_equal(one[:2], eight[:2])
    chex.assert_trees_all_close(one[2], eight[2], rtol=1e-5)


def test_one_trace_for_all_checkpoints_and_batches(params, model_state):
    image, label = draw(2 * BATCH)
    once = chex.assert_max_traces(forward, 1)
    scorer = make_evaluator(forward=once)
    for scale in (1, 2):
        scaled = jax.tree.map(lambda value, s=scale: s * value, params)
        scorer.confusion(scaled, model_state, batched(image, label))
    with pytest.raises(AssertionError, match="traced"):
        scorer.predict(params, model_state, image)


def test_target_statistics_are_the_mean_over_batches(params, model_state):
    image, label = draw(3 * BATCH)
    batches = list(batched(image, label))
    scorer = make_evaluator()
    found = scorer.target_statistics(params, model_state, batches)

    seen = (image[:, ::2, ::2] / 255.0).reshape(3, -1, 3)
    np.testing.assert_allclose(found["mean"], seen.mean(1).mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["var"], seen.var(1, ddof=1).mean(0), rtol=1e-5)

    backwards = scorer.target_statistics(params, model_state, batches[::-1])
    other = jax.tree.map(lambda value: value + 7, model_state)
    forgetful = scorer.target_statistics(params, other, batches)
    chex.assert_trees_all_close(found, backwards, rtol=1e-5)
    chex.assert_trees_all_equal(found, forgetful)


def test_target_statistics_see_no_padding(params, model_state):
    image, label = draw(BATCH + BATCH // 2)
    found = make_evaluator().target_statistics(
        params, model_state, batched(image, label)
    )
    # Four images twice in the last batch: the same mean, a variance of twice the count.
    seen = image[:, ::2, ::2].reshape(len(image), -1, 3) / 255.0
    first, last = seen[:BATCH].reshape(-1, 3), seen[BATCH:].reshape(-1, 3)
    np.testing.assert_allclose(found["mean"], seen.mean((0, 1)), rtol=1e-5)
    twice = np.concatenate([last, last])
    variance = (2 * first.var(0, ddof=1) + twice.var(0, ddof=1)) / 3
    np.testing.assert_allclose(found["var"], variance, rtol=1e-5)


def test_target_statistics_need_images(params, model_state):
    image, label = draw(BATCH)
    nothing = [(Images(image, label), np.zeros(BATCH, bool), None)]
    for batches in ([], nothing):
        with pytest.raises(InputError, match="found none"):
            make_evaluator().target_statistics(params, model_state, batches)


def test_target_statistics_need_a_network_that_updates_them(params, model_state):
    def frozen(params, model_state, images, train):
        return forward(params, model_state, images, False)

    scorer = make_evaluator(forward=frozen)
    with pytest.raises(InputError, match="one that keeps them"):
        scorer.target_statistics(params, model_state, batched(*draw(BATCH)))


def test_a_network_without_statistics_has_none_to_estimate(params):
    def plain(params, model_state, images, train):
        return Outputs(images, images @ params["kernel"]), model_state

    scorer = make_evaluator(forward=plain)
    assert scorer.target_statistics(params, {}, batched(*draw(BATCH))) == {}

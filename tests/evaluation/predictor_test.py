"""Both protocols on hand-made labels, test-time augmentation, ensembles."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_bn
from PIL import Image
from toy_bn import BATCH, HEIGHT, WIDTH, batched, draw

from lsr_jax.errors import InputError
from lsr_jax.evaluation import confusion, predictor
from lsr_jax.evaluation.predictor import Predictor, TestTimeAugmentation
from lsr_jax.ops import resample
from lsr_jax.training import sharding
from lsr_jax.types import Images, Outputs


def says(logits):
    """A predictor whose network returns these logits for every image."""

    def forward(params, model_state, images, train):
        rows = jnp.broadcast_to(logits, (images.shape[0], *logits.shape[1:]))
        return Outputs(rows, rows), model_state

    scores = predictor.network(forward, lambda image: image)
    return Predictor(scores, num_classes=logits.shape[-1], mesh=sharding.make_mesh(1))


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
    own = says(logits_of(CLASSES))
    batches = one_batch(LABEL, (2, 4))
    found = own.confusions({}, {}, batches, protocols=("native", "resized"))
    assert set(found) == {("native",), ("resized",)}
    native, resized = found["native",], found["resized",]
    # By hand. Resized: the label becomes 0 0 1 1, all right; class 2 has gone.
    np.testing.assert_array_equal(resized, np.diag([4, 4, 0]))
    assert confusion.mean_iou(resized) == 1
    assert np.isnan(confusion.iou(resized)[2])
    # Native: the border of the enlarged prediction lies between columns 3 and 4, so of
    # 4 rows the columns 2 and 4 of class 2 are wrong, the others right.
    np.testing.assert_array_equal(native, [[12, 0, 0], [0, 12, 0], [4, 4, 0]])
    np.testing.assert_allclose(confusion.iou(native), [12 / 16, 12 / 16, 0])


def test_resized_labels_are_those_of_pil():
    shrunk = Image.fromarray(LABEL[0]).resize((4, 2), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(np.asarray(shrunk), [[0, 0, 1, 1]] * 2)


def test_enlarging_moves_borders_of_the_prediction():
    """Corners aligned: from 3 to 5 columns, the middle one is the network's middle one."""
    own = says(jnp.asarray([[[[4.0, 0.0], [1.0, 2.0], [0.0, 4.0]]]]))
    label = np.array([[[0, 0, 1, 1, 1]]], np.uint8)
    found = own.confusions({}, {}, one_batch(label, (1, 3)))
    # Between the columns: (2.5, 1), then (0.5, 3): the border lies where it belongs.
    np.testing.assert_array_equal(found["native",], [[2, 0], [0, 3]])
    # PIL keeps columns 0, 2 and 4 of the label; at the network's size all is right too.
    np.testing.assert_array_equal(found["resized",], [[1, 0], [0, 2]])


def test_ignored_pixels_of_a_shrunk_label_can_hide_an_error():
    own = says(logits_of([[0, 1]], 2))
    label = np.array([[[0, 0, 0, 255]]], np.uint8)
    found = own.confusions({}, {}, one_batch(label, (1, 2)))
    np.testing.assert_array_equal(found["native",], [[2, 1], [0, 0]])
    np.testing.assert_array_equal(found["resized",], [[1, 0], [0, 0]])


def test_labels_of_the_input_size_are_counted_once():
    own = says(logits_of(CLASSES))
    label = LABEL[:, ::2, 1::2]
    found = own.confusions({}, {}, one_batch(label, (2, 4)))
    assert list(found) == [("native", "resized")]
    np.testing.assert_array_equal(found["native", "resized"], np.diag([4, 4, 0]))
    batches = [*one_batch(label, (2, 4)), *one_batch(LABEL, (2, 4))]
    assert len(own.confusions({}, {}, batches)) == 2


def test_one_protocol_alone_is_that_of_both():
    own = says(logits_of(CLASSES))
    both = own.confusions({}, {}, one_batch(LABEL, (2, 4)))
    for protocols, matrix in both.items():
        batches = one_batch(LABEL, (2, 4))
        alone = own.confusions({}, {}, batches, protocols=protocols)
        np.testing.assert_array_equal(alone[protocols], matrix)
    native = own.confusion({}, {}, one_batch(LABEL, (2, 4)))
    np.testing.assert_array_equal(native, both["native",])


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_scores_that_are_not_finite_are_no_class(value):
    own = says(logits_of(CLASSES).at[0, 1, 2, 0].set(value))
    with pytest.raises(InputError, match="scores of the network are not finite"):
        own.confusion({}, {}, one_batch(LABEL, (2, 4)))
    with pytest.raises(InputError, match="scores of the network are not finite"):
        own.predict({}, {}, np.zeros((1, 2, 4, 3), np.uint8))


def test_views_are_merged_at_any_size():
    own = says(logits_of(CLASSES))
    maps = own.maps({}, {}, np.zeros((2, 2, 4, 3), np.uint8))
    for size in ((2, 4), (3, 9)):
        scores = own.scores(maps, size)
        assert scores.shape == (2, *size, 3)
        labels = own.labels(maps, size)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, scores.argmax(-1))


SIZE = (5, 9)


def forward(params, model_state, images, train):
    """Every second pixel; brighter to the left, so that a mirror image differs."""
    assert not train
    logits = images[:, ::2, ::2] * params["gain"] + model_state["bias"]
    ramp = jnp.linspace(1.0, 0.0, logits.shape[2])[None, None, :, None]
    return Outputs(logits, logits + ramp, 2 * logits), model_state


def preprocess(images):
    return images.astype(jnp.float32) / 64


PARAMS, STATE = {"gain": jnp.float32(1.5)}, {"bias": jnp.float32(0.1)}


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)


def logits(images):
    return np.asarray(forward(PARAMS, STATE, preprocess(images), False)[0].logits)


def enlarged(maps, size=SIZE):
    return np.asarray(resample.bilinear(jnp.asarray(maps), size))


def softmax(values):
    return np.asarray(jax.nn.softmax(jnp.asarray(values)))


def score(images, size=SIZE, **keywords):
    augmentation = TestTimeAugmentation(**keywords)
    scores = predictor.network(forward, preprocess, augmentation=augmentation)
    return np.asarray(scores.merge(scores.maps(PARAMS, STATE, images), size))


def test_one_view_is_the_enlarged_logits(images):
    np.testing.assert_array_equal(score(images), enlarged(logits(images)))


def test_another_prediction_than_the_main_head(images):
    scores = predictor.network(
        forward, preprocess, prediction=lambda out: out.logits + out.aux_logits
    )
    both = scores.merge(scores.maps(PARAMS, STATE, images), SIZE)
    outputs, _ = forward(PARAMS, STATE, preprocess(images), False)
    summed = outputs.logits + outputs.aux_logits
    np.testing.assert_array_equal(both, enlarged(summed))


def test_flip_is_mirrored_back(images):
    mirrored = logits(images[:, :, ::-1])[:, :, ::-1]
    plain = logits(images)
    assert np.abs(mirrored - plain).max() > 0.5
    close = {"rtol": 1e-5, "atol": 1e-6}
    found = score(images, flip=True, average="logits")
    np.testing.assert_allclose(found, enlarged((plain + mirrored) / 2), **close)
    # Feature To Adapt: softmax before enlarging.
    found = score(images, flip=True, average="probabilities")
    mean = (softmax(plain) + softmax(mirrored)) / 2
    np.testing.assert_allclose(found, enlarged(mean), **close)
    # MaxSquare: softmax after enlarging.
    after = score(images, flip=True, average="pixel_probabilities")
    mean = (softmax(enlarged(plain)) + softmax(enlarged(mirrored))) / 2
    np.testing.assert_allclose(after, mean, **close)
    assert np.abs(after - found).max() > 1e-3


def test_scales_resize_the_input_of_the_network(images):
    found = score(images, scales=(1.0, 2.0), average="probabilities")
    larger = resample.bilinear(preprocess(images), (10, 18))
    outputs, _ = forward(PARAMS, STATE, larger, False)
    parts = [softmax(logits(images)), softmax(outputs.logits)]
    assert parts[1].shape[1:3] == (5, 9)
    expected = np.mean([enlarged(part) for part in parts], 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_probabilities_sum_to_one_at_any_size(images):
    for of in ("probabilities", "pixel_probabilities"):
        found = score(images, (11, 7), flip=True, scales=(0.75, 1.0, 1.25), average=of)
        assert found.shape == (2, 11, 7, 3)
        np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("of", ["logits", "probabilities"])
def test_an_ensemble_adds_weighted_scores(images, of):
    member = predictor.network(
        forward, preprocess, augmentation=TestTimeAugmentation(average=of)
    )
    scores = predictor.ensemble([member, member], [0.7, 0.3])
    params = (PARAMS, {"gain": jnp.float32(-1.0)})
    maps = scores.maps(params, (STATE, STATE), images)
    parts = [
        np.asarray(member.merge(member.maps(p, STATE, images), SIZE)) for p in params
    ]
    expected = 0.7 * parts[0] + 0.3 * parts[1]
    np.testing.assert_allclose(scores.merge(maps, SIZE), expected, atol=1e-5)


def test_averages_can_disagree():
    """Two views of one pixel: sure of class 0 by a large logit, twice mildly for 1."""
    maps = [np.array([[[[9.0, 0.0]]]]), np.array([[[[0.0, 6.0]]]])]

    def decide(of):
        values = [softmax(m) if of == "probabilities" else m for m in maps]
        return int(np.argmax(0.45 * values[0] + 0.55 * values[1]))

    assert (decide("logits"), decide("probabilities")) == (0, 1)
    for of, expected in (("logits", 0), ("probabilities", 1)):
        member = predictor.network(
            lambda params, state, images, train: (Outputs(images, params), state),
            lambda images: images,
            augmentation=TestTimeAugmentation(average=of),
        )
        scores = predictor.ensemble([member, member], [0.45, 0.55])
        params = tuple(jnp.asarray(m, jnp.float32) for m in maps)
        image = jnp.zeros((1, 1, 1, 3))
        merged = scores.merge(scores.maps(params, ({}, {}), image), (1, 1))
        assert int(merged.argmax(-1).item()) == expected


def test_words_name_what_moves_the_number():
    assert TestTimeAugmentation().describe() == "one view"
    assert TestTimeAugmentation(average="probabilities").describe() == "probabilities"
    several = TestTimeAugmentation(True, (0.75, 1.0, 1.25), "probabilities")
    assert several.describe() == "flip, scales 0.75 1 1.25, probabilities"


def test_windows_are_those_of_the_config_unless_flags_name_some():
    config = {"evaluation": {"window": [1024, 512]}}
    several = TestTimeAugmentation(True, (0.75, 1.0), "probabilities")
    found = several.configured(config)
    assert found == several._replace(window=(1024, 512))
    words = "flip, scales 0.75 1, windows 512x1024, probabilities"
    assert found.describe() == words
    named = TestTimeAugmentation(window=(8, 16))
    assert named.configured(config) == named
    whole = TestTimeAugmentation(window=())
    assert whole.describe() == "whole images, logits"
    assert whole.configured(config) == TestTimeAugmentation()
    assert whole.configured({"evaluation": {"window": None}}).describe() == "one view"


def test_flags_average_probabilities_of_several_views():
    assert predictor.parse_augmentation(False, ["1"], None) == TestTimeAugmentation()
    assert predictor.parse_augmentation(True, ["1"], None).average == "probabilities"
    assert predictor.parse_augmentation(False, ["0.5", "1"], None).scales == (0.5, 1.0)
    assert predictor.parse_augmentation(True, ["1"], "logits").average == "logits"


@pytest.mark.parametrize("scale", [2e3, 1e9, 1e300])
def test_a_scale_is_bounded_as_images_are(images, scale):
    with pytest.raises(InputError, match=r"^--scales: .* 5x9 .* enlarged by"):
        score(images, scales=(scale,))


@pytest.mark.parametrize("scales", [["1", "x"], ["0"], [], ["nan"], ["-1"], ["inf"]])
def test_wrong_scales_are_one_line(scales):
    with pytest.raises(InputError, match="--scales: expected positive numbers"):
        predictor.parse_augmentation(False, scales, None)


params, model_state = toy_bn.params, toy_bn.model_state


def make_predictor(devices=1, forward=toy_bn.forward):
    scores = predictor.network(forward, toy_bn.preprocess)
    mesh = sharding.make_mesh(devices)
    return Predictor(scores, num_classes=toy_bn.CLASSES, mesh=mesh)


def test_confusion_is_that_of_the_predictions_without_the_padding(params, model_state):
    image, label = draw(BATCH + 3)
    own = make_predictor()
    matrix = own.confusion(params, model_state, batched(image, label))

    assert matrix.dtype == np.int64
    assert matrix.sum() == (label != 255).sum()
    predictions = own.predict(params, model_state, image)
    expected = confusion.confusion_matrix(label, predictions, toy_bn.CLASSES)
    np.testing.assert_array_equal(matrix, expected)
    assert own.confusion(params, model_state, []).sum() == 0


def test_predictions_are_the_class_of_the_enlarged_logits(params, model_state):
    image, _ = draw(3)
    outputs, _ = toy_bn.forward(
        params, model_state, toy_bn.preprocess(jnp.asarray(image)), False
    )
    own = make_predictor()
    labels = own.predict(params, model_state, image)
    assert labels.dtype == np.uint8
    enlarged = resample.bilinear(outputs.logits, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(labels, enlarged.argmax(-1))
    assert len(np.unique(labels)) == toy_bn.CLASSES


def test_protocols_compare_at_the_size_of_the_label_or_of_the_input(
    params, model_state
):
    image, label = draw(BATCH, label_size=(23, 41))
    own = make_predictor()

    def score(protocol):
        batches = batched(image, label)
        found = own.confusions(params, model_state, batches, protocols=(protocol,))
        return found[protocol,]

    maps = own.maps(params, model_state, image)
    enlarged = own.labels(maps, (23, 41))
    shrunk = np.stack(
        [
            np.asarray(Image.fromarray(one).resize((WIDTH, HEIGHT), Image.NEAREST))
            for one in label
        ]
    )
    predictions = own.predict(params, model_state, image)
    np.testing.assert_array_equal(
        score("native"), confusion.confusion_matrix(label, enlarged, toy_bn.CLASSES)
    )
    np.testing.assert_array_equal(
        score("resized"),
        confusion.confusion_matrix(shrunk, predictions, toy_bn.CLASSES),
    )


def test_eight_devices_give_what_one_gives(params, model_state):
    image, label = draw(2 * BATCH - 3)
    one, eight = (
        (
            own.confusion(params, model_state, batched(image, label)),
            own.predict(params, model_state, image),
        )
        for own in (make_predictor(1), make_predictor(8))
    )
    chex.assert_trees_all_equal(one, eight)


def test_one_trace_for_all_checkpoints_and_batches(params, model_state):
    image, label = draw(2 * BATCH)
    once = chex.assert_max_traces(toy_bn.forward, 1)
    own = make_predictor(forward=once)
    for scale in (1, 2):
        scaled = jax.tree.map(lambda value, s=scale: s * value, params)
        own.confusion(scaled, model_state, batched(image, label))
    with pytest.raises(AssertionError, match="traced"):
        own.predict(params, model_state, image)

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import errors, types
from lsr_jax.augment import preprocess

HEAVY = preprocess.AUGMENTATION["heavy"]
NONE = preprocess.AUGMENTATION["none"]


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return types.Images(
        rng.integers(0, 256, (8, 12, 18, 3), np.uint8),
        rng.integers(0, 19, (8, 12, 18), np.uint8),
    )


@pytest.fixture(scope="module")
def heavy():
    """The step's call, compiled once for both domains under the heavy preset."""
    return jax.jit(
        lambda key, batch: preprocess.preprocess(
            key, batch, source=HEAVY, target=HEAVY, preprocessing="caffe"
        )
    )


COMPILED = {
    name: jax.jit(functools.partial(preprocess.augment, **preset))
    for name, preset in preprocess.AUGMENTATION.items()
}


@pytest.mark.parametrize("name", sorted(preprocess.AUGMENTATION))
def test_presets_run_and_stay_within_the_levels(key, images, name):
    result = COMPILED[name](key, images)
    assert result.image.dtype == jnp.float32
    assert result.label.dtype == jnp.int32
    assert float(result.image.min()) >= 0
    assert float(result.image.max()) <= 255
    changed = np.any(np.asarray(result.image) != images.image)
    assert changed == (name != "none")


def test_every_preset_names_every_strength():
    names = set(HEAVY)
    assert all(set(preset) == names for preset in preprocess.AUGMENTATION.values())


def test_no_strength_is_the_identity(key, images):
    for options in ({}, NONE):
        result = preprocess.augment(key, images, **options)
        np.testing.assert_array_equal(result.image, images.image)
        np.testing.assert_array_equal(result.label, images.label)


def test_an_effect_keeps_its_draws_when_another_is_left_out(key, images):
    """The mirrored images are the same ones under any other strength."""
    plain = COMPILED["flip"](key, images)
    noisy = COMPILED["heavy"](key, images)
    np.testing.assert_array_equal(plain.label, noisy.label)
    assert np.any(np.asarray(plain.label) != images.label)


def test_crop_and_scale_give_the_size_asked_for(key, images):
    for options in ({"crop": (5, 7)}, {"crop": (5, 7), "scale": (0.5, 1.5)}):
        run = functools.partial(preprocess.augment, **options)
        result = jax.eval_shape(run, key, images)
        assert result.image.shape == (8, 5, 7, 3)
        assert result.label.shape == (8, 5, 7)
    with pytest.raises(errors.InputError, match="needs a crop"):
        preprocess.augment(key, images, scale=(0.5, 1.5))


def test_rules_for_crops_use_the_drawn_class_and_drop_it(key, images):
    drawn = images._replace(drawn=np.arange(8, dtype=np.int32))
    rules = {"majority": 0.5, "drawn_pixels": 4}
    run = functools.partial(preprocess.augment, crop=(5, 7), flip=0.5, **rules)
    result = jax.eval_shape(run, key, drawn)
    assert result.image.shape == (8, 5, 7, 3)
    assert result.drawn is None
    assert preprocess.augment(key, drawn, **NONE).drawn is None
    for options in ({}, {"crop": (5, 7), "scale": (0.5, 1.5)}):
        with pytest.raises(errors.InputError, match="need a crop and no scale"):
            preprocess.augment(key, drawn, majority=0.5, **options)


def test_normalise_by_hand():
    pixel = np.array([[[[10, 20, 30]]]], np.uint8)
    caffe = preprocess.normalise(pixel, preprocessing="caffe")
    np.testing.assert_allclose(
        caffe.ravel(),
        [30 - 104.00698793, 20 - 116.66876762, 10 - 122.67891434],
        rtol=1e-6,
    )
    imagenet = preprocess.normalise(pixel, preprocessing="imagenet")
    expected = (np.array([10, 20, 30]) / 255 - [0.485, 0.456, 0.406]) / [
        0.229,
        0.224,
        0.225,
    ]
    np.testing.assert_allclose(imagenet.ravel(), expected, rtol=1e-5)
    unit = preprocess.normalise(pixel, preprocessing="unit")
    np.testing.assert_allclose(unit.ravel(), np.array([10, 20, 30]) / 255, rtol=1e-6)
    assert caffe.dtype == imagenet.dtype == unit.dtype == jnp.float32
    with pytest.raises(errors.InputError, match="'torch'"):
        preprocess.normalise(pixel, preprocessing="torch")


def test_without_augmentation_the_step_gets_normalised_images(key, images):
    batch = types.Batch(images, images._replace(label=None))
    result = preprocess.preprocess(
        key, batch, source=NONE, target=NONE, preprocessing="caffe"
    )
    expected = preprocess.normalise(images.image)
    np.testing.assert_array_equal(result.source.image, expected)
    np.testing.assert_array_equal(result.target.image, expected)
    np.testing.assert_array_equal(result.source.label, images.label)
    assert result.target.label is None


def test_a_domain_draws_the_same_with_and_without_the_other(key, images):
    def run(source, target):
        released = preprocess.AUGMENTATION["released"]
        return preprocess.preprocess(
            key,
            types.Batch(source, target),
            source=released,
            target=released,
            preprocessing="caffe",
        )

    both, source, target = run(images, images), run(images, None), run(None, images)
    assert source.target is None
    assert target.source is None
    for alone, beside in (
        (source.source, both.source),
        (target.target, both.target),
    ):
        np.testing.assert_array_equal(alone.label, beside.label)
        np.testing.assert_array_equal(alone.image, beside.image)
    assert np.abs(np.asarray(both.source.image - both.target.image)).mean() > 1


def test_jit_is_eager(key, images, heavy):
    batch = types.Batch(images, images)
    eager = preprocess.preprocess(
        key, batch, source=HEAVY, target=HEAVY, preprocessing="caffe"
    )
    compiled = heavy(key, batch)
    np.testing.assert_allclose(compiled.source.image, eager.source.image, atol=1e-3)
    np.testing.assert_array_equal(compiled.source.label, eager.source.label)


def test_eight_devices_draw_what_one_draws(key, images, heavy):
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    spread = jax.NamedSharding(mesh, jax.P("data"))
    batch = types.Batch(images, images)
    one = heavy(key, batch)
    eight = heavy(key, jax.device_put(batch, spread))
    assert len(eight.source.image.sharding.device_set) == 8
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageEnhance
import PIL.ImageFilter
import pytest

from lsr_jax import errors, types
from lsr_jax.augment import transforms

HEIGHT, WIDTH = 24, 36


@pytest.fixture(scope="module")
def pictures():
    """Four smooth and busy uint8 pictures, one of them with large flat parts."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (4, HEIGHT, WIDTH, 3), np.uint8)
    ramp = np.linspace(0, 255, WIDTH).astype(np.uint8)
    picture[1] = ramp[None, :, None]
    picture[2, 6:18] = (250, 10, 128)
    return picture


@pytest.fixture(scope="module")
def images(pictures):
    """The label is a function of the pixel: it tells whether both moved alike."""
    return types.Images(jnp.asarray(pictures), jnp.asarray(_label(pictures)))


def _label(picture):
    return picture[..., 0] ^ picture[..., 1] ^ picture[..., 2]


def _same_place(images):
    np.testing.assert_array_equal(images.label, _label(np.asarray(images.image)))


def test_mirror_takes_the_label_along_and_draws_per_image(key, images, pictures):
    many = jax.tree.map(lambda array: np.repeat(array, 8, axis=0), images)
    result = transforms.mirror(key, many, probability=0.5)
    _same_place(result)
    image = np.asarray(result.image)
    mirrored = np.all(image[:, :, ::-1] == many.image, axis=(1, 2, 3))
    kept = np.all(image == many.image, axis=(1, 2, 3))
    np.testing.assert_array_equal(mirrored, ~kept)
    assert 8 <= mirrored.sum() <= 24
    always = transforms.mirror(key, images, probability=1.0)
    np.testing.assert_array_equal(always.image, pictures[:, :, ::-1])


def test_geometry_leaves_a_missing_label_missing(key, images):
    unlabelled = images._replace(label=None)
    for effect in (
        transforms.mirror,
        functools.partial(transforms.crop, size=(8, 8)),
        functools.partial(transforms.scale_crop, size=(8, 8)),
    ):
        assert jax.eval_shape(effect, key, unlabelled).label is None


def test_crop_is_a_window_of_image_and_label_alike(key, images, pictures):
    result = transforms.crop(key, images, size=(5, 7))
    assert result.image.dtype == jnp.uint8
    _same_place(result)
    for image, whole in zip(np.asarray(result.image), pictures, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(whole, (5, 7), (0, 1))
        windows = np.moveaxis(windows, 2, -1)
        assert np.any(np.all(windows == image, axis=(2, 3, 4)))


def test_crop_reaches_every_corner_and_nothing_else(key):
    position = jnp.arange(6, dtype=jnp.uint8).reshape(1, 2, 3)
    images = types.Images(
        jnp.tile(position[..., None], (200, 1, 1, 3)), jnp.tile(position, (200, 1, 1))
    )
    corners = np.asarray(transforms.crop(key, images, size=(1, 2)).label[:, 0, 0])
    assert set(corners.tolist()) == {0, 1, 3, 4}
    whole = transforms.crop(key, images, size=(2, 3))
    np.testing.assert_array_equal(whole.image, images.image)


@pytest.mark.golden("daformer_rcs", r"crop\d__.*")
def test_golden_crop_without_majority(golden):
    rules = {"size": (32, 40), "majority": 0.75, "drawn_pixels": 0}
    choose = jax.jit(functools.partial(transforms.choose_window, **rules))
    for j in range(8):
        corners = np.zeros((1, transforms.TRIES, 2), np.int32)
        drawn = golden[f"crop{j}__offsets"]
        corners[0, : len(drawn)] = drawn
        label = golden[f"crop{j}__labels"]
        y, x = np.asarray(choose(label, np.int32(0), corners))
        assert (y, x) == tuple(drawn[-1])
        golden.holds(f"crop{j}__out", label[y : y + 32, x : x + 40])


@pytest.mark.golden(
    "daformer_rcs", r"draw__min_(pixels|crop_ratio)", r"draw\d+__counts"
)
def test_golden_crop_with_the_class(golden):
    least = int(golden["draw__min_pixels"]) * float(golden["draw__min_crop_ratio"])
    for j in range(12):
        counts = golden[f"draw{j}__counts"]
        tries = jnp.zeros(transforms.TRIES, jnp.int32).at[: len(counts)].set(counts)
        chosen = transforms.first(
            lambda i, t=tries: t[i] > int(least), transforms.TRIES
        )
        assert int(chosen) == len(counts) - 1


def test_crop_takes_the_first_window_that_both_rules_allow(key):
    """Each image is compared with a search in numpy through the same windows."""
    rng = np.random.default_rng(3)
    label = np.kron(rng.integers(0, 6, (24, 5, 6)), np.ones((8, 8), int))
    label = np.where(label == 5, types.IGNORE, label).astype(np.uint8)
    images = types.Images(np.stack([label] * 3, -1), label)
    drawn = rng.integers(0, 5, 24).astype(np.int32)
    rules = {"majority": 0.6, "drawn_pixels": 20}
    run = functools.partial(transforms.crop, size=(10, 12), **rules)
    result = jax.jit(run)(key, images, drawn=drawn)
    np.testing.assert_array_equal(result.image[..., 0], result.label)
    shape = (24, transforms.TRIES, transforms.TRIES, 2)
    corners = np.asarray(jax.random.randint(key, shape, 0, jnp.array([31, 37])))
    ends = []
    for image, c, candidates, found in zip(
        label, drawn, corners, np.asarray(result.label), strict=True
    ):
        for i, repetition in enumerate(candidates):  # noqa: B007
            for k, (y, x) in enumerate(repetition):  # noqa: B007
                window = image[y : y + 10, x : x + 12]
                counts = np.bincount(window.ravel(), minlength=256)[:255]
                if counts.max() < 0.6 * counts.sum():
                    break
            if counts[c] > 20:
                break
        ends.append((i, k))
        np.testing.assert_array_equal(found, window)
    assert len(set(ends)) > 5


def test_crop_draws_the_same_window_where_no_rule_refuses_it(key, images):
    plain = transforms.crop(key, images, size=(5, 7))
    rule = transforms.crop(key, images, size=(5, 7), majority=1.0, drawn_pixels=0)
    np.testing.assert_array_equal(plain.image, rule.image)
    with pytest.raises(errors.InputError, match="majority needs labels"):
        transforms.crop(key, images._replace(label=None), size=(5, 7), majority=0.75)
    with pytest.raises(errors.InputError, match="drawn_pixels rare_classes too"):
        transforms.crop(key, images, size=(5, 7), drawn_pixels=3)


def _nearest(start, count, extent, scaled):
    """Source positions, and where PIL's float sum may fall one short of them."""
    twice = (2 * (start + np.arange(count)) + 1) * extent
    return twice // (2 * scaled), twice % (2 * scaled) == 0


@pytest.mark.parametrize("scale", [(0.5, 0.5), (0.9, 1.1), (1.7, 1.7)])
def test_scale_crop_agrees_with_pil(key, images, pictures, scale):
    size = (11, 15)
    result = jax.jit(functools.partial(transforms.scale_crop, size=size, scale=scale))(
        key, images
    )
    scale_key, corner_key = jax.random.split(key)
    factor = jax.random.uniform(scale_key, (4,), minval=scale[0], maxval=scale[1])
    scaled = np.round(np.asarray(factor)[:, None] * np.float32([HEIGHT, WIDTH]))
    slack = jnp.asarray(scaled.astype(np.int32)) - jnp.array(size) + 1
    corners = np.asarray(jax.random.randint(corner_key, (4, 2), 0, slack))
    for i, (y, x) in enumerate(corners):
        height, width = (int(extent) for extent in scaled[i])
        box = (x, y, x + size[1], y + size[0])
        image = PIL.Image.fromarray(pictures[i]).resize(
            (width, height), PIL.Image.BILINEAR
        )
        label = PIL.Image.fromarray(np.asarray(images.label[i])).resize(
            (width, height), PIL.Image.NEAREST
        )
        row, row_whole = _nearest(y, size[0], HEIGHT, height)
        column, column_whole = _nearest(x, size[1], WIDTH, width)
        np.testing.assert_array_equal(result.label[i], images.label[i][row][:, column])
        agree = np.asarray(result.label[i]) == np.asarray(label.crop(box))
        assert np.all(agree | row_whole[:, None] | column_whole)
        difference = np.asarray(image.crop(box), np.float32) - result.image[i]
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("effect", [transforms.crop, transforms.scale_crop])
def test_a_window_that_does_not_fit_is_an_error(key, images, effect):
    with pytest.raises(
        errors.InputError, match=r"crop 30x20 .* does not fit .* 12x18|24x36"
    ):
        effect(key, images, size=(30, 20))


@pytest.mark.parametrize(
    ("white_point", "jitter", "low", "high"),
    [(75, 20, 180, 330), (150, 50, 120, 405), (0, 25, 255, 255)],
)
def test_colour_jitter_is_the_integer_formula(
    key, pictures, white_point, jitter, low, high
):
    image = jnp.asarray(pictures, jnp.float32)
    run = jax.jit(
        lambda key: transforms.colour_jitter(
            key, image, white_point=white_point, jitter=jitter
        )
    )
    white_key, jitter_key = jax.random.split(key)
    shape = (4, 1, 1, 3)
    white = np.asarray(jax.random.randint(white_key, shape, low, high + 1))
    shift = np.asarray(jax.random.randint(jitter_key, shape, -jitter, jitter + 1))
    exact = np.clip(255 * pictures.astype(np.int64) // white + shift, 0, 255)
    np.testing.assert_array_equal(run(key), exact)
    # As written by the original, in float64 with a cast: one less, if at all, and only
    # where the quotient is a whole number.
    cast = np.clip(pictures * (255.0 / white) + shift, 0, 255).astype(np.uint8)
    whole = (255 * pictures.astype(np.int64)) % white == 0
    assert np.all((exact == cast) | (whole & (exact == cast + 1)))


def test_colour_jitter_is_exact_for_every_level_and_white_point():
    level = jnp.arange(256, dtype=jnp.float32)
    levels = jnp.broadcast_to(level[None, :, None, None], (400, 256, 1, 3))
    for seed in range(3):
        key = jax.random.key(seed)
        result = transforms.colour_jitter(key, levels, white_point=150, jitter=0)
        white = jax.random.randint(jax.random.split(key)[0], (400, 1, 1, 3), 120, 406)
        exact = np.arange(256)[None, :, None, None] * 255 // np.asarray(white)
        np.testing.assert_array_equal(result, np.minimum(exact, 255))


@pytest.mark.parametrize(
    ("effect", "enhancer", "rounding"),
    [
        # PIL rounds luma and its mean by a half each, times |f - 1|, and cuts the result.
        (transforms.contrast, PIL.ImageEnhance.Contrast, lambda f: 1 + abs(f - 1)),
        (transforms.saturation, PIL.ImageEnhance.Color, lambda f: 1 + abs(f - 1) / 2),
    ],
)
def test_contrast_and_saturation_agree_with_pil(
    key, pictures, effect, enhancer, rounding
):
    result = effect(key, jnp.asarray(pictures, jnp.float32), strength=0.6)
    factor = jax.random.uniform(key, (4, 1, 1, 1), minval=0.4, maxval=1.6).ravel()
    for picture, f, image in zip(pictures, factor, result, strict=True):
        expected = enhancer(PIL.Image.fromarray(picture)).enhance(float(f))
        difference = np.abs(np.asarray(expected, np.float32) - np.asarray(image))
        assert difference.max() <= rounding(float(f)) + 1e-3
    assert np.abs(np.asarray(result) - pictures).max() > 20


def test_gaussian_blur_is_three_boxes_each_way(pictures):
    sigma = np.float32([0.0, 0.4, 0.8, 1.2])
    run = jax.jit(lambda image: transforms.gaussian_blur(image, sigma, largest=1.2))
    result = run(jnp.asarray(pictures, jnp.float32))
    np.testing.assert_array_equal(result[0], pictures[0])
    for i in (1, 2, 3):
        # A box of three taps (a, 1, a) / (1 + 2a) has the variance 2a / (1 + 2a).
        variance = sigma[i] ** 2 / 3
        a = variance / (2 - 2 * variance)
        box = np.array([a, 1, a]) / (1 + 2 * a)
        kernel = np.convolve(np.convolve(box, box), box)
        padded = np.pad(pictures[i].astype(float), ((3, 3), (3, 3), (0, 0)), "edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), (0, 1))
        expected = np.einsum("yxcij,i,j->yxc", windows, kernel, kernel)
        np.testing.assert_allclose(result[i], expected, atol=1e-3)


@pytest.mark.parametrize("largest", [1.2, 3.0])
def test_gaussian_blur_agrees_with_pil_up_to_rounding_and_border(pictures, largest):
    sigma = np.float32([0.1, 0.4, 0.8, 1.0]) * largest
    image = jnp.asarray(pictures, jnp.float32)
    image = image.at[1:].set(image[0])
    result = transforms.gaussian_blur(image, jnp.asarray(sigma), largest=largest)
    border = 2 * math.ceil(largest)
    inside = (slice(border, -border), slice(border, -border))
    for radius, blurred in zip(sigma, np.asarray(result), strict=True):
        pil = PIL.Image.fromarray(pictures[0]).filter(
            PIL.ImageFilter.GaussianBlur(float(radius))
        )
        difference = np.abs(np.asarray(pil, np.float32) - blurred)[inside]
        assert difference.max() <= 3
        assert difference.mean() <= 1.2


def test_blur_draws_chance_and_strength_for_each_image(key, pictures):
    image = jnp.tile(jnp.asarray(pictures[:1], jnp.float32), (64, 1, 1, 1))
    result = transforms.blur(key, image, strength=1.0, probability=0.5)
    change = np.abs(np.asarray(result - image)).mean(axis=(1, 2, 3))
    assert 20 <= np.sum(change == 0) <= 44
    assert len(np.unique(change)) > 12
    always = transforms.blur(key, image, strength=1.0, probability=1.0)
    assert np.all(np.any(np.asarray(always != image), axis=(1, 2, 3)))
    white = transforms.blur(key, jnp.full_like(image, 255.0), strength=1.0)
    np.testing.assert_allclose(white, 255.0, rtol=1e-6)
    assert float(white.max()) <= 255


def test_noise_has_the_moments_of_a_normal(key):
    image = jnp.full((4, 96, 96, 3), 128.0)
    result = np.asarray(transforms.noise(key, image, strength=12.0)) - 128.0
    sigma = jax.random.uniform(jax.random.split(key)[0], (4, 1, 1, 1), maxval=12.0)
    z = result / np.asarray(sigma)
    count = z[0].size
    np.testing.assert_allclose(z.mean(axis=(1, 2, 3)), 0, atol=4 / count**0.5)
    np.testing.assert_allclose(z.std(axis=(1, 2, 3)), 1, atol=4 / (2 * count) ** 0.5)
    np.testing.assert_allclose((z**4).mean(), 2.7, atol=0.05)
    assert np.abs(z).max() <= 3.46
    neighbours = (
        (z[:, 1:] * z[:, :-1]).mean(),
        (z[:, :, 1:] * z[:, :, :-1]).mean(),
        (z[..., 1:] * z[..., :-1]).mean(),
        (z[1:] * z[:-1]).mean(),
    )
    np.testing.assert_allclose(neighbours, 0, atol=4 / count**0.5)


def test_noise_stays_within_the_levels(key):
    for level in (0.0, 255.0):
        result = transforms.noise(key, jnp.full((2, 8, 8, 3), level), strength=12.0)
        assert float(result.min()) >= 0
        assert float(result.max()) <= 255

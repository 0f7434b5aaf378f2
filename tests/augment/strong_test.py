import colorsys
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.augment import preprocess, strong

# On the scale 0..255, from tests/goldens/README.md or tighter.
JITTER = 5e-2
CLEAN = 1e-3
BLUR = 1e-3
LEVELS = ("255 levels", np.float64(1))

JITTERED = jax.jit(strong.jitter)
BLURRED = jax.jit(strong.gaussian_blur, static_argnames="largest")
MEAN = np.float32([104.00698793, 116.66876762, 122.67891434])


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).uniform(0, 255, (4, 30, 40, 3)).astype(np.float32)


def by_hand(pixel, factors, order):
    x = np.array(pixel, np.float64) / 255
    for operation in order:
        if operation == 0:
            x = x + factors[0] - 1
        elif operation == 1:
            x = x * factors[1]
        else:
            hue, saturation, value = colorsys.rgb_to_hsv(*x)
            if operation == 2:
                saturation = min(saturation * factors[2], 1)
            else:
                hue = (hue + factors[3]) % 1
            x = np.array(colorsys.hsv_to_rgb(hue, saturation, value))
        x = np.clip(x, 0, 1)
    return 255 * x


def test_jitter_by_hand(image):
    rng = np.random.default_rng(1)
    orders = np.array(list(itertools.permutations(range(4))))[[0, 9, 14, 23]]
    factors = rng.uniform(0.5, 1.5, (4, 4))
    factors[:, 3] -= 1
    image = image.copy()
    image[:, 0, 0] = [[0, 0, 0], [255, 255, 255], [80, 80, 80], [255, 0, 0]]
    found = JITTERED(image, np.float32(factors), orders)
    for b, row, column in itertools.product(range(4), range(0, 30, 6), range(0, 40, 8)):
        wanted = by_hand(image[b, row, column], factors[b], orders[b])
        np.testing.assert_allclose(found[b, row, column], wanted, atol=2e-3)


def test_blur_by_hand():
    image = np.zeros((2, 30, 50, 3), np.float32)
    image[:, 12, 20] = 1000
    sigma = np.float32([0.5, 1.0])
    found = np.asarray(BLURRED(image, sigma, largest=1.0))
    for b, reach in itertools.product(range(2), (1, 2)):
        ratio = found[b, 12, 20 + reach, 0] / found[b, 12, 20, 0]
        wanted = np.exp(-(reach**2) / 2 / sigma[b] ** 2)
        np.testing.assert_allclose(ratio, wanted, rtol=1e-4)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), 1000, rtol=1e-5)
    # 3 taps of 30 rows, 5 of 50 columns: a larger kernel does not fit.
    assert not found[:, [10, 14]].any()
    assert not found[:, :, [17, 23]].any()


def test_the_border_is_mirrored_and_not_repeated():
    image = np.zeros((1, 30, 30, 3), np.float32)
    image[:, :, 1] = 100
    found = BLURRED(image, np.float32([1.0]), largest=1.0)
    side = np.exp(-0.5) / (1 + 2 * np.exp(-0.5))
    np.testing.assert_allclose(found[0, :, 0], 200 * side, rtol=1e-5)


JITTERS = functools.partial(strong.colour_jitter, strength=0.25, probability=0.8)
BLURS = functools.partial(strong.blur, sigma=(0.15, 1.15), probability=0.5)


@pytest.mark.parametrize(("effect", "share"), [(JITTERS, 0.8), (BLURS, 0.5)])
def test_every_image_has_its_own_draws(key, effect, share, image):
    many = np.repeat(image[:1], 64, axis=0)
    found = np.asarray(jax.jit(effect)(key, many))
    assert found.min() >= 0
    assert found.max() <= 255
    touched = np.any(found != many, axis=(1, 2, 3))
    assert abs(touched.mean() - share) < 0.2
    distinct = np.unique(found[touched].reshape(touched.sum(), -1), axis=0)
    assert len(distinct) == touched.sum()
    np.testing.assert_array_equal(effect(key, image, probability=0.0), image)


def test_drawn_strengths_stay_in_their_ranges(key):
    """A grey image shows brightness and contrast alone, a coloured one the hue too."""
    grey = np.full((256, 1, 1, 3), 127.5, np.float32)
    found = np.asarray(JITTERS(key, grey, probability=1.0)) / 255
    np.testing.assert_allclose(found[..., 0], found[..., 2], atol=1e-6)
    assert 0.5 * 0.75 - 0.25 - 1e-5 <= found.min() < 0.2
    assert 0.85 < found.max() <= (0.5 + 0.25) * 1.25 + 1e-5
    red = np.full((256, 1, 1, 3), [180, 60, 60], np.float32)
    found = np.asarray(JITTERS(key, red, probability=1.0))
    hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in found[:, 0, 0] / 255])
    turns = (hues + 0.5) % 1 - 0.5
    assert -0.2501 < turns.min() < -0.2
    assert 0.2 < turns.max() < 0.2501


@pytest.mark.golden("dacs", "jitter__.*")
def test_golden_jitter(golden):
    """The original's BGR goes in as it is; its broken pixels are those marked."""
    for case, draw in itertools.product(("mid", "wide"), range(3)):
        stem = f"jitter__{case}__draw{draw}__"
        found = JITTERED(
            golden[f"jitter__{case}__image"] + MEAN,
            golden[f"{stem}factors"][None].astype(np.float32),
            golden[f"{stem}order"][None],
        )
        found = np.asarray(found) - MEAN
        golden.holds(f"{stem}out_own", found, CLEAN, scale=LEVELS)
        broken = golden[f"{stem}defect"][..., None]
        released = golden[f"{stem}out"]
        unbroken = np.where(broken, released, found)
        golden.holds(f"{stem}out", unbroken, JITTER, scale=LEVELS)
        if broken.any():
            assert np.abs(released - found)[broken[..., 0]].max(-1).min() > JITTER


@pytest.mark.golden("dacs", "blur__.*")
def test_golden_blur(golden):
    sizes = [strong.kernel_size(int(side)) for side in golden["blur__sides"]]
    golden.equals("blur__ksize", sizes)
    for i in range(3):
        sigma = golden[f"blur__sigma{i}"].astype(np.float32)[None]
        found = BLURRED(golden["blur__image"], sigma, largest=1.15)
        golden.holds(f"blur__out{i}", found, BLUR, scale=LEVELS)


def test_blur_commutes_with_the_normalisation(image):
    """The original blurs the network's input: the same, the kernel has the sum 1."""
    sigma = jnp.full(4, 0.9)
    pixels = preprocess.pixels("caffe")
    after = pixels.normalise(BLURRED(image, sigma, largest=1.0))
    before = BLURRED(pixels.normalise(image), sigma, largest=1.0)
    np.testing.assert_allclose(after, before, atol=1e-4)


IMAGENET = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


@pytest.mark.golden("daformer_mixing", "jitter__(?!.*_f64).*")
def test_golden_jitter_of_daformer(golden):
    """One order for the images of a call; normalised before and after."""
    mean, std = IMAGENET
    for case, draw in itertools.product(("mid", "wide"), range(4)):
        stem = f"jitter__{case}__draw{draw}__"
        order = np.tile(golden[f"{stem}order"], (2, 1))
        image, factors = golden[f"jitter__{case}__image"], golden[f"{stem}factors"]
        # The original restores the network's input, which is float32.
        image = ((image - mean) / std).astype(np.float32) * std + mean
        found = JITTERED(np.float32(image), np.float32(factors), order)
        normalised = (np.asarray(found) - mean) / std
        golden.holds(f"{stem}out", normalised, scale="largest")


@pytest.mark.golden("daformer_mixing", "blur__.*")
def test_golden_blur_of_daformer(golden):
    sizes = [strong.kernel_size(int(side)) for side in golden["blur__sides"]]
    golden.equals("blur__ksize", sizes)
    mean, std = IMAGENET
    image = (golden["blur__image"] - mean) / std
    for i in range(3):
        sigma = golden[f"blur__sigma{i}"][None]
        with jax.enable_x64(True):
            found = BLURRED(image, sigma, largest=1.15)
        golden.holds(f"blur__out{i}_f64", found, 1e-6, scale="largest")

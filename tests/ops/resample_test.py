import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import errors
from lsr_jax.ops import resample

LABELS = (
    np.random.default_rng(0).choice([0, 1, 2, 2, 255], (2, 21, 34)).astype(np.int32)
)
IMAGE = np.random.default_rng(1).normal(size=(2, 5, 8, 3)).astype(np.float32)


def slow_bilinear(x, size):
    batch, height, width, channels = x.shape
    out = np.zeros((batch, *size, channels))
    for i in range(size[0]):
        for j in range(size[1]):
            y = i * (height - 1) / max(size[0] - 1, 1)
            z = j * (width - 1) / max(size[1] - 1, 1)
            a, b = int(y), int(z)
            a2, b2 = min(a + 1, height - 1), min(b + 1, width - 1)
            top = x[:, a, b] * (1 - (z - b)) + x[:, a, b2] * (z - b)
            low = x[:, a2, b] * (1 - (z - b)) + x[:, a2, b2] * (z - b)
            out[:, i, j] = top * (1 - (y - a)) + low * (y - a)
    return out


def slow_average(x, size):
    height, width = x.shape[1:3]
    out = np.zeros((len(x), *size, x.shape[-1]))
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * height // size[0], -(-(i + 1) * height // size[0]))
            columns = slice(j * width // size[1], -(-(j + 1) * width // size[1]))
            out[:, i, j] = x[:, rows, columns].mean((1, 2))
    return out


def slow_counts(labels, size, num_classes, window):
    batch, height, width = labels.shape
    out = np.zeros((batch, *size, num_classes))
    k = int(np.ceil(height / size[0] / 2))
    k2 = int(np.ceil(width / size[1] / 2))
    if window == "full":
        offsets = [(u, v) for u in range(-k, k + 1) for v in range(-k2, k2 + 1)]
    else:
        offsets = [(u, u) for u in [*range(-k, k), k + 1]]
    for i in range(size[0]):
        for j in range(size[1]):
            for u, v in offsets:
                y = int(height / size[0] * i) + u
                x = int(width / size[1] * j) + v
                if 0 <= y < height and 0 <= x < width:
                    for b in range(batch):
                        if labels[b, y, x] < num_classes:
                            out[b, i, j, labels[b, y, x]] += 1
    return out


@pytest.mark.parametrize("size", [(9, 15), (5, 8), (3, 4), (1, 1)])
def test_bilinear(size):
    ours = jax.jit(resample.bilinear, static_argnums=1)(IMAGE, size)
    np.testing.assert_allclose(ours, slow_bilinear(IMAGE, size), rtol=0, atol=1e-6)


def test_bilinear_keeps_corners_and_lines():
    ramp = jnp.arange(4.0).reshape(1, 1, 4, 1)
    np.testing.assert_allclose(
        resample.bilinear(ramp, (1, 7))[0, 0, :, 0], np.arange(7) / 2, atol=1e-6
    )


def test_bilinear_of_half_precision_is_float32():
    half = jnp.asarray(IMAGE, jnp.bfloat16)
    ours = resample.bilinear(half, (9, 15))
    assert ours.dtype == jnp.float32
    full = slow_bilinear(np.asarray(half.astype(jnp.float32)), (9, 15))
    np.testing.assert_allclose(ours, full, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(3, 4), (5, 8), (2, 3), (7, 9)])
def test_adaptive_average(size):
    ours = jax.jit(resample.adaptive_average, static_argnums=1)(IMAGE, size)
    np.testing.assert_allclose(ours, slow_average(IMAGE, size), rtol=0, atol=1e-6)


def test_window_average():
    """Windows of 5x8 that would leave the image are left out."""
    average = jax.jit(resample.window_average, static_argnums=(1, 2))
    found = average(IMAGE, 3, 2)
    assert found.shape == (2, 2, 3, 3)
    for i in range(2):
        for j in range(3):
            window = IMAGE[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            np.testing.assert_allclose(found[:, i, j], window.mean((1, 2)), atol=1e-6)
    np.testing.assert_array_equal(average(IMAGE, 1, 1), IMAGE)
    np.testing.assert_allclose(
        average(IMAGE, 5, 2)[:, 0, 1], IMAGE[:, :, 2:7].mean((1, 2)), atol=1e-6
    )


@pytest.mark.parametrize("window", ["full", "diagonal"])
def test_window_counts(window):
    counts = jax.jit(lambda x: resample.window_counts(x, (4, 7), 3, window=window))(
        LABELS
    )
    np.testing.assert_array_equal(counts, slow_counts(LABELS, (4, 7), 3, window))
    eager = resample.window_counts(jnp.asarray(LABELS), (4, 7), 3, window=window)
    np.testing.assert_array_equal(counts, eager)


def test_window_counts_of_an_oblong_window():
    counts = resample.window_counts(jnp.asarray(LABELS), (5, 5), 3)
    np.testing.assert_array_equal(counts, slow_counts(LABELS, (5, 5), 3, "full"))
    with pytest.raises(errors.InputError, match=r"found 3 and 4 .* window='full'"):
        resample.window_counts(jnp.asarray(LABELS), (5, 5), 3, window="diagonal")


def test_diagonal_sees_a_line_only_where_it_samples():
    # A one-pixel diagonal line through the centres labels every cell; shifted by one
    # pixel it labels none.
    line = np.full((1, 64, 64), 255, np.int32)
    line[0, np.arange(64), np.arange(64)] = 1
    shifted = np.roll(line, 1, axis=2)
    diagonal = np.arange(8)
    for labels, seen in ((line, True), (shifted, False)):
        counts = resample.window_counts(
            jnp.asarray(labels), (8, 8), 2, window="diagonal"
        )
        assert (np.asarray(counts)[0, diagonal, diagonal, 1] > 0).all() == seen
        full = resample.window_counts(jnp.asarray(labels), (8, 8), 2)
        assert (np.asarray(full)[0, diagonal, diagonal, 1] > 0).all()


@pytest.mark.parametrize("rule", ["pil", "torch"])
def test_nearest(rule):
    shift = 0.5 if rule == "pil" else 0.0
    for size in ((4, 7), (21, 34), (30, 50), (8, 16)):
        rows = [int((i + shift) * 21 / size[0]) for i in range(size[0])]
        columns = [int((j + shift) * 34 / size[1]) for j in range(size[1])]
        ours = jax.jit(lambda x, size=size: resample.nearest(x, size, rule=rule))(
            LABELS
        )
        np.testing.assert_array_equal(ours, LABELS[:, rows][:, :, columns])


def test_unknown_choices_are_refused():
    labels = jnp.asarray(LABELS)
    with pytest.raises(ValueError, match="window"):
        resample.window_counts(labels, (4, 7), 3, window="whole")
    with pytest.raises(ValueError, match="rule"):
        resample.nearest(labels, (4, 7), rule="floor")


@pytest.mark.golden("lsr", "mask_transform__.*(labels|nearest)")
def test_golden_nearest(golden):
    labels = jnp.asarray(golden["mask_transform__labels"])
    for backbone, size in (("resnet101", (9, 17)), ("vgg16", (8, 16))):
        golden.holds(
            f"mask_transform__{backbone}__nearest", resample.nearest(labels, size)
        )


def test_bilinear_and_average_parity_with_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    channels_first = torch.from_numpy(IMAGE.transpose(0, 3, 1, 2))
    for size in ((37, 61), (3, 5), (8, 8)):
        theirs = functional.interpolate(
            channels_first, size, mode="bilinear", align_corners=True
        )
        bilinear = jax.jit(resample.bilinear, static_argnums=1)
        np.testing.assert_allclose(
            bilinear(IMAGE, size),
            theirs.permute(0, 2, 3, 1),
            rtol=0,
            atol=2e-6,
        )
        theirs = functional.adaptive_avg_pool2d(channels_first, size)
        average = jax.jit(resample.adaptive_average, static_argnums=1)
        np.testing.assert_allclose(
            average(IMAGE, size),
            theirs.permute(0, 2, 3, 1),
            rtol=0,
            atol=1e-6,
        )


def test_gradient_parity_of_bilinear_and_average_with_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    bilinear = {"mode": "bilinear", "align_corners": True}
    for ours, theirs, keywords in (
        (resample.bilinear, functional.interpolate, bilinear),
        (resample.adaptive_average, functional.adaptive_avg_pool2d, {}),
    ):
        for size in ((37, 61), (3, 5)):
            images = torch.from_numpy(IMAGE.transpose(0, 3, 1, 2)).requires_grad_()
            resized = theirs(images, size, **keywords)
            (resized**3).sum().backward()
            found = jax.grad(lambda x: (ours(x, size) ** 3).sum())(jnp.asarray(IMAGE))  # noqa: B023
            expected = images.grad.permute(0, 2, 3, 1).numpy()
            scale = np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)


def test_nearest_parity_with_torch_and_pil_at_many_sizes():
    torch = pytest.importorskip("torch")
    image = pytest.importorskip("PIL.Image")
    for length in (720, 641, 1052, 100):
        ramp = np.arange(length, dtype=np.int32)[None]
        for target in (*range(1, 200), 321):
            size = (1, target)
            ours = resample._nearest_index(length, target, "torch")
            theirs = torch.nn.functional.interpolate(
                torch.from_numpy(ramp[None].astype(np.float32)), target, mode="nearest"
            )
            np.testing.assert_array_equal(ours, theirs[0, 0])
            ours = resample._nearest_index(length, target, "pil")
            theirs = image.fromarray(ramp).resize(size[::-1], image.NEAREST)
            np.testing.assert_array_equal(ours, np.asarray(theirs)[0])


@pytest.mark.parametrize("case", ["up4", "odd", "down", "scale2", "up8"])
@pytest.mark.golden("daformer_losses", "resize__(in|(up4|odd|down|scale2|up8)__.*)")
def test_half_pixel_corners_are_those_of_torch(golden, case):
    golden.only(f"resize__(in|{case}__.*)")
    image = golden["resize__in"]
    size = golden[f"resize__{case}__out"].shape[1:3]

    @jax.jit
    def resized(x):
        return resample.bilinear(x, size, corners="half_pixel")

    golden.holds(f"resize__{case}__out", resized(image), scale="largest")
    with jax.enable_x64(True):
        wide = jnp.asarray(image, jnp.float64)
        out, pullback = jax.vjp(resized, wide)
        channels_first = jnp.linspace(-1, 1, out.size).reshape(1, 3, *size)
        (gradient,) = pullback(jnp.moveaxis(channels_first, 1, -1))
    golden.holds(f"resize__{case}__out_f64", out, 1e-12, scale="largest")
    golden.holds(f"resize__{case}__grad_f64", gradient, 1e-12, scale="largest")


@pytest.mark.parametrize("corners", ["aligned", "half_pixel"])
def test_the_same_size_is_the_identity(corners):
    ours = resample.bilinear(IMAGE, IMAGE.shape[1:3], corners=corners)
    np.testing.assert_array_equal(ours, IMAGE)

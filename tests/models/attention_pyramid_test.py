"""SAPNet's domain classifier: numbers by hand, and a slow twin in numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick

from lsr_jax import models
from lsr_jax.errors import InputError

CHANNELS, GUIDANCE, WINDOWS, STRIDE = 5, 3, (1, 3, 6), 2
SIZE, GUIDANCE_SIZE = (7, 9), (4, 5)


@pytest.fixture(autouse=True)
def _narrow():
    with quick.discriminators():
        yield


def network(dropout=0.0, windows=WINDOWS):
    init, apply = models.attention_pyramid(
        CHANNELS, GUIDANCE, windows=windows, stride=STRIDE, dropout=dropout
    )
    return init(jax.random.key(1)), apply


def maps(count=2):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, *SIZE, CHANNELS)).astype(np.float32)
    guidance = rng.normal(size=(count, *GUIDANCE_SIZE, GUIDANCE)).astype(np.float32)
    return features, guidance


def convolved(x, layer):
    """Of one image ``[h, w, in]``, with zeros around it."""
    kernel = np.asarray(layer["kernel"], np.float64)
    reach = kernel.shape[0] // 2
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)))
    out = np.zeros((*x.shape[:2], kernel.shape[-1]))
    for i, j in np.ndindex(x.shape[:2]):
        for a, b in np.ndindex(kernel.shape[:2]):
            out[i, j] += padded[i + a, j + b] @ kernel[a, b]
    return out + np.asarray(layer.get("bias", 0.0), np.float64)


def resized(x, size):
    """Aligned corners, one position after the other."""
    out = np.zeros((*size, x.shape[-1]))
    for place in np.ndindex(size):
        at = [
            i * (old - 1) / max(new - 1, 1)
            for i, old, new in zip(place, x.shape[:2], size, strict=True)
        ]
        for corner in np.ndindex(2, 2):
            index = [
                min(int(p) + c, n - 1)
                for p, c, n in zip(at, corner, x.shape, strict=False)
            ]
            share = [p % 1 if c else 1 - p % 1 for p, c in zip(at, corner, strict=True)]
            out[place] += share[0] * share[1] * x[tuple(index)]
    return out


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def twin(params, features, guidance):
    """The logit of one image, without dropout."""
    embedded = features.astype(np.float64)
    for number in (1, 2, 3):
        embedded = convolved(embedded, params[f"embedding{number}"])
        norm = params[f"norm{number}"]
        for c in range(embedded.shape[-1]):
            x = embedded[..., c]
            x = (x - x.mean()) / math.sqrt(x.var() + 1e-5)
            embedded[..., c] = x * norm["scale"][c] + norm["bias"][c]
        embedded = np.maximum(embedded, 0)
    joint = {
        "kernel": np.concatenate(
            [params["trunk1"]["kernel"], params["guidance"]["kernel"]], axis=2
        ),
        "bias": params["trunk1"]["bias"],
    }
    guidance = resized(guidance.astype(np.float64), features.shape[:2])
    trunk = np.concatenate([features, guidance], axis=-1)
    for layer in (joint, params["trunk2"], params["trunk3"]):
        trunk = np.maximum(convolved(trunk, layer), 0)

    vectors = []
    for level, window in enumerate(WINDOWS, start=1):
        size = tuple((side - window) // STRIDE + 1 for side in features.shape[:2])
        scores = resized(trunk, size)
        for number in (1, 2, 3):
            scores = convolved(scores, params[f"attention{level}_{number}"])
            scores = np.maximum(scores, 0) if number < 3 else scores
        weights = softmax(scores[..., 0], axis=(0, 1))
        vector = 0
        for i, j in np.ndindex(*size):
            rows, columns = (slice(STRIDE * n, STRIDE * n + window) for n in (i, j))
            vector += weights[i, j] * embedded[rows, columns].mean((0, 1))
        vectors.append(vector)
    vectors = np.stack(vectors)
    hidden = np.maximum(vectors.sum(0) @ params["fusion1"]["kernel"][0, 0], 0)
    shares = (hidden @ params["fusion2"]["kernel"][0, 0]).reshape(vectors.shape)
    fused = (softmax(shares, axis=0) * vectors).sum(0)
    scores = fused @ params["classifier"]["kernel"][0, 0] + params["classifier"]["bias"]
    return scores[1] - scores[0]


def test_against_the_slow_twin():
    params, apply = network()
    # Norms at their start would be the identity, and the attention nearly uniform.
    keys = iter(jax.random.split(jax.random.key(2), len(jax.tree.leaves(params))))
    params = jax.tree.map(
        lambda x: 3 * x + 0.3 * jax.random.normal(next(keys), x.shape), params
    )
    features, guidance = maps()
    wanted = [
        twin(jax.device_get(params), f, g)
        for f, g in zip(features, guidance, strict=True)
    ]
    for run in (apply, jax.jit(apply)):
        found = run(params, features, guidance, jax.random.key(0))
        assert found.shape == (2, 1, 1, 1)
        np.testing.assert_allclose(found[:, 0, 0, 0], wanted, rtol=1e-4, atol=1e-5)


def test_equal_features_by_hand():
    """Embedded they are the bias of the last norm, of which every mean is the same."""
    params, apply = network()
    params = jax.tree.map(jnp.zeros_like, params)
    params["norm3"]["bias"] = jnp.array([1.0, 2.0, -3.0, 0.5])  # -3 becomes 0
    params["classifier"] = {
        "kernel": jnp.array([[[[0, 1], [2, 0], [5, 9], [0, 4]]]], jnp.float32),
        "bias": jnp.array([0.25, 0.5]),
    }
    found = apply(params, *maps(), jax.random.key(0))
    # 1 * 1 + 0.5 * 4 + 0.5 for the target, 2 * 2 + 0.25 for the source
    np.testing.assert_allclose(found, np.full((2, 1, 1, 1), 3.5 - 4.25), rtol=1e-6)


def test_every_image_is_by_itself():
    params, apply = network()
    features, guidance = maps(3)
    key = jax.random.key(0)
    together = apply(params, features, guidance, key)
    for i in range(3):
        alone = apply(params, features[i : i + 1], guidance[i : i + 1], key)
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-5, atol=1e-6)


def test_dropout_is_a_function_of_the_key():
    params, apply = network(dropout=0.5)
    first, again, other = (
        apply(params, *maps(), jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).min() > 0


def test_a_window_beyond_the_map_is_refused():
    params, apply = network(windows=(3, 9))
    message = r"method.windows: expected at most 7, .* 7x9 cells; found 9; choose"
    with pytest.raises(InputError, match=message):
        apply(params, *maps(), jax.random.key(0))


def test_initialisation_is_torchs_default():
    params, _ = network()
    # Both are the kernel of one convolution in the original.
    bound = (9 * (CHANNELS + GUIDANCE)) ** -0.5
    for name in ("trunk1", "guidance"):
        kernel = np.abs(params[name]["kernel"])
        assert 0.8 * bound < kernel.max() <= bound
    assert np.abs(params["trunk1"]["bias"]).max() <= bound
    for number in (1, 2, 3):
        np.testing.assert_array_equal(params[f"norm{number}"]["scale"], 1)
        np.testing.assert_array_equal(params[f"norm{number}"]["bias"], 0)


@pytest.mark.parametrize(
    ("channels", "count"), [(1024, 25_561_737), (2048, 87_081_609)]
)
def test_parameters_of_the_detection_code(channels, count, monkeypatch):
    """next_methods.md, 1.3: 19 channels of guidance, 7 windows."""
    monkeypatch.setattr(quick.ATTENTION_PYRAMID, "WIDTH", 256)
    monkeypatch.setattr(quick.ATTENTION_PYRAMID, "HIDDEN", 128)
    windows = (3, 9, 15, 21, 27, 33, 37)
    init, _ = models.attention_pyramid(
        channels, 19, windows=windows, stride=2, dropout=0.5
    )
    leaves = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0)))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count

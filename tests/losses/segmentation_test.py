import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import losses, pseudo_labels

HEADS = ("main", "aux")


def slow_cross_entropy(logits, labels, gamma=0.0):
    terms = []
    for place in np.ndindex(labels.shape):
        if labels[place] < logits.shape[-1]:
            z = logits[place] - logits[place].max()
            p = np.exp(z[labels[place]]) / np.exp(z).sum()
            terms.append(-((1 - p) ** gamma) * np.log(p))
    return np.mean(terms) if terms else 0.0


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 3, 255], (2, 3, 4)).astype(np.int32)
    return jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.float32), jnp.asarray(labels)


@pytest.mark.parametrize("gamma", [None, 0.0, 1.0, 2.0])
def test_against_loops(batch, gamma):
    logits, labels = batch

    @jax.jit
    def loss(logits):
        if gamma is None:
            return losses.cross_entropy(logits, labels)
        return losses.focal_cross_entropy(logits, labels, gamma=gamma)

    def slow(logits):
        return slow_cross_entropy(logits, np.asarray(labels), gamma or 0.0)

    value, gradient = jax.value_and_grad(loss)(logits)
    logits = np.asarray(logits, np.float64)
    np.testing.assert_allclose(value, slow(logits), rtol=1e-6)
    differences = np.zeros_like(logits)
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-5
        differences[place] = (slow(logits + step) - slow(logits - step)) / 2e-5
    np.testing.assert_allclose(gradient, differences, rtol=0, atol=1e-7)


def test_by_hand():
    logits = jnp.log(jnp.array([[[[0.25, 0.75], [0.5, 0.5]]]]))
    labels = jnp.array([[[1, 255]]])
    ours = losses.cross_entropy(logits, labels)
    np.testing.assert_allclose(ours, np.log(4 / 3), rtol=1e-6)
    np.testing.assert_allclose(
        losses.focal_cross_entropy(logits, labels, gamma=2),
        np.log(4 / 3) / 16,
        rtol=1e-6,
    )
    hopeless = jnp.array([[[[0.0, -25.0], [0.0, -1.0]]]])
    value, gradient = jax.value_and_grad(losses.focal_cross_entropy)(
        hopeless, jnp.array([[[1, 1]]]), gamma=2.0, smallest=1e-9
    )
    miss = 1 / (1 + np.exp(-1))
    wanted = (np.log(1e9) - miss**2 * np.log(1 - miss)) / 2
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    assert not gradient[0, 0, 0].any()
    assert gradient[0, 0, 1].all()
    with pytest.raises(ValueError, match="gamma"):
        losses.focal_cross_entropy(logits, labels, gamma=0.5)


STEPS = [
    jax.jit(jax.value_and_grad(loss))
    for loss in (
        losses.cross_entropy,
        functools.partial(losses.focal_cross_entropy, gamma=2.0),
    )
]


@pytest.mark.parametrize("scale", [1.0, 300.0, -300.0])
def test_void_images_and_extreme_logits_stay_finite(batch, scale):
    logits, labels = batch
    void = jnp.full_like(labels, 255)
    logits = np.asarray(logits) * np.float32(scale)
    for step in STEPS:
        value, gradient = step(logits, void)
        assert value == 0
        assert not gradient.any()
        value, gradient = step(logits, labels)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.golden(
    "maxsquare",
    "train__(source_.*|lambda_seg)",
    "train__maxsquare__multi.__(seg_losses|grad_source.*)",
)
def test_golden_source_cross_entropy(golden):
    labels = jnp.asarray(golden["train__source_labels"])
    weights = (1.0, float(golden["train__lambda_seg"]))
    step = STEPS[0]
    for multi in (0, 1):
        key = f"train__maxsquare__multi{multi}__"
        values = []
        for head, weight in list(zip(HEADS, weights, strict=True))[: 1 + multi]:
            logits = jnp.asarray(golden[f"train__source_logits_{head}"])
            value, gradient = step(logits, labels)
            golden.holds_gradient(f"{key}grad_source_logits_{head}", weight * gradient)
            values.append(value)
        golden.holds(f"{key}seg_losses", jnp.stack(values))


@pytest.mark.golden(
    "maxsquare",
    "train__(target_.*|threshold|lambda_.*|guidance.*)",
    "train__.*multi1__grad_target_logits_aux",
    "train__hard__.*",
)
def test_golden_multi_level_guidance(golden):
    main, aux = (jnp.asarray(golden[f"train__target_logits_{head}"]) for head in HEADS)
    threshold = float(golden["train__threshold"])
    scale = float(golden["train__lambda_target"])
    step = STEPS[0]

    guidance = pseudo_labels.thresholded(
        jax.nn.softmax(main), jax.nn.softmax(aux), threshold=threshold
    )
    golden.holds("train__guidance_labels", guidance)
    value, gradient = step(aux, guidance)
    golden.holds("train__guidance_loss", value)
    scaled = float(golden["train__lambda_seg"]) * scale * gradient
    for mode in ("maxsquare", "IW_maxsquare", "entropy", "IW_entropy", "hard"):
        golden.holds_gradient(f"train__{mode}__multi1__grad_target_logits_aux", scaled)

    hard = pseudo_labels.thresholded(jax.nn.softmax(main), threshold=threshold)
    value, gradient = step(main, hard)
    for multi in (0, 1):
        key = f"train__hard__multi{multi}__"
        golden.holds(f"{key}target_loss", value)
        golden.holds_gradient(f"{key}grad_target_logits_main", scale * gradient)

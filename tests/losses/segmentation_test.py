import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held import compiled, computed, holds, holds_scaled, widen

from lsr_jax import losses
from lsr_jax.ops import pseudo_labels

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


def by_class(logits, labels, class_weights):
    """torch's class-weighted mean."""
    weights = jnp.asarray(class_weights)[jnp.where(labels == 255, 0, labels)]
    return losses.weighted_cross_entropy(logits, labels, weights, divisor="weights")


def two_heads(logits, aux, labels):
    loss = losses.cross_entropy
    # The original keeps the weight in float32, also in its float64 run.
    return loss(logits, labels) + float(np.float32(0.4)) * loss(aux, labels)


FOCAL = {
    gamma: functools.partial(losses.focal_cross_entropy, gamma=gamma)
    for gamma in (0.0, 2.0)
}


def valid(labels):
    return int((labels != 255).sum())


def slow_weighted(logits, labels, weights, divisor):
    total = weight = 0.0
    for place in np.ndindex(labels.shape):
        if labels[place] < logits.shape[-1]:
            z = logits[place].astype(np.float64)
            log_p = z[labels[place]] - np.log(np.exp(z).sum())
            total -= weights[place] * log_p
            weight += weights[place]
    return total / (labels.size if divisor == "pixels" else weight)


@pytest.mark.parametrize("divisor", ["pixels", "weights"])
def test_weighted_against_loops(divisor):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    labels = rng.choice([0, 1, 3, 255], (2, 3, 4)).astype(np.int32)
    weights = rng.uniform(size=(2, 3, 4)).astype(np.float32)
    loss = functools.partial(losses.weighted_cross_entropy, divisor=divisor)
    expected = slow_weighted(logits, labels, weights, divisor)
    np.testing.assert_allclose(loss(logits, labels, weights), expected, rtol=1e-5)
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 2)))
    value, gradients = step(logits, labels, weights)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert gradients[0].any()
    assert not gradients[1].any()
    void = np.full_like(labels, 255)
    for none in ((void, weights), (labels, 0 * weights)):
        value, gradients = step(300 * logits, *none)
        assert value == 0
        assert not gradients[0].any()
    with pytest.raises(ValueError, match="divisor"):
        losses.weighted_cross_entropy(logits, labels, weights, divisor="images")


def test_weighted_by_hand():
    logits = jnp.log(jnp.array([[[[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]]]))
    labels, weights = jnp.array([[[1, 0, 255]]]), jnp.array([[[3.0, 1.0, 9.0]]])
    total = 3 * np.log(4 / 3) + np.log(2)
    for divisor, number in (("pixels", 3), ("weights", 4)):
        ours = losses.weighted_cross_entropy(logits, labels, weights, divisor=divisor)
        np.testing.assert_allclose(ours, total / number, rtol=1e-6)


@pytest.mark.golden("advent", "logits|labels", "cross_entropy_2d__.*")
def test_golden_advent(golden):
    inputs = {"logits": (golden["logits"], "grad_logits")}
    labels = golden["labels"]
    holds(golden, "cross_entropy_2d__", losses.cross_entropy, inputs, labels=labels)


@pytest.mark.golden("adaptsegnet", "logits|labels|class_weights", "ce2d__.*")
def test_golden_adapt_seg_net(golden):
    inputs = {"logits": (golden["logits"], "grad_logits")}
    fixed = {"labels": golden["labels"]}
    mean = holds(golden, "ce2d__mean__", losses.cross_entropy, inputs, **fixed)
    holds_scaled(golden, "ce2d__sum__", mean, inputs, valid(fixed["labels"]))
    fixed["class_weights"] = golden["class_weights"]
    holds(golden, "ce2d__weighted__", by_class, inputs, **fixed)


@pytest.mark.golden(
    "clan", "logits|labels", "ce2d__n1__.*", "ce2d__n2__.*correct_value_f64"
)
def test_golden_clan(golden):
    inputs = {"logits": (golden["logits"][:1], "grad_logits")}
    labels = golden["labels"]
    for gamma, loss in FOCAL.items():
        stem = f"ce2d__n1__gamma{gamma:.0f}__"
        mean = holds(golden, f"{stem}mean__", loss, inputs, labels=labels[:1])
        holds_scaled(golden, f"{stem}sum__", mean, inputs, valid(labels[:1]))
        key = f"ce2d__n2__gamma{gamma:.0f}__mean__correct_value_f64"
        with jax.enable_x64(True):
            both = widen({"logits": golden["logits"]}), {"labels": labels}
            golden.holds(key, compiled(loss)[0](*both))


@pytest.mark.golden(
    "cag", "ce__(logits.*|labels|class_weights|cross_entropy.*|multi_scale.*)"
)
def test_golden_cag(golden):
    inputs = {"logits": (golden["ce__logits"], "grad_logits")}
    fixed = {"labels": golden["ce__labels"]}
    loss, number = losses.cross_entropy, valid(fixed["labels"])
    mean = holds(golden, "ce__cross_entropy__", loss, inputs, **fixed)
    holds_scaled(golden, "ce__cross_entropy_sum__", mean, inputs, number)
    both = inputs | {"aux": (golden["ce__logits_aux"], "grad_logits_aux")}
    holds(golden, "ce__multi_scale__", two_heads, both, **fixed)
    fixed["class_weights"] = golden["ce__class_weights"]
    holds(golden, "ce__cross_entropy_weighted__", by_class, inputs, **fixed)


@pytest.mark.golden(
    "dacs",
    "loss__student_logits",
    "mask__odd__(labels|mask)",
    "pseudo__share",
    "mix__(labels|weights__.*)",
    "mixloss__(threshold|ones|allignored).*",
    "srcloss__.*",
)
def test_golden_dacs(golden):
    inputs = {"logits": (golden["loss__student_logits"], "grad_logits")}
    source = golden["mask__odd__labels"]
    holds(golden, "srcloss__", losses.cross_entropy, inputs, labels=source)
    mixed, loss = golden["mix__labels"], losses.weighted_cross_entropy
    for mode in ("threshold_uniform", "threshold", "ones"):
        fixed = {"labels": mixed, "weights": golden[f"mix__weights__{mode}"]}
        exact = mode != "threshold_uniform"
        holds(golden, f"mixloss__{mode}__", loss, inputs, wide=exact, **fixed)
    void = {"labels": np.full_like(mixed, 255), "weights": fixed["weights"]}
    logits = {"logits": golden["loss__student_logits"]}
    nothing = computed(loss, logits, void, wide=False)[0]
    golden.holds("mixloss__allignored__value", nothing)
    # The share is rounded in the recorded weights, not in the float64 run.
    weights = np.where(golden["mask__odd__mask"], 1, golden["pseudo__share"])
    with jax.enable_x64(True):
        exactly = {"labels": mixed, "weights": weights}
        ours = compiled(loss)[0](widen(logits), exactly)
        golden.holds("mixloss__threshold_uniform__value_f64", ours)

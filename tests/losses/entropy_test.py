import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held import compiled, holds, widen

from lsr_jax import losses

C = 19


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def slow_weights(labels, counted, num_classes, ratio):
    out = np.zeros(labels.shape)
    for place in np.ndindex(labels.shape):
        counts = [(counted[place[0]] == c).sum() for c in range(num_classes)]
        if labels[place] < num_classes:
            n = counts[labels[place]]
            out[place] = 1 / max(n**ratio * sum(counts) ** (1 - ratio), 1)
    return out


@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
def test_image_weights_against_loops(ratio):
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 3, 255], (2, 4, 5)).astype(np.int32)
    counted = rng.choice([0, 2, 3, 255], (2, 4, 5)).astype(np.int32)
    labels[1] = np.where(labels[1] == 3, 0, labels[1])
    weights = jax.jit(
        functools.partial(losses.image_weights, num_classes=4, ratio=ratio)
    )
    np.testing.assert_allclose(
        weights(labels), slow_weights(labels, labels, 4, ratio), rtol=1e-6
    )
    np.testing.assert_allclose(
        weights(labels, counted=counted),
        slow_weights(labels, counted, 4, ratio),
        rtol=1e-6,
    )


def test_by_hand():
    p = jnp.array([[[[0.5, 0.5], [1.0, 0.0]]]])
    np.testing.assert_allclose(losses.max_squares(p), -(0.5 + 1) / 8)
    np.testing.assert_allclose(losses.entropy(p), np.log(2) / 4, rtol=1e-6)
    weights = jnp.array([[[2.0, 0.5]]])
    np.testing.assert_allclose(losses.max_squares(p, weights), -(2 * 0.5 + 0.5) / 2)
    np.testing.assert_allclose(losses.entropy(p, weights), np.log(2), rtol=1e-6)
    first = jnp.array([[[True, False]]])
    np.testing.assert_allclose(losses.max_squares(p, where=first), -0.5 / 4)
    np.testing.assert_allclose(losses.entropy(p, weights, where=first), np.log(2))


def test_the_papers_divisor_by_hand():
    p = jnp.array([[[[0.5, 0.5], [1.0, 0.0]]]])
    weights = jnp.array([[[2.0, 0.5]]])
    first = jnp.array([[[True, False]]])
    squares, entropy = (
        functools.partial(loss, divisor="pixels")
        for loss in (losses.max_squares, losses.entropy)
    )
    np.testing.assert_allclose(squares(p), -(0.5 + 1) / 4)
    np.testing.assert_allclose(entropy(p), np.log(2) / 2, rtol=1e-6)
    np.testing.assert_allclose(squares(p, weights), -(2 * 0.5 + 0.5))
    np.testing.assert_allclose(entropy(p, weights), 2 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(squares(p, where=first), -0.5 / 2)
    np.testing.assert_allclose(entropy(p, weights, where=first), 2 * np.log(2))
    for loss in (losses.max_squares, losses.entropy):
        with pytest.raises(ValueError, match="divisor must be"):
            loss(p, divisor="classes")


def slow_term(kind, p, weights, where, divisor):
    """``L_T`` pixel by pixel and class by class."""
    total = 0.0
    for place in np.ndindex(where.shape):
        for q in p[place]:
            value = -(q**2) if kind == "max_squares" else -q * np.log(q)
            scale = weights[place] if weights is not None else 1 / where.sum()
            halved = kind == "max_squares" and weights is None
            total += where[place] * scale * value / (2 if halved else 1)
    if weights is not None:
        total /= len(p)
    return total / (p.shape[-1] if divisor == "pixels_and_classes" else 1)


@pytest.mark.parametrize("divisor", ["pixels_and_classes", "pixels"])
@pytest.mark.parametrize("kind", ["max_squares", "entropy"])
def test_terms_against_loops(kind, divisor):
    p = np.asarray(jax.nn.softmax(normal(2, 3, 4, 5)))
    where = normal(2, 3, 4) > -0.5
    labels = np.where(where, p.argmax(-1), 255)
    omega = np.asarray(losses.image_weights(labels, num_classes=5, ratio=0.2))
    loss = functools.partial(getattr(losses, kind), divisor=divisor)
    for weights in (None, omega):
        expected = slow_term(kind, p, weights, where, divisor)
        for found in (loss, jax.jit(loss)):
            np.testing.assert_allclose(
                found(p, weights, where=where), expected, rtol=1e-5
            )


@pytest.mark.parametrize("divisor", ["pixels_and_classes", "pixels"])
def test_ratio_zero_is_twice_max_squares(divisor):
    logits = normal(3, 4, 5, C)
    loss = functools.partial(losses.max_squares, divisor=divisor)
    weights = losses.image_weights(logits.argmax(-1), num_classes=C, ratio=0.0)
    p = jax.nn.softmax(logits)
    np.testing.assert_allclose(loss(p, weights), 2 * loss(p), rtol=1e-6)


@pytest.mark.parametrize("divisor", ["pixels_and_classes", "pixels"])
@pytest.mark.parametrize("scale", [1.0, 400.0])
def test_nothing_valid_and_saturated_predictions_stay_finite(scale, divisor):
    logits = np.float32(scale) * normal(1, 3, 4, 5)
    none = jnp.zeros((1, 3, 4), bool)
    void = losses.image_weights(
        jnp.full((1, 3, 4), 255, jnp.int32), num_classes=5, ratio=0.2
    )
    assert not void.any()

    def terms(logits, weights, where):
        p = jax.nn.softmax(logits)
        return (
            losses.max_squares(p, weights, where=where, divisor=divisor)
            + losses.entropy(p, weights, where=where, divisor=divisor)
            + losses.soft_cross_entropy(logits, p, weights, where=where)
        )

    step = jax.jit(jax.value_and_grad(terms))
    for weights, where in ((None, none), (void, None)):
        value, gradient = step(logits, weights, where)
        assert value == 0
        assert not gradient.any()
    value, gradient = step(logits, None, None)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_entropy_equals_soft_cross_entropy_with_itself():
    logits = 5 * normal(2, 3, 4, 5)

    def entropy(logits):
        return losses.entropy(jax.nn.softmax(logits))

    def itself(logits):
        return losses.soft_cross_entropy(logits, jax.nn.softmax(logits))

    ours, theirs = (
        jax.jit(jax.value_and_grad(loss))(logits) for loss in (entropy, itself)
    )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-7)


C_RELEASED = 19


@functools.cache
def compiled_loss(loss):
    return jax.jit(loss), jax.jit(jax.value_and_grad(loss))


def hold(golden, stem, loss, logits, wide_rtol=1e-9, **operands):
    """Value and gradient in float32, value in float64."""
    value_of, value_and_grad = compiled_loss(loss)
    value, gradient = value_and_grad(logits, **operands)
    golden.holds(f"{stem}__value", value)
    golden.holds_gradient(f"{stem}__grad_logits", gradient)
    with jax.enable_x64(True):
        wide = {name: widen(x) for name, x in operands.items()}
        value = value_of(widen(logits), **wide)
        golden.holds(f"{stem}__value_f64", value, wide_rtol)


@functools.cache
def image_weighted(loss):
    """Weights from the arg-max, as the originals' modules make them."""

    def weighted(logits, ratio, counted=None, where=None):
        p = jax.nn.softmax(logits)
        predicted = p.argmax(-1)
        if where is not None:
            predicted = jnp.where(where, predicted, 255)
        weights = losses.image_weights(
            predicted, num_classes=C_RELEASED, ratio=ratio, counted=counted
        )
        return loss(p, weights)

    return weighted


RATIOS = {"0p0": 0.0, "0p2": 0.2, "1p0": 1.0}


# The originals keep image-wise weights in float32, hence 1e-6 in float64.
IW = {"wide_rtol": 1e-6}


@pytest.mark.golden("lsr", "iwms__.*")
def test_golden_batch_of_image_weighted_max_squares(golden):
    logits = golden["iwms__logits"]
    counted, where = golden["iwms__count_labels"], ~golden["iwms__masked"]
    for name, ratio in RATIOS.items():
        loss, weighted = image_weighted(losses.max_squares), IW | {"ratio": ratio}
        stem = f"iwms__r{name}__"
        hold(golden, stem + "plain", loss, logits, **weighted)
        if ratio < 1:
            hold(golden, stem + "label", loss, logits, counted=counted, **weighted)
            hold(golden, stem + "masked", loss, logits, where=where, **weighted)


@pytest.mark.golden("maxsquare", "logits|soft_target|masked", "(maxsquare|entropy)__.*")
def test_golden_max_squares_and_entropy(golden):
    def squares(logits, where=None):
        return losses.max_squares(jax.nn.softmax(logits), where=where)

    def itself(logits):
        return losses.entropy(jax.nn.softmax(logits))

    for n in (1, 2):
        logits, soft = golden["logits"][:n], golden["soft_target"][:n]
        where = ~golden["masked"][:n]
        hold(golden, f"maxsquare__n{n}__plain", squares, logits)
        hold(golden, f"maxsquare__n{n}__masked", squares, logits, where=where)
        other = losses.soft_cross_entropy
        hold(golden, f"entropy__n{n}__self", itself, logits)
        hold(golden, f"entropy__n{n}__other", other, logits, targets=soft)
        hold(golden, f"entropy__n{n}__masked", other, logits, targets=soft, where=where)


@pytest.mark.golden("maxsquare", "logits|count_labels|masked", "iw_.*")
def test_golden_image_weighted(golden):
    logits = golden["logits"][:1]
    counted, where = golden["count_labels"][:1], ~golden["masked"][:1]
    for name, ratio in RATIOS.items():
        predicted = logits.argmax(-1)
        weights = losses.image_weights(predicted, num_classes=C_RELEASED, ratio=ratio)
        per_class = golden[f"iw__r{name}__n1__class_weights"]
        np.testing.assert_allclose(weights, per_class[predicted], rtol=1e-6)

        weighted = IW | {"ratio": ratio}
        squares = image_weighted(losses.max_squares)
        stem = f"iw_maxsquare__r{name}__n1__"
        hold(golden, stem + "plain", squares, logits, **weighted)
        if ratio < 1:
            hold(golden, stem + "label", squares, logits, counted=counted, **weighted)
            hold(golden, stem + "masked", squares, logits, where=where, **weighted)
        stem = f"iw_entropy__r{name}__n1__self"
        hold(golden, stem, image_weighted(losses.entropy), logits, **weighted)


@pytest.mark.golden(
    "maxsquare",
    "train__target_logits_main",
    "train__lambda_target",
    "train__(IW_)?(maxsquare|entropy)__multi.__(target_loss|grad_target_logits_main)",
)
def test_golden_target_step(golden):
    logits = jnp.asarray(golden["train__target_logits_main"])
    scale = float(golden["train__lambda_target"])
    terms = {
        "maxsquare": lambda z: losses.max_squares(jax.nn.softmax(z)),
        "entropy": lambda z: losses.entropy(jax.nn.softmax(z)),
        "IW_maxsquare": lambda z: image_weighted(losses.max_squares)(z, 0.2),
        "IW_entropy": lambda z: image_weighted(losses.entropy)(z, 0.2),
    }
    for mode, loss in terms.items():
        value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
        for multi in (0, 1):
            stem = f"train__{mode}__multi{multi}__"
            golden.holds(f"{stem}target_loss", value)
            golden.holds_gradient(f"{stem}grad_target_logits_main", scale * gradient)


def entropy(logits):
    return losses.normalised_entropy(jax.nn.softmax(logits))


def pulled(logits, cotangent):
    return (cotangent * losses.self_information(jax.nn.softmax(logits))).sum()


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


def test_against_loops(logits):
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    expected = np.zeros_like(p)
    for place in np.ndindex(p.shape):
        expected[place] = -p[place] * np.log2(p[place]) / np.log2(5)
    for maps in (losses.self_information, jax.jit(losses.self_information)):
        np.testing.assert_allclose(maps(p.astype(np.float32)), expected, rtol=1e-5)
    ours = compiled(entropy)[0]({"logits": logits}, {})
    np.testing.assert_allclose(ours, expected.sum() / (2 * 3 * 4), rtol=1e-6)
    plain = losses.entropy(p.astype(np.float32))
    np.testing.assert_allclose(ours, plain * 5 / np.log(5), rtol=1e-6)


def test_self_information_by_hand():
    p = jnp.array([[[[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]]])
    maps = losses.self_information(p)
    np.testing.assert_allclose(maps[0, 0, 0], [0.25, 0.25, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(maps[0, 0, 1], 0.25, rtol=1e-6)
    np.testing.assert_allclose(losses.normalised_entropy(p), 0.75, rtol=1e-6)
    half = losses.self_information(p.astype(jnp.bfloat16))
    np.testing.assert_array_equal(half, maps)


@pytest.mark.parametrize("scale", [0.0, 400.0])
def test_saturated_and_uniform_predictions_stay_finite(logits, scale):
    inputs = {"logits": np.float32(scale) * logits}
    for loss, fixed in ((entropy, {}), (pulled, {"cotangent": logits})):
        value, gradient = compiled(loss)[1](inputs, fixed)
        assert np.isfinite(value)
        assert np.isfinite(gradient["logits"]).all()
    expected = 1 if scale == 0 else 0
    np.testing.assert_allclose(compiled(entropy)[0](inputs, {}), expected, atol=0.05)


@pytest.mark.golden("advent", "logits", "entropy_loss__.*", "prob_2_entropy__.*")
def test_golden_entropy(golden):
    logits = golden["logits"]
    holds(golden, "entropy_loss__", entropy, {"logits": (logits, "grad_logits")})
    maps = losses.self_information(jax.nn.softmax(logits))
    # The recorded map is float32 near 0 too: 1e-6 of its largest possible value.
    golden.holds("prob_2_entropy__out", maps, 1e-6, scale=("1", np.float64(1)))
    cotangent = golden["prob_2_entropy__cotangent"]
    gradient = compiled(pulled)[1]({"logits": logits}, {"cotangent": cotangent})[1]
    golden.holds_gradient("prob_2_entropy__vjp_logits", gradient["logits"])
    with jax.enable_x64(True):
        wide = losses.self_information(jax.nn.softmax(widen(jnp.asarray(logits))))
    np.testing.assert_allclose(maps, wide, rtol=0, atol=1e-6)

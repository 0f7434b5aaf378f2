"""Maximum squares and entropy against recorded runs of MaxSquareLoss and LSR."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held import widen

from lsr_jax import losses

C = 19


@functools.cache
def compiled(loss):
    return jax.jit(loss), jax.jit(jax.value_and_grad(loss))


def hold(golden, stem, loss, logits, wide_rtol=1e-9, **operands):
    """Value and gradient in float32, value in float64."""
    value_of, value_and_grad = compiled(loss)
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
            predicted, num_classes=C, ratio=ratio, counted=counted
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
        weights = losses.image_weights(predicted, num_classes=C, ratio=ratio)
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

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from lsr_jax import losses
from lsr_jax.methods import METHODS, masked
from lsr_jax.ops import classmix, masking, resample

PLAIN = {"block": 8, "jitter": 0.0, "blur_probability": 0.0, "confidence": 0.3}


def test_without_weight_the_method_is_unchanged():
    method = METHODS["source_only"].make()
    assert masked.masked(method, weight=0.0) is method


@pytest.mark.parametrize("name", ["source_only", "lsr"])
def test_adds_the_masked_cross_entropy(name, key):
    """By hand: in step 0 the teacher is the student, in train mode."""
    inner = METHODS[name].make()
    method = masked.masked(inner, weight=0.5, **PLAIN)
    assert method.domains == ("source", "target")
    params, state, batch, ctx = toy.problem(method, key)
    ctx = ctx._replace(step=jnp.int32(0))
    total, aux = method.loss(params, state, batch, ctx)
    alone, own = inner.loss(params, state.method, batch, ctx)

    image, student = batch.target.image, params["model"]
    teacher, _ = toy.forward(student, state.teacher.model_state, image, True)
    probabilities = jax.nn.softmax(resample.bilinear(teacher.logits, image.shape[1:3]))
    mask_key, _ = jax.random.split(jax.random.fold_in(ctx.rng, 1000))
    visible = masking.block_mask(mask_key, image.shape[:3], block=8, ratio=0.7)
    shown = jnp.where(visible[..., None], image, 0)
    outputs, model_state = toy.forward(student, own.model_state, shown, True)
    confident = probabilities.max(-1)
    expected = losses.weighted_cross_entropy(
        resample.bilinear(outputs.logits, image.shape[1:3]),
        probabilities.argmax(-1),
        classmix.pixel_weights(jnp.zeros_like(visible), confident, threshold=0.3),
    )
    assert expected > 0
    np.testing.assert_allclose(aux.metrics["masked_consistency"], expected, rtol=1e-5)
    np.testing.assert_allclose(total, alone + 0.5 * expected, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        (aux.model_state, aux.method_state.method),
        (model_state, own.method_state),
    )


def test_preparation_is_that_of_the_method():
    assert masked.masked(METHODS["lsr"].make(), weight=1.0).prepare is None
    assert masked.masked(METHODS["cag"].make(), weight=1.0).prepare is not None

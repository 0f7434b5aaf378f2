"""VGG-13 and VGG-16 against numbers recorded from the PyTorch originals."""

import jax
import numpy as np
import pytest

from lsr_jax import models

HEADS = {"classifier": "head"}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vgg16", "vgg13"])
def test_golden(golden, seeded, leaf, cross_entropy, assert_close, backbone):
    recorded = golden("deeplab_vgg")
    model = models.build(backbone=backbone, dtype="float64")

    @jax.jit
    def step(params, images, labels):
        def loss(params):
            outputs, state = model.forward(params, {}, images, True)
            return cross_entropy(outputs.logits, labels), (outputs, state)

        return jax.value_and_grad(loss, has_aux=True)(params)

    with jax.enable_x64(True):
        params, model_state = seeded(f"lsr_{backbone}", heads=HEADS, branches=2)
        (loss, (outputs, state)), gradients = step(
            params, recorded["images"], recorded["labels"]
        )
    assert model_state == state == {}
    # Recorded in float32, as are the gradients of float32 parameters here.
    features = np.asarray(outputs.features)[..., ::8]
    assert_close(features, recorded[f"{backbone}__feats_s8"], 1e-6)
    assert_close(outputs.logits, recorded[f"{backbone}__logits_low_f64"], 1e-9)
    np.testing.assert_allclose(loss, recorded[f"{backbone}__loss_f64"], rtol=1e-9)
    names = recorded[f"{backbone}__grad_names"]
    found = [np.float64(leaf((gradients, {}), name, HEADS)) for name in names]
    norms = [np.linalg.norm(gradient) for gradient in found]
    np.testing.assert_allclose(norms, recorded[f"{backbone}__grad_l2_f64"], rtol=1e-6)
    assert_close(found[0], recorded[f"{backbone}__grad__features.0.weight"], 1e-6)


@pytest.mark.parametrize("image_size", [(65, 129), (512, 1024), (63, 72)])
def test_feature_size_is_that_of_the_network(key, image_size):
    model = models.build(backbone="vgg13", initialisation="released")
    params, _ = jax.eval_shape(lambda: model.init(key, image_size))
    images = jax.ShapeDtypeStruct((1, *image_size, 3), "float32")
    outputs, _ = jax.eval_shape(
        lambda p, x: model.forward(p, {}, x, True), params, images
    )
    size = (image_size[0] // 8, image_size[1] // 8)
    assert model.feature_size(image_size) == size
    assert outputs.features.shape == (1, *size, 1024)

"""VGG-13 and VGG-16 against numbers recorded from the PyTorch originals."""

import jax
import numpy as np
import pytest
import seeded

from lsr_jax import models

HEADS = {"classifier": "head"}


@pytest.mark.slow
@pytest.mark.golden(
    "deeplab_vgg",
    "images|labels",
    "vgg1[36]__(feats|logits|loss|grad).*",
)
@pytest.mark.parametrize("backbone", ["vgg16", "vgg13"])
def test_golden(golden, cross_entropy, upsample, backbone):
    golden.only(f"images|labels|{backbone}__.*")
    model = models.build(backbone=backbone, dtype="float64")

    @jax.jit
    def step(params, images, labels):
        def loss(params):
            outputs, state = model.forward(params, {}, images, True)
            return cross_entropy(outputs.logits, labels), (outputs, state)

        return jax.value_and_grad(loss, has_aux=True)(params)

    with jax.enable_x64(True):
        params, model_state = seeded.trees(f"lsr_{backbone}", heads=HEADS, branches=2)
        (loss, (outputs, state)), gradients = step(
            params, golden["images"], golden["labels"]
        )
        full = np.asarray(upsample(outputs.logits, (65, 129)))
    assert model_state == state == {}
    key = f"{backbone}__"
    golden.holds(f"{key}logits_low_f64", outputs.logits, scale="norm")
    golden.holds(f"{key}loss_f64", loss)
    # Recorded in float32, as are the gradients of float32 parameters here.
    features = np.asarray(outputs.features)[..., ::8]
    golden.holds(f"{key}feats_s8", features, 1e-6, scale="norm")
    golden.holds(f"{key}logits_up_s4", full[:, ::4, ::4], 1e-6, scale="norm")
    names = golden[f"{key}grad_names"]
    found = [np.float64(seeded.leaf(gradients, {}, name, HEADS)) for name in names]
    lengths = np.array([np.linalg.norm(gradient) for gradient in found])
    golden.holds(f"{key}grad_l2_f64", lengths, 1e-6)
    golden.holds(f"{key}grad__features.0.weight", found[0], 1e-6, scale="norm")


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

"""ResNet-101 against numbers recorded from the PyTorch originals (tests/goldens)."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax import models
from lsr_jax.models import resnet

SINGLE = {"clas": "head"}
DOUBLE = {"layer5": "aux_head", "layer6": "head"}
FOUR = (6, 12, 18, 24)


@pytest.fixture(scope="module")
def lsr(golden, seeded, cross_entropy):
    """``mode -> (golden, outputs, model_state, loss, gradients)``, in float64."""
    model = models.build(backbone="resnet101", freeze_stem_affine=True, dtype="float64")
    recorded = golden("deeplab_lsr")

    def loss(params, model_state, images, labels, train):
        outputs, state = model.forward(params, model_state, images, train)
        return cross_entropy(outputs.logits, labels), (outputs, state)

    @functools.cache
    def run(mode):
        count = 2 if mode == "train" else 1
        batch = (recorded["images"][:count], recorded["labels"][:count])
        step = jax.value_and_grad(loss, has_aux=True)
        step = jax.jit(step, static_argnums=4)
        with jax.enable_x64(True):
            weights = seeded("lsr_resnet101", heads=SINGLE, branches=2)
            (value, (outputs, state)), gradients = step(
                *weights, *batch, mode == "train"
            )
        return recorded, outputs, state, value, gradients

    return run


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_lsr_golden_outputs(lsr, assert_close, mode):
    recorded, outputs, _, loss, _ = lsr(mode)
    assert_close(outputs.logits, recorded[f"{mode}__logits_low_f64"], 1e-9)
    features = np.asarray(outputs.features)
    # Recorded in float32.
    assert_close(features[..., ::4], recorded[f"{mode}__feats_s4"], 5e-6)
    norm = np.linalg.norm(features)
    np.testing.assert_allclose(norm, recorded[f"{mode}__feats_l2_f64"], rtol=1e-9)
    np.testing.assert_allclose(loss, recorded[f"{mode}__loss_f64"], rtol=1e-9)
    assert features.min() >= 0
    assert outputs.aux_logits is None


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_lsr_golden_gradients(lsr, leaf, assert_close, mode):
    recorded, *_, gradients = lsr(mode)
    names = recorded[f"{mode}__grad_names"]
    found = [leaf((gradients, {}), name, SINGLE) for name in names]
    norms = [np.linalg.norm(np.asarray(g, np.float64)) for g in found]
    # Gradients of float32 parameters are rounded to float32.
    np.testing.assert_allclose(norms, recorded[f"{mode}__grad_l2_f64"], rtol=1e-6)
    slices = {"layer4.2.conv1.weight": np.s_[:, :, ::64, ::16]}
    slices["clas.conv2d_list.1.weight"] = np.s_[:, :, ::32]
    entries = [key for key in recorded if key.startswith(f"{mode}__grad__")]
    assert len(entries) == 9
    for key in entries:
        name = key.split("__")[-1]
        gradient = leaf((gradients, {}), name, SINGLE)[slices.get(name, ...)]
        assert_close(gradient, recorded[key], 1e-6, key)


@pytest.mark.slow
def test_lsr_golden_statistics(lsr, leaf, assert_close):
    recorded, _, state, *_ = lsr("train")
    names = recorded["train__buffer_names"]
    values = [np.asarray(leaf(({}, state), n, SINGLE), np.float64) for n in names]
    norms = [np.linalg.norm(value) for value in values]
    np.testing.assert_allclose(norms, recorded["train__buffer_l2_f64"], rtol=1e-6)
    for name in ("bn1", "layer1.0.bn2", "layer2.0.downsample.1", "layer4.2.bn3"):
        for statistic in ("running_mean", "running_var"):
            key = f"{name}.{statistic}"
            found = leaf(({}, state), key, SINGLE)
            assert_close(found, recorded[f"train__{key}"], 1e-6, key)


@pytest.mark.slow
def test_frozen_stem_has_no_gradient(lsr):
    model = models.build(backbone="resnet101", freeze_stem_affine=True)
    *_, gradients = lsr("train")
    flat = jax.tree_util.tree_leaves_with_path(gradients)
    still = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, gradient in flat
        if not gradient.any()
    }
    assert still == {"backbone/bn1/scale", "backbone/bn1/bias"}
    assert all(re.search(model.frozen_paths[0], path) for path in still)


@pytest.fixture(scope="module")
def others(golden, seeded, cross_entropy):
    """Outputs, state, losses and gradients of the two-head networks."""
    recorded = golden("deeplab_others")

    @functools.cache
    def network(head, dilations):
        name = "multi_resnet101" if head == "multi_level" else "clan_resnet101"
        weights = seeded(name, heads=DOUBLE, branches=len(dilations))
        model = models.build(backbone="resnet101", head=head, aspp_dilations=dilations)
        images, labels = recorded["images"], recorded["labels"]

        @jax.jit
        @functools.partial(jax.grad, has_aux=True)
        def gradient(params, model_state, aux_weight):
            outputs, state = model.forward(params, model_state, images, True)
            main = cross_entropy(outputs.logits, labels)
            aux = cross_entropy(outputs.aux_logits, labels)
            return main + aux_weight * aux, (jnp.stack([main, aux]), outputs, state)

        @jax.jit
        def forward(params, model_state):
            return model.forward(params, model_state, images, True)

        def run(aux_weight):
            if aux_weight is None:
                return None, None, *forward(*weights)
            moved = gradient(*weights, jnp.float32(aux_weight))
            return moved[0], *moved[1]

        return run

    return recorded, network


@pytest.mark.slow
@pytest.mark.parametrize(
    # Without a weight for the second loss: the forward pass alone, to save time.
    ("name", "head", "dilations", "aux_weight"),
    [
        ("adaptsegnet", "multi_level", (6, 12), 0.1),
        ("maxsquare", "multi_level", (6, 12), 0.1),
        ("udaclustering", "multi_level", (6, 12), 0.0),
        ("advent", "multi_level", FOUR, None),
        ("f2a_multi", "multi_level", FOUR, None),
        ("clan", "two_heads", FOUR, None),
    ],
)
def test_others_golden_training(
    others, leaf, assert_close, name, head, dilations, aux_weight
):
    recorded, network = others
    gradients, losses, outputs, state = network(head, dilations)(aux_weight)
    assert_close(outputs.logits, recorded[f"{name}__train__layer6_low_f64"], 2e-5)
    if name != "udaclustering":
        expected = recorded[f"{name}__train__layer5_low_f64"]
        assert_close(outputs.aux_logits, expected, 2e-5)
    buffers = [n for n in recorded["multi_resnet101__param_names"] if "running_" in n]
    norms = [np.linalg.norm(leaf(({}, state), n, DOUBLE)) for n in buffers]
    expected = recorded[f"{name}__train__buffer_l2_f64"]
    np.testing.assert_allclose(norms, expected, rtol=1e-5)
    if gradients is None:
        return
    expected = recorded[f"{name}__train__losses_f64"]
    np.testing.assert_allclose(losses[: len(expected)], expected, rtol=1e-5)
    names = recorded[f"{name}__grad_names"]
    found = [np.linalg.norm(leaf((gradients, {}), n, DOUBLE)) for n in names]
    # float32 moves ReLU kinks; the originals' own float32 is up to 6e-4 off.
    expected = recorded[f"{name}__train__grad_l2_f64"]
    np.testing.assert_allclose(found, expected, rtol=3e-3)


def test_seeded_weights_match_recorded_sums(golden, state_dict):
    for file, name in [("deeplab_lsr", ""), ("deeplab_others", "clan_resnet101__")]:
        recorded = golden(file)
        state = state_dict("lsr_resnet101" if not name else "clan_resnet101")
        assert list(state) == list(recorded[f"{name}param_names"])
        norms = [
            np.linalg.norm(v.astype(np.float32).astype(np.float64))
            for v in state.values()
        ]
        np.testing.assert_allclose(norms, recorded[f"{name}param_l2"], rtol=1e-12)


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        ((720, 1280), (91, 161)),
        ((512, 1024), (65, 129)),
        ((576, 1024), (73, 129)),
        ((409, 819), (52, 103)),
        ((563, 1126), (71, 141)),
        ((792, 1408), (100, 177)),
        ((65, 129), (9, 17)),
    ],
)
def test_feature_size(image_size, expected):
    assert resnet.feature_size(image_size) == expected


@pytest.mark.parametrize("image_size", [(96, 192), (65, 129), (50, 71), (67, 68)])
def test_feature_size_is_that_of_the_network(key, image_size):
    model = models.build(backbone="mini")
    image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
    params, state = jax.eval_shape(lambda: model.init(key, image_size))
    outputs, _ = jax.eval_shape(
        lambda p, s, x: model.forward(p, s, x, True), params, state, image
    )
    size = model.feature_size(image_size)
    chex.assert_shape(outputs.features, (1, *size, model.feature_dim))
    chex.assert_shape(outputs.logits, (1, *size, 19))


def test_resnet101_trains_at_256x512_by_shape(key):
    model = models.build(backbone="resnet101", head="multi_level", remat=True)
    params, state = jax.eval_shape(lambda: model.init(key, (256, 512)))

    def loss(params, images):
        outputs, moved = model.forward(params, state_of(), images, True)
        return outputs.logits.sum() + outputs.aux_logits.sum(), moved

    def state_of():
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)

    images = jax.ShapeDtypeStruct((1, 256, 512, 3), jnp.float32)
    gradients, moved = jax.eval_shape(jax.grad(loss, has_aux=True), params, images)
    chex.assert_trees_all_equal_shapes(gradients, params)
    chex.assert_trees_all_equal_shapes(moved, state)
    assert sum(leaf.size for leaf in jax.tree.leaves(params["backbone"])) == 42_500_160

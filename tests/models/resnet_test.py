"""ResNet-101 against numbers recorded from the PyTorch originals (tests/goldens)."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recorded
import seeded

from lsr_jax import models

SINGLE = {"clas": "head"}
DOUBLE = {"layer5": "aux_head", "layer6": "head"}
FOUR = (6, 12, 18, 24)
# Evaluation is compiled apart, and tests of small networks cover it.
MODES = [pytest.param("eval", marks=pytest.mark.long), "train"]
SLICES = {
    "layer4.2.conv1.weight": np.s_[:, :, ::64, ::16],
    "clas.conv2d_list.1.weight": np.s_[:, :, ::32],
}


def inputs(file):
    with np.load(recorded.GOLDENS / f"{file}.npz") as arrays:
        return arrays["images"], arrays["labels"]


def wide(leaf):
    return np.asarray(leaf, np.float64)


def summary(tree, state, names, heads):
    """L2 norm, sum and sum of magnitudes of the leaf of every torch name."""
    leaves = [wide(seeded.leaf(tree, state, name, heads)) for name in names]
    rows = [(np.linalg.norm(x), x.sum(), np.abs(x).sum()) for x in leaves]
    return np.array(rows).T


@pytest.fixture(scope="module")
def lsr(cross_entropy):
    """``mode -> (outputs, model_state, loss, gradients)``, in float64."""
    model = models.build(backbone="resnet101", freeze_stem_affine=True, dtype="float64")
    images, labels = inputs("deeplab_lsr")

    def loss(params, model_state, images, labels, train):
        outputs, state = model.forward(params, model_state, images, train)
        return cross_entropy(outputs.logits, labels), (outputs, state)

    @functools.cache
    def run(mode):
        count = 2 if mode == "train" else 1
        step = jax.value_and_grad(loss, has_aux=True)
        step = jax.jit(step, static_argnums=4)
        with jax.enable_x64(True):
            weights = seeded.trees("lsr_resnet101", heads=SINGLE, branches=2)
            (value, (outputs, state)), gradients = step(
                *weights, images[:count], labels[:count], mode == "train"
            )
        return outputs, state, value, gradients

    return run


@pytest.mark.slow
@pytest.mark.golden(
    "deeplab_lsr",
    "images|labels",
    "(eval|train)__(logits|feats|loss).*",
    "(eval|train)__stage__layer4.*",
)
@pytest.mark.parametrize("mode", MODES)
def test_lsr_golden_outputs(golden, lsr, upsample, mode):
    golden.only(f"images|labels|{mode}__.*")
    golden.used("images", "labels")
    outputs, _, loss, _ = lsr(mode)
    features, logits = np.asarray(outputs.features), np.asarray(outputs.logits)
    golden.holds(f"{mode}__logits_low_f64", logits, scale="norm")
    golden.holds(f"{mode}__feats_l2_f64", np.linalg.norm(features))
    golden.holds(f"{mode}__loss_f64", loss)
    golden.holds(
        f"{mode}__stage__layer4__mean_std_l2",
        np.array([features.mean(), features.std(), np.linalg.norm(features)]),
    )
    # Recorded in float32.
    golden.holds(f"{mode}__feats_s4", features[..., ::4], 5e-6, scale="norm")
    corner = features[:, :3, :4, :: features.shape[-1] // 8]
    golden.holds(f"{mode}__stage__layer4__corner", corner, 5e-6, scale="norm")
    golden.holds(f"{mode}__logits_low", logits, 5e-6, scale="norm")
    with jax.enable_x64(True):
        full = np.asarray(upsample(outputs.logits, (65, 129)))
    golden.holds(f"{mode}__logits_up_s3", full[:, ::3, ::3], 5e-6, scale="norm")
    golden.holds(f"{mode}__loss", loss)
    assert features.min() >= 0
    assert outputs.aux_logits is None


@pytest.mark.slow
@pytest.mark.golden("deeplab_lsr", "(eval|train)__(no_)?grad_.*")
@pytest.mark.parametrize("mode", MODES)
def test_lsr_golden_gradients(golden, lsr, mode):
    golden.only(f"{mode}__.*")
    *_, gradients = lsr(mode)
    names = golden[f"{mode}__grad_names"]
    lengths, sums, magnitude = summary(gradients, {}, names, SINGLE)
    # Gradients of float32 parameters are rounded to float32.
    golden.holds(f"{mode}__grad_l2_f64", lengths, 1e-6)
    # The originals' own float32 is up to 1.1e-3 off.
    golden.holds(f"{mode}__grad_l2", lengths, 1e-2)
    golden.holds(f"{mode}__grad_sum_f64", sums, 1e-6, scale=("magnitude", magnitude))
    for name in golden[f"{mode}__no_grad_names"]:
        still = seeded.leaf(gradients, {}, name, SINGLE)
        assert still is None or not still.any()
    entries = [key for key in golden.arrays if key.startswith(f"{mode}__grad__")]
    assert len(entries) == 9
    for key in entries:
        name = key.split("__")[-1]
        gradient = seeded.leaf(gradients, {}, name, SINGLE)[SLICES.get(name, ...)]
        golden.holds(key, gradient, 1e-6, scale="norm")


@pytest.mark.slow
@pytest.mark.golden("deeplab_lsr", "train__(buffer|.*running_).*")
def test_lsr_golden_statistics(golden, lsr):
    _, state, *_ = lsr("train")
    names = golden["train__buffer_names"]
    lengths, sums, magnitude = summary({}, state, names, SINGLE)
    golden.holds("train__buffer_l2_f64", lengths, 1e-6)
    golden.holds("train__buffer_sum_f64", sums, 1e-6, scale=("magnitude", magnitude))
    entries = [key for key in golden.arrays if "running_" in key]
    assert len(entries) == 10
    for key in entries:
        value = seeded.leaf({}, state, key.removeprefix("train__"), SINGLE)
        golden.holds(key, value, 1e-6, scale="norm")


@pytest.fixture(scope="module")
def others(cross_entropy):
    """Gradients, losses, outputs and state of the two-head networks."""
    images, labels = inputs("deeplab_others")

    @functools.cache
    def network(head, dilations):
        name = "multi_resnet101" if head == "multi_level" else "clan_resnet101"
        weights = seeded.trees(name, heads=DOUBLE, branches=len(dilations))
        model = models.build(backbone="resnet101", head=head, aspp_dilations=dilations)

        @jax.jit
        @functools.partial(jax.grad, has_aux=True)
        def gradient(params, model_state, aux_weight):
            outputs, state = model.forward(params, model_state, images, True)
            main = cross_entropy(outputs.logits, labels)
            aux = cross_entropy(outputs.aux_logits, labels)
            return main + aux_weight * aux, (jnp.stack([main, aux]), outputs, state)

        return lambda aux_weight: gradient(*weights, jnp.float32(aux_weight))

    return network


@pytest.mark.long
@pytest.mark.golden(
    "deeplab_others",
    "images|labels|multi_resnet101__param_names",
    "[^_]+(_multi)?__(train__.*|grad_names|frozen_or_unused)",
)
@pytest.mark.parametrize(
    ("name", "head", "dilations", "aux_weight"),
    [
        ("adaptsegnet", "multi_level", (6, 12), 0.1),
        ("maxsquare", "multi_level", (6, 12), 0.1),
        ("udaclustering", "multi_level", (6, 12), 0.0),
        ("advent", "multi_level", FOUR, 0.1),
        ("f2a_multi", "multi_level", FOUR, 0.1),
        ("clan", "two_heads", FOUR, 0.1),
    ],
)
def test_others_golden_training(golden, others, name, head, dilations, aux_weight):
    golden.only(f"images|labels|multi_.*|{name}__.*")
    golden.used("images", "labels")
    gradients, (losses, outputs, state) = others(head, dilations)(aux_weight)
    key = f"{name}__train__"
    golden.holds(f"{key}layer6_low_f64", outputs.logits, 2e-5, scale="norm")
    if aux_weight:
        golden.holds(f"{key}layer5_low_f64", outputs.aux_logits, 2e-5, scale="norm")
    expected = golden[f"{key}losses_f64"]
    golden.holds(f"{key}losses_f64", losses[: len(expected)], 1e-5)
    names = golden[f"{name}__grad_names"]
    # float32 moves ReLU kinks; the originals' own float32 is up to 6e-4 off.
    lengths, *_ = summary(gradients, {}, names, DOUBLE)
    golden.holds(f"{key}grad_l2_f64", lengths, 3e-3)
    assert not set(names) & set(golden[f"{name}__frozen_or_unused"])
    names = golden["multi_resnet101__param_names"]
    running = [name for name in names if "running_" in name]
    lengths, *_ = summary({}, state, running, DOUBLE)
    golden.holds(f"{key}buffer_l2_f64", lengths, 1e-5)


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
    assert models.BACKBONES["resnet101"].feature_size(image_size) == expected


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

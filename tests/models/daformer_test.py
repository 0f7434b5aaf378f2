"""DAFormer's decoder against recorded numbers of the original."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from lsr_jax import errors, losses, models
from lsr_jax.models import daformer, layers
from lsr_jax.ops import resample

FUSIONS = ("sepaspp", "aspp", "conv1", "isa")


def head(fusion, mode):
    embedding = 6 if fusion == "isa" else 8
    options = layers.Options(dtype=mode)
    return daformer.Head(7, embedding, 12, fusion, 0.0, options)


@pytest.mark.parametrize(
    "mode", [pytest.param("float32", marks=pytest.mark.long), "float64"]
)
@pytest.mark.parametrize(
    "fusion",
    ["sepaspp", *(pytest.param(x, marks=pytest.mark.long) for x in FUSIONS[1:])],
)
@pytest.mark.golden(
    "daformer_head",
    "(sepaspp|aspp|conv1|isa)__(?!acc).*",
    "feature.",
    "labels",
    "weights",
)
def test_head_is_that_of_the_original(golden, fusion, mode):
    """Logits, losses, gradients and running statistics of one pass."""
    exact = mode == "float64"
    ending = "_f64" if exact else "(?<!_f64)"
    golden.only(f"feature.|labels|weights|{fusion}__(param_names|.*{ending})")
    labels, weights = golden["labels"], golden["weights"]
    name = f"daformer_head_{fusion}"
    with jax.enable_x64(exact):
        params, state = seeded.mmseg_trees(name, dtype=mode)
        stages = [jnp.asarray(golden[f"feature{n}"], mode) for n in (1, 2, 3, 4)]
        network = head(fusion, mode)

        @jax.jit
        def evaluate(params, state, stages):
            variables = {"params": params, "batch_stats": state}
            _, logits = network.apply(variables, stages, False)
            return logits

        @jax.jit
        def train(params, state, stages):
            def objective(params, stages):
                variables = {"params": params, "batch_stats": state}
                (_, logits), updated = network.apply(
                    variables, stages, True, mutable=["batch_stats"]
                )
                full = resample.bilinear(logits, labels.shape[1:], corners="half_pixel")
                ones = jnp.ones_like(weights)
                plain = losses.weighted_cross_entropy(full, labels, ones)
                weighted = losses.weighted_cross_entropy(full, labels, weights)
                return plain + weighted, (plain, weighted, logits, updated)

            return jax.value_and_grad(objective, (0, 1), has_aux=True)(params, stages)

        found = {"eval_logits": evaluate(params, state, stages)}
        (_, results), (gradients, of_stages) = train(params, state, stages)
    plain, weighted, logits, updated = results
    found |= {"loss": plain, "loss_weighted": weighted, "train_logits": logits}
    found |= {f"grad_feature{n}": x for n, x in enumerate(of_stages, 1)}
    entries = json.loads((seeded.GOLDENS / f"{name}_params.json").read_text())
    norms = {}
    for key, shape, kind in entries:
        if kind.startswith("running"):
            _, path = seeded.mmseg_place(key, len(shape))
            leaf = updated["batch_stats"]
            for part in path:
                leaf = leaf[part]
            found[f"after__{key}"] = leaf
        elif kind != "counter":
            leaf = seeded.mmseg_leaf(gradients, key, len(shape))
            found[f"grad__{key}"] = leaf.T if leaf.ndim == 2 else leaf
            norms[key] = np.linalg.norm(leaf)
    names = [str(key) for key in golden[f"{fusion}__param_names"]]
    found["grad_l2"] = [norms[key] for key in names]
    for key in golden.arrays.keys() - golden.read:
        rounded = exact and golden.arrays[key].dtype == np.float32
        rtol = 1e-6 if rounded else 1e-9 if exact else 1e-5
        if not exact and key.endswith("grad_l2"):
            rtol = 1e-3
        ours = found[key.removeprefix(f"{fusion}__").removesuffix("_f64")]
        golden.holds(key, ours, rtol, scale="largest")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet50"}, "'daformer' is for Mix Transformers"),
        ({"architecture": "deeplabv2"}, "'daformer' is for Mix Transformers"),
        ({"head": "two_heads"}, "has a 'single' one"),
    ],
)
def test_combinations_that_do_not_exist(options, message):
    fixed = {"architecture": "daformer", "backbone": "mit_mini"}
    with pytest.raises(errors.InputError, match=message):
        models.build(**fixed | options)


def test_network_as_a_model(key):
    """Logits at the image's size, features at a quarter, dropout with a key only."""
    model = models.build(architecture="daformer", backbone="mit_mini", num_classes=5)
    params, state = model.init(key, (36, 52))
    images = jax.random.normal(key, (2, 36, 52, 3))
    forward = jax.jit(model.forward, static_argnums=3)
    outputs, after = forward(params, state, images, True)
    assert outputs.logits.shape == (2, 36, 52, 5)
    assert outputs.features.shape == (2, *model.feature_size((36, 52)), 64)
    assert outputs.features.shape[-1] == model.feature_dim
    assert (outputs.features >= 0).all()
    assert outputs.encoder.shape == (2, 2, 2, 128)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    dropped, _ = forward(params, state, images, True, jax.random.key(1))
    again, _ = forward(params, state, images, True, jax.random.key(1))
    np.testing.assert_array_equal(dropped.logits, again.logits)
    assert not np.allclose(dropped.logits, outputs.logits)

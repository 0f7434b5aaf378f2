"""The Mix Transformer against recorded numbers of DAFormer's."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from lsr_jax import models
from lsr_jax.models import layers, mix_transformer

SIZES = ("mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5")
TINY = mix_transformer.Architecture((16, 32, 40, 64), (1, 2, 1, 1), 8)


def body(architecture, **options):
    options = layers.Options(**options)
    return mix_transformer.MixTransformer(architecture, options, (1, 2, 3, 4))


def ranks(name):
    """``{torch name: number of axes}``."""
    entries = json.loads((seeded.GOLDENS / f"{name}_params.json").read_text())
    return {key: len(shape) for key, shape, _ in entries}


def laid_out(ours):
    """A kernel of ours as the goldens have it: linear ones stay (out, in)."""
    return ours.T if ours.ndim == 2 else ours


@pytest.mark.golden("daformer_mit", "tiny__.*")
def test_tiny_encoder_is_the_recorded_one(golden):
    golden.holds("tiny__widths", TINY.widths)
    golden.holds("tiny__depths", TINY.depths)
    golden.holds("tiny__heads", mix_transformer.HEADS)
    golden.holds("tiny__sr_ratios", mix_transformer.REDUCTIONS)


@pytest.mark.parametrize(
    "mode", [pytest.param("float32", marks=pytest.mark.long), "float64"]
)
@pytest.mark.parametrize("case", ["even", pytest.param("odd", marks=pytest.mark.long)])
@pytest.mark.golden("daformer_mit", "(even|odd)__.*")
def test_features_and_gradients_are_those_of_the_original(golden, case, mode):
    """Sizes that every stride divides, and sizes that none does."""
    exact = mode == "float64"
    ending = "_f64" if exact else "(?<!_f64)"
    golden.only(f"{case}__(image|cotangent.|param_names|.*{ending})")
    with jax.enable_x64(exact):
        params, _ = seeded.mmseg_trees("mit_tiny", dtype=mode)
        images = jnp.asarray(golden[f"{case}__image"], mode)
        cotangents = [
            jnp.asarray(golden[f"{case}__cotangent{n}"], mode) for n in (1, 2, 3, 4)
        ]

        @jax.jit
        def evaluate(params, images):
            def value(params, images):
                stages = body(TINY, dtype=mode).apply({"params": params}, images, False)
                pairs = zip(stages, cotangents, strict=True)
                return sum((x * y).sum() for x, y in pairs), stages

            return jax.value_and_grad(value, (0, 1), has_aux=True)(params, images)

        (value, stages), (gradients, of_image) = evaluate(params, images)
    rank = ranks("mit_tiny")
    names = [str(name) for name in golden[f"{case}__param_names"]]
    ours = {
        name: laid_out(seeded.mmseg_leaf(gradients, name, rank[name])) for name in names
    }
    norms = [np.linalg.norm(ours[name]) for name in names]
    found = {
        f"{case}__value": value,
        f"{case}__grad_l2": norms,
        f"{case}__grad_image": of_image,
        **{f"{case}__stage{n}": stage for n, stage in enumerate(stages, 1)},
        **{f"{case}__grad__{name}": gradient for name, gradient in ours.items()},
    }
    for key in golden.arrays.keys() - golden.read:
        rounded = exact and golden.arrays[key].dtype == np.float32
        rtol = 1e-6 if rounded else 1e-9 if exact else 1e-5
        if key.endswith("grad_l2"):
            rtol = 1e-4
        golden.holds(key, found[key.removesuffix("_f64")], rtol, scale="largest")


@pytest.mark.long
@pytest.mark.golden("daformer_mit", "b0__.*")
def test_mit_b0_is_the_original(golden):
    with jax.enable_x64(True):
        params, _ = seeded.mmseg_trees("mit_b0", dtype=np.float64)
        network = body(models.BACKBONES["mit_b0"], dtype="float64")
        images = jnp.asarray(golden["b0__image"], jnp.float64)
        stages = jax.jit(lambda p, x: network.apply({"params": p}, x, False))(
            params, images
        )
    for number, stage in enumerate(stages, 1):
        golden.holds(f"b0__stage{number}_f64", stage, 1e-6, scale="largest")


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.long
@pytest.mark.golden("daformer_mit", "droppath__.*")
def test_training_leaves_out_the_recorded_branches(golden, monkeypatch, platform):
    rate = float(golden["droppath__rate"])
    golden.holds("droppath__probability", TINY.drop_rates(rate), 1e-7, scale="largest")
    kept = 1 - golden["droppath__probability"][:, None, None]
    keep = golden["droppath__keep"]
    drawn = np.floor(kept + golden["droppath__uniform"])
    np.testing.assert_array_equal(drawn[1:], keep[1:])
    np.testing.assert_array_equal(keep[0], 1)

    def bernoulli(key, p, shape):
        np.testing.assert_allclose(p.ravel(), kept.ravel(), rtol=1e-7)
        assert shape == (*keep.shape, 1, 1, 1)
        return jnp.asarray(keep, bool).reshape(shape)

    monkeypatch.setattr(jax.random, "bernoulli", bernoulli)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    with jax.enable_x64(True):
        params, _ = seeded.mmseg_trees("mit_tiny", dtype=np.float64)
        stages = body(TINY, dtype="float64", drop_path=rate).apply(
            {"params": params},
            jnp.asarray(golden["droppath__image"], jnp.float64),
            True,
            rngs={"dropout": jax.random.key(0)},
        )
    for number, stage in enumerate(stages, 1):
        golden.holds(f"droppath__stage{number}_f64", stage, 1e-9, scale="largest")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.golden("daformer_mit", "mit_b.__drop_path")
def test_drop_rates_of_the_sizes(golden, size):
    golden.only(f"{size}__.*")
    golden.holds(
        f"{size}__drop_path",
        models.BACKBONES[size].drop_rates(0.1),
        1e-7,
        scale="largest",
    )


@pytest.mark.long
@pytest.mark.golden("daformer_mit", "count__.*")
def test_numbers_of_weights(golden):
    sizes = [str(name) for name in golden["count__names"]]
    assert sizes == [name.removeprefix("mit_") for name in SIZES] or sizes == list(
        SIZES
    )
    counts = {"backbone": [], "head": []}
    for size in SIZES:
        model = models.build(architecture="daformer", backbone=size)
        params, _ = jax.eval_shape(
            lambda key, m=model: m.init(key, (64, 64)), jax.random.key(0)
        )
        for part, found in counts.items():
            leaves = jax.tree.leaves(params[part])
            found.append(sum(leaf.size for leaf in leaves))
    golden.holds("count__encoder", counts["backbone"])
    golden.holds("count__head", counts["head"])


@pytest.mark.parametrize("size", SIZES)
def test_names_and_shapes_of_the_sizes(size):
    """Every name of the original has its place, and no place is left over."""
    entries = json.loads((seeded.GOLDENS / f"{size}_params.json").read_text())
    expected = {}
    for name, shape, _ in entries:
        axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(len(shape), (0,))
        place = "/".join(seeded.mmseg_place(name, len(shape))[1])
        expected[place] = tuple(shape[axis] for axis in axes)
    params = jax.eval_shape(
        lambda x: body(models.BACKBONES[size]).init(jax.random.key(0), x, False),
        jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),
    )["params"]
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    assert found == expected


@pytest.mark.long
def test_bfloat16_and_remat_change_little(key):
    images = jax.random.normal(key, (2, 32, 48, 3))
    plain = body(TINY)
    params = seeded.mmseg_trees("mit_tiny")[0]
    expected = plain.apply({"params": params}, images, True)
    again = body(TINY, remat=True).apply({"params": params}, images, True)
    half = body(TINY, dtype="bfloat16").apply({"params": params}, images, True)
    for one, other, rough in zip(expected, again, half, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(rough.astype(np.float32), one, atol=0.2)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.long
def test_one_program_for_the_blocks_of_a_stage_changes_no_number(
    key, monkeypatch, remat
):
    images = jax.random.normal(key, (2, 32, 48, 3))

    def measured(platform):
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        network = body(TINY, dtype="float64", drop_path=0.5, remat=remat)

        def loss(params):
            stages = network.apply(
                {"params": params}, images, True, rngs={"dropout": key}
            )
            return sum(jnp.square(stage).sum() for stage in stages)

        params, _ = seeded.mmseg_trees("mit_tiny", dtype=np.float64)
        lengths = [
            equation.params["length"]
            for equation in jax.make_jaxpr(loss)(params).eqns
            if equation.primitive.name == "scan"
        ]
        return lengths, jax.jit(jax.value_and_grad(loss))(params)

    with jax.enable_x64(True):
        (none, expected), (lengths, found) = measured("cpu"), measured("gpu")
        assert (none, lengths) == ([], list(TINY.depths))
        chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-9)

"""HRDA's network against recorded numbers of the original."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from lsr_jax import errors, losses
from lsr_jax.models import daformer, layers, mix_transformer, multi_resolution
from lsr_jax.ops import resample

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
WIDTHS = (8, 16, 20, 32)
PLACES = {"head": "head", "scale_attention": "attention"}


def network(mode):
    options = layers.Options(dtype=mode)
    encoder = mix_transformer.Architecture(WIDTHS, (1, 1, 1, 1))
    return multi_resolution.MultiResolution(
        mix_transformer.MixTransformer(encoder, options, (1, 2, 3, 4)),
        daformer.Head(7, 16, 20, "sepaspp", 0.0, options),
        daformer.Head(7, 12, 12, "conv1", 0.0, options),
        daformer.decode,
        0.5,
    )


def moved(tree):
    """The trees of the original's names in those of this project."""
    heads = {PLACES[name]: part for name, part in tree["head"].items()}
    return {name: tree[name] for name in tree if name != "head"} | heads


def place(name, rank):
    collection, path = seeded.mmseg_place(name, rank)
    if path[0] == "head":
        path = (PLACES[path[1]], *path[2:])
    return collection, path


def leaf(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def inputs(golden, mode, key="images"):
    normalised = (golden[key] - np.asarray(MEAN)) / np.asarray(STD)
    params, state = seeded.mmseg_trees("hrda_tiny", dtype=mode)
    images = jnp.asarray(normalised.astype(np.float32), mode)
    return moved(params), moved(state), images


@pytest.fixture
def fixed_box(golden, monkeypatch):
    top, _, left, _ = (int(x) for x in golden["box"])

    def corners(key, count, size, window):
        return jnp.tile(jnp.asarray([[top, left]], jnp.int32), (count, 1))

    monkeypatch.setattr(multi_resolution, "draw_corners", corners)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["float32", "float64"])
@pytest.mark.golden(
    "hrda",
    "images|labels|weights|box|param_names|feature_f64|after__.*",
    "(fused|detail)_logits.*",
    "(train|weighted)__(?!.*acc_seg).*",
)
def test_training_pass_is_that_of_the_original(golden, fixed_box, mode):
    exact = mode == "float64"
    ending = "_f64" if exact else "(?<!_f64)"
    golden.only(f"images|labels|weights|box|param_names|.*{ending}")
    labels, weights = golden["labels"], golden["weights"]
    top, bottom, left, right = (int(x) for x in golden["box"])
    window = (slice(None), slice(top, bottom), slice(left, right))
    with jax.enable_x64(exact):
        params, state, images = inputs(golden, mode)

        @jax.jit
        def train(params, state, images, weights):
            def objective(params):
                outputs, updated = network(mode).apply(
                    {"params": params, "batch_stats": state},
                    images,
                    True,
                    mutable=["batch_stats"],
                    rngs={"dropout": jax.random.key(0)},
                )
                fused = 0.9 * losses.weighted_cross_entropy(
                    outputs.logits, labels, weights
                )
                detail = 0.1 * losses.weighted_cross_entropy(
                    outputs.detail.logits, labels[window], weights[window]
                )
                return fused + detail, (fused, detail, outputs, updated["batch_stats"])

            return jax.value_and_grad(objective, has_aux=True)(params)

        found = {}
        for case, pixel_weights in {
            "train": np.ones_like(weights),
            "weighted": weights,
        }.items():
            (_, results), gradients = train(params, state, images, pixel_weights)
            fused, detail, outputs, updated = results
            found[f"{case}__decode.loss_seg"] = fused
            found[f"{case}__decode.hr.loss_seg"] = detail
            norms = []
            for name in golden["param_names"]:
                rank = RANKS[str(name)]
                gradient = leaf(gradients, place(str(name), rank)[1])
                norms.append(np.linalg.norm(gradient))
                laid_out = gradient.T if gradient.ndim == 2 else gradient
                found[f"{case}__grad__{name}"] = laid_out
            found[f"{case}__grad_l2"] = norms
    found["feature"] = outputs.encoder
    for key in golden.arrays:
        if key.startswith("after__"):
            name = key.removesuffix("_f64").removeprefix("after__")
            found[f"after__{name}"] = leaf(updated, place(name, 1)[1])
    for key in golden.arrays.keys() - golden.read:
        rtol = 1e-9 if exact else 1e-5
        if not exact and key.endswith("grad_l2"):
            rtol = 1e-3
        name = key.removesuffix("_f64")
        if name in ("fused_logits", "detail_logits"):
            ours = outputs.logits if name == "fused_logits" else outputs.detail.logits
            with jax.enable_x64(exact):
                recorded = resample.bilinear(
                    jnp.asarray(golden[key]), ours.shape[1:3], corners="half_pixel"
                )
            error = np.abs(np.asarray(recorded) - np.asarray(ours)).max()
            assert error <= rtol * np.abs(golden[key]).max(), key
            continue
        golden.holds(key, found[name], rtol, scale="largest")


RANKS = {
    name: len(shape)
    for name, shape, _ in json.loads(
        (seeded.GOLDENS / "hrda_tiny_params.json").read_text()
    )
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.golden(
    "hrda", "images", "eval__encode_decode_f64", "teacher__(encode_decode_f64|argmax)"
)
def test_windows_cover_the_image_without_a_key(golden, train):
    """Evaluation, and the teacher, whose statistics are those of all windows."""
    case = "teacher" if train else "eval"
    golden.only(f"images|{case}__.*")
    with jax.enable_x64(True):
        params, state, images = inputs(golden, "float64")
        variables = {"params": params, "batch_stats": state}

        @jax.jit
        def run(variables, images):
            mutable = ["batch_stats"] if train else []
            return network("float64").apply(variables, images, train, mutable=mutable)

        outputs, _ = run(variables, images)
    assert outputs.detail is None
    sampled = outputs.logits[:, ::4, ::4]
    rtol = 1e-6 if train else 1e-9
    golden.holds(f"{case}__encode_decode_f64", sampled, rtol, scale="largest")
    if train:
        labels = np.asarray(outputs.logits).argmax(-1)
        golden.holds("teacher__argmax", labels.astype(np.int32))


@pytest.mark.parametrize("number", range(5))
@pytest.mark.golden("hrda", "box\\d__.*")
def test_corners_have_the_range_of_the_original(golden, number):
    golden.only(f"box{number}__.*")
    golden.used(f"box{number}__seed", f"box{number}__draws", f"box{number}__boxes")
    *sizes, divisor = (int(x) for x in golden[f"box{number}__size"])
    size, window = tuple(sizes[:2]), tuple(sizes[2:])
    limits = np.maximum(golden[f"box{number}__limits"], 1)
    if divisor != multi_resolution.GRID:
        return
    corners = multi_resolution.draw_corners(jax.random.key(0), 2000, size, window)
    places = np.asarray(corners) // divisor
    assert (np.asarray(corners) % divisor == 0).all()
    for axis in (0, 1):
        assert set(places[:, axis]) == set(range(limits[axis]))


def test_sides_that_do_not_fit():
    with pytest.raises(errors.InputError, match="sides that 16 divides, found 100x64"):
        multi_resolution.window_size((64, 100), 0.5)

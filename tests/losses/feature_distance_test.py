import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded

from lsr_jax import losses
from lsr_jax.models import layers, mix_transformer

THINGS = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)


def slow_majority(labels, side, num_classes, ratio):
    size = [length // side for length in labels.shape[1:]]
    out = np.full((len(labels), *size), 255)
    for image, i, j in np.ndindex(out.shape):
        cell = labels[image, i * side : (i + 1) * side, j * side : (j + 1) * side]
        shares = [(cell == c).mean() for c in range(num_classes)]
        shares.append(1 - sum(shares))
        best = int(np.argmax(shares))
        if best < num_classes and shares[best] >= ratio:
            out[image, i, j] = best
    return out


@pytest.mark.parametrize("ratio", ["0p0", "0p5", "0p75"])
@pytest.mark.parametrize("factor", [8, 16, 32])
@pytest.mark.golden("daformer_losses", "scale__(labels|f.*)")
def test_majority_is_that_of_the_original(golden, factor, ratio):
    golden.only(f"scale__(labels|f{factor}__ratio{ratio}__out)")
    labels = golden["scale__labels"]
    ours = losses.majority_labels(
        labels, factor, num_classes=19, ratio=float(ratio.replace("p", "."))
    )
    golden.holds(f"scale__f{factor}__ratio{ratio}__out", ours)


@pytest.mark.golden("daformer_losses", "scale__(labels|odd__out)")
def test_remaining_pixels_are_not_counted(golden):
    labels = golden["scale__labels"][:, :-5, :-9]
    ours = losses.majority_labels(labels, 32, num_classes=19)
    golden.holds("scale__odd__out", ours)


def test_majority_against_loops():
    labels = np.random.default_rng(0).choice([0, 1, 1, 1, 2, 255], (3, 13, 9))
    ours = jax.jit(lambda x: losses.majority_labels(x, 4, num_classes=3, ratio=0.5))(
        labels
    )
    np.testing.assert_array_equal(ours, slow_majority(labels, 4, 3, 0.5))
    all_void = jnp.full((1, 4, 4), 255)
    assert (losses.majority_labels(all_void, 2, num_classes=3) == 255).all()


@pytest.mark.parametrize("case", ["masked", "all", "empty"])
@pytest.mark.golden("daformer_losses", "fdist__.*", "scale__labels")
def test_distance_is_that_of_the_original(golden, case):
    """One cell has the distance 0, where the gradient is 0."""
    golden.only(f"fdist__({case}__.*|feature.*|mask|classes|lambda)|scale__labels")
    features, reference = golden["fdist__feature"], golden["fdist__feature_imnet"]
    assert golden["fdist__lambda"] == 0.005
    golden.equals("fdist__classes", THINGS)
    found = losses.majority_labels(golden["scale__labels"], 32, num_classes=19)
    things = np.isin(found, THINGS)
    golden.holds("fdist__mask", things)
    cells = {"masked": things, "all": np.ones_like(things), "empty": things & False}
    compute = jax.jit(jax.value_and_grad(losses.feature_distance))
    value, _ = compute(features, reference, cells[case])
    with jax.enable_x64(True):
        wide = (jnp.asarray(x, jnp.float64) for x in (features, reference))
        precise, gradient = compute(*wide, cells[case])
    golden.holds(f"fdist__{case}__grad_f64", gradient, 1e-10, scale="largest")
    if case == "empty":  # NaN in the original
        assert np.isnan(golden["fdist__empty__value"])
        assert np.isnan(golden["fdist__empty__value_f64"])
        assert float(value) == float(precise) == 0
        return
    golden.holds(f"fdist__{case}__value", value)
    golden.holds(f"fdist__{case}__value_f64", precise, 1e-10)


def test_distance_by_hand():
    features = jnp.array([[[[3.0, 4.0], [1.0, 1.0]]]])
    cells = jnp.array([[[True, False]]])
    compute = jax.value_and_grad(losses.feature_distance)
    value, gradient = compute(features, jnp.zeros_like(features), cells)
    assert value == 5
    np.testing.assert_allclose(gradient, [[[[0.6, 0.8], [0, 0]]]], rtol=1e-6)


@pytest.mark.parametrize("case", ["plain", "weighted", "allignored", "zeroweight"])
@pytest.mark.golden("daformer_losses", "ce__.*")
def test_cross_entropy_over_all_pixels(golden, case):
    """DAFormer's cross-entropy divides by all pixels; ours is the weighted one."""
    golden.only(f"ce__({case}__.*|logits|labels|weights|valid)")
    logits, labels = golden["ce__logits"], golden["ce__labels"]
    golden.holds("ce__valid", np.int32((labels != 255).sum()))
    weights = golden["ce__weights"]
    if case in ("plain", "allignored"):
        weights = np.ones_like(weights)
    if case == "zeroweight":
        weights = np.zeros_like(weights)
    if case == "allignored":
        labels = np.full_like(labels, 255)
    compute = jax.jit(jax.value_and_grad(losses.weighted_cross_entropy))
    value, _ = compute(logits, labels, weights)
    with jax.enable_x64(True):
        precise, gradient = compute(jnp.asarray(logits, jnp.float64), labels, weights)
    golden.holds(f"ce__{case}__value", value)
    golden.holds(f"ce__{case}__value_f64", precise, 1e-10)
    if f"ce__{case}__grad_logits_f64" in golden.arrays:
        golden.holds(f"ce__{case}__grad_logits_f64", gradient, 1e-6, scale="largest")
        norm = np.linalg.norm(gradient)
        golden.holds(f"ce__{case}__grad_l2_f64", norm, 1e-10)
    else:
        assert not np.any(gradient)


@pytest.mark.long
@pytest.mark.golden("daformer_losses", "calc__.*", "scale__labels")
def test_distance_between_encoders(golden):
    """Of a trained and a frozen encoder on images, and its gradients."""
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    encoder = mix_transformer.Architecture((16, 32, 40, 64), (1, 2, 1, 1))
    names = [str(name) for name in golden["calc__param_names"]]
    entries = json.loads((seeded.GOLDENS / "daformer_tiny_params.json").read_text())
    ranks = {name.removeprefix("model."): len(shape) for name, shape, _ in entries}
    majority = losses.majority_labels(golden["scale__labels"], 32, num_classes=19)
    cells = np.isin(majority, THINGS)
    golden.holds("calc__mask", cells)
    for mode, ending in (("float32", ""), ("float64", "_f64")):
        with jax.enable_x64(mode == "float64"):
            body = mix_transformer.MixTransformer(
                encoder, layers.Options(dtype=mode), (4,)
            )
            student, frozen = (
                seeded.mmseg_trees("daformer_tiny", prefix=prefix, dtype=mode)[0][
                    "backbone"
                ]
                for prefix in ("model.", "imnet_model.")
            )
            normalised = ((golden["calc__image"] - mean) / std).astype(np.float32)
            images = jnp.asarray(normalised, mode)

            @jax.jit
            def distance(student, frozen, images, body=body):
                (features,) = body.apply({"params": student}, images, True)
                (reference,) = body.apply({"params": frozen}, images, False)
                return 0.005 * losses.feature_distance(features, reference, cells)

            value, gradients = jax.value_and_grad(distance)(student, frozen, images)
        norms = []
        for name in names:
            place = name if name.startswith("backbone.") else f"backbone.{name}"
            _, path = seeded.mmseg_place(place, ranks[place])
            leaf = gradients
            for key in path[1:]:
                leaf = leaf[key]
            norms.append(np.linalg.norm(leaf))
        rtol = {"float32": 1e-4, "float64": 1e-8}[mode]
        golden.holds(f"calc__value{ending}", value, 1e-5 if not ending else 1e-10)
        golden.holds(f"calc__grad_l2{ending}", norms, rtol, scale="largest")

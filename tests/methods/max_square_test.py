"""MaxSquare against recorded iterations of the original's trainer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.methods import max_square
from lsr_jax.types import Batch, Context, Images, Outputs

HEADS = ("main", "aux")
KINDS = {
    "maxsquare": ("max_square", None),
    "IW_maxsquare": ("max_square", 0.2),
    "entropy": ("entropy", None),
    "IW_entropy": ("entropy", 0.2),
    "hard": ("hard", 0.2),
}


def forward(params, model_state, images, train):
    """Fixed logits, as large as the image; the parameters are the logits."""
    del images, train
    domain = ("source", "target")[model_state]
    logits = [params[f"{domain}_{head}"] for head in HEADS]
    return Outputs(logits[0], *logits), model_state + 1


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("multi", [0, 1])
@pytest.mark.golden("maxsquare", "train__.*")
def test_golden_iteration(golden, mode, multi):
    """Every term and every gradient of one step of ``UDATrainer.train_one_epoch``."""
    stem = f"train__{mode}__multi{multi}__"
    golden.only(rf"{stem}.*|train__(?!.*multi).*")
    names = [f"{domain}_{head}" for domain in ("source", "target") for head in HEADS]
    logits = {name: golden[f"train__{name.replace('_', '_logits_')}"] for name in names}
    lambda_seg, lambda_target, threshold = (
        float(golden[f"train__{name}"])
        for name in ("lambda_seg", "lambda_target", "threshold")
    )
    kind, ratio = KINDS[mode]
    method = max_square.make(
        kind=kind,
        entropy=lambda_target,
        image_weighting=ratio,
        auxiliary=lambda_seg * multi,
        guidance=lambda_seg * lambda_target * multi,
        threshold=threshold,
    )
    assert method.heads[0] == ("single", "multi_level")[multi]
    images = jnp.zeros((1, 12, 18, 3))
    batch = Batch(Images(images, golden["train__source_labels"]), Images(images, None))
    ctx = Context(forward, 0, jnp.int32(0), jax.random.key(0), None)
    gradients, aux = jax.grad(method.loss, has_aux=True)(
        {"model": logits}, {}, batch, ctx
    )
    found = aux.metrics
    golden.holds(f"{stem}target_loss", found["entropy"])
    sure = jax.nn.softmax(logits["target_main"]).max(axis=-1) > threshold
    told = {"target_labelled": sure.mean()} if kind == "hard" else {}
    if multi:
        golden.holds("train__guidance_loss", found["guidance"])
        label = golden["train__guidance_labels"]
        told["target_labelled_guidance"] = (label != 255).mean()
        classes = len(np.unique(label[label != 255]))
        assert found["target_classes_guidance"] == classes
    else:
        golden.used("train__guidance_loss", "train__guidance_labels")
        assert "guidance" not in found
    kept = {name for name in found if name.startswith("target_labelled")}
    assert kept == told.keys()
    for name, share in told.items():
        np.testing.assert_allclose(found[name], share, rtol=1e-6)
    if f"{stem}seg_losses" in golden.arrays:
        parts = golden[f"{stem}seg_losses"]
        wanted = np.dot(parts, [1, lambda_seg][: len(parts)])
        np.testing.assert_allclose(found["segmentation"], wanted, rtol=1e-5)
    for name in names:
        key = f"{stem}grad_{name.replace('_', '_logits_')}"
        gradient = gradients["model"][name]
        if key in golden.arrays:
            golden.holds_gradient(key, gradient)
        elif not multi and name.endswith("aux"):
            assert not np.any(gradient)


def test_a_weight_of_zero_is_the_control():
    method = max_square.make(entropy=0.0)
    images = jnp.zeros((1, 3, 4, 3))
    logits = jnp.zeros((1, 3, 4, 5))
    params = {f"{d}_{h}": logits for d in ("source", "target") for h in HEADS}
    batch = Batch(Images(images, jnp.zeros((1, 3, 4), jnp.int32)), Images(images, None))
    ctx = Context(forward, 0, jnp.int32(0), jax.random.key(0), None)
    grads, aux = jax.grad(method.loss, has_aux=True)({"model": params}, {}, batch, ctx)
    assert set(aux.metrics) == {"segmentation"}
    moved = {name for name, leaf in grads["model"].items() if np.any(leaf)}
    assert moved == {"source_main"}
    assert aux.model_state == 2


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("ratio", [None, 0.0, 1.0])
def test_what_the_target_term_is_divided_by(preset, ratio):
    """Two pixels of class 0, one of class 1; the squares of 4 classes sum up to 1/2."""
    images = jnp.zeros((1, 1, 3, 3))
    p = np.array([[[[0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0.5, 0]]]])
    logits = jnp.log(jnp.asarray(p + 1e-30, jnp.float32))
    params = {f"{d}_{h}": logits for d in ("source", "target") for h in HEADS}
    batch = Batch(Images(images, jnp.zeros((1, 1, 3), jnp.int32)), Images(images, None))
    ctx = Context(forward, 0, jnp.int32(0), jax.random.key(0), None)
    keywords = {"entropy": 0.3, "image_weighting": ratio, **max_square.PRESETS[preset]}
    total, aux = jax.jit(lambda p: max_square.make(**keywords).loss(p, {}, batch, ctx))(
        {"model": params}
    )
    # omega: 1/3 a pixel at ratio 0; 1/2, 1/2 and 1 at ratio 1.
    pixels = {None: -1 / 4, 0.0: -1 / 2, 1.0: -(1 / 2 + 1 / 2 + 1) / 2}[ratio]
    expected = pixels / {"paper": 1, "released": 4}[preset]
    np.testing.assert_allclose(aux.metrics["entropy"], expected, rtol=1e-6)
    np.testing.assert_allclose(
        total, aux.metrics["segmentation"] + 0.3 * expected, rtol=1e-6
    )


def test_the_threshold_is_the_benchmarks():
    assert all("threshold" not in preset for preset in max_square.PRESETS.values())

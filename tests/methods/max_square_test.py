"""MaxSquare against recorded iterations of the original's trainer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.errors import InputError
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
    if multi:
        golden.holds("train__guidance_loss", found["guidance"])
        golden.used("train__guidance_labels")
    else:
        golden.used("train__guidance_loss", "train__guidance_labels")
        assert "guidance" not in found
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


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match=r"method\.kind: .* found 'soft'"):
        max_square.make(kind="soft")

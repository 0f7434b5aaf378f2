"""Discrepancies of CLAN against loops, hand-made numbers and goldens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seeded
from held import holds, holds_scaled, widen

from lsr_jax import losses


def heads(*shape):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, *shape)).astype(np.float32)
    return np.asarray(jax.nn.softmax(logits))


def local(first, second, detached, active=True):
    weights = losses.local_weights(
        first, second, epsilon=0.4, strength=40, detached=detached, active=active
    )
    return weights.mean(), weights


def test_local_weights_against_loops():
    first, second = heads(2, 3, 4, 5)
    expected = np.zeros((2, 3, 4))
    for place in np.ndindex(2, 3, 4):
        p, q = first[place].astype(np.float64), second[place].astype(np.float64)
        cosine = p @ q / np.linalg.norm(p) / np.linalg.norm(q)
        expected[place] = 0.4 + 40 * (1 - cosine)
    compiled = jax.jit(local, static_argnums=2)
    for detached in (False, True):
        for weights in (local, compiled):
            ours = weights(first, second, detached)[1]
            np.testing.assert_allclose(ours, expected, rtol=1e-4)
        gradients = jax.grad(local, (0, 1), has_aux=True)(first, second, detached)[0]
        for gradient in gradients:
            assert np.isfinite(gradient).all()
            assert gradient.any() != detached
    assert (local(first, second, False, active=False)[1] == 1).all()


def test_cosine_discrepancy_by_hand():
    first = jnp.array([[[[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]]]])
    second = jnp.array([[[[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]]])
    ours = losses.cosine_discrepancy(first, second)
    np.testing.assert_allclose(ours, [[[1, 0, 1]]], atol=1e-6)
    gradient = jax.grad(lambda p: losses.cosine_discrepancy(p, second).sum())(first)
    np.testing.assert_allclose(gradient[0, 0, :2], [[0, -1], [0, 0]], atol=1e-6)
    assert np.isfinite(gradient).all()


def test_weight_discrepancy_by_hand():
    first = {"kernel": jnp.array([[3.0, 0.0]]), "bias": jnp.array([4.0])}
    second = {"kernel": jnp.array([[4.0, 0.0]]), "bias": jnp.array([3.0])}
    loss = jax.jit(jax.value_and_grad(losses.weight_discrepancy))
    np.testing.assert_allclose(loss(first, second)[0], 24 / 25 + 1)
    np.testing.assert_allclose(loss(first, first)[0], 2)
    np.testing.assert_allclose(losses.weight_discrepancy(first, first), 2)
    nothing = jax.tree.map(jnp.zeros_like, first)
    for one, other in ((first, nothing), (nothing, first), (nothing, nothing)):
        value, gradient = loss(one, other)
        assert value == 1
        assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
    with pytest.raises(ValueError, match=r"[Mm]ismatch|keys"):
        losses.weight_discrepancy(first, {"kernel": first["kernel"]})


def weights(pred1, pred2, epsilon, strength):
    return losses.local_weights(
        jax.nn.softmax(pred1),
        jax.nn.softmax(pred2),
        epsilon=epsilon,
        strength=strength,
        detached=False,
    )


def domain_losses(domain):
    """The adversarial loss with CLAN's weights, and without."""

    def weighted(d_out, pred1, pred2, epsilon, strength):
        omega = weights(pred1, pred2, epsilon, strength)
        return losses.domain_loss(d_out, omega, domain=domain)

    def plain(d_out):
        return losses.domain_loss(d_out, domain=domain)

    return weighted, plain


@pytest.mark.golden("clan", "pred.|d_out|weightmap|epsilon|lambda_local", "wbce__.*")
def test_golden_weighted_adversarial_loss(golden):
    names = ("d_out", "pred1", "pred2")
    inputs = {name: (golden[name], f"grad_{name}") for name in names}
    fixed = {
        "epsilon": float(golden["epsilon"]),
        "strength": float(golden["lambda_local"]),
    }
    heads = jax.nn.softmax(np.stack([golden[name] for name in names[1:]]))
    # 1 - cos loses digits where the heads agree: 1e-6 of the largest weight of 1.
    golden.holds(
        "weightmap",
        jax.jit(losses.cosine_discrepancy)(*heads)[..., None],
        1e-6,
        scale=("1", np.float64(1)),
    )
    for label, domain in enumerate(("source", "target")):
        weighted, plain = domain_losses(domain)
        stem = f"wbce__label{label}__"
        mean = holds(golden, f"{stem}weighted__", weighted, inputs, **fixed)
        holds_scaled(golden, f"{stem}sum__", mean, inputs, golden["d_out"].size)
        holds(golden, f"{stem}plain__", plain, {"d_out": inputs["d_out"]})


@pytest.mark.golden("clan", "weight_disc__.*")
def test_golden_weight_discrepancy(golden):
    tensors = seeded.state_dict("clan_weight_discrepancy")
    trees = {"layer5": {}, "layer6": {}}
    for name, tensor in tensors.items():
        tensor = tensor.astype(np.float32)
        if tensor.ndim == 4:
            tensor = tensor.transpose(2, 3, 1, 0)
        trees[name.split(".")[0]][name] = tensor
    # The trees of two heads have the same names.
    heads = [{k[7:]: v for k, v in tree.items()} for tree in trees.values()]
    step = jax.jit(jax.value_and_grad(losses.weight_discrepancy, argnums=(0, 1)))
    value, gradients = step(*heads)
    with jax.enable_x64(True):
        wide = jax.jit(losses.weight_discrepancy)(*widen(heads))
        for damping, weight in ((1.0, 0.01), (0.75, 0.5)):
            scale = weight * damping * 2
            words = f"damp{damping}_lam{weight}".replace(".", "p")
            stem = f"weight_disc__{words}__"
            golden.holds(f"{stem}value", np.float32(scale) * value)
            golden.holds(f"{stem}value_f64", scale * wide)
            for name in tensors:
                key = f"{stem}grad__{name}"
                if key in golden.arrays:
                    found = gradients[int(name[5]) - 5][name[7:]]
                    golden.holds_gradient(key, scale * np.asarray(found))

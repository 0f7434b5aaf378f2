"""CLAN's and SWD's discrepancies against recorded runs of the released code."""

import jax
import numpy as np
import pytest
import seeded
from held import compiled, computed, holds, holds_scaled, widen

from lsr_jax import losses


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


def sliced(p1, p2, directions=None):
    return losses.sliced_wasserstein(p1, p2, directions)


def absolute(p1, p2):
    return losses.absolute_discrepancy(p1, p2)


def segmented(logits1, logits2, directions):
    return sliced(jax.nn.softmax(logits1), jax.nn.softmax(logits2), directions)


def hold_wide_gradients(golden, stem, loss, inputs, directions):
    """The float64 gradients: no two projections are swapped by rounding."""
    fixed = {} if directions is None else {"directions": directions}
    with jax.enable_x64(True):
        moving = widen({name: array for name, (array, _) in inputs.items()})
        _, found = compiled(loss)[1](moving, widen(fixed))
        for name, (_, key) in inputs.items():
            golden.holds(f"{stem}{key}_f64", found[name], 1e-9, scale="largest")


@pytest.mark.parametrize("case", ["c19", "c5", "c13few", "c1"])
@pytest.mark.golden("swd", "discrepancy__.*")
def test_golden_discrepancies(golden, case):
    stem = f"discrepancy__{case}__"
    golden.only(f"{stem}.*")
    pair = {name: golden[f"{stem}{name}"] for name in ("p1", "p2")}
    directions = None if case == "c1" else golden[f"{stem}proj"]
    fixed = {} if directions is None else {"directions": directions}
    inputs = {name: (array, f"grad_{name}") for name, array in pair.items()}
    holds(golden, f"{stem}swd__", sliced, inputs, **fixed)
    hold_wide_gradients(golden, f"{stem}swd__", sliced, inputs, directions)

    value, _, wide = computed(absolute, pair, {})
    golden.holds(f"{stem}mcd__value", value)
    golden.holds(f"{stem}mcd__value_f64", wide)


@pytest.mark.golden("swd", "seg__.*")
def test_golden_of_segmentation_maps(golden):
    names = ("logits1", "logits2")
    inputs = {name: (golden[f"seg__{name}"], f"grad_{name}") for name in names}
    directions = golden["seg__proj"]
    holds(golden, "seg__", segmented, inputs, directions=directions)
    hold_wide_gradients(golden, "seg__", segmented, inputs, directions)

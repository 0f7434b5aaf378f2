"""Discrepancies of SWD and MCD against loops, hand-made numbers and goldens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held import compiled, computed, holds, widen

from lsr_jax import losses


def slow_sliced(first, second, directions):
    if directions is not None:
        units = directions / np.linalg.norm(directions, axis=0)
        first, second = first @ units, second @ units
    gaps = [
        (a - b) ** 2
        for m in range(first.shape[1])
        for a, b in zip(sorted(first[:, m]), sorted(second[:, m]), strict=True)
    ]
    return np.mean(gaps)


def sliced(first, second, directions):
    return losses.sliced_wasserstein(first, second, directions)


SLICED = jax.jit(jax.value_and_grad(sliced, argnums=(0, 1)))


def heads(*shape):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, *shape)).astype(np.float32)
    return np.asarray(jax.nn.softmax(logits))


@pytest.mark.parametrize("projected", [True, False])
def test_sliced_wasserstein_against_loops(projected):
    first, second = (p.reshape(-1, 5) for p in heads(2, 3, 4, 5))
    directions = None
    if projected:
        directions = losses.random_directions(jax.random.key(0), 5, count=7)
        assert directions.shape == (5, 7)
    value, (gradient, other) = SLICED(first, second, directions)
    theta = None if directions is None else np.asarray(directions, np.float64)
    wide = first.astype(np.float64), second.astype(np.float64)
    np.testing.assert_allclose(value, slow_sliced(*wide, theta), rtol=1e-5)
    np.testing.assert_allclose(sliced(first, second, directions), value, rtol=1e-6)
    differences = np.zeros_like(wide[0])
    for place in np.ndindex(3, 5):  # the first samples are enough
        step = np.zeros_like(wide[0])
        step[place] = 1e-6
        up, down = (slow_sliced(wide[0] + s, wide[1], theta) for s in (step, -step))
        differences[place] = (up - down) / 2e-6
    np.testing.assert_allclose(gradient[:3], differences[:3], rtol=0, atol=1e-6)
    # Paired by rank: a permutation of the samples changes nothing, same shapes do.
    again, _ = SLICED(first[::-1], second, directions)
    np.testing.assert_allclose(again, value, rtol=1e-5)
    same, gradients = SLICED(first, first[::-1], directions)
    np.testing.assert_allclose(same, 0, atol=1e-12)
    assert np.isfinite(jnp.stack([gradient, other, *gradients])).all()


def test_discrepancies_by_hand():
    first = jnp.array([[[[0.0, 1.0], [1.0, 0.0]]]])
    second = jnp.array([[[[1.0, 0.0], [1.0, 0.0]]]])
    # Along (1, 0) the samples are {0, 1} and {1, 1}; the length does not matter.
    directions = jnp.array([[3.0], [0.0]])
    np.testing.assert_allclose(
        losses.sliced_wasserstein(first, second, directions), 1 / 2
    )
    np.testing.assert_allclose(losses.sliced_wasserstein(first, second), 1 / 2)
    np.testing.assert_allclose(losses.absolute_discrepancy(first, second), 1 / 2)
    assert not jax.grad(losses.absolute_discrepancy)(first, first).any()
    value, gradients = SLICED(first, second, jnp.zeros((2, 1)))
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)
    with pytest.raises(ValueError, match="differ"):
        losses.sliced_wasserstein(first, second[:, :, :1])


def released_sliced(p1, p2, directions=None):
    return losses.sliced_wasserstein(p1, p2, directions)


def absolute(p1, p2):
    return losses.absolute_discrepancy(p1, p2)


def segmented(logits1, logits2, directions):
    return released_sliced(jax.nn.softmax(logits1), jax.nn.softmax(logits2), directions)


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
    holds(golden, f"{stem}swd__", released_sliced, inputs, **fixed)
    hold_wide_gradients(golden, f"{stem}swd__", released_sliced, inputs, directions)

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

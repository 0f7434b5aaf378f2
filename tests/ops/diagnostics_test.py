"""Diagnostics by hand and against numpy; nothing makes them infinite or moves by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsr_jax.ops import diagnostics, numerics
from lsr_jax.ops.prototypes import Prototypes


def numbers(found):
    assert not diagnostics.without(found)
    assert all(x.shape == () and x.dtype == jnp.float32 for x in found.values())
    return {name: float(x) for name, x in found.items()}


@pytest.mark.parametrize(
    ("labels", "kept", "classes"),
    [
        ([[[0, 2, 2, 255]], [[255, 255, 2, 255]]], 4 / 8, 2),
        ([[[3, 1]], [[0, 2]]], 1, 4),
        ([[[255, 255, 255]]], 0, 0),
        ([[[4, 7, 1]]], 1 / 3, 1),  # no class of ours is no label
    ],
)
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8])
def test_pseudo_labels_by_hand(labels, kept, classes, dtype):
    labels = jnp.array(labels, dtype)
    found = numbers(
        jax.jit(diagnostics.pseudo_labels, static_argnames="num_classes")(
            labels, num_classes=4
        )
    )
    assert found == {"target_labelled": np.float32(kept), "target_classes": classes}
    assert diagnostics.classes(labels, num_classes=4) == classes


def test_prototypes_by_hand():
    """Lengths 2, 8^(1/2) and 3; 45 degrees between neighbours, 90 between the others."""
    means = jnp.array([[2.0, 0], [5, 1], [2, 2], [0, 3]])
    seen = jnp.array([True, False, True, True])
    found = numbers(diagnostics.prototypes(means, seen))
    expected = {
        "prototype_classes": 3,
        "prototype_norm_min": 2,
        "prototype_norm_mean": (5 + 8**0.5) / 3,
        "prototype_angle_min": 45,
        "prototype_angle_mean": 60,
    }
    assert found == pytest.approx(expected, rel=1e-6)


def test_prototypes_against_float64():
    rng = np.random.default_rng(0)
    means = rng.uniform(size=(19, 64)).astype(np.float32) * 10.0 ** rng.integers(
        -6, 6, (19, 1)
    )
    seen = rng.uniform(size=19) < 0.7
    found = numbers(diagnostics.prototypes(jnp.asarray(means, jnp.float32), seen))
    norms = numerics.norms(means[seen])
    angles = numerics.angles(means[seen])[np.triu_indices(seen.sum(), k=1)]
    expected = {"prototype_classes": seen.sum()}
    for name, values in (("norm", norms), ("angle", angles)):
        expected[f"prototype_{name}_min"] = values.min()
        expected[f"prototype_{name}_mean"] = values.mean()
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("degrees", [1e-3, 0.1, 179.9])
def test_angles_near_0_and_180_keep_their_digits(degrees):
    radians = np.radians(degrees)
    means = jnp.array([[3.0, 0], [np.cos(radians), np.sin(radians)]], jnp.float32)
    found = numbers(diagnostics.prototypes(means, jnp.array([True, True])))
    assert found["prototype_angle_min"] == pytest.approx(degrees, rel=1e-5)


ONE = {"prototype_classes": 1, "prototype_norm_min": 5, "prototype_norm_mean": 5}
DEAD = {"prototype_classes": 2, "prototype_norm_min": 0, "prototype_norm_mean": 2.5}


@pytest.mark.parametrize(
    ("means", "seen", "expected"),
    [
        ([[3.0, 4], [1, 2]], [False, False], {}),
        ([[3.0, 4], [1, 2]], [True, False], ONE),
        ([[3.0, 4], [0, 0]], [True, True], DEAD),
        ([[3.0, 4], [np.nan, 1]], [True, False], ONE),
    ],
)
def test_what_has_no_pair_has_the_angle_0(means, seen, expected):
    found = numbers(diagnostics.prototypes(jnp.array(means), jnp.array(seen)))
    assert found == dict.fromkeys(diagnostics.PROTOTYPES, 0) | expected


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30, 3e38, np.inf, -np.inf, np.nan])
def test_numbers_stay_finite(value):
    means = jnp.array([[value, 1.0], [1.0, value], [value, value], [1, 1]], jnp.float32)
    found = diagnostics.prototypes(means, jnp.ones(4, bool))
    found |= diagnostics.discriminator(means, means)
    assert np.isfinite(list(numbers(found).values())).all()


def test_parallel_prototypes_have_the_angle_0():
    means = jnp.outer(jnp.arange(1.0, 6), jnp.array([0.1, 0.7, 0.3]))
    found = numbers(diagnostics.prototypes(means, jnp.ones(5, bool)))
    assert found["prototype_angle_mean"] < 0.1


@pytest.mark.parametrize(
    ("kind", "source", "target"),
    [("cross_entropy", 2 / 4, 1 / 3), ("least_squares", 3 / 4, 0)],
)
def test_discriminator_by_hand(kind, source, target):
    """What lies on the boundary itself is right for neither."""
    found = diagnostics.discriminator(
        jnp.array([[-1.0, -0.1], [0.3, 0.9]]),
        jnp.array([[0.0, 0.5, -3.0]]),
        kind=kind,
    )
    assert numbers(found) == {
        "discriminator_accuracy_source": source,
        "discriminator_accuracy_target": np.float32(target),
    }


def test_several_of_a_kind_have_names_of_their_own():
    found = {}
    labels, logits = jnp.zeros((1, 2, 2), jnp.int32), jnp.ones((1, 2, 2, 1))
    rules, levels = ("", "anchor", "probability", "guidance"), ("", "main", "aux")
    for rule in rules:
        found |= diagnostics.pseudo_labels(labels, num_classes=3, rule=rule)
    for level in levels:
        found |= diagnostics.discriminator(logits, logits, level=level)
    assert len(numbers(found)) == 2 * len(rules) + 2 * len(levels)
    assert {
        "target_labelled_anchor",
        "discriminator_accuracy_source_main",
    } <= found.keys()


def test_no_gradient_passes():
    means = jax.random.normal(jax.random.key(0), (4, 3))

    def total(means):
        seen = Prototypes(means, jnp.ones(4, bool))
        found = diagnostics.prototypes(*seen) | diagnostics.discriminator(means, means)
        return sum(found.values())

    value, gradient = jax.value_and_grad(total)(means)
    assert value != 0
    assert not gradient.any()
